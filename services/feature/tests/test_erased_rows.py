# SPDX-License-Identifier: Apache-2.0
"""Rows of an erased entity leave the topics and the feature tables, whatever breaks on the way."""

from itertools import count

import pytest
from feature_world import DAY, HOUR, START, Event, World, a_catalogue, a_view
from test_materialized_views import AFTER, Lake

from headrace import topics
from headrace.errors import Unavailable
from headrace.ingest.v1.erasures_pb2 import EntityErased
from headrace_feature.adapters import delta_erasure
from headrace_feature.adapters.delta_features import DeltaFeatureTables
from headrace_feature.adapters.erased_rows import ErasedRows, RowTopics
from headrace_kit.erased_entities import ErasedEntities, entity_sha256
from headrace_kit.failpoints import FailpointRaised, arm
from headrace_kit.kafka import Message, Partition
from headrace_kit.testing import FixedClock, MemoryPublisher, MemoryTopicLog

ERASURES = topics.INGEST_ERASURES.name
PUBLISHED = a_view({"count": {"aggregate": "count", "window": "1h"}}, publish_rows=True)
TOPIC = topics.FEATURE_ROWS.of("zone")
ROUND_TIME = START + DAY


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
        folder = self.lake.folder.as_uri()
        self.lake.tables = DeltaFeatureTables(folder, {}, FixedClock(AFTER), self.world.erased)
        self.worker = ErasedRows(
            log=MemoryTopicLog(self.told),
            partition=Partition(ERASURES, 0),
            end=lambda: len(self.told.published),
            erased=self.world.erased,
            tables=self.lake.tables,
            topics=RowTopics(
                catalogue=lambda: self.world.catalogue,
                log=MemoryTopicLog(self.world.publisher),
                teller=self.world.rows,
                publisher=self.world.publisher,
            ),
        )

    def tell(self, value, column="zone", at_us=ROUND_TIME):
        sha256 = entity_sha256(column, value)
        event = EntityErased(column=column, entity_sha256=sha256, erased_at_us=at_us)
        self.told.publish([Message(ERASURES, sha256.encode(), event.SerializeToString())])

    def erase(self, value, **more):
        self.tell(value, **more)
        self.worker.look()

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


def test_rows_are_looked_for_again_when_the_events_are_out(erasures):
    erasures.erase("a", at_us=START)
    erasures.world.fold(a_ride("made meanwhile", ROUND_TIME, "a"))
    erasures.worker.look()
    assert {b"a": True} == erasures.rows()
    erasures.worker.events_are_out()
    erasures.worker.look()

    assert {b"a": False} == erasures.rows()


def test_kill_before_the_end_of_a_row_is_known_changes_nothing(erasures):
    erasures.world.fold(*rides())
    arm("feature.erase.rows_told:1:raise")
    with pytest.raises(FailpointRaised):
        erasures.erase("a")
    arm(None)
    erasures.restart()
    erasures.worker.look()

    assert {b"a": False, b"b": True} == erasures.rows()


def test_broker_that_is_away_is_asked_again(erasures):
    erasures.world.fold(*rides())
    erasures.world.publisher.errors.append(Unavailable("DELIVERY_UNKNOWN", topic=TOPIC))
    with pytest.raises(Unavailable):
        erasures.erase("a")
    erasures.worker.look()

    assert {b"a": False, b"b": True} == erasures.rows()


def test_rows_of_an_erased_entity_leave_the_feature_table(erasures):
    erasures.lake.materialize(rides())
    assert {"a", "b"} == erasures.zones()
    erasures.erase("a")

    assert {"b"} == erasures.zones()


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
    behind = DeltaFeatureTables(
        erasures.lake.folder.as_uri(), {}, FixedClock(AFTER), ErasedEntities()
    )
    with pytest.raises(Unavailable, match="ERASURES_AWAITED"):
        erasures.lake.materialize(rides(), tables=behind)

    assert {"ride-1"} == erasures.lake.rows().keys()


@pytest.mark.parametrize("erased", ["a", "c"])  # of which there are rows, and none
def test_rows_that_were_made_before_the_erasure_are_refused_after_it(erasures, erased):
    """Another worker erases while this one, which does not know yet, writes its files."""
    erasures.lake.materialize(rides(), until_us=START + HOUR // 2)
    behind = DeltaFeatureTables(
        erasures.lake.folder.as_uri(), {}, FixedClock(AFTER), ErasedEntities()
    )
    opened, calls = behind.open, count()

    def overtaken(view, definition):
        table = opened(view, definition)
        if next(calls):  # the first one cleans up
            erasures.erase(erased)
        return table

    behind.open = overtaken
    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE"):
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
        erasures.worker.look()
    arm(None)
    erasures.restart()
    erasures.worker.look()

    assert {"c"} == erasures.zones()


def test_same_erasure_that_is_told_again_commits_nothing_that_reads_see(erasures):
    erasures.lake.materialize(rides())
    erasures.erase("a")
    before = erasures.lake.rows()
    erasures.erase("a")

    assert before == erasures.lake.rows()
