# SPDX-License-Identifier: Apache-2.0
"""ModelRuntime on ONNX Runtime, from bytes, never from a file.

Threads follow the CPU quota of the container, not the cores of the host, and do not spin: a service
beside others must not burn a core while it waits. The first runs, which plan memory, happen here
and not in a caller's request. onnxruntime is imported with the first model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import structlog

from headrace.errors import HeadraceError, Invalid
from headrace_inference.domain.rollout import ServedVersion
from headrace_inference.domain.serving import Floats
from headrace_kit.telemetry import histogram

if TYPE_CHECKING:
    import onnxruntime

INPUT, OUTPUT = "features", "score"
WARM_ROWS = 64
WARM_RUNS = 5

log = structlog.get_logger(__name__)
seconds = histogram("inference", "compute_infer_seconds", "Running one model on one request.")


class OnnxModel:
    """Model whose one input is `features` float32 [rows, n] and one output `score` [rows]."""

    def __init__(
        self, session: onnxruntime.InferenceSession, errors: tuple[type[BaseException], ...]
    ) -> None:
        self._session = session
        self._errors = errors
        self._first_row_s = 0.0
        self._further_row_s = 0.0

    def score(self, features: Floats) -> Floats:
        try:
            with seconds.time():
                (scores,) = self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(features)})
        except self._errors as err:
            log.error("model_failed", error=str(err))
            raise HeadraceError("MODEL_ERROR") from err
        if scores.shape != (len(features),):
            log.error("model_failed", shape=scores.shape, rows=len(features))
            raise HeadraceError("MODEL_ERROR")
        return np.asarray(scores, dtype=np.float32)

    def least_s(self, rows: int) -> float:
        return self._first_row_s + self._further_row_s * (rows - 1)

    def warm(self, width: int) -> None:
        """Runs it at two sizes, and notes how long each takes at best."""
        one = np.zeros((1, width), dtype=np.float32)
        many = np.zeros((WARM_ROWS, width), dtype=np.float32)
        self._first_row_s = _least_s(lambda: self.score(one))
        self._further_row_s = max(0.0, _least_s(lambda: self.score(many)) - self._first_row_s) / (
            WARM_ROWS - 1
        )


class OnnxModelRuntime:
    """ModelRuntime with `threads` for each model."""

    def __init__(self, *, threads: int) -> None:
        self._threads = threads

    def load(self, onnx: bytes, served: ServedVersion) -> OnnxModel:
        import onnxruntime

        errors = _runtime_errors()
        try:
            session = onnxruntime.InferenceSession(
                onnx, self._options(), providers=["CPUExecutionProvider"]
            )
        except errors as err:
            log.error("model_not_loadable", digest=served.digest, error=str(err))
            raise Invalid("FORMAT", digest=served.digest) from err
        _check_signature(session, served)
        model = OnnxModel(session, errors)
        model.warm(len(served.features))
        return model

    def _options(self) -> onnxruntime.SessionOptions:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # its errors are raised, and logged here
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        return options


def _check_signature(session: onnxruntime.InferenceSession, served: ServedVersion) -> None:
    inputs = [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()]
    outputs = [(o.name, o.type) for o in session.get_outputs()]
    width = len(served.features)
    if inputs != [(INPUT, "tensor(float)", [width])] or outputs != [(OUTPUT, "tensor(float)")]:
        raise Invalid("FORMAT", digest=served.digest, inputs=inputs, outputs=outputs, width=width)


def _runtime_errors() -> tuple[type[BaseException], ...]:
    """ONNX Runtime's exceptions share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.EPFail,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoModel,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )


def _least_s(run: Callable[[], object]) -> float:
    def once_s() -> float:
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    return min(once_s() for _ in range(WARM_RUNS))
