# SPDX-License-Identifier: Apache-2.0
"""Work that is too slow for the door's thread: one lane for what may run together, batch by batch.

An idle lane begins at once. What comes while a batch runs waits and is the next batch: the more
waits, the larger it is, and nothing ever waits for company. Order is by priority, then by arrival.
A lane takes no more than it can finish in time, as its last batches tell; whoever hangs up frees
its place.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Generic, Protocol, TypeVar

from headrace.errors import Busy
from headrace_inference.domain.serving import Model
from headrace_kit.hot_calls import HotCall

# A caller that would wait longer is better told so, and asks again or elsewhere.
QUEUE_S_MAX = 2.0
# Threads for all lanes. Made when first needed, so that they are as many as models were at work at
# once: a run in one long operator, that nobody waits for any more and that cannot be ended, keeps
# no other model waiting. The bound is for memory: each has a stack, and what its run computes in.
THREADS_MAX = 64
# Weight of the newest batch in what batches are thought to take.
LEARNING_RATE = 0.2
# A batch counts as at most so many times slower than was thought: one that stood still, for its
# process did or a service that it asks, says little of the next.
SLOWER_MAX = 16.0


class Queued(Protocol):
    """`priority`: the lowest number goes first."""

    @property
    def call(self) -> HotCall: ...

    @property
    def rows(self) -> int: ...

    @property
    def priority(self) -> int: ...


class Runner(Protocol):
    """An Executor, but for the results."""

    def submit(self, work: Callable[[], None], /) -> object: ...


T = TypeVar("T", bound=Queued)


def in_parts(items: Sequence[T], rows_max: int) -> Iterator[list[T]]:
    """In order, each of so many rows at most while it holds more than one."""
    part: list[T] = []
    rows = 0
    for item in items:
        if part and rows + item.rows > rows_max:
            yield part
            part, rows = [], 0
        part.append(item)
        rows += item.rows
    if part:
        yield part


class LoadFirst:
    """Runner that holds no thread while the model is loaded.

    What loads it or not is told to the callers by the run, which finds it as it is then.
    """

    def __init__(self, model: Model, runner: Runner) -> None:
        self._model, self._runner = model, runner

    def submit(self, work: Callable[[], None], /) -> None:
        self._model.load().add_done_callback(lambda _: self._runner.submit(work))


class Pace:
    """How long batches take: what they take at best, times how much slower the last ones were.

    A batch has a cost of its own besides that of its rows: what one row took says little of many.
    Where it is not known what they take at best, a row is thought to take as long as in the last.

    `least_s`: of so many rows together, when nothing else runs; 0 while that is not known.
    """

    def __init__(self, least_s: Callable[[int], float]) -> None:
        self._least_s = least_s
        self._slower = 1.0
        self._row_s = 0.0

    def needed_s(self, rows: int) -> float:
        least_s = self._least_s(rows)
        return self._slower * least_s if least_s else self._row_s * rows

    def learn(self, rows: int, took_s: float) -> None:
        least_s = self._least_s(rows)
        if least_s:
            slower = min(took_s / least_s, SLOWER_MAX * self._slower)
            self._slower += LEARNING_RATE * (slower - self._slower)
        elif self._row_s:
            self._row_s += LEARNING_RATE * (took_s / rows - self._row_s)
        else:
            self._row_s = took_s / rows


class Lane(Generic[T]):
    """Runs batches of at most `rows_max` rows, `batches_max` of them at a time, on the runner's
    threads. Not `in_time`: where what waits is unlike, and its last batches tell nothing.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], None],
        runner: Runner,
        *,
        rows_max: int,
        least_s: Callable[[int], float],
        now_s: Callable[[], float],
        batches_max: int = 1,
        in_time: bool = True,
    ) -> None:
        self._run, self._runner, self._rows_max, self._now_s = run, runner, rows_max, now_s
        self._pace, self._in_time = Pace(least_s), in_time
        self._lock = threading.Lock()
        # By priority and number. Who hung up stays to be passed over: to take it out would cost a
        # look at all.
        self._queue: list[tuple[int, int]] = []
        self._waiting: dict[int, T] = {}
        self._numbers = count()
        self._rows = 0
        self._batches, self._batches_max = 0, batches_max

    def add(self, item: T) -> None:
        """Raises Busy QUEUE_FULL when its turn would come too late."""
        with self._lock:
            wait_s = self._needed_s(self._rows + item.rows)
            if self._in_time and self._waiting and wait_s > QUEUE_S_MAX:
                raise Busy("QUEUE_FULL", queue="lane", wait_s=round(wait_s, 3))
            number = next(self._numbers)
            item.call.free = partial(self._drop, number)
            heapq.heappush(self._queue, (item.priority, number))
            self._waiting[number] = item
            self._rows += item.rows
            begin = self._batches < self._batches_max
            self._batches += begin
        if item.call.cancelled:  # maybe before it had a place
            self._drop(number)
        if begin:
            self._runner.submit(self._go)

    def _drop(self, number: int) -> None:
        """Nobody waits for it any more; its turn may have come before."""
        with self._lock:
            if number not in self._waiting:
                return
            self._take(number)
            # As many as wait have hung up since the last time: each of them pays for two places.
            if len(self._queue) > 2 * len(self._waiting):
                self._queue = [place for place in self._queue if place[1] in self._waiting]
                heapq.heapify(self._queue)

    def _take(self, number: int) -> T:
        """Out of those that wait: who hangs up from here on frees no place."""
        item = self._waiting.pop(number)
        self._rows -= item.rows
        item.call.free = None
        return item

    def wait_s(self) -> float:
        """How long one that is added now would wait for its turn to end, at the least."""
        return self._needed_s(self._rows)

    def _needed_s(self, rows: int) -> float:
        """In as few batches as can be."""
        full, rest = divmod(rows, self._rows_max)
        full_s = full * self._pace.needed_s(self._rows_max)
        return full_s + self._pace.needed_s(rest) if rest else full_s

    def _go(self) -> None:
        batch = self._next()
        begin_s = self._now_s()
        try:
            if batch:  # the batch beside it may have taken all
                self._run(batch)
        finally:
            self._learn(batch, self._now_s() - begin_s)
            with self._lock:
                more = bool(self._waiting)
                self._batches -= not more
            if more:
                self._runner.submit(self._go)  # behind the lanes that wait

    def _next(self) -> list[T]:
        with self._lock:
            batch: list[T] = []
            rows = 0
            while (first := self._first()) is not None:
                if batch and rows + self._waiting[first].rows > self._rows_max:
                    break
                heapq.heappop(self._queue)
                batch.append(self._take(first))
                rows += batch[-1].rows
            return batch

    def _first(self) -> int | None:
        """Whose turn is next; who hung up leaves the queue here."""
        while self._queue:
            if (number := self._queue[0][1]) in self._waiting:
                return number
            heapq.heappop(self._queue)
        return None

    def _learn(self, batch: Sequence[T], took_s: float) -> None:
        """Not from a run that may have ended early, unless it took long for all that."""
        rows = sum(item.rows for item in batch)
        ended = all(item.call.cancelled for item in batch)
        if rows and not (ended and took_s < self._pace.needed_s(rows)):
            self._pace.learn(rows, took_s)
