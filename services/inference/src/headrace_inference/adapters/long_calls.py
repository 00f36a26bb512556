# SPDX-License-Identifier: Apache-2.0
"""Places for calls that hold a worker for long: so few that ordinary calls have the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.errors import Busy


class LongCalls:
    """At most `calls_max` at once."""

    def __init__(self, calls_max: int) -> None:
        self._calls_max = calls_max
        self._places = threading.BoundedSemaphore(calls_max)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Raises Busy QUEUE_FULL when all are taken."""
        if not self._places.acquire(blocking=False):
            raise Busy("QUEUE_FULL", long_calls_max=self._calls_max)
        try:
            yield
        finally:
            self._places.release()
