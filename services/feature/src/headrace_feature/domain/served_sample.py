# SPDX-License-Identifier: Apache-2.0
"""A sample of what was served, to be computed again: some rows of all reads since the last check.

Every so many reads the first row is offered, and a reservoir keeps a uniform sample of what was
offered (Vitter, Random Sampling with a Reservoir, 1985), so that the hot read pays next to nothing.
"""

from __future__ import annotations

import random
import threading
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
        self.taken()

    def taken(self) -> list[Served]:
        """The sample; the next one begins."""
        with self._lock:
            kept, self._kept, self._offered = self._kept, [], 0
        return kept
