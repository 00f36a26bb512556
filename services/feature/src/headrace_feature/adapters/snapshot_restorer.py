# SPDX-License-Identifier: Apache-2.0
"""Fetches runs of partitions that came to this worker, beside the loop; the loop takes them in.

What the worker holds already is not fetched again. A fetch ends only with an answer: an object
store that is away is asked until it is back, and a bad copy makes way for another manifest's. While
it is away what is to be fetched is put off, so that a new view keeps no other one waiting.
"""

from __future__ import annotations

import queue
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from headrace.errors import Busy, Corrupt, NotFound, Unavailable
from headrace_feature.adapters.layout_states import NO_FLOOR_US
from headrace_feature.adapters.run_copies import RunCopies
from headrace_feature.adapters.run_folders import Arrival
from headrace_feature.adapters.run_store import RunStore
from headrace_feature.adapters.state_snapshots import StateSnapshots
from headrace_feature.domain.log_place import BEGINNING, LogPlace, earliest
from headrace_feature.domain.manifest import Manifest, RunCopy, furthest
from headrace_feature.domain.views import Layout
from headrace_kit.allocator import give_back_freed
from headrace_kit.backoff import Backoff
from headrace_kit.disk import needing_room
from headrace_kit.failpoints import failpoint
from headrace_kit.part_thread import ThreadPart

WAIT_S = 0.2

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Fetched:
    """What was found: `relied` are copies that were held here when we looked, for the topic of
    this id.
    """

    topic_id: str
    next_by_partition: dict[int, int] = field(default_factory=dict)
    floor_us: int = NO_FLOOR_US
    arrivals: dict[str, tuple[RunCopy, Arrival]] = field(default_factory=dict)
    relied: set[str] = field(default_factory=set)
    end_by_partition: Mapping[int, int] = field(default_factory=dict)
    erased_to: LogPlace = BEGINNING


@dataclass(slots=True, eq=False)
class _Job:
    """`fetched` appears when the thread has done it."""

    layout: Layout
    partitions: frozenset[int]
    fetched: _Fetched | None = None
    begun_s: float = field(default_factory=time.monotonic)


