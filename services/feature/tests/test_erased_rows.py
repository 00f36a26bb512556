# SPDX-License-Identifier: Apache-2.0
"""Rows of an erased entity leave the topics and the feature tables, whatever breaks on the way."""

from contextlib import suppress
from dataclasses import replace
from itertools import count

import pytest
from deltalake import CommitProperties, DeltaTable, Transaction
from feature_world import DAY, HOUR, START, Event, World, a_catalogue, a_view
from prometheus_client import REGISTRY
from test_materialized_views import Lake

from headrace import topics
from headrace.errors import Invalid, Unavailable
from headrace.ingest.v1.erasures_pb2 import EntityErased
from headrace_feature.adapters import delta_erasure, delta_features, erased_rows
from headrace_feature.adapters.delta_features import DeltaFeatureTables
from headrace_feature.adapters.erased_rows import ErasedRows, RowTopics, ToldErasures
from headrace_feature.domain.log_place import LogPlace
from headrace_kit.erased_entities import Entity, ErasedEntities, entity_sha256
from headrace_kit.failpoints import FailpointRaised, arm
from headrace_kit.kafka import Message, Partition
from headrace_kit.testing import FixedClock, MemoryPublisher, MemoryTopicLog, wait_until

ERASURES = topics.INGEST_ERASURES.name
PUBLISHED = a_view({"count": {"aggregate": "count", "window": "1h"}}, publish_rows=True)
TOPIC = topics.FEATURE_ROWS.of("zone")
ROUND_TIME = START + DAY


