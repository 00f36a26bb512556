# SPDX-License-Identifier: Apache-2.0
"""ONNX files: the registry takes or refuses each, and inference answers with what was taken.

Two of three are refused by the first look of the child, which is our own Python and costs nothing:
that is taken here. Each of the others has the child of an acceptance, forked, with its limits and
its clock; whatever is taken has another, in which it is loaded and answers zeros, ones and what is
at the ends of its types.
"""

from __future__ import annotations

import itertools
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from services.registry.tests import test_acceptance as hostile
from tests.fuzz.campaign import Broken
from tests.fuzz.forked import Ended, in_child

from headrace.errors import HeadraceError, Invalid
from headrace_inference.adapters.onnx_providers import providers
from headrace_inference.adapters.onnx_runtime import OnnxModelRuntime, OnnxSession
from headrace_inference.adapters.tensor_codec import DATATYPES
from headrace_inference.domain.rollout import ServedVersion
from headrace_inference.domain.serving import ANY_SIZE, Ending, TensorSpec
from headrace_registry.adapters import acceptance_child
from headrace_registry.adapters.child_acceptor import REASONS, WALL_S_MAX, _judged
from headrace_registry.domain.onnx_file import check_onnx
from headrace_registry.domain.signature import read_signature

# Less of a core than this in all its time is no work: it stood still.
CPU_S_OF_WORK = 5.0
FILES, WENT_OUTSIDE = ("open", "os.listdir", "os.scandir"), 99
# A model's own process has all the machine's; a run of it has a second here.
SERVED_BYTES_MAX, SERVED_CPU_S_MAX, RUN_S_MAX = 8 << 30, 60, 1.0
RUN_BYTES_MAX = 1 << 30
# A child has the address space of the process that forked it, and about what its own would have
# left of its limit: tests of many other things may have taken more than that before.
CHILD_ROOM_BYTES = 1 << 30
ENDED_BY_LIMITS = (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGALRM)
TOO_SLOW = "DEADLINE_UNMET"
NOT_LOADED = "not loaded by inference:"
# Times each sound file is in the corpus: of hostile ones hardly a mutant gets past the first look.
SOUND_SHARE = 5
INPUT_ELEMENTS_MAX = 1 << 20
SOURCES = str(Path(__file__).resolve().parents[2])


def corpus() -> list[bytes]:
    """Hostile files of the registry's tests, and what is sound: of it most mutants live on."""
    models = [
        *hostile.UNSOUND.values(),
        *(model for model, _ in hostile.REFUSED.values()),
        hostile.a_model(),
        hostile.a_bfloat16(hostile.node("Abs", ["x32"], ["y32"])),
        hostile.a_loop("n", weights=[hostile.whole("n", 3)]),
        hostile.in_if(hostile.node("Relu", ["x"], ["z"])),
        hostile.deep(3),
    ]
    sound = [hostile.a_network(), *operators()]
    return [*(each.SerializeToString() for each in models), *sound * SOUND_SHARE]