class SnapshotRestorer(ThreadPart):
    """Restorer; a Part. `place_anew`: what was put off can be restored; called by any thread."""

    def __init__(
        self,
        *,
        store: RunStore,
        copies: RunCopies,
        snapshots: StateSnapshots,
        ends: Callable[[str], Mapping[int, int]],
        begins: Callable[[str], Mapping[int, int]],
        place_anew: Callable[[], None],
    ) -> None:
        """`begins`, `ends`: of a stream's records as they are now, by partition."""
        super().__init__("restore")
        self._store, self._copies, self._snapshots = store, copies, snapshots
        self._ends, self._begins, self._place_anew = ends, begins, place_anew
        # Whether the object store was away at the last try, and when that was over last.
        self._away, self._back_s = False, 0.0
        self._jobs: dict[bytes, _Job] = {}  # the loop's thread alone writes here
        self._done: set[tuple[str, bytes, int]] = set()
        self._queue: queue.SimpleQueue[_Job] = queue.SimpleQueue()  # one for each layout at most

    def restore(self, layout: Layout, partitions: Collection[int]) -> bool:
        left = {n for n in partitions if (layout.stream, layout.id, n) not in self._done}
        job = self._jobs.get(layout.id)
        if job is None and left:
            self._begin(layout, frozenset(left))
        elif job is not None and job.fetched is not None:
            if self._take(job, job.fetched):
                del self._jobs[layout.id]
                return self.restore(layout, partitions)
            self._begin(layout, job.partitions)
        return not left

    def put_off(self, layout: Layout) -> bool:
        """For any thread. What stands behind the one that is tried would fare no better."""
        job = self._jobs.get(layout.id)
        return self._away and job is not None and job.fetched is None

    def tend(self) -> None:
        """A partition is not read before it is restored: nothing comes later."""

    def forget(self, stream: str, partitions: Collection[int]) -> None:
        self._done = {d for d in self._done if d[0] != stream or d[2] not in partitions}

    def _begin(self, layout: Layout, partitions: frozenset[int]) -> None:
        self._jobs[layout.id] = job = _Job(layout, partitions)
        self._queue.put(job)

    def _take(self, job: _Job, fetched: _Fetched) -> bool:
        """False when a run that was relied on has been merged since, or the topic is another."""
        layout, current = job.layout, self._store.topic_id(job.layout)
        if fetched.topic_id != current or not fetched.relied <= self._copies.held(layout):
            return False
        self._store.expect(layout.stream, fetched.end_by_partition)
        if fetched.next_by_partition:
            arrivals = [arrival for _, arrival in fetched.arrivals.values()]
            held = self._store.adopt(
                layout,
                arrivals,
                fetched.next_by_partition,
                fetched.floor_us,
                fetched.erased_to,
            )
            for one, (copy, _) in zip(held, fetched.arrivals.values(), strict=True):
                self._copies.note(layout, one, copy)
            log.info("restored", stream=layout.stream, **_said(fetched))
        self._done |= {(layout.stream, layout.id, number) for number in job.partitions}
        return True

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._thread.tick()
            self.fetch_next(WAIT_S)

    def fetch_next(self, wait_s: float) -> None:
        """Fetch what was asked for longest, if anything within the time."""
        try:
            job = self._queue.get(timeout=wait_s)
        except queue.Empty:
            return
        job.fetched = self._fetch_until_found(job)
        if job.begun_s <= self._back_s:  # it may have been left out of a placing
            self._place_anew()
        give_back_freed()

    def _fetch_until_found(self, job: _Job) -> _Fetched | None:
        backoff, bad, arrived = Backoff(), set[str](), dict[str, Arrival]()
        while not self._stopping.is_set():
            self._thread.tick()
            try:
                fetched = self._fetch(job, bad, arrived)
            except (Unavailable, Busy, NotFound) as err:  # not found: collected since it was listed
                log.warning("restore_waits", error=str(err))
                self._note_away(away=err.reason == "OBJECT_STORE_UNAVAILABLE")
                self._stopping.wait(backoff.failed())
            else:
                self._note_away(away=False)
                return fetched
        return None

    def _note_away(self, *, away: bool) -> None:
        if self._away and not away:
            self._back_s = time.monotonic()
        self._away = away

    def _fetch(self, job: _Job, bad: set[str], arrived: dict[str, Arrival]) -> _Fetched:
        """What has arrived stays so when another try is needed.

        Raises Unavailable, Busy DISK_FULL, or NotFound when a manifest is no longer what it was."""
        layout, numbers = job.layout, job.partitions
        topic_id, ends = self._store.topic_id(layout), self._ends(layout.stream)
        found = self._snapshots.manifests(layout.id)
        known = [m for m in found if m.name not in bad and m.of_topic(topic_id)]
        chosen = self._chosen(layout, known, numbers)
        fetched = _Fetched(topic_id, end_by_partition={n: ends[n] for n in numbers if n in ends})
        held = self._copies.held(layout)
        for manifest in {m.name: m for m in chosen.values() if m is not None}.values():
            try:
                for copy in manifest.runs:
                    if copy.name in held:
                        fetched.relied.add(copy.name)
                    elif copy.name not in fetched.arrivals:
                        arrived[copy.name] = arrived.get(copy.name) or self._arrival(layout, copy)
                        fetched.arrivals[copy.name] = (copy, arrived[copy.name])
                        failpoint("feature.restore.half")
            except Corrupt as err:
                log.error("snapshot_corrupt", manifest=manifest.name, error=str(err))
                bad.add(manifest.name)
                return self._fetch(job, bad, arrived)
            fetched.floor_us = max(fetched.floor_us, manifest.floor_us)
        chosen_ones = [m for m in chosen.values() if m is not None]
        fetched.erased_to = earliest([m.erased_to for m in chosen_ones])
        fetched.next_by_partition = {
            n: m.next_by_partition[n] for n, m in chosen.items() if m is not None
        }
        return fetched

    def _chosen(
        self, layout: Layout, known: Sequence[Manifest], numbers: Collection[int]
    ) -> dict[int, Manifest | None]:
        """By partition; from where one stood that Kafka has left behind, nobody can read on."""
        begins = self._begins(layout.stream)
        reaching = {n: [m for m in known if m.reaches(n, begins.get(n, 0))] for n in numbers}
        return {number: furthest(manifests, number) for number, manifests in reaching.items()}

    def _arrival(self, layout: Layout, copy: RunCopy) -> Arrival:
        self._thread.tick()
        if not copy.head:
            return Arrival(stored=self._snapshots.get_small(layout.id, copy))
        folder = self._store.arrivals_folder() / layout.id.hex() / copy.name
        shutil.rmtree(folder, ignore_errors=True)
        with needing_room(folder):
            self._snapshots.get_folder(layout.id, copy, folder, self._thread.tick)
        return Arrival(head=copy.head, folder=folder)


def _said(fetched: _Fetched) -> dict[str, object]:
    return {"runs": len(fetched.arrivals), "next_by_partition": fetched.next_by_partition}
