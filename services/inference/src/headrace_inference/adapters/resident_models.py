# SPDX-License-Identifier: Apache-2.0
"""ModelStore under a memory budget: what was used least lately leaves memory for what is asked for.

A model that left keeps its signature and its file on disk; the first request brings it back, on a
thread of its own, and all who ask meanwhile share that load. Room is made before a load: by what
the model took when it was last in memory, or the first time by its artifact, which its weights are
of. What it takes is measured while the runtime takes it in, one at a time; downloads before that
and first runs after it go on side by side. A model at work is never let go, so a run ends on the
session it began with. Which models there are is known by who holds them alone: a replaced version
goes with its last request.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from math import isqrt
from typing import Any, Protocol

from numpy.typing import NDArray

from headrace.errors import Busy, Conflict, Unavailable
from headrace_inference.adapters.process_memory import allocated_bytes, give_back
from headrace_inference.adapters.run_memory import RunMemory
from headrace_inference.domain.rollout import ServedVersion
from headrace_inference.domain.serving import Ending, Model, Session, TensorSpec, Tried
from headrace_kit.telemetry import counter, gauge, histogram

# Models that callers asked for, loaded side by side.
LOADERS = 4
# A run without another bound waits so long for its load, and a load for models at work.
LOAD_S_MAX, ROOM_S_MAX = 30.0, 2.0
# How soon it is seen that a caller who waits for a load hung up.
LOOK_INTERVAL_S = 0.1
# What failed to load is not tried again sooner: until then all callers get the same reason.
RETRY_S = 1.0
# Inputs of the last run, kept to warm with.
RECORDED_BYTES_MAX = 256 * 1024
# Where so little room is that it has to leave again before it could run.
LOADS_A_RUN_MAX = 3
LOADED: Future[None] = Future()
LOADED.set_result(None)

loads = counter("inference", "model_loads_total", "Models brought into memory.")
evictions = counter("inference", "model_evictions_total", "Models let go for others.")
load_seconds = histogram(
    "inference", "model_load_seconds", "From the artifact's place to a warm model."
)
resident_count = gauge("inference", "models_resident_count", "Models in memory.")
waiters_count = gauge("inference", "model_load_waiters_count", "Callers that wait for a load.")
resident_bytes = gauge("inference", "models_resident_bytes", "What models in memory take.")


class ArtifactStore(Protocol):
    def fetch(self, digest: str) -> None:
        """Brings the artifact near, where it is not yet; raises what `get` raises."""

    def get(self, digest: str) -> bytes:
        """The bytes that hash to the digest (P8).

        Raises Corrupt DIGEST_MISMATCH, NotFound ARTIFACT_UNKNOWN, Busy ARTIFACT_TOO_LARGE,
        Unavailable SERVICE_UNAVAILABLE.
        """


class NewSession(Session, Protocol):
    """A model that is in memory and not at work yet. What follows is bounded in time."""

    def try_out(self, known: Tried | None) -> None:
        """Fills `tried`, by what is known of it from before."""

    def warm(self, recorded: Mapping[str, NDArray[Any]]) -> None:
        """Runs what it, or the version before it, was asked of late."""


class ModelRuntime(Protocol):
    def prepare(self) -> None:
        """Loads what is no model's own."""

    def load(self, onnx: bytes, served: ServedVersion) -> NewSession:
        """The model in memory.

        Raises Invalid FORMAT unless it takes the version's features, and where there are none, for
        a tensor of no OIP data type; Unavailable PROVIDER_UNAVAILABLE.
        """


