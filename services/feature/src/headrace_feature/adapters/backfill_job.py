# SPDX-License-Identifier: Apache-2.0
"""Fills partitions of one layout from the archive, up to where the stream is read on.

The join is exact without a word from ingest. First the ends of the records' topic are noted: there
the layout reads on. Then the ends of the raw topic: every record before the first came from one
before the second, for ingest publishes a record before it archives it. So a version of the archive
that accounts for all of these holds everything before the join, and perhaps more, which a set of
events does not mind. That version is pinned, and its files are read in a fixed order: a kill costs
what was read since the last note.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from headrace import topics
from headrace.errors import TOPIC_MISSING, NotFound, Unavailable
from headrace_feature.adapters.archived_runs import Archived
from headrace_feature.adapters.delta_archive import History
from headrace_feature.adapters.kafka_topics import RawTopic
from headrace_feature.adapters.staged_runs import Filling, StagedRuns
from headrace_feature.domain.fill_progress import FillProgress
from headrace_feature.domain.views import Catalogue, Layout
from headrace_kit.disk import needing_room
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.failpoints import failpoint
from headrace_kit.telemetry import gauge

FILES_PER_NOTE = 64
LEFT = gauge("feature", "backfill_left_files", "Of the archive, by layout.", "stream", "layout")

log = structlog.get_logger(__name__)


class Histories(Protocol):
    """The archive as a backfill needs it; see DeltaArchive."""

    def exists(self, stream: str) -> bool: ...

    def history(self, stream: str, raw_topic: RawTopic, version: int | None = None) -> History: ...


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """What all backfills read, and where and within what bounds they work.

    `ends`: of a stream's records, by partition. `keep_us`: how far behind the newest known record
    anybody may ask.
    """

    archive: Histories
    ends: Callable[[str], Mapping[int, int]]
    raw_topic: Callable[[str], RawTopic]
    catalogue: Callable[[], Catalogue]
    erased: ErasedEntities
    folder: Path
    bytes_max: int
    keep_us: int

    def folder_of(self, layout: bytes) -> Path:
        return self.folder / layout.hex()


@dataclass(frozen=True, slots=True)
class Pace:
    """When this process began to fill, and how many files were done before."""

    begun_s: float
    files_done: int

    def files_per_s(self, done: int) -> float:
        took_s = time.monotonic() - self.begun_s
        return (done - self.files_done) / took_s if took_s > 0 else 0.0


class BackfillJob:
    """Worked on by one thread; the loop's looks at `joins`, `filled` and `dropped`, and sets `led`.

    `joins`: by partition where the stream is read on, once it is known; {}: there is no archive.
    `led`: the store holds them. `filled` appears when all is there, which may be before that.
    `put_off`: it is not known yet, and may be long; `left_out`: partitions came behind the join.
    `progress`: any thread may look; None until it is known what is read.
    """

    def __init__(self, layout: Layout, partitions: frozenset[int], sources: Sources) -> None:
        self.layout, self.partitions = layout, partitions
        self.joins: Mapping[int, int] | None = None
        self.filled: StagedRuns | None = None
        self.progress: FillProgress | None = None
        self.led = self.dropped = self.put_off = self.left_out = False
        self._sources, self._folder = sources, sources.folder_of(layout.id)
        self._raw_topic: RawTopic | None = None
        self._steps: Iterator[None] | None = None
        self._pace = Pace(0.0, 0)

    def join(self) -> None:
        """Find out where the stream is read on; raises Unavailable."""
        sources, stream = self._sources, self.layout.stream
        shutil.rmtree(self._folder, ignore_errors=True)  # it was filled up to an earlier join
        joins = {}
        if sources.archive.exists(stream):
            ends = sources.ends(stream)
            self._raw_topic = _raw_topic(sources, stream)
            if self._raw_topic is not None:
                joins = {number: ends.get(number, 0) for number in self.partitions}
        self.joins = joins

    def wanted(self) -> bool:
        """Whether there is still a view that needs it."""
        return not self.dropped and self.layout.id in self._sources.catalogue().layouts()

    def fill_on(self) -> bool:
        """One bounded step; whether it was the last.

        Raises Unavailable, Busy STATE_FULL or DISK_FULL, and NotFound where what was pinned is
        gone: the next step goes on from the note, or begins with another version.
        """
        steps, self._steps = self._steps or self._fill(), None
        try:
            with needing_room(self._folder):
                ended = next(steps, self) is self
        except NotFound:
            self.discard()
            raise
        self._steps = None if ended else steps
        return ended

    def discard(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        LEFT.labels(self.layout.stream, self.layout.id.hex()).set(0)

    def _fill(self) -> Iterator[None]:
        history, staged = self._pinned()
        stream = self._sources.catalogue().streams.get(self.layout.stream)
        if stream is None:
            raise NotFound("STREAM_UNKNOWN", stream=self.layout.stream)
        archived = Archived(history.snapshot, self.layout, stream, self._sources.erased)
        files = archived.files(staged.filling)
        self._pace = Pace(time.monotonic(), staged.files_done)
        self._tell(staged, staged.files_done, len(files))
        for number, file in enumerate(files[staged.files_done :], staged.files_done + 1):
            for run in archived.runs(file, staged.filling):
                staged.add(run)
                yield
            many = number - staged.files_done >= FILES_PER_NOTE
            if staged.unnoted or many or number == len(files):
                yield from self._note(staged, number, len(files))
        self.filled = staged

    def _note(self, staged: StagedRuns, done: int, files: int) -> Iterator[None]:
        staged.note(done)
        self._tell(staged, done, files)
        log.info("backfilling", stream=self.layout.stream, files=files, done=done, rows=staged.rows)
        failpoint("feature.backfill.half")
        yield from staged.merge()

    def _tell(self, staged: StagedRuns, done: int, files: int) -> None:
        self.progress = FillProgress(files, done, staged.rows, self._pace.files_per_s(done))
        LEFT.labels(self.layout.stream, self.layout.id.hex()).set(files - done)

    def _pinned(self) -> tuple[History, StagedRuns]:
        """What is read, and what was made of it so far."""
        sources, stream = self._sources, self.layout.stream
        raw_topic = self._raw_topic_to_reach()
        count = len(sources.ends(stream))
        staged = StagedRuns.resumed(self._folder, bytes_max=sources.bytes_max)
        if staged is not None and staged.filling.covers(self.partitions, count):
            history = sources.archive.history(stream, raw_topic, staged.filling.version)
            if history.files_sha256 == staged.filling.files_sha256:
                return history, staged
        history = sources.archive.history(stream, raw_topic)
        filling = Filling(
            version=history.snapshot.version,
            floor_us=history.newest_known_us - sources.keep_us - self.layout.span_us,
            partitions=tuple(sorted(self.partitions)),
            partition_count=count,
            files_sha256=history.files_sha256,
        )
        return history, StagedRuns.begun(self._folder, filling, bytes_max=sources.bytes_max)

    def _raw_topic_to_reach(self) -> RawTopic:
        """As it was at the join, for its ends run away; or as it is, where it was made again."""
        now = _raw_topic(self._sources, self.layout.stream)
        if self._raw_topic is None or (now is not None and now.id != self._raw_topic.id):
            self._raw_topic = now
        if self._raw_topic is None:
            raise Unavailable("TOPIC_MISSING", topic=topics.RAW.of(self.layout.stream))
        return self._raw_topic


def _raw_topic(sources: Sources, stream: str) -> RawTopic | None:
    """None where there is none, and so nobody who archives."""
    try:
        return sources.raw_topic(stream)
    except Unavailable as err:
        if err.reason != TOPIC_MISSING:
            raise
        return None
