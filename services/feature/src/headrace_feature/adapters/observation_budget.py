# SPDX-License-Identifier: Apache-2.0
"""How much of other workers' observations the reads of this process hold together.

A read takes room once it knows how much the others have for it, holds it until it is answered, and
is refused when no room comes: many large reads at once wait for each other instead of filling the
memory. What comes in one message (2 MiB of each worker at most) is there before its size is known.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from headrace.errors import Busy
from headrace_feature.handlers import check_answerable

WAIT_S_MAX = 0.3  # of the 0.8 s that other workers have


@dataclass(slots=True)
class _Reading:
    held_bytes: int = 0


_reading: ContextVar[_Reading] = ContextVar("reading")


class ObservationBudget:
    """Any thread may read; each is one read at a time."""

    def __init__(self, bytes_max: int) -> None:
        self._free_bytes = bytes_max
        self._changed = threading.Condition()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What is taken inside is given back at the end."""
        reading = _Reading()
        before = _reading.set(reading)
        try:
            yield
        finally:
            _reading.reset(before)
            with self._changed:
                self._free_bytes += reading.held_bytes
                self._changed.notify_all()

    def take(self, size_bytes: int) -> None:
        """Room for the read that this thread works on.

        Raises Busy BATCH_TOO_LARGE where the read needs more than one may, QUEUE_FULL where the
        others leave no room for so long; LookupError outside of a read.
        """
        reading = _reading.get()
        check_answerable(reading.held_bytes + size_bytes)
        with self._changed:
            if not self._changed.wait_for(lambda: self._free_bytes >= size_bytes, WAIT_S_MAX):
                raise Busy("QUEUE_FULL", queue="observations of other workers", bytes=size_bytes)
            self._free_bytes -= size_bytes
            reading.held_bytes += size_bytes
