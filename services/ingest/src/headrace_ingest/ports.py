# SPDX-License-Identifier: Apache-2.0
"""What the handlers need from the world."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import polars as pl

from headrace.feature_view import View
from headrace.label_definition import LabelDefinition
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.catalogue import Entry
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.datasets import (
    Claim,
    ColumnStatistics,
    Description,
    Manifest,
    RowChanges,
    Selection,
    Tag,
)
from headrace_ingest.domain.dedup import Seen
from headrace_ingest.domain.erasures import ErasedEvents, Erasure, Found
from headrace_ingest.domain.label_tasks import Item, Settled, Task, TaskState
from headrace_ingest.domain.passages import Indexed, Match, Passage, Place, Vectors
from headrace_ingest.domain.quality import StreamQuality
from headrace_ingest.domain.trained_versions import Training
from headrace_kit.erased_entities import Entity
from headrace_kit.kafka import Message

TellEvents = Callable[[ErasedEvents], None]


class Overtaken(Exception):
    """Another process has written on for a partition that this one held: end, and start again."""


@dataclass(frozen=True, slots=True)
class RawTopic:
    """A raw topic as Kafka has it; a topic that was made again has another id."""

    topic_id: str
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """What the archive knows of a raw partition; `seen` from old to new."""

    account: Account
    seen: Sequence[Seen]


class ContractBook(Protocol):
    """The contracts that are applied now."""

    def get(self, stream: str) -> Contract:
        """Raises NotFound STREAM_UNKNOWN."""

    def names(self) -> list[str]:
        """The streams, sorted."""

    def all(self) -> list[Contract]:
        """By the names of their streams, as of one moment: each may be taken back meanwhile."""

    def view(self, name: str) -> tuple[View, int]:
        """The view and its version; raises NotFound VIEW_UNKNOWN."""

    def views(self) -> list[tuple[View, int]]:
        """The views and their versions, by name."""

    def models(self) -> list[str]:
        """The models that recipes and graphs train, sorted."""


@dataclass(frozen=True, slots=True)
class Retracted:
    """What was taken back and is not applied now, as it was last.

    `entity_columns`: what endpoints called the entities that predictions are about.
    """

    contracts: Sequence[Contract] = ()
    views: Sequence[View] = ()
    models: Sequence[str] = ()
    labels: Sequence[LabelDefinition] = ()
    entity_columns: Collection[str] = ()


class RetractedDefinitions(Protocol):
    """What was taken back; the topic of the applied ones holds nothing of it."""

    def look_up(self) -> Retracted:
        """Raises Unavailable SERVICE_UNAVAILABLE."""


class LabelBook(Protocol):
    """The label definitions that are applied now."""

    def get(self, label: str) -> LabelDefinition:
        """Raises NotFound LABEL_UNKNOWN."""

    def all(self) -> list[LabelDefinition]:
        """In any order."""

    def entity_columns(self) -> Collection[str]:
        """Columns that name what predictions or labels of entities are about."""


class RecordRows(Protocol):
    """Archived records, as they are stored now."""

    def of_keys(
        self, contract: Contract, columns: Sequence[str], *, key: str, keys: Sequence[str]
    ) -> pl.DataFrame:
        """These columns of the records whose column `key`, as text, is one of `keys`.

        Raises Unavailable OBJECT_STORE_UNAVAILABLE.
        """

    def between(
        self,
        contract: Contract,
        *,
        from_us: int,
        until_us: int,
        rows_max: int,
        having: Mapping[str, str] = {},
    ) -> pl.DataFrame:
        """`_event_id`, `_event_time_us`, `_known_time_us` and the contract's columns, by event time
        in [from, until); of those `having` these texts.

        Raises Unavailable OBJECT_STORE_UNAVAILABLE.
        """


class TaskStore(Protocol):
    """Predictions that people label. Every method raises Unavailable DATABASE_UNAVAILABLE."""

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        """Positions are about the topics with these ids; those of another one are forgotten."""

    def positions(self) -> Mapping[tuple[str, int], int]:
        """The next offset by topic and partition, as `add` stored it."""

    def add(
        self,
        tasks: Sequence[tuple[Task, Item]],
        open_max: Mapping[str, int],
        positions: Mapping[tuple[str, int], int],
    ) -> int:
        """Store new tasks with their items, by label at most so many open ones, and the positions,
        in one.

        A position never goes back in one topic. Returns how many tasks were new.
        """

    def listed(
        self, label: str, state: TaskState, *, after: tuple[int, str], tasks_max: int
    ) -> Sequence[tuple[int, Task]]:
        """Oldest first, each with its time; those after this time and id."""

    def claim(self, label: str, labeller: str, *, lease_s: int) -> Task | None:
        """Hold the oldest open task that the labeller has not answered, for this long.

        Never more places are held and answered together than the task wants answers.
        """

    def get(self, task_id: str) -> Task:
        """Raises NotFound TASK_UNKNOWN."""

    def submit(
        self,
        task_id: str,
        labeller: str,
        choice: str,
        settle: Callable[[Sequence[str], int], Settled],
        message: Callable[[Task], Message],
        *,
        claimed: bool,
    ) -> tuple[Task, bool]:
        """Store the answer and what `settle` makes of all; an accepted task's message, in one.

        The task, and whether the answer is new: the same one again changes nothing. Raises
        NotFound TASK_UNKNOWN, Conflict TASK_ANSWERED or TASK_SETTLED, and LEASE_LOST when it is
        `claimed` and the lease is over, or was given back; else it counts in place of a skip.
        """

    def skip(self, task_id: str, labeller: str) -> None:
        """Give the task back; this labeller does not get it again. Once more changes nothing.

        Raises NotFound TASK_UNKNOWN, Conflict LEASE_LOST, also for one that the labeller has
        answered.
        """

    def answers_of(self, task_ids: Collection[str]) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Labellers and their choices, by task."""

    def items_of(self, task_ids: Collection[str]) -> Mapping[str, Item]:
        """What the tasks are about, by task, as far as it is kept."""

    def answers(self, label: str) -> Sequence[Sequence[str]]:
        """The answers to each of the newest 10,000 tasks."""

    def counts(self, label: str) -> Mapping[TaskState, int]:
        """Tasks by state."""

    def targets(self, label: str, *, after: str, targets_max: int) -> list[str]:
        """The first targets behind this one, in order, each once."""

    def erase(self, label: str, targets: Collection[str], *, until_us: int) -> int:
        """Forget the tasks of these targets as of that moment or earlier; how many there were."""

    def note_erased(self, entities: Collection[str], *, until_us: int) -> None:
        """From now on no item is kept of predictions about these, as of that moment or earlier.

        They are named as items name theirs, and remembered for as long as a task.
        """

    def erase_items(self, *, until_us: int) -> None:
        """Forget the items of predictions about those that are noted up to this moment."""


