# SPDX-License-Identifier: Apache-2.0
"""Gives memory back to the system once a process rests that was busy.

Requests of megabytes leave an arena of the C library behind each thread that worked for them: 32
callers of 8 MB left 1.2 GB with the process, which used a tenth of that. Never amid traffic, as
all threads wait for it.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace_inference.adapters.process_memory import give_back
from headrace_inference.domain.statistics import Statistics
from headrace_kit.part_thread import LookingPart

REST_S = 5.0


class RestingMemory(LookingPart):
    """A part; looks whether anything was answered since it looked last."""

    def __init__(self, statistics: Statistics, give_back: Callable[[], object] = give_back) -> None:
        super().__init__("resting-memory", interval_s=REST_S, waits="memory_waits")
        self._statistics, self._give_back = statistics, give_back
        self._answered, self._given_back = 0, True

    def look(self) -> None:
        answered = sum(each.requests for each in self._statistics.answered().values())
        if answered != self._answered:
            self._answered, self._given_back = answered, False
        elif not self._given_back:
            self._give_back()
            self._given_back = True
