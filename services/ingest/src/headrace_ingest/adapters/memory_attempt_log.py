# SPDX-License-Identifier: Apache-2.0
"""AttemptLog of a test."""

from __future__ import annotations

from collections.abc import Mapping

from headrace_ingest.domain.attempts import Attempt, Place


class MemoryAttemptLog:
    """Outlives the sinks that are made on it."""

    def __init__(self) -> None:
        self._attempts: dict[Place, Attempt] = {}

    def read(self) -> dict[Place, Attempt]:
        return dict(self._attempts)

    def write(self, attempts: Mapping[Place, Attempt]) -> None:
        self._attempts = dict(attempts)
