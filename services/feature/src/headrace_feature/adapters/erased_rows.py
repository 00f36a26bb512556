# SPDX-License-Identifier: Apache-2.0
"""Takes erased entities out of what was written for others: rows on topics, and feature tables.

Everything is looked through at each start, and then for every entity that is told. Rows of an
entity are looked for once more when its events have left the runs: one that was made until then may
hold them. One that came later is of an entity that came back, and stays. What a start looks for
cannot tell when that was, and takes an hour. All of it goes by bounded steps, so that looking
through much is told from hanging, and a stop need not wait for its end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from headrace import topics
from headrace.errors import Unavailable
from headrace.ingest.v1.erasures_pb2 import EntityErased
from headrace_feature.adapters.delta_features import DeltaFeatureTables
from headrace_feature.adapters.row_teller import RowTeller
from headrace_feature.domain.log_place import LogPlace
from headrace_feature.domain.views import Catalogue
from headrace_feature.row_handlers import publishing_views
from headrace_kit.backoff import Backoff
from headrace_kit.clock import Clock
from headrace_kit.erased_entities import Entity, ErasedEntities, entity_sha256, read_erased
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Message, Partition, Publisher, Record
from headrace_kit.part_thread import LookingPart
from headrace_kit.telemetry import counter
from headrace_kit.topic_log import TopicLog, partitions_there

LOOK_INTERVAL_S = 1.0
# So long after it was told an entity's events may still be in runs, as far as a start can know.
EVENTS_STAY_S = 3_600
TOMBSTONES_MAX = 1_024  # sent at a time
RECORDS_MAX = 8_192  # looked at in one step

TAKEN = counter("feature", "erased_rows_total", "Rows of erased entities taken back.", "view")


@dataclass(frozen=True, slots=True)
class Told:
    """An erasure, where and when it was told by Kafka."""

    offset: int
    time_ms: int
    entity: Entity

    @property
    def rows_until(self) -> RowsUntil:
        return RowsUntil(self.entity, self.time_ms + EVENTS_STAY_S * 1_000)


@dataclass(frozen=True, slots=True)
class RowsUntil:
    """Which rows are to go: of a later one the entity's events are no part."""

    entity: Entity
    moment_ms: int


class ToldErasures:
    """What `ingest.erasures` says: its follower's thread tells, another one asks.

    `log_id`: of the topic that is followed.
    """

    def __init__(self, erased: ErasedEntities, log_id: Callable[[], str]) -> None:
        self._erased, self._log_id, self._lock = erased, log_id, threading.Lock()
        self._newest: dict[str, Told] = {}  # by entity
        self._known = 0

    def take(self, record: Record) -> None:
        """Raises Invalid DECODE_ERROR; the follower skips the record, and so do we."""
        with self._lock:
            try:
                _, entity = read_erased(record.value, EntityErased.FromString)
                self._erased.take(entity)
                self._newest[entity.sha256] = Told(record.offset, record.timestamp_ms, entity)
            finally:  # others see it without the lock, and then the entity is known
                self._known = record.offset + 1

    @property
    def known(self) -> LogPlace:
        """Up to which the log was read."""
        return LogPlace(self._known, self._log_id())

    def all(self) -> tuple[list[Told], LogPlace]:
        """In their order, and the place in the log that they stand before."""
        with self._lock:
            return sorted(self._newest.values(), key=lambda each: each.offset), self.known


