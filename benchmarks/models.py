# SPDX-License-Identifier: Apache-2.0
"""Networks of the inference benchmarks: layers of a given size, ReLU between, random weights."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def a_network(sizes: tuple[int, ...], seed: int = 1) -> bytes:
    """ONNX bytes: x FP32 [rows, first] -> y FP32 [rows, last]."""
    chance, nodes, weights, value = np.random.default_rng(seed), [], [], "x"
    for layer, (width, height) in enumerate(pairwise(sizes)):
        scale = np.sqrt(2.0 / width)
        matrix = (chance.standard_normal((width, height)) * scale).astype(np.float32)
        bias = np.zeros(height, np.float32)
        weights += [
            numpy_helper.from_array(matrix, f"w{layer}"),
            numpy_helper.from_array(bias, f"b{layer}"),
        ]
        last = layer == len(sizes) - 2
        out = "y" if last else f"h{layer}"
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [out]))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"r{layer}"]))
        value = f"r{layer}"
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", sizes[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", sizes[-1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    data: bytes = model.SerializeToString()
    return data