class ResidentModels:
    """ModelStore of at most `memory_bytes_max`; at most `waiters_max` callers wait for loads."""

    def __init__(
        self,
        artifacts: ArtifactStore,
        runtime: ModelRuntime,
        *,
        memory_bytes_max: int,
        waiters_max: int,
        allocated_bytes: Callable[[], int] = allocated_bytes,
    ) -> None:
        self._artifacts, self._runtime = artifacts, runtime
        self._memory_bytes_max, self._allocated_bytes = memory_bytes_max, allocated_bytes
        self.run_memory = RunMemory()
        self._waiters_max, self.waiters = waiters_max, 0
        self._counting = threading.Lock()
        self._pool = ThreadPoolExecutor(LOADERS, thread_name_prefix="model-loader")
        self._loading = threading.Lock()
        self._idle = threading.Event()
        self._models: weakref.WeakSet[ResidentModel] = weakref.WeakSet()
        # What those take that are in memory and still tried out.
        self._new_bytes = 0
        resident_count.set_function(lambda: len(self._resident()))
        waiters_count.set_function(lambda: self.waiters)
        resident_bytes.set_function(lambda: sum(model.bytes for model in self._resident()))

    def load(self, served: ServedVersion, *, like: Model | None) -> ResidentModel:
        recorded = like.recorded if isinstance(like, ResidentModel) else {}
        model = ResidentModel(served, self, recorded)
        self.bring(model)
        return model

    def start(self) -> None:
        """Nothing is loaded before it is asked for."""

    def stop(self, timeout_s: float) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def failed(self) -> None:
        """What fails is told to those who wait for the load."""

    def begin(self, model: ResidentModel) -> Future[None]:
        return self._pool.submit(self._bring_and_note, model)

    def wait(self, loading: Future[None], left_s: Callable[[], float]) -> None:
        with self._counting:
            if self.waiters >= self._waiters_max:
                raise Busy("QUEUE_FULL", waiters_max=self._waiters_max)
            self.waiters += 1
        try:
            _await(loading, left_s)
        finally:
            with self._counting:
                self.waiters -= 1

    def bring(self, model: ResidentModel) -> None:
        """Loads it."""
        with load_seconds.time():
            self._artifacts.fetch(model.served.digest)
            session, size_bytes = self._taken_in(model)
            try:
                session.try_out(model.tried if model.bytes else None)
                session.warm(model.recorded)
                model.place(session, size_bytes)
            finally:
                with self._counting:
                    self._models.add(model)
                    self._new_bytes -= size_bytes
                self.released()
            give_back()
        loads.inc()

    def _taken_in(self, model: ResidentModel) -> tuple[NewSession, int]:
        """The session and what it takes, which stays counted among the new ones."""
        with self._loading:
            onnx = self._artifacts.get(model.served.digest)
            self._make_room(model.bytes or len(onnx))
            session, size_bytes = self._measured(onnx, model)
            self._make_room(size_bytes)
            with self._counting:
                self._new_bytes += size_bytes
        return session, size_bytes

    def _bring_and_note(self, model: ResidentModel) -> None:
        """The end is noted before who waits hears of it, and may ask again."""
        try:
            self.bring(model)
        finally:
            model.note_end()

    def released(self) -> None:
        """A model that was at work, or new, is idle."""
        if not self._idle.is_set():
            self._idle.set()

    def _measured(self, onnx: bytes, model: ResidentModel) -> tuple[NewSession, int]:
        """With what it takes; what others take meanwhile is in it until the next load."""
        self._runtime.prepare()
        before_bytes = self._allocated_bytes()
        session = self._runtime.load(onnx, model.served)
        return session, max(self._allocated_bytes() - before_bytes, len(onnx))

    def _make_room(self, size_bytes: int) -> None:
        if size_bytes > self._memory_bytes_max:
            raise Conflict(
                "MODEL_TOO_LARGE", bytes=size_bytes, memory_bytes_max=self._memory_bytes_max
            )
        until_s = time.monotonic() + ROOM_S_MAX
        while True:
            self._idle.clear()
            if self._let_go(self._memory_bytes_max - size_bytes):
                return
            if not self._idle.wait(max(0.0, until_s - time.monotonic())):
                raise Busy("MODEL_MEMORY_FULL", memory_bytes_max=self._memory_bytes_max)

    def _let_go(self, left_bytes_max: int) -> bool:
        """Whether at most so much stays when models that are idle have left, oldest first.

        None leaves in vain, where all of them would not suffice.
        """
        new_bytes = self._new_bytes  # first: one that is placed meanwhile counts twice, not never
        models = sorted(self._resident(), key=lambda model: model.used_at_s)
        if new_bytes + sum(model.bytes for model in models if model.at_work) > left_bytes_max:
            return False
        used_bytes = new_bytes + sum(model.bytes for model in models)
        for model in models:
            if used_bytes <= left_bytes_max:
                break
            if model.let_go():
                used_bytes -= model.bytes
                evictions.inc()
        return used_bytes <= left_bytes_max

    def _resident(self) -> list[ResidentModel]:
        with self._counting:
            return [model for model in self._models if model.resident]


