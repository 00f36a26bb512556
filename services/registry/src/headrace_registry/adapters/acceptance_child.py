# SPDX-License-Identifier: Apache-2.0
"""The process in which a hostile file is looked through: acceptance_start runs it, file on stdin.

It limits itself before it reads a byte of it, answers one line of JSON, and knows no environment,
no folder and no network. Each reader has the file from the disk, one after the other: the whole of
it is in memory twice at most. What it cannot bound, its parent does: a wall clock, and the length
of the answer. Whatever ends it (a signal, a limit, a bug of a parser) is told as VALIDATION_LIMIT.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state

from headrace.errors import HeadraceError, Invalid
from headrace_registry.adapters.onnx_division import check_divisions
from headrace_registry.adapters.onnx_rules import check_model, check_texts
from headrace_registry.domain.acceptance import Acceptance, Finding
from headrace_registry.domain.onnx_file import check_onnx
from headrace_registry.domain.signature import Signature, TensorSignature, read_signature

FILE = Path("/proc/self/fd/0")
ADDRESS_SPACE_BYTES_MAX = 2 << 30
CPU_S_MAX = 30
FILES_MAX = 16
RUNS, SEED, PROBLEM_LENGTH_MAX = 5, 7, 200
# ONNX Runtime's exceptions share no base but Exception, and what they are not ends the child.
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    ValueError,
    RuntimeError,
    state.EPFail,
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NotImplemented,
    state.RuntimeException,
)
# Words of the runtime that tell where its own sources and its input lie, and nobody anything else.
OWN_PLACES = ("onnxruntime_src/", "/proc/self/")
OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate", "BFCArena")
NUMPY_BY_DATATYPE: dict[str, type] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32,
    "UINT64": np.uint64, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32,
    "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
    "BF16": np.uint16, "BYTES": np.object_,
}  # fmt: skip
# https://github.com/onnx/onnx/blob/main/onnx/onnx.in.proto, TensorProto.DataType
BFLOAT16 = 16


def main() -> int:
    limit()
    try:
        answer = asdict(look_through(FILE))
    except HeadraceError as err:
        answer = {"refused": err.reason, "metadata": err.metadata}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    return 0


def limit() -> None:
    """Memory, CPU, open files; nothing is written."""
    for what, most in (
        (resource.RLIMIT_AS, ADDRESS_SPACE_BYTES_MAX),
        (resource.RLIMIT_CPU, CPU_S_MAX),
        (resource.RLIMIT_NOFILE, FILES_MAX),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def look_through(file: Path) -> Acceptance:
    """Raises Invalid FORMAT, EXTERNAL_DATA, OPSET or PICKLE."""
    signature = _signature(file)
    _check_types(signature)
    _check(file)
    session = _session(file)
    _check_same(signature, session)
    return _run_once(session, signature)


def _signature(file: Path) -> Signature:
    data = _mapped(file)
    check_onnx(data)
    return read_signature(data)


def _mapped(file: Path) -> mmap.mmap:
    with file.open("rb") as opened:
        try:
            return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as err:  # it is empty
            raise _refused(err) from err


def _check_types(signature: Signature) -> None:
    """bfloat16 goes through the runtime as its own values, which it makes of no texts."""
    asked = {each.datatype for each in signature.inputs}
    held = asked | {each.datatype for each in signature.outputs}
    if "BYTES" in asked and "BF16" in held:
        raise Invalid("FORMAT", format="onnx", problem="it takes texts and has bfloat16: not both")


def _check(file: Path) -> None:
    try:
        _check_content(onnx.ModelProto.FromString(file.read_bytes()))
        check_texts(_mapped(file))
        onnx.checker.check_model(file)
    except (DecodeError, onnx.checker.ValidationError, ValueError, TypeError) as err:
        raise _refused(err) from err


def _check_content(model: onnx.ModelProto) -> None:
    check_model(model)
    check_divisions(model)


def _session(file: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.log_severity_level = 4
    try:
        # With a fallback it would print what it retries, into the answer.
        return ort.InferenceSession(
            file, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except RUNTIME_ERRORS as err:
        _check_memory(err)
        raise _refused(err) from err


def _check_same(signature: Signature, session: ort.InferenceSession) -> None:
    """The runtime reads the same names as we do, or the file means two things."""
    for role, ours, theirs in (
        ("inputs", signature.inputs, session.get_inputs()),
        ("outputs", signature.outputs, session.get_outputs()),
    ):
        if [each.name for each in ours] != [each.name for each in theirs]:
            raise Invalid("FORMAT", format="onnx", problem=f"its {role} can be read in two ways")


def _run_once(session: ort.InferenceSession, signature: Signature) -> Acceptance:
    """On golden inputs, and then as often as tells how long it takes."""
    try:
        given, answers = _run(session, signature)
    except _DidNotRun as err:
        open_sizes = any(-1 in each.shape for each in signature.inputs)
        # With sizes left open, nobody but its owner knows which ones go together.
        failed = Finding(open_sizes, f"It did not run on golden inputs: {err}.")
        return Acceptance(signature, (failed,))
    again = _answers(session, given, signature)
    found = [*_compared(answers, again, signature)]
    latency_ms = _latency_ms(session, given, signature)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
    cost = f"Golden inputs took {latency_ms:.2f} ms, at most {peak_mb:.0f} MB."
    return Acceptance(signature, (*found, Finding(passed=True, sentence=cost)), latency_ms)


def _compared(
    answers: Sequence[Any], again: Sequence[Any], signature: Signature
) -> Iterator[Finding]:
    equal = all(_equal(one, other) for one, other in zip(answers, again, strict=True))
    same = "the same" if equal else "another"
    yield Finding(equal, f"Golden inputs must give the same answer twice; it gave {same} one.")
    bad = [each.name for each, found in zip(signature.outputs, answers, strict=True)
           if not _finite(found)]  # fmt: skip
    said = f"not finite: {', '.join(bad)[:100]}" if bad else "all are"
    yield Finding(not bad, f"Answers to golden inputs must be finite; {said}.")


def _latency_ms(
    session: ort.InferenceSession, given: Mapping[str, NDArray[Any]], signature: Signature
) -> float:
    took_ms = []
    for _ in range(RUNS):
        began = time.perf_counter()
        _answers(session, given, signature)
        took_ms.append(1_000 * (time.perf_counter() - began))
    return statistics.median(took_ms)


class _DidNotRun(Exception):
    """No guess of the open sizes ran."""


def _run(
    session: ort.InferenceSession, signature: Signature
) -> tuple[dict[str, NDArray[Any]], list[Any]]:
    problem = ""
    for size in (2, 1):
        given = {each.name: _golden(each, size) for each in signature.inputs}
        try:
            return given, _answers(session, given, signature)
        except RUNTIME_ERRORS as err:
            _check_memory(err)
            problem = problem or _line(err)
    raise _DidNotRun(problem)


def _check_memory(err: Exception) -> None:
    """Raises MemoryError where the runtime had none: that is no fault of the format."""
    if any(sign in str(err) for sign in OUT_OF_MEMORY):
        raise MemoryError from err


def _answers(
    session: ort.InferenceSession, given: Mapping[str, NDArray[Any]], signature: Signature
) -> list[Any]:
    """Of bfloat16, which numpy lacks, the bits are given, and numbers come back."""
    bits = {
        each.name for each in (*signature.inputs, *signature.outputs) if each.datatype == "BF16"
    }
    if not bits:
        return list(session.run(None, given))
    values = {
        name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16)
        if name in bits
        else ort.OrtValue.ortvalue_from_numpy(array)
        for name, array in given.items()
    }
    names = [each.name for each in signature.outputs]
    found = session.run_with_ort_values(names, values)
    return [
        _numbers(value) if name in bits else value.numpy()
        for name, value in zip(names, found, strict=True)
    ]


def _numbers(value: ort.OrtValue) -> NDArray[np.float32]:
    shape = value.shape()
    memory = ctypes.string_at(value.data_ptr(), 2 * math.prod(shape))
    bits = np.frombuffer(memory, np.uint16).astype(np.uint32)
    return (bits << 16).view(np.float32).reshape(shape)


def _golden(tensor: TensorSignature, open_size: int) -> NDArray[Any]:
    """Numbers between 0.1 and 1, ones, texts: the same at every time and on every machine."""
    shape = [open_size if size == -1 else size for size in tensor.shape]
    kind = NUMPY_BY_DATATYPE[tensor.datatype]
    if tensor.datatype == "BYTES":
        return np.full(shape, "a", dtype=kind)
    if tensor.datatype.startswith(("FP", "BF")):
        numbers = np.random.default_rng(SEED).uniform(0.1, 1.0, shape)
        if tensor.datatype == "BF16":  # the upper half of a float32
            return (np.asarray(numbers, np.float32).view(np.uint32) >> 16).astype(kind)
        return np.asarray(numbers).astype(kind)
    return np.ones(shape, dtype=kind)


def _equal(one: Any, other: Any) -> bool:
    first, second = np.asarray(one), np.asarray(other)
    return np.array_equal(first, second, equal_nan=first.dtype.kind == "f")


def _finite(answer: Any) -> bool:
    found = np.asarray(answer)
    return found.dtype.kind != "f" or bool(np.isfinite(found).all())


def _refused(err: Exception) -> Invalid:
    return Invalid("FORMAT", format="onnx", problem=_line(err))


def _line(err: Exception) -> str:
    words = str(err).split()
    text = " ".join(word for word in words if not any(place in word for place in OWN_PLACES))
    return "".join(each for each in text if each.isprintable())[:PROBLEM_LENGTH_MAX]
