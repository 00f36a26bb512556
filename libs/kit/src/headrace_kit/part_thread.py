# SPDX-License-Identifier: Apache-2.0
"""The thread of a part. It is a boundary: what it does not expect ends it and is kept.

`run_service` asks `failed` of each part, and ends the process when there is an answer: a thread
that died in silence would leave a service that looks alive. The same goes for one that hangs: a
function that loops says so by `tick`, and `run_service` asks how long ago that was.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

import structlog

from headrace.errors import Unavailable

TICK_INTERVAL_S = 1.0

log = structlog.get_logger(__name__)


class PartThread:
    """Runs a function once, in a thread that does not keep the process alive."""

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        self._run = run
        self._thread = threading.Thread(target=self._guarded, name=name, daemon=True)
        self.failure: BaseException | None = None
        self._ticked_s = 0.0

    def start(self) -> None:
        self.tick()
        self._thread.start()

    @property
    def started(self) -> bool:
        """Whether `start` was called, be it over or not."""
        return self._thread.ident is not None

    @property
    def running(self) -> bool:
        """Whether the function is in work and has not failed."""
        return self._thread.is_alive() and self.failure is None

    def tick(self) -> None:
        """Called by the function: another round has begun."""
        self._ticked_s = time.monotonic()

    def tick_age_s(self) -> float:
        """Seconds since the last tick; 0.0 when nothing is in work."""
        return time.monotonic() - self._ticked_s if self.running else 0.0

    def join(self, timeout_s: float) -> None:
        """Wait for the end, if it was started."""
        if self.started:
            self._thread.join(timeout_s)

    def _guarded(self) -> None:
        try:
            self._run()
        except Exception as err:
            log.exception("part_thread_failed", thread=self._thread.name)
            self.failure = err


class ThreadPart(ABC):
    """A LoopingPart of one thread: `_run` goes round, with a tick, until `_stopping` is set."""

    def __init__(self, name: str) -> None:
        self._stopping = threading.Event()
        self._thread = PartThread(name, self._run)

    @abstractmethod
    def _run(self) -> None: ...

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        self._stopping.set()
        self._thread.join(timeout_s)

    def failed(self) -> BaseException | None:
        return self._thread.failure

    def tick_age_s(self) -> float:
        return self._thread.tick_age_s()

    def _rested(self, rest_s: float) -> bool:
        """Waits for the next round, with ticks: a long rest is no stall. True when it must stop."""
        due_s = time.monotonic() + rest_s
        while (left_s := due_s - time.monotonic()) > 0:
            if self._stopping.wait(min(left_s, TICK_INTERVAL_S)):
                return True
            self._thread.tick()
        return self._stopping.is_set()


class LookingPart(ThreadPart):
    """Looks every `interval_s`; what is away is left for the next look, and logged as `waits`."""

    def __init__(self, name: str, *, interval_s: float, waits: str) -> None:
        super().__init__(name)
        self._interval_s, self._waits = interval_s, waits

    @abstractmethod
    def look(self) -> None:
        """Once; raises Unavailable."""

    def _run(self) -> None:
        while not self._rested(self._interval_s):
            self._thread.tick()
            try:
                self.look()
            except Unavailable as err:
                log.warning(self._waits, error=str(err))