class ResidentModel:
    """Model whose session comes and goes; what the session told of itself stays."""

    def __init__(
        self, served: ServedVersion, models: ResidentModels, recorded: Mapping[str, NDArray[Any]]
    ) -> None:
        self.served, self._models = served, models
        # Inputs of its last run, or of the model that it takes the place of.
        self.recorded = recorded
        # What it takes in memory, or took when it was there; 0 before its first load.
        self.bytes = 0
        self.used_at_s = 0.0
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self.tried = Tried()
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._uses = 0
        self._loading: Future[None] | None = None
        self._load_ended_at_s = 0.0

    @property
    def resident(self) -> bool:
        return self._session is not None

    @property
    def at_work(self) -> bool:
        return self._uses > 0

    @property
    def rows_apart(self) -> bool:
        return bool(self.tried.rows_apart)

    def fitting_bytes(self, row_bytes: int) -> int:
        return self.tried.fitting_bytes(row_bytes)

    def least_s(self, rows: int) -> float:
        return self.tried.least_s(rows)

    def load(self) -> Future[None]:
        with self._lock:
            if self._session is not None:
                return LOADED
            loading = self._loading
            if loading is not None and not self._may_try_again(loading):
                return loading
            self._loading = loading = self._models.begin(self)
        return loading

    def await_load(self, left_s: Callable[[], float]) -> None:
        until_s = time.monotonic() + LOAD_S_MAX
        self._models.wait(self.load(), lambda: min(left_s(), until_s - time.monotonic()))

    def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        ending: Ending | None = None,
    ) -> list[NDArray[Any]]:
        input_bytes = sum([values.nbytes for values in inputs.values()])
        fitting_bytes = _fitting_bytes(self.tried, inputs, input_bytes)
        session = self._taken()
        try:
            found = self._models.run_memory.run(
                input_bytes / max(1, fitting_bytes),
                lambda: session.run(inputs, outputs, ending),
                ending,
            )
        finally:
            self._release()
        if input_bytes <= RECORDED_BYTES_MAX:
            self.recorded = inputs
        return found

    def place(self, session: Session, size_bytes: int) -> None:
        self.inputs, self.outputs = session.inputs, session.outputs
        self.tried, self.bytes = session.tried, size_bytes
        with self._lock:
            self.used_at_s = time.monotonic()
            self._session, self._loading = session, None

    def note_end(self) -> None:
        self._load_ended_at_s = time.monotonic()

    def let_go(self) -> bool:
        """False when it is at work."""
        with self._lock:
            if self._uses:
                return False
            self._session = None
            return True

    def _taken(self) -> Session:
        for _ in range(LOADS_A_RUN_MAX):
            with self._lock:
                if self._session is not None:
                    self._uses += 1
                    self.used_at_s = time.monotonic()
                    return self._session
            self.await_load(lambda: LOAD_S_MAX)
        raise Busy("MODEL_MEMORY_FULL", loads_max=LOADS_A_RUN_MAX)

    def _release(self) -> None:
        with self._lock:
            self._uses -= 1
            idle = not self._uses
        if idle:
            self._models.released()

    def _may_try_again(self, loading: Future[None]) -> bool:
        return loading.done() and time.monotonic() > self._load_ended_at_s + RETRY_S


def _fitting_bytes(tried: Tried, inputs: Mapping[str, NDArray[Any]], input_bytes: int) -> int:
    """What inputs like these may be. Nothing less could be asked than one row as long as were
    tried: that is run whatever it takes. Raises Busy BATCH_TOO_LARGE.
    """
    if input_bytes <= min(tried.input_bytes_max, tried.row_bytes_tried):
        return tried.input_bytes_max
    (rows, *_) = (*next(iter(inputs.values())).shape, 1)
    row_bytes = input_bytes // max(1, rows)
    fitting_bytes = tried.fitting_bytes(row_bytes)
    if input_bytes <= fitting_bytes or (rows == 1 and row_bytes <= tried.row_bytes_tried):
        return fitting_bytes
    told = {"rows": rows, "rows_max": max(1, fitting_bytes // row_bytes)}
    if fitting_bytes < row_bytes:
        told |= {"row_bytes": row_bytes, "row_bytes_max": _row_bytes_max(tried)}
    raise Busy("BATCH_TOO_LARGE", **told, problem="memory of a run")


def _row_bytes_max(tried: Tried) -> int:
    """Of one that fits alone."""
    if tried.longer_power == 1:
        return tried.input_bytes_max
    return max(tried.row_bytes_tried, isqrt(tried.input_bytes_max * tried.row_bytes_tried))


def _await(loading: Future[None], left_s: Callable[[], float]) -> None:
    while not loading.done():
        if (now_left_s := left_s()) <= 0.0:
            raise Unavailable("DEADLINE_UNMET", state="loading")
        wait([loading], min(now_left_s, LOOK_INTERVAL_S))
    loading.result()