class TopicCatalogue(Protocol):
    """What Kafka says about topics."""

    def raw_topic(self, stream: str, *, alone: bool = False) -> RawTopic:
        """Raises Unavailable TOPIC_MISSING, also for that of its records unless the raw one is
        asked for alone, or BROKER_UNAVAILABLE.
        """


class QualityLog(Protocol):
    """Where the quality of a stream is told."""

    def tell(self, quality: StreamQuality) -> None:
        """Raises Unavailable: tell it again."""


class Archive(Protocol):
    """Accepted records and the accounts of the raw partitions that they came from.

    Every method raises Unavailable OBJECT_STORE_UNAVAILABLE when the outcome is not known.
    """

    def open(
        self,
        contract: Contract,
        topic_id: str,
        partitions: Collection[int],
        *,
        ids_max: int,
    ) -> Mapping[int, Restored]:
        """Read these partitions, and take the right to append to them from now on.

        `seen`: the rows stored last, `ids_max` by partition or all that there are.
        Raises Invalid BAD_DEFINITION when a column is archived with another type, Unavailable
        ARCHIVE_MISSING when there is no table of a stream that was read before.
        """

    def append(
        self,
        contract: Contract,
        rows: pl.DataFrame,
        before: Mapping[int, Account],
        after: Mapping[int, Account],
    ) -> None:
        """Store rows and accounts, both or neither; asked again after a doubt, it stores once.

        `before` and `after` hold all partitions in work, changed or not. Raises Overtaken unless
        the archive's accounts are `before` (or `after`: done), Unavailable ARCHIVE_MISSING, with
        nothing written, when the table was taken away since.
        """

    def accounts(self, stream: str, topic: RawTopic) -> Mapping[int, Account]:
        """What is stored now, by partition, whoever stored it.

        Raises Unavailable ARCHIVE_MISSING as `open` does.
        """


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
        """Store the rows in a table of their own, named `copy`; again replaces it."""

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

    def revise(self, manifest: Manifest) -> None:
        """Store what became of a dataset, as the revision after its own, and `forget_values`."""

    def forget_values(self, manifest: Manifest) -> None:
        """Let what is kept of the dataset from before tell no more of its columns than this."""

    def move(self, tag: Tag) -> Tag:
        """Raises Conflict TAG_MOVED unless its generation is the next one, or its own already."""