def operators() -> Iterator[bytes]:
    """Models of one, whose attributes, weights and inputs say sizes, axes and indices."""
    node, whole, table = hostile.node, _whole, _floats("t", 2, 3)
    for made, *weights in (
        (node("Gather", ["x", "w"], ["y"], axis=1), whole("w", 0, 2)),
        (node("Slice", ["x", "w", "v"], ["y"]), whole("w", 0, 1), whole("v", 2, 3)),
        (node("Reshape", ["x", "w"], ["y"]), whole("w", -1, 3)),
        (node("Expand", ["x", "w"], ["y"]), whole("w", 2, 3)),
        (node("Tile", ["x", "w"], ["y"]), whole("w", 1, 2)),
        (node("Pad", ["x", "w"], ["y"]), whole("w", 0, 1, 0, 1)),
        (node("TopK", ["x", "w"], ["y", "i"], axis=1), whole("w", 2)),
        (
            node("ScatterElements", ["x", "w", "u"], ["y"], axis=1),
            whole("w", 0, shape=[1, 1]),
            _floats("u", 1, 1),
        ),
        (node("CumSum", ["x", "w"], ["y"]), whole("w", 1, shape=[])),
        (node("Softmax", ["x"], ["y"], axis=1),),
        (node("Transpose", ["x"], ["y"], perm=[1, 0]),),
        (node("Concat", ["x", "x"], ["y"], axis=1),),
        (node("Split", ["x"], ["y"], axis=1),),
        (node("ReduceSum", ["x", "w"], ["y"], keepdims=1), whole("w", 1)),
        (node("EyeLike", ["x"], ["y"], k=1),),
        (node("Einsum", ["x", "x"], ["y"], equation="ij,kj->ik"),),
        (node("LayerNormalization", ["x", "s"], ["y"], axis=-1), _floats("s", 3)),
        (node("Gemm", ["x", "m", "s"], ["y"], transB=1), _floats("m", 3, 3), _floats("s", 3)),
    ):
        yield _a_model(made, weights, asked=hostile.FLOAT, told=hostile.FLOAT)
    for made, told, *weights in (
        (node("GatherElements", ["t", "x"], ["y"], axis=1), hostile.FLOAT, table),
        (node("ScatterElements", ["t", "x", "t"], ["y"], axis=1), hostile.FLOAT, table),
        (node("Cast", ["x"], ["y"], to=hostile.FLOAT), hostile.FLOAT),
        (node("Mod", ["x", "w"], ["y"]), hostile.INT64, whole("w", 3)),
        (node("Div", ["x", "w"], ["y"]), hostile.INT64, whole("w", 3)),
        (node("Pow", ["x", "w"], ["y"]), hostile.INT64, whole("w", 2)),
        (node("NonZero", ["x"], ["y"]), hostile.INT64),
        (node("TopK", ["x", "w"], ["y", "i"], axis=1), hostile.INT64, whole("w", 2)),
    ):
        yield _a_model(made, weights, asked=hostile.INT64, told=told)


def _whole(name: str, *values: int, shape: list[int] | None = None) -> Any:
    sizes = [len(values)] if shape is None else shape
    return hostile.helper.make_tensor(name, hostile.INT64, sizes, values)


def _floats(name: str, *shape: int) -> Any:
    values = [1.0] * int(np.prod(shape))
    return hostile.helper.make_tensor(name, hostile.FLOAT, list(shape), values)


def _a_model(made: Any, weights: list[Any], *, asked: int, told: int) -> bytes:
    model = hostile.a_model(
        made,
        inputs=[("x", asked, [2, 3])],
        outputs=[("y", told, ["m", "n"])],
        weights=weights,
    )
    data: bytes = model.SerializeToString()
    return data


class Acceptances:
    """The judge."""

    def __init__(self) -> None:
        np.random.default_rng(0)  # imported when it is used, which each child would do
        self._file: IO[bytes] = TemporaryFile()  # noqa: SIM115 (as long as the process)

    def __call__(self, data: bytes) -> str:
        try:
            check_onnx(data)
            read_signature(data)
        except Invalid as err:
            if err.reason not in REASONS:
                raise Broken(f"refused by {err.reason}") from err
            return f"{err.reason} at the first look"
        return self._by_children(data)

    def _by_children(self, data: bytes) -> str:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(data)
        self._file.flush()
        with Path(f"/proc/self/fd/{self._file.fileno()}").open("rb") as readable:
            ended = in_child(_look_through, stdin=readable.fileno(), wall_s=WALL_S_MAX)
            outcome = _outcome(ended)
            if outcome not in ("sound", "unsound"):
                return outcome
            load = partial(_serve, data)
            return f"{outcome}, {_served(in_child(load, stdin=0, wall_s=2 * WALL_S_MAX))}"


def _look_through() -> int:
    """As the child of an acceptance, but for its network; what it opens is looked at."""
    room_bytes = _address_space_bytes() + CHILD_ROOM_BYTES
    most_bytes = max(acceptance_child.ADDRESS_SPACE_BYTES_MAX, room_bytes)
    acceptance_child.ADDRESS_SPACE_BYTES_MAX = most_bytes
    allowed = (str(acceptance_child.FILE), sys.prefix, sys.base_prefix, SOURCES)

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        place = str(arguments[0]) if arguments else ""
        beyond = event.startswith(("socket.", "os.exec", "os.system", "subprocess."))
        if beyond or (event in FILES and not (place.startswith(allowed) or place.isdigit())):
            os.write(1, f"{event} {place[:100]}".encode())
            os._exit(WENT_OUTSIDE)

    sys.addaudithook(look)
    return acceptance_child.main()


