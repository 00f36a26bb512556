# SPDX-License-Identifier: Apache-2.0
"""Predictions by entity keys: rows to a request of the Open Inference Protocol, and back."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from numbers import Real
from typing import Any

from headrace.application import Endpoint
from headrace.errors import Invalid
from headrace.oip import grpc_predict_v2_pb2 as oip

SCORE, PREDICTION_ID, ATTRIBUTIONS = "score", "prediction_id", "attributions"
_OIP_TYPE = {"string": "BYTES", "int64": "INT64", "float64": "FP64"}


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answered row: the id finds it in the log, the version says who answered."""

    prediction_id: str
    score: float
    version: int
    # By feature, where they were asked for: the score less the score without the feature.
    attributions: Mapping[str, float] = field(default_factory=dict)


def infer_request(
    endpoint: Endpoint, rows: Sequence[Mapping[str, Any]], request_id: str
) -> oip.ModelInferRequest:
    """An OIP request by entity keys; Invalid BAD_REQUEST names the row that cannot be asked."""
    if not endpoint.columns:
        raise Invalid("BAD_REQUEST", endpoint=endpoint.name, problem="takes tensors only, by OIP")
    request = oip.ModelInferRequest(model_name=endpoint.name, id=request_id)
    for name, kind in endpoint.columns.items():
        values = [_value(number, row, name, endpoint) for number, row in enumerate(rows, start=1)]
        tensor = request.inputs.add(name=name, datatype=_OIP_TYPE[kind], shape=[len(rows)])
        if kind == "string":
            tensor.contents.bytes_contents.extend(values)
        elif kind == "int64":
            tensor.contents.int64_contents.extend(values)
        else:
            tensor.contents.fp64_contents.extend(values)
    return request


def _value(number: int, row: Mapping[str, Any], name: str, endpoint: Endpoint) -> Any:
    kind = endpoint.columns[name]
    try:
        return _WIRE_VALUE[kind](row[name])
    except KeyError as err:
        columns = ", ".join(endpoint.columns)
        raise Invalid("BAD_REQUEST", row=number, missing=name, columns=columns) from err
    except (TypeError, ValueError, OverflowError) as err:
        problem = f"is no {_WORDS[kind]}"
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


_WORDS = {"string": "text", "int64": "whole number of 64 bits", "float64": "number"}
_WIRE_VALUE: dict[str, Callable[[Any], Any]] = {
    "string": _text,
    "int64": _whole,
    "float64": _real,
}


def predictions_of(answer: oip.ModelInferResponse) -> list[Prediction]:
    """The rows of an answer that has typed contents."""
    outputs = {output.name: output.contents for output in answer.outputs}
    version = int(answer.model_version)
    ids = [each.decode() for each in outputs[PREDICTION_ID].bytes_contents]
    scores = outputs[SCORE].fp32_contents
    rows = zip(ids, scores, _attributions(answer, len(ids)), strict=True)
    return [Prediction(id_, score, version, moved) for id_, score, moved in rows]


def _attributions(answer: oip.ModelInferResponse, rows: int) -> list[dict[str, float]]:
    """Of each row; empty ones where the answer has none."""
    found = [output for output in answer.outputs if output.name == ATTRIBUTIONS]
    if not found:
        return [{} for _ in range(rows)]
    names = found[0].parameters["features"].string_param.split(",")
    numbers = iter(found[0].contents.fp32_contents)
    return [dict(zip(names, islice(numbers, len(names)), strict=True)) for _ in range(rows)]
