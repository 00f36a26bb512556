# SPDX-License-Identifier: Apache-2.0
"""Which topics a member of a group reads: topics that are wanted together are taken up together.

Each change has the whole group share out its partitions anew, and while members read different
topics librdkafka may end the process of the group's leader (ADR 37). One apply defines many topics,
and its records arrive one after another: the change waits until no more of them come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

# The records of one apply are published together, and reach their readers within milliseconds.
QUIET_S = 0.25
# What is still awaited then is taken up by itself.
GATHER_S_MAX = 5.0


class GatheredTopics:
    """`want` is for any thread, `choose` for one that calls it often."""

    def __init__(
        self,
        *,
        more_to_come: Callable[[], bool] = lambda: False,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`more_to_come`: whether other topics may be wanted soon, and are waited for."""
        self._more_to_come, self._monotonic_s = more_to_come, monotonic_s
        # Replaced as one: another thread sees the topics with the time of their change.
        self._wanted: tuple[frozenset[str], float] = (frozenset(), monotonic_s())
        self._chosen: frozenset[str] = frozenset()
        self._until_s: float | None = None

    @property
    def wanted(self) -> frozenset[str]:
        return self._wanted[0]

    def want(self, topics: Collection[str]) -> None:
        """Exactly these are to be read."""
        if self.wanted != (wanted := frozenset(topics)):
            self._wanted = (wanted, self._monotonic_s())

    def choose(self) -> frozenset[str]:
        """Those to be read from now on.

        A change is made when QUIET_S have passed without another one. What is new waits until no
        more is to come, too, but for no longer than GATHER_S_MAX.
        """
        wanted, changed_s = self._wanted
        if wanted == self._chosen:
            self._until_s = None
            return self._chosen
        now_s = self._monotonic_s()
        if self._until_s is None:
            self._until_s = now_s + GATHER_S_MAX
        quiet, late = now_s - changed_s >= QUIET_S, now_s >= self._until_s
        if late or (quiet and not self._more_to_come()):
            self._chosen, self._until_s = wanted, None
        elif quiet:
            self._chosen &= wanted
        return self._chosen
