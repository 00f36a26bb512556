# SPDX-License-Identifier: Apache-2.0
"""Takes erased entities out of what was written for others: rows on topics, and feature tables.

`ingest.erasures` is read as a log. Everything is looked through at each start, and then for every
entity that is told: so nothing need be noted here, whatever crash comes between. Rows of an entity
are looked for once more when its events have left the runs: one that was made meanwhile may hold
them. All of it goes by bounded steps, so that looking through much is told from hanging, and a stop
need not wait for its end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass

import structlog

from headrace import topics
from headrace.errors import Invalid, Unavailable
from headrace_feature.adapters.delta_features import DeltaFeatureTables
from headrace_feature.adapters.erased_events_reader import to_entity
from headrace_feature.adapters.row_teller import RowTeller
from headrace_feature.domain.views import Catalogue
from headrace_feature.row_handlers import publishing_views
from headrace_kit.backoff import Backoff
from headrace_kit.erased_entities import Entity, ErasedEntities, entity_sha256
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Message, Partition, Publisher
from headrace_kit.part_thread import LookingPart
from headrace_kit.telemetry import counter
from headrace_kit.topic_log import TopicLog

LOOK_INTERVAL_S = 1.0
# So long after it was told here an entity's events may still be in runs.
AGAIN_S = 3_600.0
TOMBSTONES_MAX = 1_024  # sent at a time
RECORDS_MAX = 8_192  # looked at in one step

TAKEN = counter("feature", "erased_rows_total", "Rows of erased entities taken back.", "view")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """An erasure, where it stands in the log, and when it was read here."""

    offset: int
    entity: Entity
    read_s: float


class ErasedRows(LookingPart):
    """A Part. `end`: of the log of erasures, now."""

    def __init__(
        self,
        *,
        log: TopicLog,
        partition: Partition,
        end: Callable[[], int],
        erased: ErasedEntities,
        tables: DeltaFeatureTables,
        topics: RowTopics,
    ) -> None:
        super().__init__("erased-rows", interval_s=LOOK_INTERVAL_S, waits="erased_rows_wait")
        self._log, self._partition, self._end = log, partition, end
        self._erased, self._tables, self._topics = erased, tables, topics
        self._told: dict[str, Told] = {}  # the newest by entity
        # Places in the log, up to which all is known here, out of the topics, asked of the tables.
        self._known = self._out_of_topics = self._asked_of_tables = 0
        self._tables_retry = Backoff()
        self._events_out = threading.Event()

    def events_are_out(self) -> None:
        """By any thread: some events have left the runs."""
        self._events_out.set()

    def look(self) -> None:
        """Take out what was told since the last look; less when it is to stop.

        Raises Unavailable, once all that can be taken out is.
        """
        for _ in self._steps():
            self._thread.tick()
            if self._stopping.is_set():
                return

    def _steps(self) -> Iterator[None]:
        yield from self._read_on()
        self._tables.know(self._known)
        failures = []
        for steps in (self._clear_topics(), self._clear_tables()):
            try:
                yield from steps
            except Unavailable as err:
                failures.append(err)
        if failures:
            raise failures[0]

    def _clear_topics(self) -> Iterator[None]:
        again = self._events_out.is_set()
        self._events_out.clear()
        try:
            yield from self._topics.erase(self._looked_for(again=again))
        except Unavailable:
            self._events_out.set()
            raise
        self._out_of_topics = self._known

    def _clear_tables(self) -> Iterator[None]:
        """A table that fails is tried again later and later, and at once with the next erasure."""
        retried = self._tables_retry.tries > 0 and not self._tables_retry.left_s()
        if self._asked_of_tables == self._known and not retried:
            return
        self._asked_of_tables = self._known
        told = [(each.offset, each.entity) for each in self._by_offset()]
        try:
            yield from self._tables.erase(told, self._known)
        except Unavailable:
            self._tables_retry.failed()
            raise
        self._tables_retry.succeeded()

    def _by_offset(self) -> list[Told]:
        return sorted(self._told.values(), key=lambda each: each.offset)

    def _looked_for(self, *, again: bool) -> list[Entity]:
        """Those that are new, and again those of late."""
        since_s = time.monotonic() - AGAIN_S
        told = self._told.values()
        return [
            each.entity
            for each in told
            if each.offset >= self._out_of_topics or (again and each.read_s > since_s)
        ]

    def _read_on(self) -> Iterator[None]:
        end = self._end()
        records = self._log.read(self._partition, self._known) if end > self._known else ()
        for number, record in enumerate(records, 1):
            if number % RECORDS_MAX == 0:
                yield
            try:
                entity = to_entity(record)
            except Invalid as err:
                log.error("record_skipped", offset=record.offset, error=str(err))
                continue
            self._erased.take(entity)
            self._told[entity.sha256] = Told(record.offset, entity, time.monotonic())
        self._known = max(self._known, end)


class RowTopics:
    """`feature.rows.<view>` of every view that publishes now: a record without value ends a row."""

    def __init__(
        self,
        *,
        catalogue: Callable[[], Catalogue],
        log: TopicLog,
        teller: RowTeller,
        publisher: Publisher,
    ) -> None:
        self._catalogue, self._log = catalogue, log
        self._teller, self._publisher = teller, publisher

    def erase(self, entities: Collection[Entity]) -> Iterator[None]:
        """By steps; raises Unavailable."""
        if not entities:
            return
        self._teller.finish_sending()
        for view in publishing_views(self._catalogue()):
            named = {each.sha256 for each in entities if each.column == view.entity[0]}
            if named:
                yield from self._erase(view.name, view.entity[0], named)

    def _erase(self, view: str, column: str, named: Collection[str]) -> Iterator[None]:
        topic = topics.FEATURE_ROWS.of(view)
        for partition in self._partitions(topic):
            keys = yield from self._found(partition, column, named)
            for first in range(0, len(keys), TOMBSTONES_MAX):
                some = keys[first : first + TOMBSTONES_MAX]
                self._publisher.publish([Message(topic, key, None) for key in some])
                TAKEN.labels(view).inc(len(some))
                failpoint("feature.erase.rows_told")
                yield
            yield

    def _partitions(self, topic: str) -> list[Partition]:
        try:
            return [Partition(topic, number) for number in self._log.partitions(topic)]
        except Unavailable as err:
            if err.reason != "TOPIC_MISSING":
                raise
            return []

    def _found(
        self, partition: Partition, column: str, named: Collection[str]
    ) -> Generator[None, None, list[bytes]]:
        """The keys of rows that are there and speak of one of these."""
        there = dict[bytes, bool]()
        for number, record in enumerate(self._log.read(partition), 1):
            if number % RECORDS_MAX == 0:
                yield
            key = record.key or b""
            if entity_sha256(column, key.decode(errors="replace")) in named:
                there[key] = record.value is not None
        return [key for key, held in there.items() if held]
