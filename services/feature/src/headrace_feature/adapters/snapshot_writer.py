# SPDX-License-Identifier: Apache-2.0
"""Copies the state to the object store, so that a lost disk or a moved partition costs minutes.

Every interval, of each layout that has read on: the runs that are not copied yet, then a manifest.
The loop goes on meanwhile: runs do not change, and what it merges is still readable until copied.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from headrace.errors import HeadraceError
from headrace_feature.adapters.run_copies import RunCopies
from headrace_feature.adapters.run_files import to_bytes
from headrace_feature.adapters.run_store import RunStore
from headrace_feature.adapters.run_tiers import HeldRun
from headrace_feature.adapters.state_snapshots import StateSnapshots
from headrace_feature.adapters.stored_run import StoredRun, head_of
from headrace_feature.domain.log_place import LogPlace
from headrace_feature.domain.manifest import Manifest, RunCopy
from headrace_feature.domain.views import Catalogue, Layout
from headrace_kit.part_thread import ThreadPart

COLLECT_INTERVAL_S = 600.0
RETIRED_MS = 7 * 86_400_000
TRIES_MAX = 3
WAIT_S = 0.2

log = structlog.get_logger(__name__)


class SnapshotWriter(ThreadPart):
    """A Part."""

    def __init__(
        self,
        *,
        catalogue: Callable[[], Catalogue],
        store: RunStore,
        copies: RunCopies,
        snapshots: StateSnapshots,
        interval_s: float,
    ) -> None:
        super().__init__("snapshots")
        self._catalogue, self._store = catalogue, store
        self._copies, self._snapshots, self._interval_s = copies, snapshots, interval_s
        self._written: dict[bytes, tuple[Mapping[int, int], LogPlace, str]] = {}
        self._collected_s = time.monotonic()
        self._complete_s = time.monotonic()

    def age_s(self) -> float:
        """Since all state was in the object store."""
        return time.monotonic() - self._complete_s

    def _run(self) -> None:
        due_s = time.monotonic() + self._interval_s
        while not self._stopping.wait(WAIT_S):
            self._thread.tick()
            if time.monotonic() >= due_s:
                self._write_all()
                due_s = time.monotonic() + self._interval_s

    def _write_all(self) -> None:
        begun_s = time.monotonic()
        try:
            for layout in self._catalogue().layouts().values():
                self.write(layout)
            if begun_s - self._collected_s >= COLLECT_INTERVAL_S:
                self._collected_s = begun_s
                self._collect()
        except HeadraceError as err:  # the next interval tries again
            log.warning("snapshot_put_off", error=str(err))
        else:
            self._complete_s = begun_s

    def write(self, layout: Layout) -> None:
        """A manifest of where the layout is now, unless there is one."""
        for _ in range(TRIES_MAX):
            content = self._store.content(layout)
            positions = content.next_by_partition
            written = (positions, content.erased_to, content.topic_id)
            if not positions or written == self._written.get(layout.id):
                return
            try:
                runs = self._copied(layout, content.held)
            except FileNotFoundError:  # merged before it was opened: what it became is copied
                continue
            name = self._snapshots.fresh_name()
            manifest = Manifest(
                name,
                positions,
                content.floor_us,
                tuple(runs),
                erased_to=content.erased_to,
                topic_id=content.topic_id,
            )
            self._snapshots.put_manifest(layout.id, manifest)
            self._written[layout.id] = written
            return

    def _copied(self, layout: Layout, held: Sequence[HeldRun]) -> list[RunCopy]:
        named = {run.name for each in self._snapshots.manifests(layout.id) for run in each.runs}
        return [self._copy(layout, each, named) for each in held]

    def _copy(self, layout: Layout, held: HeldRun, named: set[str]) -> RunCopy:
        """What was copied long ago and is named nowhere may be collected at any moment."""
        copy = self._copies.of(layout, held)
        if copy is not None and (copy.name in named or self._snapshots.fresh(copy)):
            return copy
        self._thread.tick()
        if isinstance(held.run, StoredRun):
            folder, head = self._store.folder_of(layout, held), head_of([held.run])
            copy = self._snapshots.put_folder(layout.id, head, folder, self._thread.tick)
        else:
            copy = self._snapshots.put_small(layout.id, to_bytes(held.run))
        self._copies.note(layout, held, copy)
        return copy

    def _collect(self) -> None:
        ours = self._catalogue().layouts().keys()
        for layout in self._snapshots.layouts():
            self._thread.tick()
            if layout in ours:
                self._snapshots.collect(layout)
            else:
                self._snapshots.drop(layout, idle_ms=RETIRED_MS)
