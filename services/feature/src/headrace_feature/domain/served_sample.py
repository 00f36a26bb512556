# SPDX-License-Identifier: Apache-2.0
"""A sample of what was served, to be computed again: some rows of all reads since the last check.

Every so many reads the first row is offered, and a reservoir keeps a uniform sample of what was
offered (Vitter, Random Sampling with a Reservoir, 1985), so that the hot read pays next to nothing.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.online_query import GetOnlineFeatures

SAMPLES_MAX = 256
EVERY_READS = 64


@dataclass(frozen=True, slots=True)
class Served:
    """One row that was asked for, and its answer [features]."""

    query: GetOnlineFeatures
    answer: NDArray[np.float32]


class ServedSample:
    """Offered by one thread, taken by others."""

    def __init__(self, *, every_reads: int = EVERY_READS, seed: int | None = None) -> None:
        self._every_reads, self._reads, self._offered = every_reads, 0, 0
        self._kept: list[Served] = []
        self.forgotten = 0  # so many times
        self._chance, self._lock = random.Random(seed), threading.Lock()  # noqa: S311 - no secret

    def due(self) -> bool:
        """Whether the next read is offered."""
        self._reads += 1
        return self._reads % self._every_reads == 0

    def offer(self, query: GetOnlineFeatures, answers: NDArray[np.float32], *, now_us: int) -> None:
        """`query` names its moments; its first row counts, unless its moment is to come.

        The archive has not what is known by then, and a check of all others would wait for it.
        """
        if query.as_of_us[0] > now_us:
            return
        columns = {name: column[:1] for name, column in query.columns.items()}
        first = GetOnlineFeatures(query.features, columns, query.as_of_us[:1])
        served = Served(first, answers[0].copy())
        with self._lock:
            self._offered += 1
            if len(self._kept) < SAMPLES_MAX:
                self._kept.append(served)
            elif (place := self._chance.randrange(self._offered)) < SAMPLES_MAX:
                self._kept[place] = served

    def forget(self) -> None:
        """Nothing of it is kept, for one of the entities was erased."""
        with self._lock:
            self._kept, self._offered = [], 0
            self.forgotten += 1

    def seen(self) -> list[Served]:
        """What would be taken now."""
        with self._lock:
            return list(self._kept)

    @contextmanager
    def taken(self, seen: Collection[Served]) -> Iterator[list[Served]]:
        """What is still there of what was seen; the next sample begins with what came since.

        A block that fails gives it back, unless it is to be forgotten by then.
        """
        wanted = {id(each) for each in seen}
        with self._lock:
            forgotten = self.forgotten
            taken = [each for each in self._kept if id(each) in wanted]
            self._kept = [each for each in self._kept if id(each) not in wanted]
            offered, self._offered = self._offered - len(self._kept), len(self._kept)
        checked = False
        try:
            yield taken
            checked = True
        finally:
            if not checked:
                with self._lock:
                    if forgotten == self.forgotten:
                        self._kept = [*taken, *self._kept][:SAMPLES_MAX]
                        self._offered += offered
