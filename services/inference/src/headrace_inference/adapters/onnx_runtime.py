# SPDX-License-Identifier: Apache-2.0
"""ModelRuntime on ONNX Runtime, from bytes, never from a file.

Threads follow the CPU quota of the container, not the cores of the host, and do not spin: a service
beside others must not burn a core while it waits. The first runs, which plan memory, happen here
and not in a caller's request. onnxruntime is imported with the first model.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from headrace.errors import Busy, HeadraceError, Invalid, Unavailable
from headrace_inference.adapters.onnx_bfloat16 import run_with_bits
from headrace_inference.adapters.onnx_division import check_divisions
from headrace_inference.adapters.onnx_providers import PROVIDERS, provider_options
from headrace_inference.adapters.process_memory import NOISE_BYTES, PeakGrowth
from headrace_inference.adapters.tensor_codec import DATATYPES
from headrace_inference.domain.request import FEATURES, SCORE
from headrace_inference.domain.rollout import ServedVersion
from headrace_inference.domain.serving import ANY_SIZE, Ending, TensorSpec, Tried
from headrace_kit.telemetry import QuickHistogram

if TYPE_CHECKING:
    import onnxruntime

SOUND_MAX = 10_000
TRIED_ROWS = 64
TRIED_RUNS = 5
# Of one model, so that a slow one holds up no others for long. How long it takes is a guess in any
# case; whether its rows stand apart decides how it is asked, and is waited for.
ROWS_TRIAL_S_MAX, TIMING_S_MAX, LENGTHS_TRIAL_S_MAX, WARM_S_MAX = 5.0, 1.0, 5.0, 1.0
# An answer is copied out of its output, and into its message.
ANSWER_COPIES = 2
# The second run is as fast as those that follow.
WARM_RUNS = 2
# A size that a model leaves open, other than its rows, while it is tried.
TRIED_SIZE = 8
# Of one row at the most, and what it is to take, to tell how much more a longer one takes.
LONG_ROW_BYTES_MAX, ENOUGH_BYTES, LONG_RUNS = 4 << 20, 16 << 20, 3
# What rises no faster than that much more than the length is thought to rise as the length.
LINEAR_MAX = 1.3
# An input may be declared of any size: a larger one is a caller's to bring.
TRIED_ELEMENTS_MAX = 1 << 24
ROW_DIFFERENCE_MAX = {"rtol": 1e-3, "atol": 1e-5}
DATATYPE_BY_TYPE = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

# What ONNX Runtime says where a device has no more memory: its status is RUNTIME_EXCEPTION or FAIL,
# as of many failures (core/framework/bfc_arena.cc, core/providers/cuda/cuda_call.cc).
DEVICE_MEMORY_WORDS = (
    "Failed to allocate memory for requested buffer of size",
    "is smaller than requested bytes of",
    "CUDA failure 2: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)

Run = Callable[[Mapping[str, NDArray[Any]], Sequence[str]], list[NDArray[Any]]]

log = structlog.get_logger(__name__)
_measuring = threading.Lock()
seconds = QuickHistogram("inference", "compute_infer_seconds", "Running one model once.")


class OnnxSession:
    """Session of ONNX Runtime, with the signature that the session tells.

    `run_bytes_max`: of what one run may take besides the model, its answer's copies included.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        *,
        digest: str,
        run_bytes_max: int,
        on_device: bool = False,
    ) -> None:
        # What the log calls it by: one file may be versions of several models.
        self._digest, self._on_device = digest, on_device
        self._run_bytes_max = run_bytes_max
        self.inputs = tuple(map(_spec, session.get_inputs()))
        self.outputs = tuple(map(_spec, session.get_outputs()))
        self.tried = Tried()
        # Whether the first size of each tensor may count rows.
        self._by_rows = all(
            spec.shape and spec.shape[0] == ANY_SIZE for spec in (*self.inputs, *self.outputs)
        )
        in_bits = any(spec.datatype == "BF16" for spec in (*self.inputs, *self.outputs))
        # What its `run` looks at first, who asks has looked at: a quarter of a small model's run.
        self._run = partial(run_with_bits, session) if in_bits else session._sess.run

    def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        ending: Ending | None = None,
    ) -> list[NDArray[Any]]:
        if ending is None:
            return self._run_by(None, inputs, outputs)
        options = _endable()

        def end() -> None:
            options.terminate = True

        ending.begin(end)
        return self._run_by(options, inputs, outputs)

    def _run_by(
        self,
        options: onnxruntime.RunOptions | None,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        tell: Callable[..., object] = log.error,
    ) -> list[NDArray[Any]]:
        begin_s = time.perf_counter()
        try:
            found: list[NDArray[Any]] = self._run(outputs, inputs, options)
        except Exception as err:  # see _what_it_raises
            if options is not None and options.terminate:  # which is no fault of it
                raise Unavailable("DEADLINE_UNMET") from err
            if self._on_device and any(words in str(err) for words in DEVICE_MEMORY_WORDS):
                log.warning("device_memory_out", digest=self._digest, error=_what_it_raises(err))
                raise Busy("DEVICE_MEMORY") from err
            tell("model_failed", digest=self._digest, error=_what_it_raises(err))
            raise HeadraceError("MODEL_ERROR") from err
        finally:
            seconds.observe(time.perf_counter() - begin_s)
        if self.tried.rows_apart:
            rows = {values.shape[:1] for values in (*inputs.values(), *found)}
            if len(rows) != 1:
                log.error("model_failed", digest=self._digest, rows=sorted(rows))
                raise HeadraceError("MODEL_ERROR")
        return found

    def try_out(self, known: Tried | None) -> None:
        """Notes if rows stand apart, how long a run takes at best, and what fits into one."""
        if known is not None:
            self.tried = known
            return
        names = [spec.name for spec in self.outputs]
        try:
            with _ended_after(ROWS_TRIAL_S_MAX) as options:
                rows_apart = self._rows_apart(partial(self._run_by, options), names)
                self.tried = replace(self.tried, rows_apart=rows_apart)
            # They would count each other's memory, and there is one peak.
            with _measuring:
                self._measure(names, growth := PeakGrowth())
                if self._by_rows and any(ANY_SIZE in spec.shape[1:] for spec in self.inputs):
                    self._lengthen(names, growth)
        except HeadraceError as err:
            # A size that it leaves open is not any size, or it is slow: the rest is not known
            # before a caller asks.
            log.warning(
                "model_not_tried",
                digest=self._digest,
                error=str(err),
                rows_trial_s_max=ROWS_TRIAL_S_MAX,
            )

    def warm(self, recorded: Mapping[str, NDArray[Any]]) -> None:
        """Inputs of another version may not fit, which harms nothing."""
        types = {spec.name: DATATYPES[spec.datatype].array for spec in self.inputs}
        if not recorded or {name: values.dtype for name, values in recorded.items()} != types:
            return
        input_bytes = sum(values.nbytes for values in recorded.values())
        rows = max(1, *(len(values) for values in recorded.values() if values.shape))
        if input_bytes > self.tried.fitting_bytes(input_bytes // rows):
            return
        names = [spec.name for spec in self.outputs]
        try:
            with _ended_after(WARM_S_MAX) as options:
                for _ in range(WARM_RUNS):
                    self._run_by(options, recorded, names)
        except HeadraceError as err:
            log.info("model_not_warmed", digest=self._digest, error=str(err))

    def _measure(self, names: list[str], growth: PeakGrowth) -> None:
        """How long runs take, and what a row does, of the least open sizes."""
        with _ended_after(TIMING_S_MAX) as options:
            self._measure_by(partial(self._run_by, options), names, growth)

    def _measure_by(self, run: Run, names: list[str], growth: PeakGrowth) -> None:
        """A row takes as much as the first, where there is no time to try many."""
        until_s = time.monotonic() + TIMING_S_MAX
        one = self._example(1)
        first = _least(lambda: run(one, names), until_s, growth)
        self.tried = replace(self.tried, first_row_s=first.took_s)
        if not self._by_rows:
            return
        row_bytes = first.grown_bytes
        rows = min(TRIED_ROWS, max(2, self._rows_max(row_bytes, first.answer_bytes)))
        if time.monotonic() < until_s:
            many = self._example(rows)
            all_ = _least(lambda: run(many, names), until_s, growth)
            if self.tried.rows_apart:
                further_s = max(0.0, all_.took_s - first.took_s) / (rows - 1)
                self.tried = replace(self.tried, further_row_s=further_s)
            if all_.whole:
                row_bytes = max(0, all_.grown_bytes - first.grown_bytes) // (rows - 1)
        self._bound(row_bytes, first.answer_bytes)

    def _lengthen(self, names: list[str], growth: PeakGrowth) -> None:
        """What a long row takes. Not every size may go: a failure says nothing of the model."""
        with suppress(HeadraceError), _ended_after(LENGTHS_TRIAL_S_MAX) as options:
            self._lengthen_by(partial(self._run_by, options, tell=log.info), names, growth)

    def _lengthen_by(self, run: Run, names: list[str], growth: PeakGrowth) -> None:
        """One row, ever longer, until two took enough to tell how much more a longer one takes:
        eight numbers tell nothing.

        Where that fails or takes too long, nothing is known of longer ones.
        """
        until_s = time.monotonic() + LENGTHS_TRIAL_S_MAX
        size, grown = TRIED_SIZE, [_Grown(self._row_bytes(TRIED_SIZE), 0)]
        least = None
        while not _told(grown) and self._row_bytes(2 * size) <= LONG_ROW_BYTES_MAX:
            times = self._row_bytes(2 * size) / max(1, self._row_bytes(size))
            if grown[-1].grown_bytes * times**2 > self._run_bytes_max:
                break
            size *= 2
            longer = self._example(1, size)
            least = _least(partial(run, longer, names), until_s, growth, runs=LONG_RUNS)
            if not least.whole or time.monotonic() >= until_s:
                return
            grown.append(_Grown(self._row_bytes(size), least.grown_bytes))
        if least is not None:
            self._bound(least.grown_bytes, least.answer_bytes, size)
        self.tried = replace(
            self.tried, row_bytes_tried=grown[-1].row_bytes, longer_power=_longer_power(grown)
        )

    def _bound(self, row_bytes: int, answer_bytes: int, size: int = TRIED_SIZE) -> None:
        """By what memory a row of a run takes, of open sizes like that."""
        fitting_bytes = self._rows_max(row_bytes, answer_bytes) * self._row_bytes(size)
        input_bytes_max = min(self.tried.input_bytes_max, fitting_bytes)
        self.tried = replace(self.tried, input_bytes_max=input_bytes_max)

    def _row_bytes(self, size: int) -> int:
        """Of the inputs of one row, whose open sizes are that."""
        return sum(
            math.prod(_sizes(spec, 1, size)) * DATATYPES[spec.datatype].array.itemsize
            for spec in self.inputs
        )

    def _rows_max(self, row_bytes: int, answer_bytes: int) -> int:
        """With the copies of its answer; it takes what it answers in any case."""
        taken_bytes = max(row_bytes, answer_bytes) + ANSWER_COPIES * answer_bytes
        return max(1, self._run_bytes_max // max(1, taken_bytes))

    def _rows_apart(self, run: Run, names: list[str]) -> bool:
        """Whether two rows are answered together as each is alone."""
        if not self._by_rows:
            return False
        both = self._example(2)
        together = run(both, names)
        # Before there is time to compare what may be more than memory holds.
        self._bound(0, sum(each.nbytes for each in together) // 2)
        for row in (0, 1):
            alone = run({name: each[row : row + 1] for name, each in both.items()}, names)
            for one, all_ in zip(alone, together, strict=True):
                if one.shape != (1, *all_.shape[1:]) or len(all_) != 2:
                    return False
                if not _alike(one, all_[row : row + 1]):
                    return False
        return True

    def _example(self, rows: int, size: int = TRIED_SIZE) -> dict[str, NDArray[Any]]:
        """Inputs to try it with: rows that differ, of values that also an index may have.

        Raises Invalid TENSOR_SIZE for more than a model should be tried with.
        """
        for spec in self.inputs:
            if math.prod(_sizes(spec, rows, size)) > TRIED_ELEMENTS_MAX:
                raise Invalid("TENSOR_SIZE", input=spec.name, shape=list(spec.shape))
        return {spec.name: _example(spec, rows, size) for spec in self.inputs}


def _spec(node: Any) -> TensorSpec:
    """Raises Invalid FORMAT for a tensor that the protocol has no data type for."""
    datatype = DATATYPE_BY_TYPE.get(node.type)
    if datatype is None:
        raise Invalid("FORMAT", tensor=node.name, type=node.type)
    return TensorSpec(
        name=node.name,
        datatype=datatype,
        shape=tuple(size if isinstance(size, int) else ANY_SIZE for size in node.shape),
        symbols=tuple(size if isinstance(size, str) else "" for size in node.shape),
    )


def _sizes(spec: TensorSpec, rows: int, open_size: int) -> tuple[int, ...]:
    first, *others = spec.shape or (1,)
    sizes = [open_size if size == ANY_SIZE else size for size in others]
    return (rows if first == ANY_SIZE else first, *sizes)[: len(spec.shape)]


def _example(spec: TensorSpec, rows: int, open_size: int) -> NDArray[Any]:
    shape = _sizes(spec, rows, open_size)
    column = 1 - np.arange(shape[0] if shape else 1) % 2
    by_row = column.reshape(-1, *[1] * (len(shape) - 1)) if shape else column.reshape(())
    if spec.datatype == "BYTES":
        return np.broadcast_to(np.array(["a", "b"], dtype=object)[by_row], shape)
    return np.ascontiguousarray(np.broadcast_to(by_row, shape), DATATYPES[spec.datatype].array)


def _alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.dtype.kind == "f":
        return bool(np.allclose(one, other, equal_nan=True, **ROW_DIFFERENCE_MAX))
    return bool(np.array_equal(one, other))


class OnnxModelRuntime:
    """ModelRuntime with `threads` for each model, on the first provider and what that leaves."""

    def __init__(
        self,
        *,
        threads: int,
        providers: Sequence[str],
        run_bytes_max: int,
        device_memory_bytes_max: int | None = None,
    ) -> None:
        self._threads, self._providers = threads, list(providers)
        self._run_bytes_max = run_bytes_max
        self._provider_options = provider_options(
            providers, device_memory_bytes_max=device_memory_bytes_max
        )
        # Digests of files that were looked through: a model that comes back needs no other look.
        self._sound: set[str] = set()

    def prepare(self) -> None:
        import onnxruntime  # noqa: F401

    def load(self, onnx: bytes, served: ServedVersion) -> OnnxSession:
        import onnxruntime

        try:
            self._check(onnx, served.digest)
            session = onnxruntime.InferenceSession(
                onnx,
                self._options(),
                providers=self._providers,
                provider_options=self._provider_options,
            )
            on_device = self._providers[0] != PROVIDERS["cpu"]
            model = OnnxSession(
                session,
                digest=served.digest,
                run_bytes_max=self._run_bytes_max,
                on_device=on_device,
            )
        except HeadraceError:
            raise
        except Exception as err:  # see _what_it_raises
            log.error("model_not_loadable", digest=served.digest, error=_what_it_raises(err))
            raise Invalid("FORMAT", digest=served.digest) from err
        if session.get_providers()[0] != self._providers[0]:
            raise Unavailable("PROVIDER_UNAVAILABLE", provider=self._providers[0])
        # A change of providers in the midst of a request needs the file, as large as the weights.
        session.disable_fallback()
        session._model_bytes = b""
        if served.features:
            _check_signature(model, served)
        return model

    def _check(self, onnx: bytes, digest: str) -> None:
        """Raises Invalid FORMAT for what could end the process."""
        if digest in self._sound:
            return
        check_divisions(onnx, self._types)
        if len(self._sound) >= SOUND_MAX:
            self._sound.clear()
        self._sound.add(digest)

    def _types(self, onnx: bytes) -> dict[str, str]:
        """Of what it takes and gives; nothing is worked out where nothing is optimized.

        Raises Invalid FORMAT.
        """
        import onnxruntime

        options = self._options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(onnx, options, providers=[PROVIDERS["cpu"]])
        except Exception as err:  # see _what_it_raises
            raise Invalid("FORMAT", format="onnx", problem=_what_it_raises(err)) from err
        return {each.name: each.type for each in (*session.get_inputs(), *session.get_outputs())}

    def _options(self) -> onnxruntime.SessionOptions:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # An arena keeps what a session once needed, and takes the next power of two for it.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4  # its errors are raised, and logged here
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        return options


def _check_signature(model: OnnxSession, served: ServedVersion) -> None:
    width = len(served.features)
    inputs = [(spec.name, spec.datatype, spec.shape) for spec in model.inputs]
    outputs = [(spec.name, spec.datatype, len(spec.shape)) for spec in model.outputs]
    if inputs != [(FEATURES, "FP32", (ANY_SIZE, width))] or outputs != [(SCORE, "FP32", 1)]:
        raise Invalid("FORMAT", digest=served.digest, inputs=inputs, outputs=outputs, width=width)


def _what_it_raises(error: Exception) -> str:
    """ONNX Runtime's exceptions share no base but Exception, and it raises Python's own besides:
    ValueError for an input that is missing, RuntimeError for one of another type, MemoryError,
    UnicodeDecodeError for text of the model's that is none. Whichever: it is the model's.
    """
    return f"{type(error).__name__}: {error}"


class _Least(NamedTuple):
    took_s: float
    # Of memory at the peak; 0 where that is not told.
    grown_bytes: int
    answer_bytes: int
    # Whether a run came to its end.
    whole: bool


class _Grown(NamedTuple):
    """By how much memory a run grew of one row that long."""

    row_bytes: int
    grown_bytes: int


def _told(grown: Sequence[_Grown]) -> bool:
    """Of so much, what another thread took is a part that does not count."""
    return all(each.grown_bytes >= ENOUGH_BYTES for each in grown[-2:])


def _longer_power(grown: Sequence[_Grown]) -> int:
    """1 where what is taken rises as the row's length, 2 where it rises faster, or may."""
    if not grown[-1].grown_bytes:
        return 1
    if not _told(grown):
        return 2
    before, last = grown[-2:]
    longer = last.row_bytes / before.row_bytes
    return 1 if last.grown_bytes <= LINEAR_MAX * longer * before.grown_bytes else 2


def _least(
    run: Callable[[], Sequence[NDArray[Any]]],
    until_s: float,
    growth: PeakGrowth,
    runs: int = TRIED_RUNS,
) -> _Least:
    """Of some runs, of one at least: none is begun after that time by time.monotonic.

    Where the first one was ended by its bound, what it had of a core: it takes no less.
    """
    least_s, answer_bytes = math.inf, 0
    grown: list[int] = []
    for _ in range(runs):
        begin_s, begin_core_s = time.perf_counter(), time.thread_time()
        try:
            answer_bytes = sum(each.nbytes for each in run())
        except Unavailable:
            if math.isinf(least_s):
                took_s, grown = time.thread_time() - begin_core_s, _taken(growth)
                return _Least(took_s, min(grown, default=0), answer_bytes, whole=False)
            break
        least_s = min(least_s, time.perf_counter() - begin_s)
        grown += _taken(growth)
        if time.monotonic() >= until_s:
            break
    return _Least(least_s, min(grown, default=0), answer_bytes, whole=True)


def _taken(growth: PeakGrowth) -> list[int]:
    """By a run; 0 where that is noise, nothing where others took or freed as much meanwhile: what
    is told of theirs would be this model's bound for as long as it is served.
    """
    grown_bytes = growth.bytes()
    if growth.moved():
        return []
    return [grown_bytes if grown_bytes > NOISE_BYTES else 0]


def _endable() -> onnxruntime.RunOptions:
    """Options of runs that end with an error when `terminate` is set: at the next operator, or turn
    of a loop."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4  # as a session's
    return options


@contextmanager
def _ended_after(seconds: float) -> Iterator[onnxruntime.RunOptions]:
    """Options of runs that end by then with an error."""
    options = _endable()
    timer = threading.Timer(seconds, setattr, (options, "terminate", True))
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()
