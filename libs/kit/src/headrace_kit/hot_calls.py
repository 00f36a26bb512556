# SPDX-License-Identifier: Apache-2.0
"""Unary methods that are called so often that calls which arrive together are answered together.

A door hands over calls with encoded requests; what serves them decides what to share among them,
and answers each when it can, from any thread. The grpcio server hands over one at a time,
`NativeDoor` what it finds waiting; its one thread hands over no more before `take` returns.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import structlog

from headrace.errors import Busy, HeadraceError
from headrace.tokens import Caller
from headrace_kit.part_thread import ThreadPart
from headrace_kit.telemetry import gauge

if TYPE_CHECKING:
    from headrace_kit.spans import Span

TOGETHER_MAX = 64
# Whoever hung up waits here no longer in person: there may be more calls than workers.
WAITING_MAX = 1_000
IDLE_S = 0.5

log = structlog.get_logger(__name__)
Answer = bytes | HeadraceError


class HotCall:
    """One call of an admitted caller.

    `arrived_s` and `deadline_s` are by `time.monotonic`; `span` of a call that is traced, which who
    hands it over ends.
    """

    __slots__ = (
        "_reply",
        "arrived_s",
        "caller",
        "cancelled",
        "deadline_s",
        "free",
        "key",
        "payload",
        "replied",
        "span",
    )

    def __init__(
        self,
        payload: bytes,
        *,
        caller: Caller,
        arrived_s: float,
        deadline_s: float,
        reply: Callable[[HotCall, Answer | Exception], None],
        key: int = 0,
        span: Span | None = None,
    ) -> None:
        self.payload, self.arrived_s, self.deadline_s = payload, arrived_s, deadline_s
        self.caller, self.key, self._reply = caller, key, reply
        self.cancelled = self.replied = False
        self.span = span
        # Gives back its place, while it has one in a queue.
        self.free: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Its caller hung up: what was not begun for it is not begun. Not once it was answered."""
        if self.replied:
            return
        self.cancelled = True
        if (free := self.free) is not None:
            free()

    def answer(self, answer: Answer | Exception) -> None:
        """Once; any error but ours is a bug, and told as one. Nobody hears it when cancelled."""
        self.replied = True
        self._reply(self, answer)


Answerer = Callable[[Sequence[HotCall]], Sequence[Answer]]


@dataclass(frozen=True, slots=True, eq=False)
class HotMethod:
    """`path`: `/package.Service/Method`. `take` sees to it that each call is answered.

    What it raises is a bug, and the answer to all of them that have none.
    """

    path: str
    take: Callable[[Sequence[HotCall]], None]


def guarded(calls: Sequence[HotCall], work: Callable[[], None]) -> None:
    """The boundary to the callers, on whatever thread: what is raised answers those that wait."""
    try:
        work()
    except Exception as err:
        if not isinstance(err, HeadraceError):
            log.error("rpc_failed", exc_info=err)
        for call in calls:
            call.answer(err)


def at_once(answerer: Answerer) -> Callable[[Sequence[HotCall]], None]:
    """A `take` that answers before it returns: each request its own answer, in order."""

    def take(calls: Sequence[HotCall]) -> None:
        for call, answer in zip(calls, answerer(calls), strict=True):
            call.answer(answer)

    return take


class Together(ThreadPart):
    """A `take` for callers on many threads: one thread runs for all that wait by then.

    Threads that each ran their own would contend for the interpreter's lock, and share nothing. It
    starts before what hands calls over, and stops behind it.
    """

    def __init__(self, service: str, take: Callable[[Sequence[HotCall]], None]) -> None:
        super().__init__("together")
        self._take = take
        self._waiting: SimpleQueue[HotCall] = SimpleQueue()
        waiting = gauge(service, "calls_waiting_count", "Calls that wait for the run before them.")
        waiting.set_function(self._waiting.qsize)

    def take(self, calls: Sequence[HotCall]) -> None:
        for call in calls:
            if self._waiting.qsize() >= WAITING_MAX:
                call.answer(Busy("QUEUE_FULL", queue="calls", calls_max=WAITING_MAX))
            else:
                self._waiting.put(call)

    def _run(self) -> None:
        while not self._stopping.is_set() or not self._waiting.empty():
            self._thread.tick()
            if calls := self._next():
                guarded(calls, partial(self._take, calls))

    def _next(self) -> list[HotCall]:
        """Nothing when none came for a while. Those that are on their way here come first: a run of
        few rows costs nearly as much as one of many."""
        try:
            calls = [self._waiting.get(timeout=IDLE_S)]
        except Empty:
            return []
        os.sched_yield()
        while len(calls) < TOGETHER_MAX and not self._waiting.empty():
            calls.append(self._waiting.get())
        return calls


def at_most(
    takes_max: int, take: Callable[[Sequence[HotCall]], None], *, queue: str
) -> Callable[[Sequence[HotCall]], None]:
    """A `take` that refuses what comes while so many are under way: the grpcio server's other calls
    have the rest of its workers."""
    places = threading.BoundedSemaphore(takes_max)

    def take_or_refuse(calls: Sequence[HotCall]) -> None:
        if not places.acquire(blocking=False):
            for call in calls:
                call.answer(Busy("QUEUE_FULL", queue=queue))
            return
        try:
            take(calls)
        finally:
            places.release()

    return take_or_refuse
