# SPDX-License-Identifier: Apache-2.0
"""Work that is too slow for the door's thread: one lane for what may run together, batch by batch.

An idle lane begins at once. What comes while a batch runs waits and is the next batch: the more
waits, the larger it is, and nothing ever waits for company. Order is by priority, then by arrival.
A lane takes no more than it can finish in time, as its last batches tell; when they tell that it
took more, the newest of the least urgent are told so, and at once who would be late. Whoever hangs
up frees its place.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import count
from typing import Generic, Protocol, TypeVar

from headrace.errors import Busy, HeadraceError, Unavailable
from headrace_inference.domain.serving import Model
from headrace_kit.hot_calls import HotCall, guarded

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
# Who waits is not sent away for one such: the middle of so many tells it.
LAST_BATCHES = 3
# All that wait are looked at for who is late when the batches are slower by this than at the last
# look: each look is paid by what was learned, not by each batch.
SLOWER_BY = 1.25
# What was learned of runs holds for so long after the last of them. Callers that would all be
# refused by it would never let it be learned that the model is quick again.
LEARNED_S_MAX = 2.0


class Queued(Protocol):
    """`priority`: the lowest number goes first; `deadline_s`: by the lane's clock."""

    @property
    def call(self) -> HotCall: ...

    @property
    def deadline_s(self) -> float: ...

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

    def __init__(self, least_s: Callable[[int], float], *, rows_max: int) -> None:
        self._least_s, self._rows_max = least_s, rows_max
        self._slower = 1.0
        self._row_s = 0.0
        # How long they took, and at best would: replaced as a whole, for others read meanwhile.
        self._last = ((0.0, 1.0),) * LAST_BATCHES

    def needed_s(self, rows: int) -> float:
        least_s = self._least_s(rows)
        return self._slower * least_s if least_s else self._row_s * rows

    def proven_s(self, rows: int) -> float:
        """No less than the last ones tell, which one that stood still does not change; 0 before the
        second one. More rows take no less than fewer did, and fewer no less than their part.
        """
        best_s = self._least_s(rows) or rows
        told = sorted([took_s * min(1.0, best_s / then_s) for took_s, then_s in self._last])
        return told[LAST_BATCHES // 2]

    def learn(self, rows: int, took_s: float) -> None:
        least_s = self._least_s(rows)
        self._last = (*self._last[1:], (took_s, least_s or rows))
        if least_s:
            slower = min(took_s / least_s, SLOWER_MAX * self._slower)
            self._slower += LEARNING_RATE * (slower - self._slower)
            proven_s, full_s = self.proven_s(self._rows_max), self._least_s(self._rows_max)
            self._slower = max(self._slower, proven_s / full_s)
        elif self._row_s:
            self._row_s += LEARNING_RATE * (took_s / rows - self._row_s)
        else:
            self._row_s = took_s / rows


class Lane(Generic[T]):
    """Runs batches of at most `rows_max` rows, `batches_max` of them at a time, on the runner's
    threads. `refuse` tells one that waited why it is not run; None where what waits is unlike, and
    its last batches tell nothing: there all are run.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], None],
        runner: Runner,
        *,
        rows_max: int,
        least_s: Callable[[int], float],
        now_s: Callable[[], float],
        refuse: Callable[[T, HeadraceError], None] | None,
        batches_max: int = 1,
    ) -> None:
        self._run, self._runner, self._rows_max, self._now_s = run, runner, rows_max, now_s
        self._pace, self._refuse = Pace(least_s, rows_max=rows_max), refuse
        # Of one row, when all that wait were looked at.
        self._proven_then_s = 0.0
        # When a batch ended last.
        self._ran_s = -math.inf
        self._lock = threading.Lock()
        # By priority and number. Who hung up stays to be passed over: to take it out would cost a
        # look at all.
        self._queue: list[tuple[int, int]] = []
        self._waiting: dict[int, T] = {}
        self._numbers = count()
        self._rows = 0
        self._batches, self._batches_max = 0, batches_max
        self._running = 0

    def add(self, item: T) -> None:
        """Raises Busy QUEUE_FULL when its turn would come too late."""
        with self._lock:
            wait_s = self._needed_s(self._rows + item.rows)
            if self._refuse and self._waiting and wait_s > QUEUE_S_MAX:
                raise _full(wait_s)
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

    def run_s(self, rows: int) -> float:
        """How long a run of so many takes, as the last ones tell; 0 where they tell nothing."""
        lately = self._running or self._now_s() - self._ran_s < LEARNED_S_MAX
        return self._pace.proven_s(rows) if lately else 0.0

    def _needed_s(self, rows: int) -> float:
        return self._in_batches(self._pace.needed_s, rows)

    def _in_batches(self, batch_s: Callable[[int], float], rows: int) -> float:
        """In as few batches as can be."""
        full, rest = divmod(rows, self._rows_max)
        full_s = full * batch_s(self._rows_max) if full else 0.0
        return full_s + batch_s(rest) if rest else full_s

    def _shared_s(self, batch_s: Callable[[int], float], rows: int) -> float:
        """As many batches at a time as may be."""
        return self._in_batches(batch_s, rows) / self._batches_max

    def _go(self) -> None:
        batch: list[T] = []
        begin_s = self._now_s()
        try:
            batch = self._in_time(self._next())
            if batch:  # the batch beside it may have taken all
                begin_s = self._now_s()
                with self._lock:
                    self._running += 1
                self._run(batch)
        finally:
            shed = self._ended(batch, self._now_s() - begin_s)
            with self._lock:
                more = bool(self._waiting)
                self._batches -= not more
            if more:
                self._runner.submit(self._go)  # behind the lanes that wait
            self._tell(shed)

    def _ended(self, batch: list[T], took_s: float) -> list[tuple[T, HeadraceError]]:
        """Who is told by what was learned of it."""
        with self._lock:
            if batch:
                self._running -= 1
                self._ran_s = self._now_s()
                self._learn(batch, took_s)
            return self._shed()

    def _in_time(self, batch: list[T]) -> list[T]:
        """Those that its run leaves time to; the others are told."""
        if self._refuse is None:
            return batch
        needed_s = self.run_s(sum([item.rows for item in batch]))
        end_s = self._now_s() + needed_s
        late = [item for item in batch if item.deadline_s <= end_s]
        if not late:
            return batch
        self._tell([(item, Unavailable("DEADLINE_UNMET", needed_s=needed_s)) for item in late])
        return [item for item in batch if item.deadline_s > end_s]

    def _shed(self) -> list[tuple[T, HeadraceError]]:
        """Those that were let in, and would not be now: out of the queue, to be told."""
        if self._refuse is None:
            return []
        one_s = self._pace.proven_s(1)
        slower = one_s > SLOWER_BY * self._proven_then_s
        if slower or one_s < self._proven_then_s:
            self._proven_then_s = one_s
        if not slower and self._shared_s(self._pace.proven_s, self._rows) <= QUEUE_S_MAX:
            return []
        now_s, rows, batch_s = self._now_s(), 0, cache(self._pace.proven_s)
        shed: list[tuple[T, HeadraceError]] = []
        queue, self._queue = sorted(self._queue), []
        for place in queue:
            if (item := self._waiting.get(place[1])) is None:
                continue
            wait_s = self._shared_s(batch_s, rows + item.rows)
            if item.deadline_s <= now_s + wait_s:
                shed.append((item, Unavailable("DEADLINE_UNMET", needed_s=wait_s)))
            elif rows and wait_s > QUEUE_S_MAX:
                shed.append((item, _full(wait_s)))
            else:
                rows += item.rows
                self._queue.append(place)  # in order, as a heap may be
                continue
            self._take(place[1])
        return shed

    def _tell(self, refused: Sequence[tuple[T, HeadraceError]]) -> None:
        if self._refuse is not None:
            for item, err in refused:
                guarded([item.call], partial(self._refuse, item, err))

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
        if not (ended and took_s < self._pace.needed_s(rows)):
            self._pace.learn(rows, took_s)


def _full(wait_s: float) -> Busy:
    return Busy("QUEUE_FULL", queue="lane", wait_s=round(wait_s, 3))