class ErasureBook(Protocol):
    """What was erased; each entry is written when it began, when its rows were out, and when
    nothing more can come.

    Raises Unavailable OBJECT_STORE_UNAVAILABLE.
    """

    def get(self, erasure_id: str) -> Erasure | None:
        """As it stands now; raises Corrupt ERASURE_UNREADABLE."""

    def begin(self, erasure: Erasure) -> Erasure:
        """Note it; the answer is the first that was noted under its id."""

    def note_clean(self, erasure_id: str, version_by_stream: Mapping[str, int]) -> None:
        """From these versions of their tables on, streams are without it; the first note counts."""

    def settle(self, erasure_id: str) -> None:
        """Nothing more can come; noted twice is noted."""

    def ids(self) -> list[str]:
        """All of them, sorted."""

    def unsettled(self) -> list[str]:
        """Those that are not settled, sorted."""


class ErasureNews(Protocol):
    """Tells everybody who keeps something of an entity."""

    def tell(self, erasure: Erasure) -> None:
        """Which entity it is. Returns when it cannot be lost; told twice is told.

        Raises Unavailable BROKER_UNAVAILABLE or DELIVERY_UNKNOWN.
        """

    def tell_events(self, events: ErasedEvents) -> None:
        """Which events go with it, the same way; who keeps events need not keep all columns."""


class PublishedRows(Protocol):
    """The newest feature row of each entity, of views that publish them."""

    def count(self, view: str, entity: Entity, *, timeout_s: float) -> int:
        """The entity's. Raises Unavailable BROKER_UNAVAILABLE, or SERVICE_UNAVAILABLE in time."""


class ModelVersions(Protocol):
    """What the registry says about models."""

    def features_of(self, model: str, version: int) -> Sequence[str]:
        """The names of what the version takes, in order; none of one that takes other tensors.

        Raises NotFound VERSION_UNKNOWN, Unavailable SERVICE_UNAVAILABLE.
        """

    def trainings(self, models: Collection[str], after: Mapping[str, int]) -> Iterator[Training]:
        """Of the versions of these models; of one that `after` names, those above that number.

        Raises Unavailable SERVICE_UNAVAILABLE.
        """


class CatalogueIndex(Protocol):
    """Entries by their words; it is filled from elsewhere and may be lost.

    Raises Unavailable DATABASE_UNAVAILABLE.
    """

    def replace(self, entries: Sequence[Entry]) -> None:
        """From now on it holds these and no other one."""

    def search(
        self, words: Sequence[str], kinds: Sequence[str], *, offset: int, limit: int
    ) -> list[Entry]:
        """The entries in which each of the words begins a word; the best match first."""


class Embedder(Protocol):
    """Turns texts into vectors; the same text gives the same vector, whenever and wherever."""

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """[texts, dimensions] float32, each of length 1, or zero for a text without content."""


class TextIndex(Protocol):
    """Passages of text columns by their vectors; it may be lost, and is built again.

    Raises Unavailable DATABASE_UNAVAILABLE.
    """

    def indexed(self, stream: str, column: str) -> Indexed:
        """How far it is."""

    def absent(self, stream: str, column: str, passages: Sequence[Passage]) -> list[Passage]:
        """Those of an event that it does not hold."""

    def add(
        self,
        stream: str,
        column: str,
        passages: Sequence[Passage],
        vectors: Vectors,
        indexed: Indexed,
    ) -> None:
        """Each event once; nothing when it was dropped since it stood at `indexed`."""

    def settle(self, stream: str, column: str, indexed: Indexed, version: int) -> None:
        """It holds all of this version, unless it was dropped since it stood at `indexed`."""

    def drop(self, stream: str, column: str) -> None:
        """From now on it holds nothing."""

    def catch_up(self, stream: str, column: str, timeout_s: float) -> bool:
        """Make what is held findable in this process; whether the time was enough for all of it."""

    def nearest(self, stream: str, column: str, vector: Vectors, limit: int) -> list[Match]:
        """The passages of greatest cosine, nearly all of them right; see the test of recall.

        Of those that are findable, see `catch_up`.
        """
