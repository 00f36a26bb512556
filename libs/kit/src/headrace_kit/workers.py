# SPDX-License-Identifier: Apache-2.0
"""The workers of a service: several processes of the same program, started, asked and restarted.

One thread looks at them all, and starts and ends them. A worker that ends by itself before it was
ever ready ends the service with its code, as it would have ended alone: what it lacks, all lack.
Any other is started again, later each time, until it has ended too often in a row. A worker whose
admin door says nothing for long is killed: its own watch, which ends it when a part of it hangs
(see lifecycle), may hang with it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from headrace_kit.backoff import Backoff
from headrace_kit.lifecycle import EXIT_BUG, EXIT_UNAVAILABLE, PartEnded
from headrace_kit.part_thread import ThreadPart
from headrace_kit.settings import EXIT_BAD_SETTING
from headrace_kit.telemetry import counter, gauge

LOOK_INTERVAL_S = 0.1
ASK_INTERVAL_S = 0.5
# A start on a busy machine says nothing for some seconds.
SILENCE_S_MAX = 60.0
# Ends in a row, of one worker that was not ready for so long between two of them.
ENDS_MAX = 10
HEALTHY_S = 30.0

log = structlog.get_logger(__name__)


class Worker(Protocol):
    """One that was started; see WorkerProcess."""

    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""

    def ready(self) -> bool | None:
        """What it says; None when it says nothing."""

    def metrics(self) -> str | None:
        """As in /metrics; None when it says nothing."""

    def ask_to_stop(self) -> None: ...

    def kill(self) -> None:
        """Returns when it has ended."""


class Workers(ThreadPart):
    """`start_worker` starts the one of a number, from 1 on; `grace_s` is what they get to end."""

    def __init__(
        self, service: str, count: int, *, start_worker: Callable[[int], Worker], grace_s: float
    ) -> None:
        super().__init__("workers")
        restarts = counter(service, "worker_restarts_total", "Workers started again.")
        self._places = [
            _Place(number, start_worker, restarts.inc) for number in range(1, count + 1)
        ]
        self._grace_s = grace_s
        self._failure: PartEnded | None = None
        ready_count = gauge(service, "workers_ready_count", "Workers that say that they are ready.")
        ready_count.set_function(lambda: sum(place.ready for place in self._places))

    def ready(self) -> bool:
        """Whether all are."""
        return all(place.ready for place in self._places)

    def metrics(self) -> dict[str, str]:
        """What /metrics of each says, by its number; without those that say nothing."""
        told = ((str(place.number), place.metrics()) for place in self._places)
        return {number: text for number, text in told if text is not None}

    def failed(self) -> BaseException | None:
        return self._failure or super().failed()

    def stop(self, timeout_s: float) -> None:
        """Raises PartEnded when one did not end well."""
        super().stop(timeout_s)
        codes = {place.number: place.last_code for place in self._places if place.last_code}
        if codes and self._failure is None:
            raise PartEnded(f"workers ended with {codes}", EXIT_BUG)

    def _run(self) -> None:
        try:
            while not self._rested(LOOK_INTERVAL_S):
                for place in self._places:
                    self._thread.tick()
                    place.look()
        except PartEnded as err:
            self._failure = err
        finally:
            self._end_all()

    def _end_all(self) -> None:
        until_s = time.monotonic() + self._grace_s
        for place in self._places:
            place.ask_to_stop()
        while time.monotonic() < until_s and not all(place.empty() for place in self._places):
            self._thread.tick()
            time.sleep(LOOK_INTERVAL_S)
        for place in self._places:
            place.clear()


class _Place:
    """The worker of a number, through its lives."""

    def __init__(
        self, number: int, start_worker: Callable[[int], Worker], on_restart: Callable[[], None]
    ) -> None:
        self.number, self.ready, self.last_code = number, False, 0
        self._start_worker, self._on_restart = start_worker, on_restart
        self._worker: Worker | None = None
        self._ends = Backoff()
        self._was_ready = self._silent = False
        self._answered_s = self._ready_since_s = self._ask_due_s = 0.0

    def look(self) -> None:
        """Notice what happened, do what is due. Raises PartEnded when it cannot go on."""
        if self._worker is None:
            if not self._ends.left_s():
                self._start()
        elif (code := self._worker.exit_code()) is not None:
            self._note_end(code)
        elif time.monotonic() >= self._ask_due_s:
            self._ask(self._worker)

    def metrics(self) -> str | None:
        worker = self._worker
        return None if worker is None or self._silent else worker.metrics()

    def ask_to_stop(self) -> None:
        self.last_code = 0
        if self._worker is not None:
            self._worker.ask_to_stop()

    def empty(self) -> bool:
        """Whether it has ended."""
        if self._worker is not None and (code := self._worker.exit_code()) is not None:
            unheard = code == -signal.SIGTERM  # it came before the worker could hear it
            self.last_code = 0 if unheard else code
            self._worker, self.ready = None, False
        return self._worker is None

    def clear(self) -> None:
        """End what is left."""
        if not self.empty() and self._worker is not None:
            log.error("worker_killed", worker=self.number)
            self._worker.kill()
            self.empty()

    def _start(self) -> None:
        if self._ends.tries:
            self._on_restart()
        self._worker, self._silent = self._start_worker(self.number), True
        self._answered_s, self._ask_due_s = time.monotonic(), 0.0

    def _ask(self, worker: Worker) -> None:
        said, before = worker.ready(), self.ready
        now_s = time.monotonic()
        self._ask_due_s, self._silent = now_s + ASK_INTERVAL_S, said is None
        self.ready = said is True
        if self.ready and not before:
            self._was_ready, self._ready_since_s = True, now_s
        if self.ready and now_s - self._ready_since_s >= HEALTHY_S:
            self._ends.succeeded()
        if not self._silent:
            self._answered_s = now_s
        elif now_s - self._answered_s > SILENCE_S_MAX:
            log.error("worker_silent", worker=self.number, silence_s=now_s - self._answered_s)
            worker.kill()

    def _note_end(self, code: int) -> None:
        self._worker, self.ready = None, False
        wait_s = self._ends.failed()
        cannot_start = code == EXIT_BAD_SETTING or (code > 0 and not self._was_ready)
        # What it needs and is away may come back; the others may go on without it.
        too_often = self._ends.tries > ENDS_MAX and code != EXIT_UNAVAILABLE
        if cannot_start or too_often:
            ours = code if code in (EXIT_UNAVAILABLE, EXIT_BAD_SETTING) else EXIT_BUG
            raise PartEnded(f"worker {self.number} ended with {code}", ours)
        log.warning("worker_ended", worker=self.number, exit_code=code, next_try_s=wait_s)
