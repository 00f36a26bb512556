# SPDX-License-Identifier: Apache-2.0
"""Fills what no snapshot holds from the archive, beside the loop, while the stream is read on.

What is filled has no position until all of it is taken in, in one batch of the store: nobody reads
it, and no snapshot says that it is there. Other layouts of the stream wait only until it is known
where to read on, and not for that either while snapshots or the archive cannot be asked for: what
is new is left out then, and all is placed anew when they are there.
"""

from __future__ import annotations

import queue
import shutil
from collections import deque
from collections.abc import Callable, Collection

import structlog

from headrace.errors import Busy, NotFound, Unavailable
from headrace_feature.adapters.backfill_job import BackfillJob, Sources
from headrace_feature.adapters.run_store import RunStore
from headrace_feature.adapters.staged_runs import StagedRuns
from headrace_feature.domain.fill_progress import FillProgress
from headrace_feature.domain.log_place import BEGINNING
from headrace_feature.domain.views import Layout
from headrace_feature.ports import Restorer
from headrace_kit.backoff import Backoff
from headrace_kit.part_thread import ThreadPart

WAIT_S = 0.2

log = structlog.get_logger(__name__)


class ArchiveBackfill(ThreadPart):
    """Restorer; a Part. `snapshots` are asked first: what they hold need not be made again.

    `place_anew`: what was put off can be restored; called by any thread.
    """

    def __init__(
        self,
        *,
        store: RunStore,
        snapshots: Restorer,
        sources: Sources,
        place_anew: Callable[[], None],
    ) -> None:
        super().__init__("backfill")
        self._store, self._snapshots, self._sources = store, snapshots, sources
        self._place_anew = place_anew
        # The loop's thread alone looks at these: work that is not taken in yet, and partitions
        # that are read from the stream's beginning and were not yet.
        self._jobs: dict[bytes, BackfillJob] = {}
        self._from_beginning: set[tuple[Layout, int]] = set()
        self._asked: queue.SimpleQueue[BackfillJob] = queue.SimpleQueue()  # one a layout at most
        self._put_off: deque[BackfillJob] = deque()  # one a layout, tried one at a time
        self._work: deque[BackfillJob] = deque()
        self._join_retry, self._fill_retry = Backoff(), Backoff()
        self._remove_unknown_folders()

    def restore(self, layout: Layout, partitions: Collection[int]) -> bool:
        if not self._snapshots.restore(layout, partitions):
            return False
        ahead, job = self._store.ahead_by_partition(layout), self._jobs.get(layout.id)
        if ahead and (job is None or job.dropped):
            begun = self._begin(layout, ahead)
            begun.led = True
            self._work.append(begun)
        held = self._store.next_by_partition(layout).keys() | ahead.keys()
        held |= {number for each, number in self._from_beginning if each == layout}
        left = {*partitions} - held
        return not left or self._joined(layout, left)

    def _joined(self, layout: Layout, left: set[int]) -> bool:
        """Whether all of these are read on from somewhere."""
        job = self._jobs.get(layout.id)
        if job is None or job.dropped:
            job = self._begin(layout, left)
            self._asked.put(job)
        elif job.put_off and not left <= job.partitions:  # they are joined together
            job.dropped = True
            job = self._begin(layout, left | job.partitions)
            job.put_off = True
            self._asked.put(job)
        if job.joins is None:
            job.left_out = job.led  # of a process before: what comes now is joined behind it
            return False
        if not job.joins:
            self._from_beginning |= {(layout, number) for number in job.partitions}
            del self._jobs[layout.id]
        elif joined := {n: at for n, at in job.joins.items() if n in left}:
            self._store.lead(layout, joined)
            job.led = True
        job.left_out = not left <= job.partitions
        return not job.left_out

    def _begin(self, layout: Layout, partitions: Collection[int]) -> BackfillJob:
        job = self._jobs[layout.id] = BackfillJob(layout, frozenset(partitions), self._sources)
        return job

    def put_off(self, layout: Layout) -> bool:
        """For any thread."""
        return self.waits_for_archive(layout) or self._snapshots.put_off(layout)

    def waits_for_archive(self, layout: Layout) -> bool:
        """Of what is new, and no state that a snapshot brings back. For any thread."""
        job = self._jobs.get(layout.id)
        return job is not None and (job.put_off or job.left_out)

    def tend(self) -> None:
        self._snapshots.tend()
        self._from_beginning = {
            (layout, number)
            for layout, number in self._from_beginning
            if number not in self._store.next_by_partition(layout)
        }
        for job in list(self._jobs.values()):
            if job.filled is not None and job.led:
                self._take_in(job, job.filled)
                del self._jobs[job.layout.id]
                if job.left_out:
                    self._place_anew()

    def _take_in(self, job: BackfillJob, filled: StagedRuns) -> None:
        """What left us meanwhile has no place any more."""
        layout, ahead = job.layout, self._store.ahead_by_partition(job.layout)
        ours = {number: at for number, at in ahead.items() if number in job.partitions}
        if ours:
            # An erasure may have been under way when the archive was read: all are followed again.
            self._store.adopt(
                layout, filled.arrivals(), ours, filled.filling.floor_us, erased_to=BEGINNING
            )
            log.info("backfilled", stream=layout.stream, rows=filled.rows, next_by_partition=ours)
        job.discard()

    def progress_of(self, layout: Layout) -> FillProgress | None:
        """For any thread; None while nothing is filled, or it is not known yet what is read."""
        job = self._jobs.get(layout.id)
        return job.progress if job is not None else None

    def forget(self, stream: str, partitions: Collection[int]) -> None:
        self._snapshots.forget(stream, partitions)
        self._from_beginning = {
            (layout, number)
            for layout, number in self._from_beginning
            if layout.stream != stream or number not in partitions
        }
        for job in list(self._jobs.values()):
            if job.layout.stream == stream and job.partitions <= {*partitions}:
                job.dropped = True
                del self._jobs[job.layout.id]

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._thread.tick()
            self.work(WAIT_S)

    def work(self, wait_s: float) -> None:
        """One bounded step; without anything to do, wait that long for it."""
        idle = not self._work or self._fill_retry.left_s() > 0
        self._join_next(wait_s if idle else 0.0)
        if self._work and not self._fill_retry.left_s():
            self._fill_on(self._work[0])

    def _join_next(self, wait_s: float) -> None:
        """What is asked for first: it waits for none that was put off."""
        try:
            job = self._asked.get(timeout=wait_s)
        except queue.Empty:
            if not self._put_off or self._join_retry.left_s():
                return
            job = self._put_off.popleft()
        if job.wanted():
            self._join(job)
        else:
            job.dropped = True

    def _join(self, job: BackfillJob) -> None:
        try:
            job.join()
        except Unavailable as err:
            log.warning("backfill_waits", stream=job.layout.stream, error=str(err))
            self._join_retry.failed()
            job.put_off = True
            self._put_off.append(job)
            return
        self._join_retry.succeeded()
        if job.joins:
            self._work.append(job)
        if job.put_off:
            job.put_off = False
            self._place_anew()

    def _fill_on(self, job: BackfillJob) -> None:
        try:
            if not job.wanted():
                job.dropped = True
                job.discard()
                self._work.popleft()
            elif job.fill_on():
                self._work.popleft()
            self._fill_retry.succeeded()
        except (Unavailable, Busy, NotFound) as err:
            log.warning("backfill_waits", stream=job.layout.stream, error=str(err))
            self._fill_retry.failed()
            self._work.rotate(-1)  # what can be filled does not wait for what cannot

    def _remove_unknown_folders(self) -> None:
        """Of what was taken in, or is not needed any more."""
        known = {self._sources.folder_of(layout) for layout in self._store.leading()}
        for folder in self._sources.folder.glob("*"):
            if folder not in known:
                shutil.rmtree(folder)
