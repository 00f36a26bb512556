# SPDX-License-Identifier: Apache-2.0
"""What the handlers need from outside: observations with their positions, and the archive."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from headrace.application import Recipe
from headrace_feature.domain.completeness import StreamReach
from headrace_feature.domain.gathering import Wanted
from headrace_feature.domain.log_place import LogPlace
from headrace_feature.domain.observations import AnyRun, Observations, Run
from headrace_feature.domain.records import Records, Share
from headrace_feature.domain.request_features import Column
from headrace_feature.domain.training_set import Batch, RawOffsets, Round, Rows, SpineTally
from headrace_feature.domain.views import Layout, WeakColumns

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Folded:
    """What one batch adds to one layout: a run, the next offset by partition, the new floor; and
    what they were made of.
    """

    layout: Layout
    run: Run
    next_by_partition: Mapping[int, int]
    floor_us: int
    observations: Observations | None = None


class ObservationReader(Protocol):
    """Observations for reads, and how far each layout has read each partition of its stream."""

    def reading(self) -> AbstractContextManager[ObservationReader]:
        """A reader for one read: it may hold what its `runs_of` answers, and lets go at the end."""

    def runs_of(self, layout: Layout, wanted: Wanted) -> Sequence[AnyRun]:
        """What holds all there is of the entities; it stays as it is while a reader has it.

        Raises Unavailable RESTORING where it is elsewhere and cannot be had, Busy QUEUE_FULL where
        other reads hold too much of what is elsewhere, BATCH_TOO_LARGE where this one would.
        """

    def next_by_partition(self, layout: Layout) -> Mapping[int, int]:
        """Next offset by partition; absent means that none was read."""

    def elsewhere(self, layout: Layout) -> Mapping[int, LogPlace]:
        """Of each partition that `runs_of` asked others for, how far they had read it at least."""

    def topic_id(self, layout: Layout) -> str:
        """Of the topic that the positions are of; empty while nobody said."""

    def furthest_by_partition(self, stream: str) -> Mapping[int, int]:
        """The highest next offset that any layout of the stream ever had."""

    def floor_us(self, layout: Layout) -> int:
        """Event time before which observations may be gone."""

    def owned(self, layout: Layout) -> Collection[int] | None:
        """The partitions that are ours; None: nobody said yet."""

    def restoring(self, layout: Layout) -> frozenset[int]:
        """Of these, those that are still fetched, or whose history is still filled in."""


class ObservationStore(ObservationReader, Protocol):
    """What the fold needs besides."""

    def runs(self, layout: Layout) -> Sequence[AnyRun]:
        """All that is held now."""

    def commit(
        self, batch: Sequence[Folded], *, beside: Mapping[bytes, bytes | None] | None = None
    ) -> None:
        """All of it durable and readable, or none, and so what others keep `beside` it.

        Observations before a new floor may go, after `floor_us` has told it.
        """

    def own(
        self, layout: Layout, partitions: Collection[int], *, restoring: Collection[int] = ()
    ) -> None:
        """Only these partitions are ours; the positions of others go, their observations may."""

    def ahead_by_partition(self, layout: Layout) -> Mapping[int, int]:
        """Next offset where all since some offset is held, and what was before is filled in.

        Nobody reads these partitions yet: they are restoring, and have no position.
        """

    def expect(self, stream: str, end_by_partition: Mapping[int, int]) -> None:
        """Every layout is to come as far as this before it counts as restored."""

    def follow(self, layout: Layout, topic_id: str) -> bool:
        """The positions are of the topic with this id from now on. Those of another one mean
        nothing there: whether all of the layout is forgotten for that.
        """

    def retire(self, layouts: Collection[Layout]) -> None:
        """Forget every other layout: it would be filled again."""

    def tend(self) -> None:
        """One bounded step of merging runs, if any are to be merged."""


class FoldFollower(Protocol):
    """Who tells others what a batch changed; called by the thread that folds, in this order."""

    def beside(self, batch: Sequence[Folded]) -> Mapping[bytes, bytes | None]:
        """Before the batch is stored: what must be stored with it; None takes a key away."""

    def stored(self) -> None:
        """The batch is durable and readable."""

    def send(self) -> None:
        """Deliver what is to be told; raises Unavailable, Busy: it is called again."""

    def idle(self) -> None:
        """There is no batch: store what waits for one."""


class Restorer(Protocol):
    """Fetches what there is elsewhere of partitions that came to us."""

    def restore(self, layout: Layout, partitions: Collection[int]) -> bool:
        """Whether it was fetched; if not, it is begun, and the answer comes with a later call.

        What was fetched is in the store then, with its positions; a partition without one is read
        from its beginning, one that is ahead from there.
        """

    def put_off(self, layout: Layout) -> bool:
        """After `restore` said no: whether it may be long, so that nobody else is to wait for it.

        Who takes part in placing is told to place all anew once it can be restored.
        """

    def tend(self) -> None:
        """Take in what has come meanwhile of partitions that are read already."""

    def forget(self, stream: str, partitions: Collection[int]) -> None:
        """They are another's now: should they come back, fetch again."""


