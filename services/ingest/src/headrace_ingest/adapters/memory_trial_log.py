# SPDX-License-Identifier: Apache-2.0
"""TrialLog of a test."""

from __future__ import annotations

from collections.abc import Mapping

from headrace_ingest.domain.trials import Place, Trial


class MemoryTrialLog:
    """Outlives the sinks that are made on it."""

    def __init__(self) -> None:
        self._trials: dict[Place, Trial] = {}

    def read(self) -> dict[Place, Trial]:
        return dict(self._trials)

    def write(self, trials: Mapping[Place, Trial]) -> None:
        self._trials = dict(trials)
