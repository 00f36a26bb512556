# SPDX-License-Identifier: Apache-2.0
"""AttemptLog in a small file: it outlives the process, not the machine, so nothing is synced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from headrace_ingest.domain.attempts import Attempt, Place


class FileAttemptLog:
    """One file, replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self._path, self._next = folder / "attempts.json", folder / "attempts.next.json"

    def read(self) -> dict[Place, Attempt]:
        if not self._path.exists():
            return {}
        found = json.loads(self._path.read_text(encoding="utf-8"))
        return {(topic, partition): Attempt(*attempt) for topic, partition, *attempt in found}

    def write(self, attempts: Mapping[Place, Attempt]) -> None:
        entries = [[*place, each.first, each.end, each.deaths] for place, each in attempts.items()]
        self._next.write_text(json.dumps(entries), encoding="utf-8")
        self._next.replace(self._path)
