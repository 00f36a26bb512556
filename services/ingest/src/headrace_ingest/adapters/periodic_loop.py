# SPDX-License-Identifier: Apache-2.0
"""A task that is done again and again beside the others; what fails is left for the next round."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import structlog

from headrace.errors import Busy, Conflict, NotFound, Unavailable
from headrace_kit.part_thread import ThreadPart

STEP_S_MAX = 240.0  # less than a loop may take between two ticks

log = structlog.get_logger(__name__)


class PeriodicLoop(ThreadPart):
    """A Part; `interval_s` lies between two rounds of `task`.

    A round may be long: the task yields after each step, and is told how long one may take. Rounds
    that fail alike, one after the other, are told once.
    """

    def __init__(
        self, name: str, task: Callable[[float], Iterator[None]], *, interval_s: float
    ) -> None:
        super().__init__(name)
        self._name, self._task, self._interval_s = name, task, interval_s

    def _run(self) -> None:
        told = ""
        while not self._stopping.is_set():
            self._thread.tick()
            failure = self._failure()
            if failure and failure != told:
                log.warning("round_failed", task=self._name, error=failure)
            elif told and not failure:
                log.info("rounds_go_on", task=self._name)
            told = failure
            self._rested(self._interval_s)

    def _failure(self) -> str:
        """Why a round failed; nothing when it did not."""
        try:
            self._round()
        except (Busy, Conflict, NotFound, Unavailable) as err:
            return str(err)
        return ""

    def _round(self) -> None:
        for _ in self._task(STEP_S_MAX):
            if self._stopping.is_set():
                return
            self._thread.tick()
