# SPDX-License-Identifier: Apache-2.0
"""What the handlers need from outside: observations with their positions, and the archive."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace_feature.domain.gathering import Wanted
from headrace_feature.domain.observations import Run
from headrace_feature.domain.records import Records
from headrace_feature.domain.views import Layout


@dataclass(frozen=True, slots=True)
class Folded:
    """What one batch adds to one layout: a run, the next offset by partition, the new floor."""

    layout: Layout
    run: Run
    next_by_partition: Mapping[int, int]
    floor_us: int


class ObservationReader(Protocol):
    """Observations for reads, and how far each layout has read each partition of its stream."""

    def runs_of(self, layout: Layout, wanted: Wanted) -> Sequence[Run]:
        """What holds all there is of the entities; it stays as it is while a reader has it.

        Raises Unavailable RESTORING where it is elsewhere and cannot be had.
        """

    def next_by_partition(self, layout: Layout) -> Mapping[int, int]:
        """Next offset by partition; absent means that none was read."""

    def furthest_by_partition(self, stream: str) -> Mapping[int, int]:
        """The highest next offset that any layout of the stream ever had."""

    def floor_us(self, layout: Layout) -> int:
        """Event time before which observations may be gone."""

    def owned(self, layout: Layout) -> Collection[int] | None:
        """The partitions that are ours; None: nobody said yet."""

    def restoring(self, layout: Layout) -> frozenset[int]:
        """Of these, those that are still fetched."""


class ObservationStore(ObservationReader, Protocol):
    """What the fold needs besides."""

    def runs(self, layout: Layout) -> Sequence[Run]:
        """All that is held now."""

    def commit(self, batch: Sequence[Folded]) -> None:
        """All of it durable and readable, or none.

        Observations before a new floor may go, after `floor_us` has told it.
        """

    def own(
        self, layout: Layout, partitions: Collection[int], *, restoring: Collection[int] = ()
    ) -> None:
        """Only these partitions are ours; the positions of others go, their observations may."""

    def expect(self, stream: str, end_by_partition: Mapping[int, int]) -> None:
        """Every layout is to come as far as this before it counts as restored."""

    def retire(self, layouts: Collection[Layout]) -> None:
        """Forget every other layout: it would be filled again."""

    def tend(self) -> None:
        """One bounded step of merging runs, if any are to be merged."""


class Restorer(Protocol):
    """Fetches what snapshots hold of partitions that came to us."""

    def restore(self, layout: Layout, partitions: Collection[int]) -> bool:
        """Whether it was fetched; if not, it is begun, and the answer comes with a later call.

        What was fetched is in the store then, with its positions; a partition without one is in no
        snapshot.
        """

    def forget(self, stream: str, partitions: Collection[int]) -> None:
        """They are another's now: should they come back, fetch again."""


class Snapshot(Protocol):
    """One version of a stream's archive."""

    @property
    def version(self) -> int:
        """Of the Delta table."""

    def records(self, columns: Collection[str], known_until_us: int) -> Records:
        """The records known at that moment; a column that the archive lacks is absent."""


class Archive(Protocol):
    """Every accepted record of every stream."""

    def snapshots(self, streams: Collection[str], known_until_us: int) -> Mapping[str, Snapshot]:
        """By stream, a version that holds all that was known at the moment.

        Raises Unavailable RECORDS_BEHIND when one does not appear within a bounded wait.
        """
