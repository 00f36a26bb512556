# SPDX-License-Identifier: Apache-2.0
"""The models that a server must hold to be asked: ONNX without weights, made here.

`python -m contracts.conformance.inference.models FOLDER` writes them as a model repository of
Triton's layout (NAME/1/model.onnx), for servers that read one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from onnx import TensorProto, helper

ECHO_TYPE = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
SIMPLE, SLOW, CUBE = "simple", "slow", "cube"


def echo_name(datatype: str) -> str:
    return f"echo-{datatype.lower()}"


def models() -> dict[str, bytes]:
    """ONNX bytes by the name under which they are served."""
    echoes = {echo_name(datatype): _echo(kind) for datatype, kind in ECHO_TYPE.items()}
    return {**echoes, SIMPLE: _simple(), SLOW: _slow(), CUBE: _cube()}


def _echo(kind: int) -> bytes:
    """OUTPUT = INPUT, [rows, 2]."""
    return _onnx(
        [helper.make_node("Identity", ["INPUT"], ["OUTPUT"])],
        inputs={"INPUT": (kind, ["rows", 2])},
        outputs={"OUTPUT": (kind, ["rows", 2])},
    )


def _simple() -> bytes:
    """Triton's example: sum and difference of two INT32 [rows, 16]."""
    tensor = (TensorProto.INT32, ["rows", 16])
    return _onnx(
        [
            helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
            helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
        ],
        inputs={"INPUT0": tensor, "INPUT1": tensor},
        outputs={"OUTPUT0": tensor, "OUTPUT1": tensor},
    )


def _cube() -> bytes:
    """OUTPUT = 2 x INPUT, FP32 [rows, height, width], every size open."""
    tensor = (TensorProto.FLOAT, ["rows", "height", "width"])
    return _onnx(
        [helper.make_node("Add", ["INPUT", "INPUT"], ["OUTPUT"])],
        inputs={"INPUT": tensor},
        outputs={"OUTPUT": tensor},
    )


def _slow() -> bytes:
    """OUTPUT [1] of INPUT FP32 [size, 1]: three products of matrices [size, size], so that a small
    request takes as long as its caller likes.
    """
    products = [
        helper.make_node("MatMul", [f"matrix{number}", "matrix0"], [f"matrix{number + 1}"])
        for number in range(3)
    ]
    return _onnx(
        [
            helper.make_node("Transpose", ["INPUT"], ["row"]),
            helper.make_node("MatMul", ["INPUT", "row"], ["matrix0"]),
            *products,
            helper.make_node("ReduceMax", ["matrix3"], ["largest"], keepdims=0),
            helper.make_node("Reshape", ["largest", "one"], ["OUTPUT"]),
        ],
        inputs={"INPUT": (TensorProto.FLOAT, ["size", 1])},
        outputs={"OUTPUT": (TensorProto.FLOAT, [1])},
        constants=[helper.make_tensor("one", TensorProto.INT64, [1], [1])],
    )


def _onnx(nodes, *, inputs, outputs, constants=()) -> bytes:
    graph = helper.make_graph(
        nodes,
        "conformance",
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in inputs.items()],
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in outputs.items()],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    return bytes(model.SerializeToString())


def main(folder: Path) -> None:
    for name, data in models().items():
        version = folder / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        (version / "model.onnx").write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