class LogOfParts(MemoryTopicLog):
    """Has as many partitions as it is told, of the same records; calls `read_on` for each record
    that is read. From `late_from` on they came a day later."""

    parts, late_from = 1, 1_000

    def __init__(self, publisher):
        super().__init__(publisher)
        self.offsets, self.read_on = [], lambda: None

    def partitions(self, topic):
        return list(range(self.parts))

    def read(self, partition, begin=0, *, since_ms=0):
        for record in super().read(partition, begin, since_ms=since_ms):
            self.offsets.append(record.offset)
            self.read_on()
            late = record.offset >= self.late_from
            yield replace(record, timestamp_ms=record.timestamp_ms + late * DAY // 1_000)


class Erasures:
    """`ingest.erasures`, and a worker that takes out what is told there."""

    def __init__(self, folder, catalogue=None):
        self.told, self.lake = MemoryPublisher(), Lake(folder)
        self.world = World(catalogue=catalogue or a_catalogue(PUBLISHED))
        self.restart()

    def restart(self):
        self.world.restart()
        self.lake.restart()
        self.lake.erased = self.world.erased
        self.lake.tables = self.lake.tables_of(self.world.erased, self.lake.log_id)
        followed = self.lake.log_id
        self.row_log = LogOfParts(self.world.publisher)
        self.table = ToldErasures(self.world.erased, lambda: followed)
        self.clock = FixedClock(START)
        self.followed = 0
        self.worker = ErasedRows(
            told=self.table,
            tables=self.lake.tables,
            topics=RowTopics(
                catalogue=lambda: self.world.catalogue,
                log=self.row_log,
                teller=self.world.rows,
                publisher=self.world.publisher,
            ),
            clock=self.clock,
        )

    def tell(self, value, column="zone", at_us=ROUND_TIME):
        sha256 = entity_sha256(column, value)
        event = EntityErased(column=column, entity_sha256=sha256, erased_at_us=at_us)
        self.told.publish([Message(ERASURES, sha256.encode(), event.SerializeToString())])

    def look(self):
        """Once all that was told is followed."""
        log = MemoryTopicLog(self.told)
        for record in log.read(Partition(ERASURES, 0), self.followed):
            with suppress(Invalid):
                self.table.take(record)
            self.followed = record.offset + 1
        self.worker.look()

    def make_log_again(self, log_id):
        """Under its old name, and empty."""
        self.told, self.lake.log_id = MemoryPublisher(), log_id

    def events_are_out(self, value, at_us, column="zone"):
        """This long after the first row."""
        self.clock.advance(at_us)
        entity = Entity(column, entity_sha256(column, value), ROUND_TIME)
        self.worker.events_are_out([entity])

    def erase(self, value, **more):
        self.tell(value, **more)
        self.look()

    def fails_again(self):
        try:
            self.look()
        except Unavailable:
            return True
        return False

    def rows(self):
        """By key, whether the newest record of it holds a row."""
        sent = [each for each in self.world.publisher.published if each.topic == TOPIC]
        return {each.key: each.value is not None for each in sent}

    def zones(self):
        return {row["zone"] for row in self.lake.rows().values()}


@pytest.fixture
def erasures(tmp_path):
    yield Erasures(tmp_path)
    arm(None)


def a_ride(name, at, zone):
    return Event(name, at, at, zone=zone)


def rides(count=6):
    return [a_ride(f"ride-{n}", START + n * HOUR // 4, "ab"[n % 2]) for n in range(count)]


def test_row_of_an_erased_entity_is_ended_and_others_stay(erasures):
    erasures.world.fold(*rides())
    erasures.erase("a")

    assert {b"a": False, b"b": True} == erasures.rows()


def test_row_that_waits_to_be_sent_is_not_sent(erasures):
    erasures.world.publisher.errors.append(Unavailable("DELIVERY_UNKNOWN", topic=TOPIC))
    with pytest.raises(Unavailable):
        erasures.world.fold(*rides())
    erasures.erase("a")
    erasures.world.loop_handler.idle()

    assert {b"b": True} == erasures.rows()
    assert [] == list(erasures.world.state_store.scan(b"r", b"s"))


def test_entity_that_comes_back_has_rows_again_that_other_erasures_leave_alone(erasures):
    erasures.world.fold(*rides())
    erasures.erase("a")
    erasures.world.fold(a_ride("back", ROUND_TIME + HOUR, "a"))
    erasures.erase("c")

    assert {b"a": True, b"b": True} == erasures.rows()


def test_start_writes_nothing_on_topics_that_lost_their_erased_entities(erasures):
    erasures.world.fold(*rides())
    erasures.erase("a")
    erasures.world.fold(a_ride("back", ROUND_TIME + HOUR, "a"))
    before = len(erasures.world.publisher.published)
    for _ in range(2):
        erasures.restart()
        erasures.row_log.late_from = before - 1
        erasures.look()

    assert before == len(erasures.world.publisher.published)
    assert {b"a": True, b"b": True} == erasures.rows()


def test_unreadable_erasure_holds_back_no_other(erasures):
    erasures.world.fold(*rides())
    erasures.told.publish([Message(ERASURES, b"?", b"no message")])
    erasures.erase("a")
    erasures.told.publish([Message(ERASURES, b"?", b"no message")])
    erasures.look()

    assert {b"a": False, b"b": True} == erasures.rows()
    assert LogPlace(3, "1st") == erasures.table.all()[1]


@pytest.mark.parametrize("late_from", [0, 1_000])
def test_rows_are_looked_for_again_when_the_events_are_out(erasures, late_from):
    """However long the worker was behind when it made the row."""
    erasures.row_log.late_from = late_from
    erasures.erase("a", at_us=START)
    erasures.world.fold(a_ride("made meanwhile", ROUND_TIME, "a"))
    erasures.look()
    assert {b"a": True} == erasures.rows()
    erasures.events_are_out("a", 2 * DAY)
    erasures.look()

    assert {b"a": False} == erasures.rows()


def test_row_that_was_made_when_the_events_were_out_stays(erasures):
    erasures.row_log.late_from = 0
    erasures.erase("a", at_us=START)
    erasures.world.fold(a_ride("back", ROUND_TIME, "a"))
    erasures.events_are_out("a", HOUR)
    erasures.look()

    assert {b"a": True} == erasures.rows()


def test_row_of_an_entity_that_came_back_stays_when_events_of_others_are_out(erasures):
    erasures.erase("a", at_us=START)
    erasures.world.fold(a_ride("back", ROUND_TIME, "a"))
    erasures.events_are_out("b", DAY)
    erasures.look()

    assert {b"a": True} == erasures.rows()


def test_look_for_rows_is_owed_until_the_broker_takes_their_ends(erasures):
    erasures.erase("a", at_us=START)
    erasures.world.fold(a_ride("made meanwhile", ROUND_TIME, "a"))
    erasures.events_are_out("a", DAY)
    erasures.world.publisher.errors.append(Unavailable("DELIVERY_UNKNOWN", topic=TOPIC))
    with pytest.raises(Unavailable):
        erasures.look()
    erasures.look()

    assert {b"a": False} == erasures.rows()


def test_erasures_are_not_gone_through_again_while_nothing_is_new(erasures, monkeypatch):
    erasures.erase("a")
    monkeypatch.setattr(erasures.table, "all", None)

    erasures.look()


def test_kill_before_the_end_of_a_row_is_known_changes_nothing(erasures):
    erasures.world.fold(*rides())
    arm("feature.erase.rows_told:1:raise")
    with pytest.raises(FailpointRaised):
        erasures.erase("a")
    arm(None)
    erasures.restart()
    erasures.look()

    assert {b"a": False, b"b": True} == erasures.rows()


def test_broker_that_is_away_is_asked_again(erasures):
    erasures.world.fold(*rides())
    erasures.world.publisher.errors.append(Unavailable("DELIVERY_UNKNOWN", topic=TOPIC))
    with pytest.raises(Unavailable):
        erasures.erase("a")
    erasures.look()

    assert {b"a": False, b"b": True} == erasures.rows()


def test_rows_of_an_erased_entity_leave_the_feature_table(erasures):
    erasures.lake.materialize(rides())
    assert {"a", "b"} == erasures.zones()
    erasures.erase("a")

    assert {"b"} == erasures.zones()


def test_rows_of_an_erased_number_leave_the_feature_table_and_do_not_come_back(tmp_path):
    """DataFusion deletes them, polars keeps them from being appended."""
    erasures = Erasures(tmp_path)
    features = {"count": {"aggregate": "count", "window": "1h"}}
    erasures.lake.catalogue = a_catalogue(a_view(features, entity=("fare",)))
    fares = [5.0, 2.5, 1e16, 7.0]
    events = [Event(f"ride-{n}", START + n, START + n, fare=fare) for n, fare in enumerate(fares)]
    erasures.lake.materialize(events[:3], until_us=START + HOUR)
    for value in ("5", "2.5", "10000000000000000"):
        erasures.erase(value, column="fare")
    assert [] == [*erasures.lake.rows()]

    erasures.lake.materialize(
        [replace(each, id=f"{each.id} again", at=START + 2 * HOUR) for each in events]
    )
    assert ["ride-3 again"] == [*erasures.lake.rows()]


def test_rows_after_the_moment_of_the_erasure_stay(erasures):
    erasures.lake.materialize(rides())
    erasures.erase("a", at_us=START + HOUR // 2)

    assert {"ride-1", "ride-3", "ride-4", "ride-5"} == erasures.lake.rows().keys()


def test_column_that_names_no_entity_of_the_table_changes_nothing(erasures):
    erasures.lake.materialize(rides())
    before = erasures.lake.tables.open("zone", "any").version
    erasures.erase("ann", column="driver")

    assert (before, 6) == (
        erasures.lake.tables.open("zone", "any").version,
        len(erasures.lake.rows()),
    )


def test_table_that_goes_on_has_no_row_of_it_though_the_archive_still_has(erasures):
    erasures.lake.materialize(rides(), until_us=START + HOUR // 2)
    erasures.erase("a")
    erasures.lake.materialize(rides())

    assert {"ride-1", "ride-3", "ride-5"} == erasures.lake.rows().keys()


def test_table_of_a_later_definition_has_no_row_of_it(erasures):
    erasures.erase("a")
    erasures.lake.materialize(rides())

    assert {"b"} == erasures.zones()


def test_worker_that_does_not_know_the_erasure_appends_nothing(erasures):
    erasures.lake.materialize(rides(), until_us=START + HOUR // 2)
    erasures.erase("a")
    behind = erasures.lake.tables_of(ErasedEntities())
    with pytest.raises(Unavailable, match="ERASURES_AWAITED"):
        erasures.lake.materialize(rides(), tables=behind)

    assert {"ride-1"} == erasures.lake.rows().keys()


@pytest.mark.parametrize("erased", ["a", "c"])  # of which there are rows, and none
def test_rows_that_were_made_before_the_erasure_are_refused_after_it(erasures, erased):
    """Another worker erases while this one, which does not know yet, writes its files."""
    erasures.lake.materialize(rides(), until_us=START + HOUR // 2)
    behind = erasures.lake.tables_of(ErasedEntities())
    opened, calls = behind.open, count()

    def overtaken(view, definition):
        table = opened(view, definition)
        if not next(calls):
            erasures.erase(erased)
        return table

    behind.open = overtaken
    with pytest.raises(Unavailable, match="ERASURES_AWAITED"):
        erasures.lake.materialize(rides(), tables=behind)

    assert {"ride-1"} | ({"ride-0", "ride-2"} if erased == "c" else set()) == (
        erasures.lake.rows().keys()
    )


def test_erasures_of_a_log_that_was_made_again_reach_the_table_too(erasures):
    """The log has fewer than the place that the table was followed to in the one before."""
    erasures.lake.materialize([a_ride(f"ride-{n}", START + n, "abc"[n % 3]) for n in range(6)])
    erasures.tell("none")
    erasures.erase("a")
    assert {"b", "c"} == erasures.zones()
    erasures.make_log_again("2nd")
    erasures.restart()
    erasures.erase("b")

    assert {"c"} == erasures.zones()


def test_table_of_a_version_before_is_looked_through_once_more(erasures):
    """It has a place, but does not say in which log."""
    erasures.lake.materialize(rides())
    table = DeltaTable((erasures.lake.folder / "features" / "zone").as_uri())
    noted = CommitProperties(app_transactions=[Transaction("feature|erased", 7)])
    table.create_write_transaction(
        [], mode="append", schema=table.schema(), partition_by=["_date"], commit_properties=noted
    )
    erasures.erase("a")

    assert {"b"} == erasures.zones()


def test_worker_that_follows_a_log_of_before_appends_nothing(erasures):
    """Another one follows the log that was made again, and has erased by it."""
    erasures.lake.materialize(rides(), until_us=START + HOUR // 2)
    erasures.tell("none")
    erasures.look()
    erasures.make_log_again("2nd")
    behind = erasures.lake.tables_of(ErasedEntities(), "1st")
    behind.know(LogPlace(1, "1st"))
    erasures.restart()
    erasures.erase("a")
    with pytest.raises(Unavailable, match="ERASURES_AWAITED"):
        erasures.lake.materialize(rides(), tables=behind)

    assert {"ride-1"} == erasures.lake.rows().keys()


@pytest.mark.parametrize("erased", ["a", "c"])  # of which there are rows, and none
def test_rows_are_refused_when_the_log_was_made_again_and_erased_by_meanwhile(
    erasures, monkeypatch, erased
):
    """The log of before was still there when they began to be written."""
    erasures.lake.materialize(rides(), until_us=START + HOUR // 2)
    behind = erasures.lake.tables_of(ErasedEntities())
    write, calls = delta_features._written, count()

    def overtaken(*given):
        if not next(calls):
            erasures.make_log_again("2nd")
            erasures.restart()
            erasures.erase(erased)
        return write(*given)

    monkeypatch.setattr(delta_features, "_written", overtaken)
    with pytest.raises(Unavailable, match="ERASURES_AWAITED"):
        erasures.lake.materialize(rides(), tables=behind)

    assert {"ride-1"} | ({"ride-0", "ride-2"} if erased == "c" else set()) == (
        erasures.lake.rows().keys()
    )


@pytest.mark.parametrize("entities_max", [1, 100])
def test_kill_between_two_commits_of_an_erasure_changes_nothing(
    erasures, monkeypatch, entities_max
):
    monkeypatch.setattr(delta_erasure, "ENTITIES_MAX", entities_max)
    events = [a_ride(f"ride-{n}", START + n, "abc"[n % 3]) for n in range(6)]
    erasures.lake.materialize(events)
    erasures.tell("a")
    erasures.tell("b")
    arm("feature.erase.table_cleaned:1:raise")
    with pytest.raises(FailpointRaised):
        erasures.look()
    arm(None)
    erasures.restart()
    erasures.look()

    assert {"c"} == erasures.zones()


def test_same_erasure_that_is_told_again_commits_nothing_that_reads_see(erasures):
    erasures.lake.materialize(rides())
    erasures.erase("a")
    before = erasures.lake.rows()
    erasures.erase("a")

    assert before == erasures.lake.rows()


@pytest.mark.parametrize(("records_max", "parts", "read"), [(2, 1, 2), (100, 3, 4)])
def test_stop_ends_the_look_amid_a_topic_and_between_partitions(
    erasures, monkeypatch, records_max, parts, read
):
    """At each such step the worker tells, too, that it does not hang."""
    monkeypatch.setattr(erased_rows, "RECORDS_MAX", records_max)
    for ride in rides(4):
        erasures.world.fold(ride)
    erasures.row_log.parts = parts
    erasures.row_log.read_on = lambda: erasures.worker.stop(0)
    erasures.erase("none")

    assert list(range(read)) == erasures.row_log.offsets


def test_stop_ends_the_look_between_two_tables(erasures, monkeypatch):
    opened = []
    monkeypatch.setattr(DeltaFeatureTables, "_views", lambda _: ["one", "two", "three"])

    def take_out(uri, *_):
        opened.append(uri.rpartition("/")[2])
        erasures.worker.stop(0)
        yield from ()
        return 0

    monkeypatch.setattr(delta_features, "take_out", take_out)
    erasures.erase("a")

    assert ["one"] == opened


def a_broken_table(folder):
    """Before the others in name order."""
    log = folder / "features" / "a-broken-one" / "_delta_log"
    log.mkdir(parents=True)
    (log / f"{0:020}.json").write_text("no action")


def test_table_that_fails_holds_back_neither_topics_nor_other_tables(erasures, tmp_path):
    a_broken_table(tmp_path)
    erasures.world.fold(*rides())
    erasures.lake.materialize(rides())
    before = failures_of("a-broken-one")
    with pytest.raises(Unavailable, match="a-broken-one"):
        erasures.erase("a")

    assert {b"a": False, b"b": True} == erasures.rows()
    assert {"b"} == erasures.zones()
    assert before + 1 == failures_of("a-broken-one")


def test_table_that_fails_does_not_make_the_topics_be_looked_through_again(erasures, tmp_path):
    a_broken_table(tmp_path)
    erasures.world.fold(*rides())
    with pytest.raises(Unavailable):
        erasures.erase("a")
    erasures.row_log.offsets.clear()
    wait_until(lambda: erasures.fails_again())

    assert [] == erasures.row_log.offsets


def test_table_that_failed_is_cleared_once_it_can_be(erasures, tmp_path):
    erasures.lake.materialize(rides())
    log = tmp_path / "features" / "zone" / "_delta_log" / f"{0:020}.json"
    whole = log.read_bytes()
    log.write_bytes(b"no action")
    with pytest.raises(Unavailable):
        erasures.erase("a")
    log.write_bytes(whole)
    wait_until(lambda: erasures.look() or {"b"} == erasures.zones())


def failures_of(view):
    name = "headrace_feature_table_erasures_failed_total"
    return REGISTRY.get_sample_value(name, {"view": view}) or 0.0
