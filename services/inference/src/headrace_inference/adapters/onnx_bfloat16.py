# SPDX-License-Identifier: Apache-2.0
"""Runs a session that has tensors of bfloat16, which numpy lacks: they are held as their bits.

ONNX Runtime takes such bits as a tensor of its own, and gives only their address back.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnxruntime

TYPE = "tensor(bfloat16)"
# https://github.com/onnx/onnx/blob/main/onnx/onnx.in.proto, TensorProto.DataType
BFLOAT16 = 16


def run_with_bits(
    session: onnxruntime.InferenceSession,
    outputs: Sequence[str],
    inputs: Mapping[str, NDArray[Any]],
    options: onnxruntime.RunOptions | None,
) -> list[NDArray[Any]]:
    """As `session.run`, with the bits of bfloat16 as uint16 on both sides."""
    from onnxruntime import OrtValue

    in_bits = {node.name for node in session.get_inputs() if node.type == TYPE}
    values = {
        name: OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), BFLOAT16)
        if name in in_bits
        else OrtValue.ortvalue_from_numpy(array)
        for name, array in inputs.items()
    }
    return [
        _bits(value) if value.data_type() == TYPE else value.numpy()
        for value in session.run_with_ort_values(outputs, values, options)
    ]


def _bits(value: onnxruntime.OrtValue) -> NDArray[np.uint16]:
    """A copy, for the memory is the value's."""
    shape = value.shape()
    memory = ctypes.string_at(value.data_ptr(), math.prod(shape) * 2)
    return np.frombuffer(memory, dtype="<u2").reshape(shape)