class Snapshot(Protocol):
    """One version of a stream's archive."""

    @property
    def version(self) -> int:
        """Of the Delta table."""

    @property
    def observations(self) -> int:
        """How many records it holds."""

    @property
    def dataset(self) -> Any:
        """The records as data that a bench can scan."""

    def records(
        self, layout: Layout, known_until_us: int, *, share: Share | None = None
    ) -> Records:
        """What a view needs of the records that were known at that moment and that it counts.

        A column that the archive lacks is absent. Of a share, those whose entity falls to it.
        """

    def between(self, after_us: int, until_us: int) -> Snapshot:
        """The same version with what happened after one moment and up to another."""


def never_gone() -> bool:
    """Of a caller who waits as long as it takes."""
    return False


class Archive(Protocol):
    """Every accepted record of every stream.

    Each question raises Unavailable ARCHIVE_MISSING for a stream whose archive was there and is
    gone.
    """

    def snapshots(
        self,
        streams: Collection[str],
        known_until_us: int,
        *,
        published: bool = False,
        gone: Callable[[], bool] = never_gone,
    ) -> Mapping[str, Snapshot]:
        """By stream, a version that holds all that was known at the moment, or, of what is
        `published` by now, all. Waits for it within bounds: hold nothing meanwhile.

        Raises Unavailable RECORDS_BEHIND when one does not appear, STREAM_STALLED when the caller
        is gone, Busy QUEUE_FULL when too many wait.
        """

    def reaches(self, streams: Collection[str]) -> Mapping[str, StreamReach]:
        """By stream, how far the archive has come, without a wait."""

    def newest(self, streams: Collection[str]) -> Mapping[str, Snapshot]:
        """By stream, what is there now. Raises NotFound ARCHIVE_VERSION_UNKNOWN."""

    def at(self, version_by_stream: Mapping[str, int]) -> Mapping[str, Snapshot]:
        """By stream, this version. Raises NotFound ARCHIVE_VERSION_UNKNOWN."""


class Scratch(Protocol):
    """[rows, slots] float64 that wait on disk."""

    def read(self, first: int, rows: int) -> NDArray[np.float64]: ...

    def write(self, first: int, answers: NDArray[np.float64]) -> None: ...


class Bench(Protocol):
    """Room on disk and threads for one request."""

    @property
    def observations_max(self) -> int:
        """How many may be in memory at a time."""

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results in order; some are computed ahead of whoever takes them."""

    def given(self, columns: Mapping[str, Column], as_of_us: NDArray[np.int64]) -> Rows:
        """Rows that were asked for online."""

    def training_rows(
        self,
        recipe: Recipe,
        columns: Collection[str],
        snapshots: Mapping[str, Snapshot],
        known_until_us: int,
        *,
        weak: Collection[WeakColumns] = (),
    ) -> Rows:
        """The spine's records with their labels, in order of (as_of, event id).

        `weak`: where functions say what they voted for, in records of the label's stream.
        """

    def spine_tally(
        self,
        recipe: Recipe,
        snapshots: Mapping[str, Snapshot],
        known_until_us: int,
        *,
        weak: Collection[WeakColumns] = (),
    ) -> SpineTally:
        """What became of all of the spine's records."""

    def raw_offsets(
        self, snapshots: Mapping[str, Snapshot], known_until_us: int
    ) -> tuple[RawOffsets, ...]:
        """Where what was known then lay in the raw topics, by stream and partition."""

    def view_rows(
        self, layout: Layout, snapshot: Snapshot, since_us: int, until_us: int, *, rows_max: int
    ) -> Round:
        """The records of which a feature table has a row after one moment, in order of (as_of,
        event id): up to another moment, or fewer, but all of one moment and about `rows_max`."""

    def scratch(self, rows: int, width: int) -> Scratch:
        """Raises Busy BATCH_TOO_LARGE when there is no room."""


class FeatureTable(Protocol):
    """A view's offline feature table as it was when it was opened, for rows of one definition.

    Raises Unavailable OBJECT_STORE_UNAVAILABLE, Invalid BAD_DEFINITION where the table has a
    column with another type.
    """

    @property
    def version(self) -> int:
        """-1 where there is no table yet."""

    @property
    def until_us(self) -> int | None:
        """The moment up to which all rows are there; None: there are none of the definition."""

    def append(
        self,
        answered: Iterable[tuple[Batch, NDArray[np.float32]]],
        features: Sequence[str],
        rows: Rows,
        until_us: int,
    ) -> bool:
        """Add the rows, which then are all up to this moment, or, where another process has
        written since the table was opened, nothing: False. Readers see all of them or none."""


class FeatureTables(Protocol):
    """The offline feature tables, which this service alone writes."""

    def open(self, view: str, definition: str) -> FeatureTable:
        """As it is now."""
