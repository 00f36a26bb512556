# SPDX-License-Identifier: Apache-2.0
"""What was answered and is not yet on Kafka, by endpoint, in one room of so many bytes.

Each endpoint has one slice at a time on its way, and its own back-off: one whose topic refuses
waits alone. Where the room is full, rows of the endpoint in most trouble are lost before those of
others. Trouble is what an endpoint has while others get through: an outage is nobody's own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, takewhile
from typing import NamedTuple

from headrace_inference.domain.prediction import Prediction
from headrace_kit.backoff import Backoff

# Of what waited while Kafka was away, handed over at a time: its client has a bound too.
SLICE_BYTES_MAX = 8 << 20
# Of an endpoint whose topic is in trouble while others are not, since rows of it were delivered.
OWN_FAILURES_MAX = 3


class Appended(NamedTuple):
    """What one run answered, with the traces of its requests."""

    prediction: Prediction
    traces: Sequence[str]
    bytes: int


@dataclass(slots=True, eq=False)
class Backlog:
    """Of one endpoint. `waiting` is what comes after `taken`, which is on its way."""

    endpoint: str
    waiting: list[Appended] = field(default_factory=list)
    taken: list[Appended] = field(default_factory=list)
    backoff: Backoff = field(default_factory=Backoff)
    # While others got through.
    failures: int = 0
    # The round of its first try since it was last empty, delivered or refused.
    since: int = 0

    def trouble(self, delivered: int) -> tuple[int, int]:
        """More is greater: its own failures, then the rounds by which the others are ahead."""
        return self.failures, max(0, delivered - self.since)

    def due(self, delivered: int) -> bool:
        """Once another gets through, an outage is over, and none waits longer for its end."""
        over = not self.failures and delivered >= self.since
        return over or not self.backoff.left_s()

    def cut(self) -> None:
        ends = accumulate(each.bytes for each in self.waiting)
        count = 1 + sum(1 for _ in takewhile(lambda end: end < SLICE_BYTES_MAX, ends))
        self.taken, self.waiting = self.waiting[:count], self.waiting[count:]


class Backlogs:
    """Every endpoint's; any thread may add, one takes and says what became of it."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._by_endpoint: dict[str, Backlog] = {}
        # A round takes a slice of each endpoint that is due.
        self._round = 0
        # The latest one of which anything was delivered.
        self._delivered = 0
        self._ended = False
        # Of all that waits and all that is on its way.
        self.bytes = 0

    def add(self, appended: Appended) -> int:
        """How many rows are lost for want of room, these or others."""
        endpoint = appended.prediction.endpoint
        with self._lock:
            backlog = self._by_endpoint.get(endpoint) or self._made(endpoint)
            if not (backlog.waiting or backlog.taken):
                backlog.since = self._round + 1
            lost = self._freed(backlog, appended.bytes)
            if self.bytes + appended.bytes > self._bytes_max:
                return lost + appended.prediction.rows
            backlog.waiting.append(appended)
            self.bytes += appended.bytes
            return lost

    def take(self, *, hurried: bool = False) -> list[Backlog]:
        """Those with a slice to be sent now; `hurried`: of those in back-off too."""
        with self._lock:
            self._round += 1
            due = [
                each
                for each in self._by_endpoint.values()
                if each.waiting and not each.taken and (hurried or each.due(self._delivered))
            ]
            for each in due:
                each.cut()
        return due

    def delivered(self, backlog: Backlog) -> None:
        with self._lock:
            self._delivered = max(self._delivered, backlog.since)
            backlog.failures = 0
            backlog.backoff.succeeded()
            self._drop(backlog)

    def failed(self, backlog: Backlog) -> bool:
        """Whether it has failed too often while others got through."""
        with self._lock:
            own = self._delivered >= backlog.since
            backlog.failures += own
            backlog.since = self._round + 1
            backlog.backoff.failed()
        return own and backlog.failures >= OWN_FAILURES_MAX

    def given_up(self, backlog: Backlog) -> None:
        with self._lock:
            self._drop(backlog)

    def put_back(self, backlog: Backlog) -> bool:
        """In front of what came meanwhile; False when nobody will take it any more."""
        with self._lock:
            if self._ended:
                self._drop(backlog)
                return False
            backlog.taken, backlog.waiting = [], backlog.taken + backlog.waiting
            return True

    def more(self) -> bool:
        """Whether something waits that nobody refused."""
        with self._lock:
            return any(
                each.waiting and not each.backoff.tries for each in self._by_endpoint.values()
            )

    def end(self) -> dict[str, int]:
        """The rows that wait, by endpoint, and are forgotten."""
        with self._lock:
            self._ended = True
            left = {each: rows(of.waiting) for each, of in self._by_endpoint.items() if of.waiting}
            for backlog in self._by_endpoint.values():
                backlog.waiting = []
        return left

    def _made(self, endpoint: str) -> Backlog:
        return self._by_endpoint.setdefault(endpoint, Backlog(endpoint))

    def _freed(self, asking: Backlog, size: int) -> int:
        """The rows that make room: the newest of whoever is in more trouble than who asks."""
        lost = 0
        while size <= self._bytes_max < self.bytes + size:
            full = (each for each in self._by_endpoint.values() if each.waiting)
            worst = max(full, key=self._trouble, default=asking)
            if self._trouble(worst) <= self._trouble(asking):
                break
            freed = worst.waiting.pop()
            self.bytes -= freed.bytes
            lost += freed.prediction.rows
        return lost

    def _trouble(self, backlog: Backlog) -> tuple[int, int]:
        return backlog.trouble(self._delivered)

    def _drop(self, backlog: Backlog) -> None:
        self.bytes -= sum(each.bytes for each in backlog.taken)
        backlog.taken = []
        backlog.since = self._round + 1


def rows(appended: Iterable[Appended]) -> int:
    return sum(each.prediction.rows for each in appended)
