# SPDX-License-Identifier: Apache-2.0
"""Datasets, and the rows of tables that they are made of."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from typing import Protocol

from headrace_ingest.domain.datasets import (
    Claim,
    ColumnStatistics,
    Description,
    Manifest,
    RowChanges,
    Selection,
    Tag,
)
from headrace_ingest.domain.erasures import Found
from headrace_ingest.domain.passages import Passage, Place
from headrace_ingest.ports.erasures import TellEvents
from headrace_kit.erased_entities import Entity


class Rows(Protocol):
    """Rows on their way out, once: an Arrow IPC stream in pieces of at most 1 MiB."""

    def __iter__(self) -> Iterator[bytes]: ...


class RowStore(Protocol):
    """Archived rows as they were. A method that works on rows takes a bounded memory.

    Raises Conflict VERSION_EXPIRED for a version that is gone, Invalid BAD_REQUEST for a filter or
    a column that the rows do not have, Busy QUEUE_FULL beyond the bound of such works at once,
    Unavailable OBJECT_STORE_UNAVAILABLE, and SERVICE_UNAVAILABLE when `timeout_s` is over.
    """

    def newest_version(self, stream: str, *, view: str = "") -> int:
        """Of the stream's table, or of the view's offline feature table.

        Raises NotFound STREAM_EMPTY or VIEW_EMPTY when there is none yet, Unavailable
        ARCHIVE_MISSING when that of a stream was taken away.
        """

    def reached_us(self, selection: Selection) -> int | None:
        """Of a view: up to which moment its definition's rows were there at the version."""

    def check(self, selection: Selection) -> None:
        """Whether its version can be opened and its filter be read."""

    def filled(self, selection: Selection, *, timeout_s: float) -> bool:
        """Whether it has a row."""

    def describe(
        self, selection: Selection, *, private: Collection[str], timeout_s: float
    ) -> Description:
        """Count, digest and statistics; of `private` columns no value is told."""

    def compare(self, base: Selection, other: Selection, *, timeout_s: float) -> RowChanges:
        """By event id; a row changed when a column that both have differs."""

    def count(
        self, selection: Selection, bins: Sequence[ColumnStatistics], *, timeout_s: float
    ) -> Mapping[str, Sequence[int]]:
        """The counts of the selection in these bins, of the columns that it has."""

    def read(self, selection: Selection, columns: Sequence[str], *, timeout_s: float) -> Rows:
        """The rows, in no order; no column named takes all."""

    def find(self, selection: Selection, entity: Entity, *, timeout_s: float) -> Found:
        """How many of the rows are the entity's, and since when; none without the column."""

    def copy(
        self, selection: Selection, copy: str, *, without: Entity | None = None, timeout_s: float
    ) -> None:
        """Store the rows in a table of their own, named `copy`, which nobody else writes."""

    def removed_since(self, selection: Selection, version: int) -> bool:
        """Whether rows left the stream's table after that version, or may have."""

    def passages(
        self,
        selection: Selection,
        column: str,
        since: int,
        after: Place | None,
        limit: int,
        *,
        timeout_s: float,
    ) -> tuple[list[Passage], Place | None]:
        """The first texts of the column behind a place, and the place of the last one.

        Rows that lie as they did at the version `since` are left out.
        """

    def retire(self, selection: Selection, first_day: date) -> int:
        """Take the days before this one out of the newest version; how many rows there were."""

    def clean(self, selection: Selection, keep: Collection[int], *, keep_h: int) -> None:
        """Remove files that were replaced before so many hours, but for versions to keep; and those
        that no version names, a day after they were written."""

    def erase(
        self,
        selection: Selection,
        entity: Entity,
        tell: TellEvents,
        *,
        keys: Collection[str] = (),
        timeout_s: float,
    ) -> int:
        """Take the entity's rows out of the newest version; how many there were.

        Of a stream or, when the selection has one, of its copy. No row goes before `tell` has
        returned with its event, and with the row's values in the columns `keys`.
        """

    def forget(self, selection: Selection, keep: Collection[int]) -> None:
        """Remove the files of older versions than the newest, but for those to keep."""

    def copies(self) -> set[str]:
        """Which tables of their own datasets have, or had."""

    def drop(self, copy: str) -> None:
        """Remove such a table, or of many files some: `copies` names it until all are gone."""


class UnendedFiles(Protocol):
    """Of a table that a killed writer began and did not end: not even the table's folder has them.

    Raises Unavailable OBJECT_STORE_UNAVAILABLE.
    """

    def forget_unended(self, folder: str) -> None:
        """Remove those below `folder` that were begun a day ago."""


class DatasetBook(Protocol):
    """The manifests and tags of datasets: each is written once, and one of racing writers wins.

    Raises Unavailable OBJECT_STORE_UNAVAILABLE.
    """

    def claimed(self, name: str, named: str) -> Claim | None:
        """What a request fixed under this name, if it came before."""

    def claim(self, name: str, named: str, claim: Claim) -> Claim:
        """Fix it; the answer is what the first of racing claims fixed, with its `above`."""

    def made_by(self, name: str, request_id: str, claim: Claim) -> Manifest | None:
        """The dataset that this request made."""

    def add(self, manifest: Manifest, claim: Claim) -> Manifest:
        """Store it under the next number; the answer is the first of the same request."""

    def get(self, name: str, number: int) -> Manifest:
        """Raises NotFound DATASET_UNKNOWN, Conflict DATASET_DELETED."""

    def newest_number(self, name: str) -> int:
        """The highest number that is not deleted; raises NotFound DATASET_UNKNOWN."""

    def places(self, name: str = "") -> list[tuple[str, int]]:
        """Name and number of what is not deleted, of one name or of all, newest first in each."""

    def places_of(self, stream: str) -> list[tuple[str, int]]:
        """Those of one stream, or of views of it."""

    def deleted(self) -> set[tuple[str, int]]:
        """Name and number of what is."""

    def delete(self, name: str, number: int) -> None:
        """Raises NotFound DATASET_UNKNOWN for what never was."""

    def tag(self, name: str, tag: str) -> Tag:
        """Raises NotFound DATASET_UNKNOWN."""

    def tags(self, name: str) -> list[Tag]:
        """As they stand now, sorted."""

    def written(self) -> Sequence[str]:
        """What was ever written, so that a change can be seen without reading it."""

    def revise(self, manifest: Manifest) -> bool:
        """Store what became of a dataset, as the revision after its own, and `forget_values`.

        False where another revised it meanwhile: then it is as that one says.
        """

    def forget_values(self, manifest: Manifest) -> None:
        """Let what is kept of the dataset from before tell no more of its columns than this."""

    def move(self, tag: Tag) -> Tag:
        """Raises Conflict TAG_MOVED unless its generation is the next one, or its own already."""
