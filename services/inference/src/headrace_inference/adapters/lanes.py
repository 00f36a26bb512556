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
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Generic, Protocol, TypeVar

from headrace.errors import Busy
from headrace_inference.domain.serving import Model
from headrace_kit.hot_calls import HotCall

# A caller that would wait longer is better told so, and asks again or elsewhere.
QUEUE_S_MAX = 2.0
# Weight of the newest batch in what a row is thought to take.
LEARNING_RATE = 0.2


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


class LoadFirst:
    """Runner that holds no thread while the model is loaded.

    What loads it or not is told to the callers by the run, which finds it as it is then.
    """

    def __init__(self, model: Model, runner: Runner) -> None:
        self._model, self._runner = model, runner

    def submit(self, work: Callable[[], None], /) -> None:
        self._model.load().add_done_callback(lambda _: self._runner.submit(work))


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
        row_s: float,
        now_s: Callable[[], float],
        batches_max: int = 1,
        in_time: bool = True,
    ) -> None:
        self._run, self._runner, self._rows_max, self._now_s = run, runner, rows_max, now_s
        self._row_s, self._in_time = row_s, in_time
        self._lock = threading.Lock()
        self._queue: list[tuple[int, int, T]] = []
        self._numbers = count()
        self._rows = 0
        self._batches, self._batches_max = 0, batches_max

    def add(self, item: T) -> None:
        """Raises Busy QUEUE_FULL when its turn would come too late."""
        with self._lock:
            wait_s = (self._rows + item.rows) * self._row_s
            if self._in_time and self._queue and wait_s > QUEUE_S_MAX:
                raise Busy("QUEUE_FULL", queue="lane", wait_s=round(wait_s, 3))
            item.call.free = partial(self._drop, item)
            heapq.heappush(self._queue, (item.priority, next(self._numbers), item))
            self._rows += item.rows
            begin = self._batches < self._batches_max
            self._batches += begin
        if item.call.cancelled:  # maybe before it had a place
            self._drop(item)
        if begin:
            self._runner.submit(self._go)

    def _drop(self, item: T) -> None:
        """Nobody waits for it any more; its turn may have come before."""
        with self._lock:
            for place, (_, _, queued) in enumerate(self._queue):
                if queued is item:
                    del self._queue[place]
                    heapq.heapify(self._queue)
                    self._left(item)
                    return

    def _left(self, item: T) -> None:
        """It is not in the queue any more; nor is there a cycle that would keep its payload."""
        self._rows -= item.rows
        item.call.free = None

    def wait_s(self) -> float:
        """How long one that is added now would wait for its turn to end, at the least."""
        return self._rows * self._row_s

    def _go(self) -> None:
        batch = self._next()
        begin_s = self._now_s()
        try:
            if batch:  # the batch beside it may have taken all
                self._run(batch)
        finally:
            self._learn(batch, self._now_s() - begin_s)
            with self._lock:
                more = bool(self._queue)
                self._batches -= not more
            if more:
                self._runner.submit(self._go)  # behind the lanes that wait

    def _next(self) -> list[T]:
        with self._lock:
            batch: list[T] = []
            rows = 0
            while self._queue and (not batch or rows + self._queue[0][2].rows <= self._rows_max):
                item = heapq.heappop(self._queue)[2]
                batch.append(item)
                rows += item.rows
                self._left(item)
            return batch

    def _learn(self, batch: Sequence[T], took_s: float) -> None:
        """Not from a run that may have ended early, unless it took long for all that."""
        rows = sum(item.rows for item in batch)
        ended = all(item.call.cancelled for item in batch)
        if rows and not (ended and took_s < rows * self._row_s):
            self._row_s += LEARNING_RATE * (took_s / rows - self._row_s)