class ErasedRows(LookingPart):
    """A Part."""

    def __init__(
        self, *, told: ToldErasures, tables: DeltaFeatureTables, topics: RowTopics, clock: Clock
    ) -> None:
        super().__init__("erased-rows", interval_s=LOOK_INTERVAL_S, waits="erased_rows_wait")
        self._told, self._tables, self._topics, self._clock = told, tables, topics, clock
        # Places in the log, up to which all is out of the topics, and asked of the tables. When the
        # log is made again its follower ends, and this with it.
        self._out_of_topics = self._asked_of_tables = 0
        self._tables_retry = Backoff()
        self._owed_lock = threading.Lock()
        self._owed: frozenset[RowsUntil] = frozenset()

    def start(self) -> None:
        self._tables.know(self._told.known)
        super().start()

    def events_are_out(self, entities: Collection[Entity]) -> None:
        """By the thread that sends rows: the events of these have just left the runs."""
        now_ms = self._clock.now_us() // 1_000
        with self._owed_lock:
            self._owed |= {RowsUntil(each, now_ms) for each in entities}

    def look(self) -> None:
        """Take out what was told since the last look; less when it is to stop.

        Raises Unavailable, once all that can be taken out is.
        """
        for _ in self._steps():
            self._thread.tick()
            if self._stopping.is_set():
                return

    def _steps(self) -> Iterator[None]:
        known = self._told.known
        self._tables.know(known)
        if not self._due(known):
            return
        told, known = self._told.all()
        self._tables.know(known)
        failures = []
        for steps in (self._clear_topics(told, known), self._clear_tables(told, known)):
            try:
                yield from steps
            except Unavailable as err:
                failures.append(err)
        if failures:
            raise failures[0]

    def _due(self, known: LogPlace) -> bool:
        """Whether something is new, or to be tried again."""
        done = self._out_of_topics == self._asked_of_tables == known.offset
        return not done or bool(self._owed) or self._retries_tables()

    def _retries_tables(self) -> bool:
        return self._tables_retry.tries > 0 and not self._tables_retry.left_s()

    def _clear_topics(self, told: Sequence[Told], known: LogPlace) -> Iterator[None]:
        owed = self._owed
        new = [each.rows_until for each in told if each.offset >= self._out_of_topics]
        yield from self._topics.erase([*new, *owed])
        with self._owed_lock:
            self._owed -= owed
        self._out_of_topics = known.offset

    def _clear_tables(self, told: Sequence[Told], known: LogPlace) -> Iterator[None]:
        """A table that fails is tried again later and later, and at once with the next erasure."""
        if self._asked_of_tables == known.offset and not self._retries_tables():
            return
        self._asked_of_tables = known.offset
        try:
            yield from self._tables.erase([(each.offset, each.entity) for each in told], known)
        except Unavailable:
            self._tables_retry.failed()
            raise
        self._tables_retry.succeeded()


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

    def erase(self, rows: Sequence[RowsUntil]) -> Iterator[None]:
        """By steps; raises Unavailable."""
        if not rows:
            return
        self._teller.finish_sending()
        for view in publishing_views(self._catalogue()):
            column = view.entity[0]
            until_ms = _until_ms(each for each in rows if each.entity.column == column)
            if until_ms:
                yield from self._erase(view.name, column, until_ms)

    def _erase(self, view: str, column: str, until_ms: Mapping[str, int]) -> Iterator[None]:
        topic = topics.FEATURE_ROWS.of(view)
        for partition in partitions_there(self._log, topic):
            keys = yield from self._found(partition, column, until_ms)
            for first in range(0, len(keys), TOMBSTONES_MAX):
                some = keys[first : first + TOMBSTONES_MAX]
                self._publisher.publish([Message(topic, key, None) for key in some])
                TAKEN.labels(view).inc(len(some))
                failpoint("feature.erase.rows_told")
                yield
            yield

    def _found(
        self, partition: Partition, column: str, until_ms: Mapping[str, int]
    ) -> Generator[None, None, list[bytes]]:
        """The keys of rows that are there, speak of one of these, and are not of later."""
        there = dict[bytes, bool]()
        for number, record in enumerate(self._log.read(partition), 1):
            if number % RECORDS_MAX == 0:
                yield
            key = record.key or b""
            until = until_ms.get(entity_sha256(column, key.decode(errors="replace")))
            if until is not None:
                there[key] = record.value is not None and record.timestamp_ms <= until
        return [key for key, held in there.items() if held]


def _until_ms(rows: Iterable[RowsUntil]) -> dict[str, int]:
    """By entity, the latest."""
    latest: dict[str, int] = {}
    for each in rows:
        sha256 = each.entity.sha256
        latest[sha256] = max(each.moment_ms, latest.get(sha256, each.moment_ms))
    return latest
