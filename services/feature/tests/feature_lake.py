"""Ingest's hand on a Delta table and on the ends of the topics, as a backfill sees them."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from feature_world import START, Event

from headrace.errors import Unavailable
from headrace_feature.adapters.delta_archive import DeltaArchive
from headrace_feature.adapters.kafka_topics import RawTopic
from headrace_feature.domain.key_partitions import key_partitions
from headrace_feature.domain.observations import Ids
from headrace_kit.testing import FixedClock

TYPES = {
    "ride_id": pa.string(),
    "zone": pa.string(),
    "kind": pa.int64(),
    "riders": pa.int64(),
    "fare": pa.float64(),
    "driver": pa.string(),
    "at": pa.int64(),
    "known_at": pa.int64(),
}
STREAM, PARTITIONS = "rides", 2


def partition_of(event: Event) -> int:
    """Of its key, which is its id."""
    return int(key_partitions(Ids.of([event.id.encode()]), PARTITIONS)[0])


class Lake:
    """One raw partition, whose record n is the n-th event that was published."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.table = folder, folder / "records" / STREAM
        self.published: list[Event] = []
        self.archived, self.raw_topic_there = 0, True
        self.topic_id = "topic"
        self.clock = FixedClock(START)
        self.was_archived = False
        self.archive = DeltaArchive(
            folder.as_uri(),
            {},
            raw_topic=self.raw_topic,
            was_archived=lambda _: self.was_archived,
            clock=self.clock,
        )

    def publish(self, events: Sequence[Event]) -> None:
        self.published += events

    def raw_topic(self, _: str) -> RawTopic:
        if not self.raw_topic_there:
            raise Unavailable("TOPIC_MISSING", topic="raw")
        return RawTopic(self.topic_id, {0: len(self.published), 1: 0})

    def log(self, partition: int) -> list[Event]:
        return [event for event in self.published if partition_of(event) == partition]

    def ends(self, _: str) -> dict[int, int]:
        return {number: len(self.log(number)) for number in range(PARTITIONS)}

    def store(self, count: int | None = None) -> None:
        """Archive so many more, or all that was published."""
        until = len(self.published) if count is None else self.archived + count
        events = self.published[self.archived : until]
        self.archived = until
        values = [event.value() for event in events]
        columns = {name: pa.array([v[name] for v in values], kind) for name, kind in TYPES.items()}
        days = [datetime.fromtimestamp(event.at / 1e6, UTC).date() for event in events]
        columns |= {
            "_event_id": pa.array([event.id for event in events], pa.string()),
            "_event_time_us": pa.array([event.at for event in events], pa.int64()),
            "_known_time_us": pa.array([event.known for event in events], pa.int64()),
            "_key": pa.array([event.id for event in events], pa.string()),
            "_event_date": pa.array(days, pa.date32()),
        }
        known = max((event.known for event in self.published[:until]), default=0)
        counters = {"offset": until, "known_time": known, "accounted_at": self.clock.now_us()}
        write_deltalake(
            self.table,
            pa.table(columns),
            mode="append",
            partition_by=["_event_date"],
            commit_properties=CommitProperties(
                app_transactions=[
                    Transaction(f"ingest|{self.topic_id}|0|{name}", value)
                    for name, value in counters.items()
                ]
            ),
        )

    def begin_anew(self) -> None:
        """Without the table, of a raw topic that was made again with all its records."""
        shutil.rmtree(self.table)
        self.archived, self.topic_id = 0, "again"

    def compact_and_vacuum(self) -> None:
        """The files of all versions but the newest go."""
        table = DeltaTable(self.table)
        table.optimize.compact()
        table.vacuum(0, dry_run=False, enforce_retention_duration=False)
