# SPDX-License-Identifier: Apache-2.0
"""Asks for flights through both doors of the endpoint, as any OIP client would: `tritonclient`.

By entity keys each flight is one request, and the server joins the features; by tensors the
features that came back go in again as one batch, and the scores must be the same.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tritonclient import grpc as oip
from tritonclient.utils import InferenceServerException

from headrace.errors import Unavailable
from headrace.registry.v1.registry_events_pb2 import Rollout

ENDPOINT, STATIC = "delay", "delay-static"
CONCURRENCY = 4
REQUEST_TIMEOUT_S = 5.0
# A service that was killed is back within seconds; a request is tried again until then.
RETRY_S_MAX = 90.0
RETRY_INTERVAL_S = 0.1
ROWS_MAX = 500
# A batch is summed in another order than a single row: float32 agrees to its last digits.
SAME_WITHIN = 1e-6
# The endpoint's columns, and the moment that each row is asked for.
_COLUMNS: dict[str, tuple[str, type]] = {
    **dict.fromkeys(("flight_id", "origin", "dest", "carrier", "tailnum"), ("BYTES", np.object_)),
    **dict.fromkeys(("flight", "scheduled_at", "as_of_us"), ("INT64", np.int64)),
    "distance": ("FP64", np.float64),
}
_RETRIED = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED")


@dataclass
class Asked:
    """What the doors answered. latencies_ms are of single-row requests by entity keys."""

    served: int = 0
    failed: int = 0
    served_by_tensors: int = 0
    doors_differ: int = 0
    latencies_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Answer:
    version: str
    score: float
    features: NDArray[np.float32]
    latency_ms: float


class Doors:
    """A connection to the inference service."""

    def __init__(self, address: str) -> None:
        self._client = oip.InferenceServerClient(address)

    def serve(self, rollouts: Iterable[Rollout]) -> bool:
        """Whether exactly the versions that the roll-outs name are ready.

        One more would be the one before a promotion: the last roll-out is not in force yet.
        """
        try:
            index = self._client.get_model_repository_index(client_timeout=REQUEST_TIMEOUT_S)
        except InferenceServerException as err:
            raise Unavailable("SERVICE_UNAVAILABLE", service="inference") from err
        ready = {(model.name, model.version) for model in index.models if model.state == "READY"}
        return _wanted(rollouts) == ready

    def ask(self, flights: pl.DataFrame, asked: Asked) -> None:
        """Each flight by entity keys, then all again by tensors, then the static baseline."""
        rows = list(flights.iter_rows(named=True))
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            answers = list(pool.map(self._by_keys, rows))
        got = [answer for answer in answers if answer is not None]
        asked.served += len(got)
        asked.failed += len(rows) - len(got)
        asked.latencies_ms.extend(answer.latency_ms for answer in got)
        self._by_tensors(got, asked)
        for start in range(0, len(rows), ROWS_MAX):
            self._static(rows[start : start + ROWS_MAX], asked)

    def _by_keys(self, row: dict[str, Any]) -> _Answer | None:
        inputs = _keys_inputs([row])
        outputs = [oip.InferRequestedOutput(name) for name in ("score", "features")]
        answer, seconds = self._infer(ENDPOINT, f"{row['flight_id']}:keys", inputs, outputs)
        if answer is None:
            return None
        return _Answer(
            version=answer.get_response().model_version,
            score=float(answer.as_numpy("score")[0]),
            features=answer.as_numpy("features")[0],
            latency_ms=1000 * seconds,
        )

    def _by_tensors(self, answers: list[_Answer], asked: Asked) -> None:
        by_version: dict[str, list[_Answer]] = defaultdict(list)
        for answer in answers:
            by_version[answer.version].append(answer)
        for version, group in by_version.items():
            for start in range(0, len(group), ROWS_MAX):
                part = group[start : start + ROWS_MAX]
                matrix = np.stack([answer.features for answer in part])
                scores = self._tensors(version, matrix)
                if scores is None:
                    asked.failed += len(part)
                    continue
                asked.served_by_tensors += len(scores)
                expected = np.array([answer.score for answer in part], dtype=np.float32)
                asked.doors_differ += int((np.abs(scores - expected) > SAME_WITHIN).sum())

    def _tensors(self, version: str, matrix: NDArray[np.float32]) -> NDArray[np.float32] | None:
        tensor = oip.InferInput("features", list(matrix.shape), "FP32")
        tensor.set_data_from_numpy(matrix)
        answer, _ = self._infer(ENDPOINT, "", [tensor], None, version=version)
        if answer is None:
            return None
        scores: NDArray[np.float32] = answer.as_numpy("score")
        return scores

    def _static(self, rows: list[dict[str, Any]], asked: Asked) -> None:
        request_id = f"{rows[0]['flight_id']}:static"
        answer, _ = self._infer(STATIC, request_id, _keys_inputs(rows), None)
        asked.failed += len(rows) if answer is None else 0

    def _infer(
        self, model: str, request_id: str, inputs: Any, outputs: Any, *, version: str = ""
    ) -> tuple[Any, float]:
        """The answer and the seconds of the try that got it; None when it was refused."""
        give_up = time.monotonic() + RETRY_S_MAX
        while True:
            begun = time.perf_counter()
            try:
                answer = self._client.infer(
                    model,
                    inputs,
                    model_version=version,
                    request_id=request_id,
                    outputs=outputs,
                    client_timeout=REQUEST_TIMEOUT_S,
                )
                return answer, time.perf_counter() - begun
            except InferenceServerException as err:
                if err.status() not in _RETRIED or time.monotonic() > give_up:
                    return None, 0.0
                time.sleep(RETRY_INTERVAL_S)


def _keys_inputs(rows: list[dict[str, Any]]) -> list[oip.InferInput]:
    return [
        _input(name, datatype, np.array([row[name] for row in rows], dtype=dtype))
        for name, (datatype, dtype) in _COLUMNS.items()
    ]


def _input(name: str, datatype: str, values: NDArray[Any]) -> oip.InferInput:
    tensor = oip.InferInput(name, [len(values)], datatype)
    tensor.set_data_from_numpy(values)
    return tensor


def _wanted(rollouts: Iterable[Rollout]) -> set[tuple[str, str]]:
    wanted = set()
    for rollout in rollouts:
        wanted.add((rollout.endpoint, str(rollout.champion.version)))
        if rollout.HasField("canary"):
            wanted.add((rollout.endpoint, str(rollout.canary.version)))
    return wanted
