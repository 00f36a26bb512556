# SPDX-License-Identifier: Apache-2.0
"""Acceptor by a child process for each file: whatever it holds ends the child, never the registry.

The child gets the file to read, an empty environment and folder, limits itself (acceptance_start,
acceptance_child), and is killed by the wall clock here. Its answer is trusted for its form alone:
known reasons, bounded texts.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from headrace.errors import Busy, Invalid
from headrace_registry.domain.acceptance import Acceptance

CHILD = "headrace_registry.adapters.acceptance_start"
WALL_S_MAX = 60
# One at a time, so that the memory of a container is the registry's and one child's.
CHILDREN_MAX = 1
WAIT_S_MAX = 20.0
ANSWER_BYTES_MAX = 1 << 20
REASONS = ("EXTERNAL_DATA", "FORMAT", "OPSET", "PICKLE")
# OpenBLAS would reserve memory for each core of the host, beyond the limit.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class _Refusal(BaseModel):
    refused: str
    metadata: dict[str, str] = Field(max_length=8)


ANSWER: TypeAdapter[Acceptance | _Refusal] = TypeAdapter(Acceptance | _Refusal)


class ChildAcceptor:
    """At most CHILDREN_MAX at a time; others wait, and are sent away after WAIT_S_MAX."""

    def __init__(self) -> None:
        self._children = threading.BoundedSemaphore(CHILDREN_MAX)

    def accept(self, file: IO[bytes]) -> Acceptance:
        """Raises Invalid, one of REASONS or VALIDATION_LIMIT, and Busy QUEUE_FULL."""
        if not self._children.acquire(timeout=WAIT_S_MAX):
            raise Busy("QUEUE_FULL", waited_s=WAIT_S_MAX)
        try:
            return _judged(*_answer(file))
        finally:
            self._children.release()


def _answer(file: IO[bytes]) -> tuple[int, bytes]:
    """The child's exit code and what it said, at most one byte more than is allowed."""
    file.flush()
    with (
        tempfile.TemporaryDirectory(prefix="headrace-acceptance-") as folder,
        # Opened anew: what was checked by its digest is the child's to read, and not to write.
        Path(f"/proc/self/fd/{file.fileno()}").open("rb") as readable,
    ):
        child = subprocess.Popen(
            [sys.executable, "-I", "-m", CHILD],
            stdin=readable,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=ENVIRONMENT,
        )
        watch = threading.Timer(WALL_S_MAX, child.kill)
        watch.start()
        try:
            assert child.stdout is not None  # noqa: S101 (a pipe)
            said = child.stdout.read(ANSWER_BYTES_MAX + 1)
            if len(said) > ANSWER_BYTES_MAX:
                child.kill()
            return child.wait(), said
        finally:
            watch.cancel()
            child.kill()
            child.wait()
            child.stdout.close()  # type: ignore[union-attr]


def _judged(code: int, said: bytes) -> Acceptance:
    if code != 0:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise Invalid("VALIDATION_LIMIT", ended_by=how)
    try:
        answer = ANSWER.validate_json(said)
    except ValidationError as err:
        raise Invalid("VALIDATION_LIMIT", ended_by="an answer that cannot be read") from err
    if isinstance(answer, Acceptance):
        return answer
    if answer.refused not in REASONS:
        raise Invalid("VALIDATION_LIMIT", ended_by="an answer that is none of ours")
    raise Invalid(
        answer.refused, **{name[:32]: text[:300] for name, text in answer.metadata.items()}
    )
