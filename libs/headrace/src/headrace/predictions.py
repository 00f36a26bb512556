# SPDX-License-Identifier: Apache-2.0
"""Predictions by entity keys: rows to a request of the Open Inference Protocol, and back."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from headrace.application import Endpoint
from headrace.errors import Invalid
from headrace.oip import grpc_predict_v2_pb2 as oip

_OIP_TYPE = {"string": "BYTES", "int64": "INT64", "float64": "FP64"}


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answered row: the id finds it in the log, the version says who answered."""

    prediction_id: str
    score: float
    version: int


def infer_request(
    endpoint: Endpoint, rows: Sequence[Mapping[str, Any]], request_id: str
) -> oip.ModelInferRequest:
    """An OIP request by entity keys; Invalid BAD_REQUEST names the row that cannot be asked."""
    request = oip.ModelInferRequest(model_name=endpoint.name, id=request_id)
    for name, kind in endpoint.columns.items():
        values = [_value(number, row, name, kind) for number, row in enumerate(rows, start=1)]
        tensor = request.inputs.add(name=name, datatype=_OIP_TYPE[kind], shape=[len(rows)])
        if kind == "string":
            tensor.contents.bytes_contents.extend(values)
        elif kind == "int64":
            tensor.contents.int64_contents.extend(values)
        else:
            tensor.contents.fp64_contents.extend(values)
    return request


def _value(number: int, row: Mapping[str, Any], name: str, kind: str) -> Any:
    try:
        return _WIRE_VALUE[kind](row[name])
    except KeyError as err:
        raise Invalid("BAD_REQUEST", row=number, missing=name) from err
    except (TypeError, ValueError, OverflowError) as err:
        problem = f"is no {kind}: {err}"
        raise Invalid("BAD_REQUEST", row=number, column=name, problem=problem) from err


def _text(value: str | None) -> bytes:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__}")
    return (value or "").encode()


def _whole(value: Any) -> int:
    number = operator.index(value)
    if not -(1 << 63) <= number < 1 << 63:
        raise OverflowError("beyond 64 bits")
    return number


def _real(value: Any) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"a {type(value).__name__}")
    return float(value)


_WIRE_VALUE: dict[str, Callable[[Any], Any]] = {
    "string": _text,
    "int64": _whole,
    "float64": _real,
}


def predictions_of(answer: oip.ModelInferResponse) -> list[Prediction]:
    """The rows of an answer that has typed contents."""
    outputs = {output.name: output.contents for output in answer.outputs}
    version = int(answer.model_version)
    ids = [each.decode() for each in outputs["prediction_id"].bytes_contents]
    scores = outputs["score"].fp32_contents
    return [Prediction(i, score, version) for i, score in zip(ids, scores, strict=True)]
