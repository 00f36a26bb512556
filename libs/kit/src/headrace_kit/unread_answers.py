# SPDX-License-Identifier: Apache-2.0
"""Answers that gRPC holds whole, because those who asked have not taken them yet.

A caller says how much of an answer may be sent to him (HTTP/2's windows); one who says nothing
keeps it in memory for as long as his connection is open.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Protocol

from headrace.errors import Busy

UNREAD_BYTES_MAX = 512 << 20
UNREAD_S_MAX = 60.0
# What is smaller is not counted: gRPC holds more than that for the call itself.
COUNTED_BYTES_MIN = 1 << 10


class AnsweredCall(Protocol):
    """Of grpc.ServicerContext."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """To be called at the end of the call; False when that has been already."""

    def cancel(self) -> object:
        """Ends the call, and frees what gRPC holds for it."""


@dataclass(frozen=True, slots=True)
class _Unread:
    call: AnsweredCall
    size: int
    since_s: float


class UnreadAnswers:
    """Of one server; safe to use from several threads."""

    def __init__(
        self, bytes_max: int = UNREAD_BYTES_MAX, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bytes_max, self._clock = bytes_max, clock
        self._lock = threading.Lock()
        self._unread: dict[object, _Unread] = {}  # the oldest first
        self._bytes = 0

    def bytes(self) -> int:
        return self._bytes

    def hold(self, call: AnsweredCall, size: int) -> None:
        """Count an answer until its call ends. Those that nobody took for 60 s are given up first.

        Raises Busy QUEUE_FULL where there is no room.
        """
        if size < COUNTED_BYTES_MIN:
            return
        self._give_up_late()
        key = object()
        with self._lock:
            if self._bytes + size > self._bytes_max:
                raise Busy("QUEUE_FULL", queue="unread", bytes_max=self._bytes_max)
            self._unread[key] = _Unread(call, size, self._clock())
            self._bytes += size
        if not call.add_callback(partial(self._let_go, key)):
            self._let_go(key)

    def _give_up_late(self) -> None:
        late_s = self._clock() - UNREAD_S_MAX
        with self._lock:
            late = [*takewhile(lambda each: each.since_s < late_s, self._unread.values())]
        for each in late:
            each.call.cancel()

    def _let_go(self, key: object) -> None:
        with self._lock:
            if (gone := self._unread.pop(key, None)) is not None:
                self._bytes -= gone.size