def _address_space_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    return int(pages) * resource.getpagesize()


def _outcome(ended: Ended) -> str:
    if ended.code == WENT_OUTSIDE:
        raise Broken(f"it went outside: {ended.said.decode(errors='replace')}")
    if ended.code == -signal.SIGALRM and ended.cpu_s < CPU_S_OF_WORK:
        raise Broken("it stood still until the clock ended it")
    try:
        found = _judged(ended.code, ended.said)
    except Invalid as err:
        if err.reason != "VALIDATION_LIMIT":
            return err.reason
        if ended.code == 0:
            raise Broken(f"the child's own answer is none: {ended.said[:100]!r}") from err
        by = ended.said.decode() if ended.code > 0 else signal.Signals(-ended.code).name
        return f"VALIDATION_LIMIT by {by}"
    return "sound" if all(each.passed for each in found.findings) else "unsound"


def _served(ended: Ended) -> str:
    said = ended.said.decode(errors="replace")
    if ended.code == 0 and said.startswith(NOT_LOADED):
        raise Broken(f"the registry took what is {said}")
    if ended.code == 0:
        return said
    if ended.code in ENDED_BY_LIMITS:
        return "took too long"
    if ended.code > 0:
        raise Broken(f"inference raises {said}")
    raise Broken(f"inference is ended by {signal.Signals(-ended.code).name}")


def _serve(data: bytes) -> int:
    for what, most in (
        (resource.RLIMIT_AS, SERVED_BYTES_MAX),
        (resource.RLIMIT_CPU, SERVED_CPU_S_MAX),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    said = os.dup(1)
    os.dup2(2, 1)  # the service's log
    try:
        os.write(said, _answered(data).encode())
    finally:
        os.dup2(said, 1)
    return 0


def _answered(data: bytes) -> str:
    runtime = OnnxModelRuntime(threads=1, providers=providers("cpu"), run_bytes_max=RUN_BYTES_MAX)
    try:
        model = runtime.load(data, ServedVersion(1, sha256(data).hexdigest(), ()))
    except HeadraceError as err:
        return f"{NOT_LOADED} {err.reason}"
    model.try_out(None)
    told: list[str | None] = []
    for size, fill in itertools.product((2, 1), (0, 1, -1, 2**63, -(2**63))):
        told.append(_told(model, size, fill))
        if told[-1] == TOO_SLOW:
            break
    return "answered" if None in told else f"{told[0]}"


def _told(model: OnnxSession, size: int, fill: int) -> str | None:
    """The reason when it is refused."""
    inputs = {spec.name: _filled(spec, size, fill) for spec in model.inputs}
    if sum(each.size for each in inputs.values()) > INPUT_ELEMENTS_MAX:
        return "not asked"
    ending = Ending()
    timer = threading.Timer(RUN_S_MAX, ending.ask)
    timer.start()
    try:
        model.run(inputs, [spec.name for spec in model.outputs], ending)
    except HeadraceError as err:
        return err.reason
    finally:
        timer.cancel()
    return None


def _filled(spec: TensorSpec, size: int, fill: int) -> NDArray[Any]:
    """The largest and the least of the type stand for 2^63 and -2^63, infinity of floats."""
    shape = [size if each == ANY_SIZE else each for each in spec.shape]
    kind = np.dtype(DATATYPES[spec.datatype].array)
    if kind == np.object_:
        return np.full(shape, "\0" * min(abs(fill), 3), kind)
    if kind.kind == "f":
        return np.full(shape, fill if abs(fill) < 2 else np.inf * np.sign(fill), kind)
    if kind.kind == "b":
        return np.full(shape, fill > 0, kind)
    least, most = np.iinfo(kind).min, np.iinfo(kind).max
    return np.full(shape, min(max(fill, least), most), kind)
