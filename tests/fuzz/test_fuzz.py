# SPDX-License-Identifier: Apache-2.0
"""A few hundred files of `make fuzz`, and what it is worth: each planted mutant is found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from typing import IO, Any

import pytest
from tests.fuzz import acceptance, parsers
from tests.fuzz.__main__ import main
from tests.fuzz.campaign import Target, fuzz
from tests.fuzz.targets import TARGETS

from headrace_inference.adapters import hot_infer
from headrace_registry.adapters import acceptance_child

SEED, FILES = 7, 40
# Within so many each mutant is met.
MUTANT_FILES = {"onnx": 60, "hot": 400, "safetensors": 60}
# Python 3.12 warns of forks where pytest has threads: what is forked here uses none of them.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def digest(name: str) -> str:
    target, every = TARGETS[name], sha256()
    corpus = target.corpus()
    for number in range(FILES):
        every.update(target.file(corpus, SEED, number))
    return every.hexdigest()


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_break_nothing(name: str) -> None:
    ran = fuzz(TARGETS[name], SEED, files=FILES)

    assert ({}, FILES) == (ran.findings, ran.outcomes.total())


def test_same_seed_gives_the_same_files_in_every_process() -> None:
    told = "from tests.fuzz.test_fuzz import *; print(*map(digest, TARGETS))"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", told], env=environment, capture_output=True, text=True, check=True
    )

    assert [digest(name) for name in TARGETS] == ran.stdout.split()


def an_early_end(file: IO[bytes]) -> None:
    if b"format" in file.getvalue():  # type: ignore[attr-defined]
        os.kill(os.getpid(), signal.SIGKILL)


def a_word_too_much(file: IO[bytes]) -> None:
    raise KeyError("shape")


def a_look_at_another_file(file: Any) -> None:
    with open("/etc/hostname"):  # noqa: PTH123 (as somebody would who forgot the rule)
        """It is there for everybody."""
    raise AssertionError


def an_end(*_: Any) -> None:
    os.abort()


def a_refusal(*_: Any) -> None:
    raise acceptance.Invalid("FORMAT")


MUTANTS: dict[str, tuple[str, Any, str, Callable[..., Any], str]] = {
    "error that nobody expects": (
        "safetensors", parsers, "check_safetensors", a_word_too_much, "KeyError came out",
    ),
    "end of the process": (
        "safetensors", parsers, "check_safetensors", an_early_end, "ended by SIGKILL",
    ),
    "look at another file": (
        "onnx", acceptance_child, "look_through", a_look_at_another_file, "outside: open /etc/host",
    ),
    "end of the inference that loads what was taken": (
        "onnx", acceptance.OnnxModelRuntime, "load", an_end, "inference is ended by SIGABRT",
    ),
    "model that is taken and cannot be loaded": (
        "onnx", acceptance.OnnxModelRuntime, "load", a_refusal, "took what is not loaded",
    ),
    "check of ids that one way leaves out": (
        "hot", hot_infer, "check_request_id", lambda *_: None, "answered otherwise than alone",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_mutant_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    target, of, what, mutant, problem = MUTANTS[name]
    monkeypatch.setattr(of, what, mutant)

    ran = fuzz(TARGETS[target], SEED, files=MUTANT_FILES[target])

    assert [each for each in ran.findings if problem in each], ran
    assert MUTANT_FILES[target] == ran.files


def test_file_that_broke_something_is_kept_and_shows_it_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parsers, "check_safetensors", a_word_too_much)

    asked = ["fuzz", "--target", "safetensors", "--files", "20", "--seed", "7"]
    monkeypatch.setattr(sys, "argv", asked)
    assert 1 == main()
    again = capsys.readouterr().out.split("tests.fuzz ")[-1].split()

    monkeypatch.setattr(sys, "argv", ["fuzz", *again])
    assert 1 == main()
    assert "BROKEN KeyError came out" in capsys.readouterr().out
    assert [tmp_path / again[-1]] == [*tmp_path.glob(".headrace/fuzz/*")]


def test_process_that_ended_is_followed_by_another_behind_the_file() -> None:
    def ends_with_odd(data: bytes) -> str:
        if data == b"1":
            os.kill(os.getpid(), signal.SIGKILL)
        return "even"

    class Numbers(Target):
        def file(self, corpus: list[bytes], seed: int, number: int) -> bytes:
            return b"%d" % (number % 2)

    ran = fuzz(Numbers("numbers", list, (), lambda: ends_with_odd, 1.0), SEED, files=6)

    assert {"even": 3, "broken": 3} == dict(ran.outcomes)
    assert [b"1"] == [*ran.findings.values()]
