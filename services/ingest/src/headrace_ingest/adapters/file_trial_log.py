# SPDX-License-Identifier: Apache-2.0
"""TrialLog in a small file: it must outlive the process, not the machine, so nothing is synced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from headrace_ingest.domain.trials import Place, Trial


class FileTrialLog:
    """One file, replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self._path, self._next = folder / "trials.json", folder / "trials.next.json"

    def read(self) -> dict[Place, Trial]:
        if not self._path.exists():
            return {}
        found = json.loads(self._path.read_text(encoding="utf-8"))
        return {(topic, partition): Trial(*trial) for topic, partition, *trial in found}

    def write(self, trials: Mapping[Place, Trial]) -> None:
        entries = [[*place, each.first, each.end, each.deaths] for place, each in trials.items()]
        self._next.write_text(json.dumps(entries), encoding="utf-8")
        self._next.replace(self._path)
