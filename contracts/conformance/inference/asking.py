# SPDX-License-Identifier: Apache-2.0
"""Requests as messages, raw or typed, and values of every data type."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import grpc
import numpy as np
import pytest
from contracts.conformance.inference.models import SIMPLE, SLOW
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from headrace.oip import grpc_predict_v2_pb2 as oip

FIELD = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
ARRAY = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
# The ends of each range, and what is easily lost on the way.
VALUES: dict[str, list[object]] = {
    "BOOL": [True, False],
    "UINT8": [0, 2**8 - 1],
    "UINT16": [0, 2**16 - 1],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-(2**7), 2**7 - 1],
    "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP16": [-0.0, 65504.0],
    "FP32": [2.0**-126, -(2 - 2.0**-23) * 2.0**127],
    "FP64": [5e-324, -1.7976931348623157e308],
    "BYTES": ["", "Zürich \U0001f6eb"],
}
RAW = {
    **{name: np.array([VALUES[name]], dtype=ARRAY[name]).tobytes() for name in ARRAY},
    "BF16": bytes.fromhex("803f80bf"),  # 1.0 and -1.0
    "BYTES": b"".join(
        len(text).to_bytes(4, "little") + text
        for text in (str(value).encode() for value in VALUES["BYTES"])
    ),
}
DATATYPES = sorted(RAW)


def raw_request(model: str, *tensors: tuple[str, str, Sequence[int], bytes], **fields):
    """`tensors`: (name, datatype, shape, raw)."""
    request = oip.ModelInferRequest(model_name=model, **fields)
    for name, datatype, shape, raw in tensors:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(raw)
    return request


def simple_request(rows: int = 1, **fields):
    """INPUT0 counts up, INPUT1 is 1."""
    first = np.arange(rows * 16, dtype="<i4")
    tensors = (
        ("INPUT0", "INT32", (rows, 16), first.tobytes()),
        ("INPUT1", "INT32", (rows, 16), np.ones_like(first).tobytes()),
    )
    return raw_request(SIMPLE, *tensors, **fields)


def slow_request(size: int, **fields):
    """Six billion operations for 1,000, which is some tenths of a second on one core."""
    raw = np.zeros(size, dtype="<f4").tobytes()
    return raw_request(SLOW, ("INPUT", "FP32", (size, 1), raw), **fields)


def typed_request(model: str, datatype: str, values: Sequence[object]):
    request = oip.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="INPUT", datatype=datatype, shape=[1, len(values)])
    encoded = [v.encode() if isinstance(v, str) else v for v in values]
    getattr(tensor.contents, FIELD[datatype]).extend(encoded)
    return request


def refused(ask: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        ask()
    return caught.value


def outcome(ask: Callable[[], object]) -> grpc.StatusCode:
    """OK, or how the call failed."""
    try:
        ask()
    except grpc.RpcError as err:
        return err.code()
    return grpc.StatusCode.OK


def reason(error: grpc.RpcError) -> str:
    """The reason that an error of ours carries."""
    status, info = rpc_status.from_call(error), ErrorInfo()
    assert status is not None
    assert any(detail.Unpack(info) for detail in status.details)
    return str(info.reason)


def same(expected: object, got: object) -> bool:
    """Floats by value, with the sign of zero."""
    if isinstance(expected, float):
        return expected == got and math.copysign(1, expected) == math.copysign(1, got)
    return expected == got
