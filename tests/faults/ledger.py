# SPDX-License-Identifier: Apache-2.0
"""What a load client did, written down and synced before and after each call.

An outcome is OK, FAIL (surely not done) or UNKNOWN (a deadline, a cut, a death in between): an
event with UNKNOWN may be there once, or not at all. A retry keeps its event's id.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from headrace.errors import Busy, Invalid, NotFound


class Outcome(Enum):
    """How a call ended, as its caller knows it."""

    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


# Refused before anything was sent.
SURELY_NOT_DONE = (Busy, Invalid, NotFound)


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as it was sent, by every payload that its id had, and the best outcome."""

    sha256s: frozenset[str]
    outcome: Outcome


def payload_sha256(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


class Ledger:
    """A file of JSON lines; one writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a", encoding="utf-8")

    @contextmanager
    def call(self, value_by_id: Mapping[str, bytes]) -> Iterator[None]:
        """OK when the block ends, FAIL when nothing was done, else UNKNOWN; errors go on."""
        digests = {name: payload_sha256(value) for name, value in value_by_id.items()}
        self._write(digests, Outcome.UNKNOWN)
        try:
            yield
        except SURELY_NOT_DONE:
            self._write(digests, Outcome.FAIL)
            raise
        self._write(digests, Outcome.OK)

    def close(self) -> None:
        self._file.close()

    def _write(self, digests: Mapping[str, str], outcome: Outcome) -> None:
        self._file.write(json.dumps({"outcome": outcome.value, "events": digests}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def entries(self) -> dict[str, Entry]:
        """By event id. An OK is never taken back; a FAIL only settles the call that it ended."""
        digests: dict[str, set[str]] = {}
        begun: dict[str, int] = {}
        accepted: set[str] = set()
        for line in self._path.read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            outcome = Outcome(found["outcome"])
            for event_id, digest in found["events"].items():
                digests.setdefault(event_id, set()).add(digest)
                change = -1 if outcome is Outcome.FAIL else int(outcome is Outcome.UNKNOWN)
                begun[event_id] = begun.get(event_id, 0) + change
                if outcome is Outcome.OK:
                    accepted.add(event_id)
        return {
            event_id: Entry(frozenset(each), self._outcome(event_id in accepted, begun[event_id]))
            for event_id, each in digests.items()
        }

    @staticmethod
    def _outcome(accepted: bool, unsettled: int) -> Outcome:
        if accepted:
            return Outcome.OK
        return Outcome.UNKNOWN if unsettled else Outcome.FAIL
