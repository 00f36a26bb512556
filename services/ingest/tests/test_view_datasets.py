# SPDX-License-Identifier: Apache-2.0
"""Datasets of a view: the rows of its offline feature table that its present definition made."""

from __future__ import annotations

from contextlib import suppress

import polars as pl
import pytest
from dataset_world import STREAM, World, statistics

from headrace import topics
from headrace.application import definition_json
from headrace.errors import Conflict, Invalid, NotFound, Unavailable
from headrace.feature_tables import features_digest
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace_ingest.adapters.erasure_conversions import to_erasure
from headrace_ingest.adapters.kafka_published_rows import KafkaPublishedRows
from headrace_ingest.adapters.label_book import AppliedLabels
from headrace_ingest.adapters.object_erasure_book import ObjectErasureBook
from headrace_ingest.domain.datasets import Diff, Reference, Selection
from headrace_ingest.handlers.datasets import pinned_versions
from headrace_ingest.handlers.erased_tasks import TaskEraser
from headrace_ingest.handlers.erasures import SETTLE_US, EraseEntity, Eraser
from headrace_ingest.ports.definitions import Retracted
from headrace_ingest.testing import DroppedTexts, NoTasks, a_contract, a_view
from headrace_kit.erased_entities import Entity
from headrace_kit.kafka import Message
from headrace_kit.testing import MemoryPublisher, MemoryTopicLog, a_record

OLD = "0" * 64


def digest(view):
    return features_digest([view], {STREAM: a_contract().stream})


def feature_rows(*numbers, definition=None):
    """As the feature service writes them: row n counts n departures and is known at n."""
    return pl.DataFrame(
        {
            "_event_id": [f"e{n}" for n in numbers],
            "_event_time_us": list(numbers),
            "_known_time_us": list(numbers),
            "_definition": [definition or digest(a_view())] * len(numbers),
            "origin": ["JFK"] * len(numbers),
            "departures": pl.Series([float(n) for n in numbers], dtype=pl.Float32),
        }
    )


class ViewWorld(World):
    def __init__(self, spill):
        super().__init__(spill)
        self.rows_told = MemoryPublisher()
        self.apply(a_view())

    def apply(self, view, version=3):
        message = Definition(
            kind="view", name=view.name, version=version, spec_json=definition_json(view)
        )
        self.contracts.take(a_record(message.SerializeToString(), key=b"view/delays"))

    def take_back(self, *views):
        self.contracts.take(a_record(None, key=b"view/delays"))
        self.retracted.answer = Retracted(views=views)

    def materialize(self, *numbers, definition=None):
        made = definition or digest(a_view())
        self.tables.append("features/delays", feature_rows(*numbers, definition=made))
        self.tables.reach("delays", made, max(numbers))

    def of_view(self, **changes):
        return self.create(stream="", view="delays", **changes)


@pytest.fixture
def world(tmp_path):
    return ViewWorld(tmp_path / "spill")


def test_dataset_of_a_view_holds_the_rows_of_its_present_definition(world):
    world.materialize(1, 2, definition=OLD)
    world.materialize(3, 4, 5)
    made = world.of_view(filter="departures > 3")

    assert [4.0, 5.0] == sorted(world.read(Reference("departures"), "departures")["departures"])
    assert (2, STREAM, "delays", 3) == (
        made.content.rows,
        made.selection.stream,
        made.origin.view,
        made.origin.view_version,
    )
    assert 4.5 == statistics(made, "departures").mean
    assert () == statistics(made, "origin").values  # an entity's key is told of by nobody


def test_dataset_of_a_view_keeps_its_rows_when_more_are_materialized(world):
    world.materialize(1, 2)
    first = world.of_view()
    world.materialize(3)
    second, again = world.of_view(), world.of_view(delta_version=0)
    [*_, diff] = world.diff(1, 2)

    assert [2, 3, 2] == [each.content.rows for each in (first, second, again)]
    assert first.content.digest == again.content.digest != second.content.digest
    assert isinstance(diff, Diff)
    assert (1, 0, ("e3",)) == (diff.rows.added, diff.rows.removed, diff.rows.added_ids)


def test_dataset_of_a_view_is_cut_at_what_was_known(world):
    world.materialize(1, 2, 3)

    assert 2 == world.of_view(known_until_us=2).content.rows


def test_moment_that_the_view_has_not_reached_is_refused(world):
    world.materialize(1, 2)
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        world.of_view(known_until_us=3)


