# SPDX-License-Identifier: Apache-2.0
"""Which held run is which copy in the object store; with a large run a file says it, which goes
with the run, so that a restart copies nothing again."""

from __future__ import annotations

import json
from pathlib import Path

from headrace_feature.adapters.run_files import COPY_NOTE
from headrace_feature.adapters.run_store import RunStore
from headrace_feature.adapters.run_tiers import HeldRun
from headrace_feature.domain.manifest import RunCopy
from headrace_feature.domain.views import Layout


class RunCopies:
    """Written by whoever made or fetched a copy, read by any thread."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._by_run: dict[tuple[bytes, int], RunCopy] = {}

    def of(self, layout: Layout, held: HeldRun) -> RunCopy | None:
        key = (layout.id, held.number)
        copy = self._by_run.get(key)
        if copy is None and held.large:
            copy = _read(self._store.folder_of(layout, held) / COPY_NOTE)
            if copy is not None:
                self._by_run[key] = copy
        return copy

    def note(self, layout: Layout, held: HeldRun, copy: RunCopy) -> None:
        self._by_run[layout.id, held.number] = copy
        if held.large:
            note = self._store.folder_of(layout, held) / COPY_NOTE
            _write(note, json.dumps(copy.document()))

    def held(self, layout: Layout) -> set[str]:
        """The names of the copies of what is held now; those of others are forgotten."""
        runs = self._store.content(layout).held
        copies = {held.number: self.of(layout, held) for held in runs}
        for key in list(self._by_run):
            if key[0] == layout.id and key[1] not in copies:
                self._by_run.pop(key, None)
        return {copy.name for copy in copies.values() if copy is not None}


def _read(note: Path) -> RunCopy | None:
    """None without a note, or with one that a crash has torn: the run is copied once more."""
    try:
        return RunCopy.from_document(json.loads(note.read_bytes()))
    except (FileNotFoundError, ValueError):
        return None


def _write(note: Path, text: str) -> None:
    """Nothing where the run has gone meanwhile."""
    try:
        note.write_text(text)
    except FileNotFoundError:
        return
