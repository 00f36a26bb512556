# SPDX-License-Identifier: Apache-2.0
"""Which endpoints' requests over Kafka this process reads: those that it serves.

Each change has the whole group share out its partitions anew, and while members read different
topics librdkafka may end the process of the group's leader (ADR 37). So a replica that starts takes
all its endpoints up at once, as do those that many rollouts reach together.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from headrace_inference.domain.serving import ServingTable

# Others answer meanwhile, if there are any; a model that loads for longer holds up no other's.
GATHER_S_MAX = 5.0


class FollowedEndpoints:
    """For one thread."""

    def __init__(
        self, table: ServingTable, *, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._table, self._monotonic_s = table, monotonic_s
        self._chosen: frozenset[str] = frozenset()
        self._until_s: float | None = None

    def choose(self) -> frozenset[str]:
        """Those whose requests are to be read from now on.

        What is served no more is left at once. What is new is taken when nothing else is loading,
        or after GATHER_S_MAX.
        """
        states = self._table.states().items()
        served = {name for name, state in states if state.answers}
        self._chosen &= served
        if served == self._chosen or self._gathered(any(state.loading for _, state in states)):
            self._chosen, self._until_s = frozenset(served), None
        return self._chosen

    def _gathered(self, loading: bool) -> bool:
        now_s = self._monotonic_s()
        if self._until_s is None:
            self._until_s = now_s + GATHER_S_MAX
        return not loading or now_s >= self._until_s