@pytest.mark.parametrize("there", [False, True])
def test_view_without_rows_of_its_definition_is_empty(world, there):
    if there:
        world.materialize(1)
        world.apply(a_view("2h"), version=4)
    with pytest.raises(NotFound, match="VIEW_EMPTY"):
        world.of_view()


def test_view_whose_table_reaches_on_without_a_row_makes_no_dataset_in_silence(world):
    world.tables.append("features/delays", feature_rows(1).clear())
    world.tables.reach("delays", digest(a_view()), 3)

    with pytest.raises(NotFound, match="VIEW_EMPTY"):
        world.of_view()
    assert 0 == world.of_view(known_until_us=2).content.rows


def test_request_that_met_an_empty_view_makes_its_dataset_once_there_are_rows(world):
    """It fixes nothing before there is something to fix."""
    world.tables.append("features/delays", feature_rows(1).clear())
    world.tables.reach("delays", digest(a_view()), 3)
    with pytest.raises(NotFound, match="VIEW_EMPTY"):
        world.of_view(request_id="same")
    world.materialize(1, 2)

    assert 2 == world.of_view(request_id="same").content.rows


class Nobody:
    """No registry to ask and nobody to tell."""

    def trainings(self, models, after):
        return iter(())

    def tell(self, erasure):
        pass

    def tell_events(self, events):
        pass


def an_eraser(world):
    return Eraser(
        contracts=world.contracts,
        retracted=world.retracted,
        datasets=world.book,
        erasures=ObjectErasureBook(world.objects),
        rows=world.rows,
        published=KafkaPublishedRows(MemoryTopicLog(world.rows_told), topics.FEATURE_ROWS),
        models=Nobody(),
        news=Nobody(),
        tasks=TaskEraser(AppliedLabels(), NoTasks()),
        texts=DroppedTexts(),
        clock=world.clock,
    )


def versions_left(world):
    """Of the view's table, those that can still be read."""
    newest, there = world.tables.newest_version(STREAM, view="delays"), []
    for version in range(newest + 1):
        with suppress(Conflict):
            world.tables.open(Selection(STREAM, version, (), view="delays"))
            there.append(version)
    return there


def test_dataset_of_a_view_by_the_erased_column_loses_the_entity(world):
    world.tables.append("features/delays", feature_rows(1, 2))
    world.tables.append("features/delays", feature_rows(3).with_columns(origin=pl.lit("LGA")))
    world.tables.reach("delays", digest(a_view()), 3)
    world.of_view()
    an_eraser(world).erase(EraseEntity("origin", "JFK"), "erase", timeout_s=60.0)

    assert ["LGA"] == world.read(Reference("departures"), "origin")["origin"].to_list()


def test_versions_of_a_view_pin_none_of_its_stream(world):
    world.materialize(1)
    world.of_view()

    assert set() == pinned_versions(STREAM, book=world.book)


def test_erasure_counts_rows_of_feature_tables_and_waits_until_they_are_out(world):
    world.materialize(1, 2)
    world.tables.append("features/delays", feature_rows(3).with_columns(origin=pl.lit("LGA")))
    eraser = an_eraser(world)
    report = eraser.erase(EraseEntity("origin", "JFK"), "erase", timeout_s=60.0)
    assert {"delays": 2} == report.rows_by_view
    world.clock.advance(SETTLE_US + 1)
    list(eraser.go_on(60.0))
    assert [0, 1] == versions_left(world)
    assert [report.id] == eraser.erasures.unsettled()

    of_view = Selection(STREAM, 1, (("origin", "string"),), view="delays")
    world.tables.erase(of_view, report.entity)  # as the feature service does
    list(eraser.go_on(60.0))
    assert [2] == versions_left(world)
    assert [] == eraser.erasures.unsettled()


def test_rows_of_a_view_that_are_waited_for_are_of_no_training_set(world):
    """Training reads the streams: what read them without the entity is free of it."""
    world.materialize(1, 2)
    eraser = an_eraser(world)
    report = eraser.erase(EraseEntity("origin", "JFK"), "erase", timeout_s=60.0)
    world.clock.advance(SETTLE_US + 1)
    list(eraser.go_on(60.0))

    noted = eraser.erasures.get(report.id)
    assert not noted.settled
    assert {STREAM: world.tables.newest_version(STREAM)} == noted.clean_version_by_stream


