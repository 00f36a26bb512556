# SPDX-License-Identifier: Apache-2.0
"""Places for transfers, few as each holds its artifact on disk, and what frees them.

A caller that neither sends nor takes anything for some seconds is left alone while there are places
for others; the first that finds none takes its place. It goes on later where it was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc
import structlog

from headrace.errors import Busy
from headrace_kit.telemetry import counter

STILL_S_MAX = 5.0
# How long the next caller waits until the one whose place it takes has left.
GIVE_WAY_S_MAX = 1.0

T = TypeVar("T")

log = structlog.get_logger(__name__)
gave_way = counter("registry", "transfers_gave_way_total", "Transfers that stood still, and ended.")


class Transfer:
    """One call that holds a place."""

    def __init__(self, context: grpc.ServicerContext, now_s: Callable[[], float]) -> None:
        self._context, self._now_s = context, now_s
        self._waits_since_s: float | None = None
        self.ended = False

    @contextmanager
    def caller_waited_for(self) -> Iterator[None]:
        """While it is the caller's turn: only that time counts as standing still."""
        self._waits_since_s = self._now_s()
        try:
            yield
        finally:
            self._waits_since_s = None

    def taken(self, parts: Iterable[T]) -> Iterator[T]:
        """What the caller sends."""
        waiting = iter(parts)
        while True:
            with self.caller_waited_for():
                part = next(waiting, None)
            if part is None:
                return
            yield part

    def still_s(self) -> float:
        since_s = self._waits_since_s
        return 0.0 if since_s is None else self._now_s() - since_s

    def end(self) -> None:
        self.ended = True
        self._context.cancel()


class TransferPlaces:
    """At most `places_max` transfers of one kind."""

    def __init__(
        self, kind: str, places_max: int, *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._kind, self._places_max, self._now_s = kind, places_max, now_s
        self._left = threading.Condition()
        self._held: list[Transfer] = []

    @contextmanager
    def place(self, context: grpc.ServicerContext) -> Iterator[Transfer]:
        """Raises Busy QUEUE_FULL when all are taken by callers that go on."""
        transfer = self._taken(Transfer(context, self._now_s))
        try:
            yield transfer
        finally:
            with self._left:
                self._held.remove(transfer)
                self._left.notify()

    def _taken(self, transfer: Transfer) -> Transfer:
        with self._left:
            if not self._free():
                self._end_stillest()
            if not self._left.wait_for(self._free, GIVE_WAY_S_MAX):
                raise self._full()
            self._held.append(transfer)
        return transfer

    def _free(self) -> bool:
        return len(self._held) < self._places_max

    def _end_stillest(self) -> None:
        going = [each for each in self._held if not each.ended]
        stillest = max(going, key=Transfer.still_s, default=None)
        if stillest is None or stillest.still_s() < STILL_S_MAX:
            raise self._full()
        log.warning("transfer_gave_way", kind=self._kind, still_s=round(stillest.still_s(), 1))
        gave_way.inc()
        stillest.end()

    def _full(self) -> Busy:
        return Busy("QUEUE_FULL", queue=self._kind, places_max=self._places_max)
