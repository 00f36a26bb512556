# SPDX-License-Identifier: Apache-2.0
"""A model's latency is measured on a batch of the holdout, within a bound of time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from headrace_trainer.adapters import measuring
from headrace_trainer.adapters.measuring import LATENCY_ROWS, LATENCY_RUNS, latency_ms, measured
from headrace_trainer.toy_models import a_linear_model

HELD = measuring.Rows(
    as_of_us=np.arange(400),
    labels=np.tile(np.array([0, 1], np.float32), 200),
    features=np.linspace(0, 1, 800, dtype=np.float32).reshape(400, 2),
    held=np.ones(400, np.bool_),
)
NO_CHAMPION = Path("/nowhere/champion.onnx")


def a_clock(*took_s: float) -> Iterator[float]:
    """It tells when each run begins and ends; more readings than these are an error."""
    moments = list(accumulate(took_s))
    return iter([0.0, *(m for moment in moments[:-1] for m in (moment, moment)), moments[-1]])


def a_slow_model(trips: int) -> bytes:
    """The linear model, behind a Loop that adds 0 as often."""
    model = onnx.ModelProto.FromString(a_linear_model(2).onnx)
    sides = [
        [("trip", onnx.TensorProto.INT64), ("go", onnx.TensorProto.BOOL)],
        [("on", onnx.TensorProto.BOOL)],
    ]
    ends = [
        [helper.make_tensor_value_info(*each, []) for each in side]
        + [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)]
        for side, name in zip(sides, ("sum", "next"), strict=True)
    ]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Add", ["sum", "nil"], ["next"]),
        ],
        "body",
        *ends,
    )
    model.graph.node[0].input[0] = "turned"
    model.graph.node.insert(
        0, helper.make_node("Loop", ["trips", "yes", "features"], ["turned"], body=body)
    )
    for name, value in (
        ("trips", np.array(trips, np.int64)),
        ("yes", np.array(True)),
        ("nil", np.zeros(1, np.float32)),
    ):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    data: bytes = model.SerializeToString()
    return data


def test_latency_is_the_median_of_the_runs_and_leaves_out_the_first() -> None:
    took_s = [*[0.001] * 10, 0.004, *[0.1] * 10]
    runs: list[int] = []

    assert 4 == pytest.approx(latency_ms(lambda: runs.append(1), a_clock(*took_s).__next__))
    assert LATENCY_RUNS + 1 == len(runs)


def test_runs_that_take_long_are_few() -> None:
    assert 3_000 == pytest.approx(latency_ms(lambda: None, a_clock(2.0, 4.0).__next__))


def test_latency_is_that_of_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def scores(session: object, features: np.ndarray) -> np.ndarray:
        asked.append(len(features))
        return features[:, 0]

    monkeypatch.setattr(measuring, "_scores", scores)
    measured(a_linear_model(2).onnx, HELD, NO_CHAMPION)

    assert [400, *[LATENCY_ROWS] * (LATENCY_RUNS + 1)] == asked


def test_model_that_computes_more_is_slower() -> None:
    quick, slow = (
        measured(each, HELD, NO_CHAMPION) for each in (a_linear_model(2).onnx, a_slow_model(9_000))
    )

    assert quick["auc"] == slow["auc"]
    assert 0 < 10 * quick["latency_ms"] < slow["latency_ms"]