@pytest.mark.parametrize("taken_back_first", [False, True])
def test_erasure_tells_what_a_view_that_is_taken_back_has_left_and_waits(world, taken_back_first):
    world.materialize(1, 2)
    eraser = an_eraser(world)
    if taken_back_first:
        world.take_back(a_view(), a_view(name="empty"))
    report = eraser.erase(EraseEntity("origin", "JFK"), "erase", timeout_s=60.0)
    if not taken_back_first:
        world.take_back(a_view())
    told = [each.view for each in to_erasure(report, eraser.views_taken_back(report)).views
            if each.taken_back]  # fmt: skip
    of_view = Selection(STREAM, 0, (("origin", "string"),), view="delays")
    world.clock.advance(SETTLE_US + 1)
    list(eraser.go_on(60.0))
    waiting = eraser.erasures.unsettled()
    world.apply(a_view())
    world.tables.erase(of_view, report.entity)
    list(eraser.go_on(60.0))

    assert ({"delays": 2}, ["delays"]) == (report.rows_by_view, told)
    assert ([report.id], []) == (waiting, eraser.erasures.unsettled())


def test_erasure_counts_the_newest_row_on_the_topic_of_a_view_that_publishes(world):
    world.apply(a_view().model_copy(update={"publish_rows": True}))
    topic = topics.FEATURE_ROWS.of("delays")

    def counted(value, request_id):
        report = an_eraser(world).erase(EraseEntity("origin", value), request_id, timeout_s=60.0)
        told = to_erasure(report, ()).views
        assert [("delays", 0)] == [(each.view, each.rows) for each in told]
        return told[0].published_rows

    ended = [(b"JFK", b"1"), (b"LGA", b"1"), (b"JFK", b"2"), (b"LGA", None)]
    world.rows_told.publish([Message(topic, key, value) for key, value in ended])
    assert 1 == counted("JFK", "a")
    assert 0 == counted("LGA", "b")
    assert 0 == counted("EWR", "c")


def test_count_of_published_rows_ends_in_time():
    told = MemoryPublisher()
    told.publish([Message(topics.FEATURE_ROWS.of("delays"), b"JFK", b"1")])
    rows = KafkaPublishedRows(MemoryTopicLog(told), topics.FEATURE_ROWS)
    with pytest.raises(Unavailable, match="SERVICE_UNAVAILABLE"):
        rows.count("delays", Entity("origin", "", 0), timeout_s=0.0)


def test_dataset_that_was_created_just_before_the_rows_went_is_revised_too(world, monkeypatch):
    """Created behind the look at the datasets, with feature taking the rows out right after."""
    world.materialize(1, 2)
    world.tables.append("features/delays", feature_rows(3).with_columns(origin=pl.lit("LGA")))
    eraser = an_eraser(world)
    report = eraser.erase(EraseEntity("origin", "JFK"), "erase", timeout_s=60.0)
    world.clock.advance(SETTLE_US + 1)
    erase = world.rows.erase

    def once_it_is_created(*asked, **named):
        monkeypatch.setattr(world.rows, "erase", erase)
        world.of_view()
        of_view = Selection(STREAM, 1, (("origin", "string"),), view="delays")
        world.tables.erase(of_view, report.entity)
        return erase(*asked, **named)

    monkeypatch.setattr(world.rows, "erase", once_it_is_created)
    list(eraser.go_on(60.0))
    for _ in range(2):  # the second revises it, and another pass is to find nothing to change
        assert [report.id] == eraser.erasures.unsettled()
        list(eraser.go_on(60.0))

    assert [] == eraser.erasures.unsettled()
    assert ["LGA"] == world.read(Reference("departures"), "origin")["origin"].to_list()
    assert [2] == versions_left(world)


def test_dataset_whose_table_held_it_in_rows_of_another_definition_keeps_its_own(world):
    world.materialize(1, 2, definition=OLD)
    world.tables.append("features/delays", feature_rows(3).with_columns(origin=pl.lit("LGA")))
    world.tables.reach("delays", digest(a_view()), 3)
    world.of_view()
    eraser = an_eraser(world)
    report = eraser.erase(EraseEntity("origin", "JFK"), "erase", timeout_s=60.0)
    of_view = Selection(STREAM, 1, (("origin", "string"),), view="delays")
    world.tables.erase(of_view, report.entity)
    list(eraser.go_on(60.0))

    assert [2] == versions_left(world)
    assert ["LGA"] == world.read(Reference("departures"), "origin")["origin"].to_list()
