# SPDX-License-Identifier: Apache-2.0
"""What a child process measures a model by: the holdout, the newest part of a training set.

By the runtime that serves, so that what is measured is what is served. It imports no torch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
from numpy.typing import NDArray

from headrace.application import Recipe
from headrace.errors import Conflict
from headrace_trainer.domain.evaluation import auc, log_loss, reference_histogram

# More threads are slower on networks of this size.
THREADS = 1
ROWS_MIN = 200
LATENCY_ROWS, LATENCY_RUNS, LATENCY_S_MAX = 64, 21, 5.0
Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rows:
    """A training set in order of as_of; `held` marks the holdout.

    as_of_us, labels, held: [rows]; features: [rows, n] float32.
    """

    as_of_us: NDArray[np.int64]
    labels: Matrix
    features: Matrix
    held: NDArray[np.bool_]


def read_rows(file: Path, recipe: Recipe) -> Rows:
    """Raises Conflict TOO_FEW_ROWS when one side of the holdout can teach or tell nothing."""
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_stream(source).read_all().sort_by(
            [("as_of_us", "ascending"), ("entity_key", "ascending")]
        )  # fmt: skip
    labels = table["label"].to_numpy().astype(np.float32)
    column = table["features"].combine_chunks()
    features = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    as_of_us = table["as_of_us"].to_numpy()
    held = as_of_us > as_of_us.max(initial=0) - recipe.gate.holdout_s * 1_000_000
    _require_rows("to learn from", labels[~held])
    _require_rows("of the holdout", labels[held])
    return Rows(as_of_us, labels, features.reshape(len(labels), -1), held)


def measured(onnx: bytes, rows: Rows, champion: Path) -> dict[str, float]:
    """The metrics of the model, and of the champion where its file exists."""
    labels, features = rows.labels[rows.held], rows.features[rows.held]
    session = open_session(onnx)
    scores = _scores(session, features)
    metrics = {
        "auc": auc(scores, labels),
        "log_loss": log_loss(scores, labels),
        "rows": float(len(rows.labels)),
        "holdout_rows": float(rows.held.sum()),
        "holdout_positives": float(labels.sum()),
        "latency_ms": latency_ms(lambda: _scores(session, features[:LATENCY_ROWS])),
    }
    if champion.exists():
        theirs = run_onnx(champion.read_bytes(), features)
        metrics |= {
            "champion_auc": auc(theirs, labels),
            "champion_log_loss": log_loss(theirs, labels),
        }
    return metrics


def latency_ms(
    run: Callable[[], object], clock_s: Callable[[], float] = time.perf_counter
) -> float:
    """The median of LATENCY_RUNS runs behind one that warms, of fewer where they take too long."""
    run()
    took_s: list[float] = []
    while len(took_s) < LATENCY_RUNS and sum(took_s) < LATENCY_S_MAX:
        began = clock_s()
        run()
        took_s.append(clock_s() - began)
    return 1_000 * statistics.median(took_s)


def reference(recipe: Recipe, rows: Rows, window_s: int | None) -> list[dict[str, Any]]:
    """The histograms of all rows by feature, which drift is told by."""
    window = rows.as_of_us // (window_s * 1_000_000) if window_s else None
    return [
        asdict(reference_histogram(name, rows.features[:, column], window))
        for column, name in enumerate(recipe.features)
    ]


def run_onnx(onnx: bytes, features: Matrix) -> Matrix:
    """Scores [rows] of features [rows, n], by the runtime that serves."""
    return _scores(open_session(onnx), features)


def _scores(session: onnxruntime.InferenceSession, features: Matrix) -> Matrix:
    scores: Matrix = session.run(["score"], {"features": features})[0]
    return scores


def open_session(onnx: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def _require_rows(part: str, labels: Matrix) -> None:
    positives = int(labels.sum())
    if len(labels) < ROWS_MIN or positives in (0, len(labels)):
        raise Conflict("TOO_FEW_ROWS", part=part, rows=len(labels), positives=positives)
