# SPDX-License-Identifier: Apache-2.0
"""Erasing an entity: gone from every stream and dataset, for good, whatever breaks on the way."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from itertools import count
from types import SimpleNamespace

import pytest
from eraser_of import eraser_of
from structlog.testing import capture_logs

from headrace.errors import Busy, Conflict, Corrupt, Invalid, NotFound, Unavailable
from headrace_ingest.adapters import duckdb_rows
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.duckdb_rows import DuckDbRows
from headrace_ingest.adapters.erasure_conversions import erased_message, to_erasure_id
from headrace_ingest.adapters.label_book import AppliedLabels
from headrace_ingest.adapters.memory_tables import MemoryTables
from headrace_ingest.adapters.object_dataset_book import ObjectDatasetBook
from headrace_ingest.domain.datasets import ColumnStatistics, Reference, Selection
from headrace_ingest.domain.erasures import ErasedDataset, erasure_id, without_entity
from headrace_ingest.domain.judging import ARCHIVE_COLUMNS, judge
from headrace_ingest.domain.trained_versions import TrainedVersion, Training
from headrace_ingest.handlers import datasets
from headrace_ingest.handlers.datasets import CreateDataset
from headrace_ingest.handlers.erased_tasks import TaskEraser
from headrace_ingest.handlers.erasures import SETTLE_US, EraseEntity, Eraser
from headrace_ingest.handlers.noted_erasures import list_erasures, tell_again
from headrace_ingest.ports.definitions import Retracted
from headrace_ingest.testing import (
    NOW_US,
    DroppedTexts,
    MemoryRetracted,
    NoTasks,
    a_contract,
    a_raw,
)
from headrace_kit.erased_entities import (
    Entity,
    ErasedEntities,
    entity_key_digest,
    entity_sha256,
)
from headrace_kit.failpoints import FailpointRaised, arm
from headrace_kit.json_strict import decode
from headrace_kit.objects import MemoryObjectStore
from headrace_kit.testing import FixedClock, a_batch, a_record

STREAM, OTHER = "flights.departed", "flights.landed"
STEPS = ["begun", "told", "copied", "events_told", "deleted"]


def rows(*numbers, flight="UA1", contract=None, **changes):
    contract = contract or a_contract()
    key = {"key": flight.encode()}
    records = [a_raw(number, flight=flight, record=key, **changes) for number in numbers]
    columns = (*ARCHIVE_COLUMNS, *contract.stream.columns)
    return judge(a_batch(records), contract, decode=decode).rows.select(columns)


def test_version_that_read_a_table_of_after_the_beginning_is_named_until_it_is_clean(world):
    """Rows of the entity may have been on their way into the first version of the table."""
    world.contracts.put(a_contract(name="late"))
    world.erase("UA1")
    world.versions.there.append(a_training(4, at=0, stream="late"))
    report = world.erase("UA1")

    assert [(4, ("late",))] == [
        (each.version, each.streams) for each in report.trained_versions if each.version > 3
    ]


def begin_anew(world):
    """The archive was lost for good, and has fewer versions than a dataset names."""
    world.tables.take(STREAM)
    world.tables.append(STREAM, rows(0, 1))


def test_dataset_of_an_archive_that_was_lost_keeps_no_erasure_from_beginning(world):
    world.create("all")
    begin_anew(world)
    erasure = world.erase("UA1")
    settle(world)

    assert ((), []) == (erasure.datasets, world.flights())
    assert [] == world.eraser.erasures.unsettled()


def test_dataset_whose_archive_is_lost_meanwhile_keeps_no_erasure_open(world):
    world.create("all")
    arm("ingest.erase.begun:1:raise")
    with pytest.raises(FailpointRaised):
        world.erase("UA1")
    arm(None)
    begin_anew(world)
    settle(world)

    assert [] == world.eraser.erasures.unsettled()
    assert 0 == datasets.find(Reference("all"), book=world.book).rows_erased


def test_streams_of_datasets_are_known_of_those_that_are_there(world):
    for name in ("kept", "deleted"):
        world.create(name)
    assert 2 == len(world.book.places_of(STREAM))
    world.book.delete("deleted", 1)

    assert [("kept", 1)] == world.book.places_of(STREAM)
    assert {("kept", 1): STREAM} == world.book._streams


class News:
    """What everybody was told."""

    def __init__(self):
        self.told, self.away, self.events, self.keys = [], False, [], []
        self.away_for = ""
        self.meanwhile = lambda: None

    def tell(self, erasure):
        if self.away or erasure.entity.key_digest == self.away_for:
            raise Unavailable("BROKER_UNAVAILABLE")
        self.told.append(erasure.entity)

    def tell_events(self, events):
        self.keys.append((events.stream, events.entity.key_digest))
        self.events += [(events.stream, event_id) for event_id in events.ids]
        self.meanwhile()


def a_training(version, *, at, until_us=NOW_US, stream=STREAM):
    """Of the model `delay`: it read the stream's table at this version."""
    return Training("delay", version, until_us, {stream: at})


class Versions:
    """A registry with one version, trained on one stream; a test registers more."""

    def __init__(self):
        self.asked, self.away, self.there = [], False, [a_training(3, at=1)]

    def trainings(self, models, after):
        self.asked.append(models)
        if self.away:
            raise Unavailable("SERVICE_UNAVAILABLE", service="registry")
        return iter(self.there)


class World:
    """Two streams with two flights, each dataset that a test creates, and what erases."""

    def __init__(self, spill):
        self.contracts, self.tables = AppliedContracts(), MemoryTables()
        for name in (STREAM, OTHER):
            self.contracts.put(a_contract(name=name))
            self.tables.append(name, rows(0, 1))
            self.tables.append(name, rows(2, flight="UA2"))
        self.objects, self.clock, self.news = MemoryObjectStore(), FixedClock(NOW_US), News()
        self.book = ObjectDatasetBook(self.objects)
        self.rows = DuckDbRows(self.tables, spill, in_turn=True)
        self.retracted, self.versions = MemoryRetracted(), Versions()
        tasks, self.texts = TaskEraser(AppliedLabels(), NoTasks()), DroppedTexts()
        self.eraser = eraser_of(
            self, models=self.versions, news=self.news, tasks=tasks, texts=self.texts
        )

    def create(self, name, **changes):
        version = changes.get("delta_version")
        asked = CreateDataset(name, "", STREAM, "", changes.get("filter", ""), version, 0)
        return datasets.create_dataset(
            asked,
            f"create {name}",
            contracts=self.contracts,
            book=self.book,
            rows=self.rows,
            clock=self.clock,
            timeout_s=60.0,
        )

    def take_back(self, name):
        self.contracts.take(a_record(None, key=f"stream/{name}".encode()))
        before = self.retracted.answer.contracts
        self.retracted.answer = Retracted([*before, a_contract(name=name)])

    def erase(self, value="UA1", request_id="r", column="flight"):
        return self.eraser.erase(EraseEntity(column, value), request_id, timeout_s=60.0)

    def go_on(self):
        """All steps of a pass; how many there were."""
        return len(list(self.eraser.go_on(60.0)))

    def flights(self, stream=STREAM):
        columns = (("flight", "string"),)
        selection = Selection(stream, self.tables.newest_version(stream), columns)
        return sorted(self.tables.open(selection)["flight"].to_pylist())

    def events(self):
        selection = Selection(STREAM, self.tables.newest_version(STREAM), ())
        return self.tables.open(selection)["_event_id"].to_pylist()

    def flights_of(self, name):
        selection = datasets.find(Reference(name), book=self.book).selection
        return sorted(self.tables.open(selection)["flight"].to_pylist())


@pytest.fixture
def world(tmp_path):
    yield World(tmp_path / "spill")
    arm(None)


def test_entity_is_taken_out_of_every_stream_that_names_it(world):
    erasure = world.erase()

    assert {STREAM: 2, OTHER: 2} == erasure.rows_by_stream
    assert (["UA2"], ["UA2"]) == (world.flights(), world.flights(OTHER))


def test_texts_of_a_stream_that_lost_rows_are_found_no_more_with_the_answer(world):
    world.contracts.put(a_contract(name="never.named"))
    world.erase()
    assert {STREAM, OTHER} == set(world.texts.dropped)

    world.texts.dropped.clear()
    world.erase("UA9", "another")

    assert [] == world.texts.dropped


def test_texts_and_files_go_though_the_pass_that_took_the_rows_out_failed(world, monkeypatch):
    before = world.tables.newest_version(STREAM)
    world.texts.since_by_stream = {STREAM: before, OTHER: before}

    def away(stream):
        monkeypatch.undo()
        raise Unavailable("DATABASE_UNAVAILABLE", dialect="postgresql")

    monkeypatch.setattr(world.texts, "drop", away)
    with pytest.raises(Unavailable):
        world.erase()
    assert ["UA2"] == world.flights()
    world.clock.advance(SETTLE_US + 1)

    while world.eraser.erasures.unsettled():
        assert world.go_on()

    assert {STREAM, OTHER} == set(world.texts.dropped)
    for stream in (STREAM, OTHER):
        with pytest.raises(Conflict) as gone:
            world.tables.open(Selection(stream, before, ()))
        assert "VERSION_EXPIRED" == gone.value.reason


def test_files_of_an_own_table_go_though_the_pass_that_took_its_rows_out_failed(world, monkeypatch):
    world.create("held")
    world.erase("UA2", "first")  # gives it a table of its own
    second = world.erase  # of a dataset that was not there when the erasure was begun
    monkeypatch.setattr(Eraser, "_datasets", lambda *_: iter(()))
    forget, tried = world.rows.forget, []

    def fails_once(selection, keep):
        if selection.copy:
            tried.append(selection.copy)
            if len(tried) == 1:
                raise Unavailable("OBJECT_STORE_UNAVAILABLE", stream=STREAM)
        forget(selection, keep)

    monkeypatch.setattr(world.rows, "forget", fails_once)
    with pytest.raises(Unavailable):
        second("UA1", "second")
    [own] = tried

    second("UA1", "second")

    assert [] == world.flights_of("held")
    assert [own, own] == tried


def test_erasure_waits_for_its_turn_behind_another_one(world):
    selection = Selection(STREAM, world.tables.newest_version(STREAM), (("flight", "string"),))
    other = world.rows.read(selection, (), timeout_s=60.0)
    next(other)
    with ThreadPoolExecutor(1) as pool:
        erasing = pool.submit(world.erase)
        with pytest.raises(Busy, match="QUEUE_FULL"):
            world.rows.find(selection, Entity("flight", "", NOW_US), timeout_s=0.01)
        assert not erasing.done()
        other.close()

        assert {STREAM: 2, OTHER: 2} == erasing.result(60.0).rows_by_stream


def test_report_names_datasets_and_versions_and_never_the_entity(world):
    world.create("all")
    world.create("second", filter="flight = 'UA2'")
    erasure = world.erase()

    assert (ErasedDataset("all", 1, 2),) == erasure.datasets
    assert (TrainedVersion("delay", 3, (STREAM,)),) == erasure.trained_versions
    assert b"UA1" not in b"".join(map(world.objects.get, world.objects.keys("erasures")))


def test_dataset_loses_the_rows_and_says_so(world):
    made = world.create("all")
    world.erase()
    after = datasets.find(Reference("all"), book=world.book)

    assert ["UA2"] == world.flights_of("all")
    assert (2, made.content.digest) == (after.rows_erased, after.content.digest)


def origins_of(name, world):
    manifest = datasets.find(Reference(name), book=world.book)
    [told] = [each for each in manifest.content.columns if each.column == "origin"]
    return told.values, told.counts


def kept_of_datasets(world):
    return b"".join(map(world.objects.get, world.objects.keys("datasets")))


def test_erased_value_counts_among_the_others_and_is_told_by_no_manifest(world):
    world.tables.append(STREAM, rows(3, 4, flight="UA3", origin="JFK"))
    world.create("all")
    assert (("EWR", "JFK"), (3, 2, 0, 0)) == origins_of("all", world)

    world.erase("JFK", column="origin")

    assert (("EWR",), (3, 2, 0)) == origins_of("all", world)
    assert b"JFK" not in kept_of_datasets(world)


def test_two_erasures_of_a_dataset_forget_both_values(world):
    world.tables.append(STREAM, rows(3, flight="UA3", origin="JFK"))
    world.create("all")

    world.erase("JFK", "r1", column="origin")
    world.erase("EWR", "r2", column="origin")

    assert ((), (4, 0)) == origins_of("all", world)
    assert not {b"JFK", b"EWR"} & set(re.findall(rb"[A-Z]{3}", kept_of_datasets(world)))


def test_value_whose_rows_went_with_another_erasure_is_forgotten_too(world):
    world.tables.append(STREAM, rows(3, flight="UA3", origin="JFK"))
    world.create("all")
    world.erase("UA3", "r1")

    world.erase("JFK", "r2", column="origin")

    assert (("EWR",), (3, 1, 0)) == origins_of("all", world)
    assert b"JFK" not in kept_of_datasets(world)
    assert 1 == datasets.find(Reference("all"), book=world.book).rows_erased


def test_dataset_that_never_told_the_value_is_not_revised(world):
    world.create("all")
    world.erase("UA2", "r1")
    before = datasets.find(Reference("all"), book=world.book)

    world.erase("JFK", "r2", column="origin")

    assert before == datasets.find(Reference("all"), book=world.book)


def test_value_that_an_earlier_manifest_tells_yet_goes_in_a_later_pass(world):
    world.tables.append(STREAM, rows(3, flight="UA3", origin="JFK"))
    world.create("all")
    first = world.objects.get("datasets/all/1.json")
    world.erase("JFK", column="origin")
    world.objects.put("datasets/all/1.json", first)  # as a pass that broke off

    world.go_on()

    assert b"JFK" not in kept_of_datasets(world)


@pytest.mark.parametrize("others", [0, 3])
def test_pass_reads_a_dataset_no_more_often_where_there_are_more_streams(world, others):
    for number in range(others):
        name = f"others.{number}"
        world.contracts.put(a_contract(name=name))
        world.tables.append(name, rows(0))
    world.create("all")
    world.erase()
    world.clock.advance(SETTLE_US + 1)
    get, read = world.objects.get, []
    world.objects.get = lambda key: read.append(key) or get(key)

    world.go_on()

    # To learn of its stream, for its revision, to forget what it told, and to keep its files.
    assert 4 == read.count("datasets/all/1.json")


def test_dataset_that_is_deleted_while_a_pass_runs_keeps_no_other_from_its_turn(world):
    for name in ("first", "second"):
        world.create(name)
    world.news.meanwhile = lambda: world.book.delete("first", 1)
    world.erase()

    assert ["UA2"] == world.flights_of("second")


def test_of_numbers_that_name_the_erased_no_bound_is_told():
    told = ColumnStatistics(
        "seat", "int64", 1, 9, min=3.0, max=44.0, edges=(7.0,), counts=(4, 5, 1)
    )
    entity = Entity("seat", entity_sha256("seat", "44"), NOW_US)

    assert ColumnStatistics("seat", "int64", 1, 9) == without_entity(told, entity)
    assert told == without_entity(told, replace(entity, column="row"))


def test_dataset_of_other_rows_keeps_them_when_the_old_files_go(world):
    made = world.create("second", filter="flight = 'UA2'")
    world.erase()

    assert 0 == datasets.find(Reference("second"), book=world.book).rows_erased
    assert ["UA2"] == world.flights_of("second")
    with pytest.raises(Conflict, match="VERSION_EXPIRED"):
        world.tables.open(made.selection)


def test_entity_of_a_float64_column_is_out_of_streams_and_datasets(world):
    world.tables.append(STREAM, rows(3, 4, flight="UA3", delay=5.0))
    world.tables.append(OTHER, rows(5, flight="UA3", delay=5.0))
    world.create("all")
    erasure = world.erase("5", column="delay")
    world.clock.advance(SETTLE_US + 1)
    while world.eraser.erasures.unsettled():
        world.go_on()

    assert ({STREAM: 2, OTHER: 1}, 2) == (erasure.rows_by_stream, erasure.datasets[0].rows)
    left = [world.flights(), world.flights(OTHER), world.flights_of("all")]
    assert [["UA1", "UA1", "UA2"]] * 3 == left


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("delay", "5.0", "of a float64 column it is spelled 5"),
        ("delay", "1e16", "of a float64 column it is spelled 10000000000000000"),
        ("delay", "2.50", "of a float64 column it is spelled 2.5"),
        ("delay", "1e-7", "names no entity of a float64 column"),
        ("delay", "1e300", "names no entity of a float64 column"),
        ("delay", "nan", "names no entity of a float64 column"),
        ("delay", "UA1", "is no number, and the column is float64"),
        ("clock", "0900", "of an int64 column it is spelled 900"),
        ("clock", "+900", "of an int64 column it is spelled 900"),
        ("clock", " 900", "of an int64 column it is spelled 900"),
        ("clock", "-0", "of an int64 column it is spelled 0"),
        ("clock", "900.0", "of an int64 column it is spelled 900"),
        ("clock", "9e2", "of an int64 column it is spelled 900"),
        ("clock", "900.5", "is no whole number, and the column is int64"),
        ("clock", "inf", "is no whole number, and the column is int64"),
        ("clock", "UA1", "is no number, and the column is int64"),
        ("clock", "9223372036854775808", "names no entity of an int64 column"),
        ("clock", "1e999999999", "names no entity of an int64 column"),
    ],
)
def test_value_that_no_number_of_the_column_is_spelled_by_is_refused(world, column, value, problem):
    with pytest.raises(Invalid, match="BAD_REQUEST") as refused:
        world.erase(value, column=column)

    assert refused.value.metadata["problem"].startswith(problem)
    assert [] == world.objects.keys("erasures")


def test_entity_of_an_int64_column_is_erased_by_its_digits(world):
    world.tables.append(STREAM, rows(3, 4, clock=900))
    world.tables.append(STREAM, rows(5, clock=901))

    assert 2 == world.erase("900", column="clock").rows_by_stream[STREAM]
    assert 0 == world.erase(str(-(2**63)), "least", column="clock").rows_by_stream[STREAM]


def test_value_of_an_int64_column_is_refused_where_it_is_none_of_a_float64_elsewhere_either(world):
    columns = a_contract().stream.model_dump(mode="json", exclude_none=True)["columns"]
    contract = a_contract(name="floats", columns=columns | {"clock": {"type": "float64"}})
    world.contracts.put(contract)
    world.tables.append("floats", rows(5, contract=contract, clock=2.5))

    assert 1 == world.erase("2.5", column="clock").rows_by_stream["floats"]
    with pytest.raises(Invalid, match="BAD_REQUEST") as refused:
        world.erase("2.50", "other", column="clock")
    assert "of a float64 column it is spelled 2.5" in refused.value.metadata["problem"]


def test_value_is_taken_where_the_column_is_a_text_elsewhere(world):
    columns = a_contract().stream.model_dump(mode="json", exclude_none=True)["columns"]
    contract = a_contract(name="texts", columns=columns | {"delay": {"type": "string"}})
    world.contracts.put(contract)
    world.tables.append("texts", rows(5, contract=contract, delay="5.0"))
    world.tables.append(OTHER, rows(6, delay=5.0))
    erasure = world.erase("5.0", column="delay")

    assert {STREAM: 0, OTHER: 0, "texts": 1} == erasure.rows_by_stream
    assert [] == world.flights("texts")


def test_second_erasure_goes_into_the_copy_of_a_dataset(world):
    world.create("all")
    world.erase()
    world.erase("UA2", "r2")

    assert [] == world.flights_of("all")
    assert 3 == datasets.find(Reference("all"), book=world.book).rows_erased


def test_dataset_that_two_passes_give_a_table_at_once_has_its_rows_once(world, monkeypatch):
    world.create("all")
    copy, passes = world.rows.copy, []

    def copied_beside_another(selection, name, **asked):
        copy(selection, name, **asked)
        if not passes:
            passes.append(name)
            world.erase()  # the same request again, or the pass that goes on with it

    monkeypatch.setattr(DuckDbRows, "copy", staticmethod(copied_beside_another))
    world.erase()

    assert ["UA2"] == world.flights_of("all")
    used = datasets.find(Reference("all"), book=world.book).selection.copy
    assert passes == [each for each in passes if each != used]
    assert {used} == world.tables.copies()


def test_table_that_another_erasure_made_at_once_lets_nothing_back_in(world, monkeypatch):
    world.create("all")
    copy, passes = world.rows.copy, []

    def copied_beside_another(selection, name, **asked):
        copy(selection, name, **asked)
        if not passes:
            passes.append(name)
            world.erase("UA2", "r2")

    monkeypatch.setattr(DuckDbRows, "copy", staticmethod(copied_beside_another))
    world.erase("UA1", "r1")
    settle(world)

    assert [] == world.flights_of("all")
    assert 3 == datasets.find(Reference("all"), book=world.book).rows_erased


def test_erasure_that_loses_a_dataset_to_another_in_its_last_pass_passes_again(world, monkeypatch):
    world.create("all")
    arm("ingest.erase.begun:1:raise")
    with pytest.raises(FailpointRaised):
        world.erase("UA1", "r1")
    arm(None)
    for stream in (STREAM, OTHER):  # no row of the streams themselves is left
        world.tables.retire(Selection(stream, 0, ()), date.max)
    world.clock.advance(SETTLE_US + 1)
    revise, lost = world.book.revise, []

    def behind_another(manifest):
        if not lost:
            lost.append(manifest)
            world.erase("UA2", "r2")
        return revise(manifest)

    monkeypatch.setattr(world.book, "revise", behind_another)
    world.go_on()
    assert ["UA1", "UA1"] == world.flights_of("all")
    settle(world)

    assert [] == world.flights_of("all")


def test_dataset_that_is_created_while_an_erasure_runs_tells_what_it_lost(world):
    arm("ingest.erase.begun:1:raise")
    with pytest.raises(FailpointRaised):
        world.erase()
    arm(None)
    world.create("all")
    world.erase("UA2", "r2")  # gives it a table of its own, with the first one's rows
    settle(world)
    found = datasets.find(Reference("all"), book=world.book)

    assert ([], 3, 3) == (world.flights_of("all"), found.rows_erased, found.content.rows)


def lose_own_tables(world):
    for copy in world.tables.copies():
        world.tables.drop(copy)


def test_own_table_of_a_dataset_that_is_lost_keeps_no_erasure_from_beginning(world):
    world.create("all")
    world.erase("UA2", "r1")
    lose_own_tables(world)
    erasure = world.erase("UA1", "r2")
    settle(world)

    assert ((), []) == (erasure.datasets, world.flights())


def a_dataset_whose_own_table_is_lost(world):
    """Between the beginning of an erasure and its end."""
    world.create("all")
    world.erase("UA2", "r1")
    settle(world)
    arm("ingest.erase.begun:1:raise")
    with pytest.raises(FailpointRaised):
        world.erase("UA1", "r2")
    arm(None)
    lose_own_tables(world)


def test_own_table_of_a_dataset_that_is_lost_meanwhile_keeps_no_erasure_open(world):
    a_dataset_whose_own_table_is_lost(world)
    settle(world)

    assert 3 == datasets.find(Reference("all"), book=world.book).rows_erased


def test_own_table_of_a_dataset_is_waited_for_when_the_archive_is_lost_with_it(world, monkeypatch):
    a_dataset_whose_own_table_is_lost(world)
    erase = world.rows.erase
    with monkeypatch.context() as away:

        def lost_with_all_others(selection, *asked, **named):
            lose(world, away, STREAM)
            return erase(selection, *asked, **named)

        away.setattr(world.rows, "erase", lost_with_all_others)
        world.clock.advance(SETTLE_US + 1)
        world.go_on()

    assert [erasure_id("r2")] == world.eraser.erasures.unsettled()
    assert 1 == datasets.find(Reference("all"), book=world.book).rows_erased


def test_erasure_begins_again_when_another_one_removes_the_version_that_it_reads(world):
    newest = world.tables.newest_version

    def overtaken(stream, *, view=""):
        version = newest(stream, view=view)
        world.tables.newest_version = newest
        world.erase("UA2", "other")
        return version

    world.tables.newest_version = overtaken
    erasure = world.erase()

    assert ({STREAM: 2, OTHER: 2}, []) == (erasure.rows_by_stream, world.flights())


def while_described(world, *, times, happens):
    """What happens between the claim of a dataset and the look at its rows, so many times."""
    describe, left = world.rows.describe, iter(range(times))

    def overtaken(selection, **options):
        if (turn := next(left, None)) is not None:
            happens(turn)
        return describe(selection, **options)

    world.rows.describe = overtaken


def test_dataset_that_is_created_while_an_erasure_runs_is_of_the_version_after_it(world):
    while_described(world, times=1, happens=lambda _: world.erase())
    made = world.create("late")

    assert (1, ["UA2"]) == (made.content.rows, world.flights_of("late"))
    assert made == world.create("late")
    assert [("late", 1)] == world.book.places()


def test_dataset_of_a_version_that_was_asked_for_is_refused_when_an_erasure_removes_it(world):
    while_described(world, times=1, happens=lambda _: world.erase())
    with pytest.raises(Conflict, match="VERSION_EXPIRED"):
        world.create("late", delta_version=1)


def test_dataset_whose_version_goes_each_time_says_that_others_write(world):
    def erase_another(turn):
        world.tables.append(STREAM, rows(turn, flight=f"AA{turn}"))
        world.erase(f"AA{turn}", f"r{turn}")

    world.tables.append(STREAM, rows(99, flight="AA0"))
    while_described(world, times=99, happens=erase_another)
    with pytest.raises(Unavailable, match="TABLE_CONTENDED"):
        world.create("late")


def test_everybody_is_told_before_anything_goes(world):
    world.news.away = True
    with pytest.raises(Unavailable, match="BROKER_UNAVAILABLE"):
        world.erase()

    assert ["UA1", "UA1", "UA2"] == world.flights()


@pytest.mark.parametrize("step", STEPS)
def test_erasure_that_broke_off_goes_on_by_itself(world, step):
    world.create("all")
    arm(f"ingest.erase.{step}:1:raise")
    with pytest.raises(FailpointRaised):
        world.erase()
    arm(None)
    world.go_on()

    assert (["UA2"], ["UA2"]) == (world.flights(), world.flights(OTHER))
    assert ["UA2"] == world.flights_of("all")
    assert 2 == datasets.find(Reference("all"), book=world.book).rows_erased


@pytest.mark.parametrize("step", STEPS)
def test_repeated_request_gets_the_report_of_the_first(world, step):
    world.create("all")
    arm(f"ingest.erase.{step}:1:raise")
    with pytest.raises(FailpointRaised):
        world.erase()
    arm(None)

    assert ({STREAM: 2, OTHER: 2}, 1) == (
        world.erase().rows_by_stream,
        len(world.erase().datasets),
    )


def test_rows_that_were_on_their_way_go_in_a_later_pass(world):
    world.erase()
    world.tables.append(STREAM, rows(3))
    world.clock.advance(SETTLE_US + 1)
    world.go_on()
    assert ["UA2"] == world.flights()
    assert not world.eraser.erasures.get(erasure_id("r")).settled

    world.go_on()
    assert world.eraser.erasures.get(erasure_id("r")).settled


def test_row_that_comes_behind_a_long_pass_keeps_the_erasure_open(world):
    world.erase()
    steps = world.eraser.go_on(60.0)
    next(steps)
    world.clock.advance(SETTLE_US + 1)
    list(steps)

    assert not world.eraser.erasures.get(erasure_id("r")).settled


def test_pass_looks_at_one_dataset_by_step(world):
    world.erase("UA9")
    few = world.go_on()
    for number in range(5):
        world.create(f"d{number}")

    assert few + 5 <= world.go_on()


def test_erasure_that_fails_keeps_no_other_one_waiting(world):
    flights = {erasure_id("r1"): "UA1", erasure_id("r2"): "UA2"}
    world.erase("UA1", "r1")
    world.erase("UA2", "r2")
    for flight in flights.values():
        world.tables.append(STREAM, rows(10, flight=flight))
    first = flights[min(flights)]
    world.news.away_for = entity_key_digest(first)
    world.go_on()

    assert [first] == world.flights()


def test_tries_of_an_erasure_share_its_time(world, monkeypatch):
    monkeypatch.setattr(world.tables, "erase", lambda *asked: None)  # others write all the time
    clock = SimpleNamespace(monotonic=count(0.0, 25.0).__next__)
    monkeypatch.setattr(duckdb_rows, "time", clock, raising=False)

    with pytest.raises(Unavailable, match="SERVICE_UNAVAILABLE"):
        world.erase()


def test_settled_erasure_is_read_no_more(world):
    world.erase()
    world.clock.advance(SETTLE_US + 1)
    world.go_on()

    assert ([], [erasure_id("r")]) == (
        world.eraser.erasures.unsettled(),
        world.eraser.erasures.ids(),
    )


def test_archive_of_a_stream_that_was_taken_back_is_erased_from(world):
    world.take_back(OTHER)
    report = world.erase()
    world.clock.advance(SETTLE_US + 1)
    world.go_on()

    assert {STREAM: 2, OTHER: 2} == report.rows_by_stream
    assert (["UA2"], ["UA2"]) == (world.flights(), world.flights(OTHER))
    assert (2, []) == (
        sum(stream == OTHER for stream, _ in world.news.events),
        world.eraser.erasures.unsettled(),
    )


def test_column_that_only_a_stream_of_before_has_can_be_erased_by(world):
    for name in (STREAM, OTHER):
        world.take_back(name)
    world.erase()

    assert (["UA2"], ["UA2"]) == (world.flights(), world.flights(OTHER))


def test_erasure_goes_on_with_a_stream_that_is_taken_back_meanwhile(world):
    arm("ingest.erase.told:1:raise")
    with pytest.raises(FailpointRaised):
        world.erase()
    arm(None)
    world.take_back(OTHER)
    world.clock.advance(SETTLE_US + 1)
    world.go_on()
    world.go_on()

    assert (["UA2"], []) == (world.flights(OTHER), world.eraser.erasures.unsettled())


def test_erasure_waits_while_nobody_tells_which_streams_were_taken_back(world):
    world.erase()
    world.clock.advance(SETTLE_US + 1)
    answer, world.retracted.answer = world.retracted.answer, Unavailable("SERVICE_UNAVAILABLE")
    world.go_on()
    waiting = world.eraser.erasures.unsettled()
    world.retracted.answer = answer
    world.go_on()

    assert ([erasure_id("r")], []) == (waiting, world.eraser.erasures.unsettled())


def lose(world, monkeypatch, lost):
    """The archive of the stream is away until the patch is undone."""
    newest_version = world.rows.newest_version

    def newest(stream, *, view=""):
        if stream == lost:
            raise Unavailable("ARCHIVE_MISSING", stream=stream)
        return newest_version(stream, view=view)

    monkeypatch.setattr(world.rows, "newest_version", newest)


@pytest.mark.parametrize("passed_us", [0, SETTLE_US + 1], ids=["at once", "later"])
def test_erasure_takes_out_what_is_there_while_it_waits_for_an_archive(
    world, monkeypatch, passed_us
):
    arm("ingest.erase.begun:1:raise")
    with pytest.raises(FailpointRaised):
        world.erase()
    arm(None)
    world.clock.advance(passed_us)
    with monkeypatch.context() as away:
        lose(world, away, STREAM)
        world.go_on()
        assert (["UA1", "UA1", "UA2"], ["UA2"]) == (world.flights(), world.flights(OTHER))
        with pytest.raises(Unavailable, match="ARCHIVE_MISSING") as told:
            world.erase()
        assert STREAM == told.value.metadata["stream"]

    world.clock.advance(SETTLE_US + 1)
    world.go_on()
    assert ["UA2"] == world.flights()
    assert [erasure_id("r")] == world.eraser.erasures.unsettled()
    world.go_on()
    assert [] == world.eraser.erasures.unsettled()


def test_erasure_is_not_begun_while_an_archive_is_missing(world, monkeypatch):
    lose(world, monkeypatch, OTHER)
    with pytest.raises(Unavailable, match="ARCHIVE_MISSING"):
        world.erase()

    assert [] == world.eraser.erasures.unsettled()


def test_models_whose_recipe_was_taken_back_are_asked_for(world):
    world.retracted.answer = Retracted(models=["delay"])
    world.erase()

    assert [["delay"], ["delay"]] == world.versions.asked  # at its beginning, and for its report


def reported(world, **asked):
    """The numbers of the versions that the report names when it is asked for now."""
    return [each.version for each in world.erase(**asked).trained_versions]


def settle(world):
    world.clock.advance(SETTLE_US + 1)
    world.go_on()
    world.go_on()
    assert [] == world.eraser.erasures.unsettled()


@pytest.mark.parametrize("settled", [False, True])
def test_version_of_a_run_that_read_the_rows_before_they_went_is_reported(world, settled):
    world.erase()
    if settled:
        settle(world)
    world.versions.there.append(a_training(4, at=1))

    assert [3, 4] == reported(world)
    page, _, _ = list_erasures(0, "", erasures=world.eraser.erasures)
    [report] = world.eraser.with_later_versions(page)
    assert TrainedVersion("delay", 4, (STREAM,)) == report.trained_versions[-1]


def test_version_that_is_registered_while_rows_are_taken_out_is_in_the_first_report(world):
    world.news.meanwhile = lambda: world.versions.there.append(a_training(4, at=1))
    erasure = world.erase()

    assert 4 == erasure.trained_versions[-1].version


def test_version_of_a_run_that_read_the_rows_without_the_entity_is_not_reported(world):
    world.erase()
    settle(world)
    clean = world.tables.newest_version(STREAM)
    known_before = a_training(5, at=1, until_us=NOW_US - 1)
    other = a_training(6, at=1, stream="weather")
    world.versions.there += [a_training(4, at=clean), known_before, other]

    assert [3] == reported(world)


def test_version_of_a_run_that_read_rows_on_their_way_is_reported(world):
    world.erase("UA9")
    world.tables.append(STREAM, rows(7, flight="UA9"))
    late = world.tables.newest_version(STREAM)
    settle(world)
    clean = world.tables.newest_version(STREAM)
    read = {4: late - 1, 5: late, 6: clean}
    world.versions.there += [a_training(number, at=at) for number, at in read.items()]

    assert [5] == reported(world, value="UA9")


def test_version_of_a_run_that_read_the_first_rows_on_their_way_to_a_table_is_reported(world):
    world.contracts.put(a_contract(name="flights.new"))
    world.erase("UA9")
    world.tables.append("flights.new", rows(7, flight="UA9"))
    settle(world)
    world.versions.there.append(a_training(4, at=0, stream="flights.new"))

    assert [4] == reported(world, value="UA9")


def test_whether_a_version_read_the_entity_is_open_while_an_archive_is_missing(world, monkeypatch):
    world.erase()
    world.clock.advance(SETTLE_US + 1)
    with monkeypatch.context() as away:
        lose(world, away, OTHER)
        world.go_on()
    world.versions.there.append(a_training(4, at=world.tables.newest_version(STREAM)))
    before = reported(world)
    world.go_on()

    assert ([3, 4], [3]) == (before, reported(world))


@pytest.mark.parametrize("part", [3, 4], ids=["noted", "registered since"])
def test_graph_that_is_made_of_a_version_that_read_the_entity_is_reported(world, part):
    world.versions.there.append(Training("old", 1, NOW_US, {}, (("delay", 3),)))
    erasure = world.erase()
    settle(world)
    around = Training("around", 1, NOW_US, {}, (("graph", 1),))
    graph = Training("graph", 1, NOW_US, {}, (("delay", part),))
    other = Training("other", 1, NOW_US, {}, (("delay", 2),))
    world.versions.there += [around, graph, other, a_training(4, at=1)]

    noted = [(each.model, each.version) for each in erasure.trained_versions]
    told = [(each.model, each.version, each.streams) for each in world.erase().trained_versions]
    assert [("delay", 3), ("old", 1)] == noted
    later = [("around", 1), ("graph", 1), ("delay", 4)]
    assert [(*each, (STREAM,)) for each in (*noted, *later)] == told


def test_each_of_two_erasures_of_an_entity_reports_what_read_the_rows_that_it_found(world):
    world.erase(request_id="first")
    world.erase(request_id="second")
    settle(world)
    world.versions.there.append(a_training(4, at=1))

    assert ([3, 4], []) == (
        reported(world, request_id="first"),
        reported(world, request_id="second"),
    )


def test_report_waits_for_the_registry_and_the_rows_go_without_it(world):
    arm("ingest.erase.begun:1:raise")
    with pytest.raises(FailpointRaised):
        world.erase()
    arm(None)
    world.versions.away = True
    with pytest.raises(Unavailable, match=r"SERVICE_UNAVAILABLE.*service=registry"):
        world.erase()

    assert ["UA2"] == world.flights()
    world.versions.away = False
    assert [3] == reported(world)


def test_erasure_of_before_traces_were_noted_is_reported_as_it_was(world):
    world.erase()
    [key] = [each for each in world.objects.keys("erasures") if each.endswith("begun.json")]
    noted = json.loads(world.objects.get(key))
    del noted["trace"], noted["clean_version_by_stream"]
    world.objects.put(key, json.dumps(noted).encode())
    world.versions.there.append(a_training(4, at=1))
    settle(world)

    world.versions.away = True
    assert [3] == reported(world)


def entities_of(erasures):
    return [each.entity for each in erasures]


def told_again(world, erased, news, *, told=()):
    return tell_again(erasures=world.eraser.erasures, told=told, erased=erased, news=news)


def test_erasures_that_their_topic_has_lost_are_told_again_each_once(world):
    world.erase("UA1", "r1")
    world.clock.advance(1)
    again = world.erase("UA1", "r2")
    other = world.erase("UA2", "r3")
    erased, news = ErasedEntities(), News()

    lost = told_again(world, erased, news)

    assert [again.entity, other.entity] == entities_of(lost) == news.told
    assert erased.holds("flight", "UA1", again.entity.erased_at_us)
    assert [] == told_again(world, erased, news)


def test_erasure_that_is_known_by_a_later_one_is_not_told_again(world):
    first = world.erase("UA1", "r1")
    erased, news = ErasedEntities(), News()
    erased.take(replace(first.entity, erased_at_us=first.entity.erased_at_us + 1))

    assert [] == told_again(world, erased, news)
    assert [] == news.told


def test_start_reads_no_note_of_an_erasure_that_the_topic_names(world, monkeypatch):
    read = []
    named = [world.erase("UA1", "r1").id, world.erase("UA2", "r2").id]
    lost = world.erase("UA3", "r3")
    get = world.objects.get
    monkeypatch.setattr(world.objects, "get", lambda key: read.append(key) or get(key))

    assert [lost.entity] == entities_of(told_again(world, ErasedEntities(), News(), told=named))
    assert [f"erasures/{lost.id}/begun.json"] == read


def spoil(world, erasure):
    world.objects.put(f"erasures/{erasure.id}/begun.json", b'{"id": "')


def test_erasure_that_cannot_be_read_keeps_no_other_from_being_told(world):
    spoil(world, world.erase("UA1", "r1"))
    other = world.erase("UA2", "r2")

    with capture_logs() as logs:
        assert [other.entity] == entities_of(told_again(world, ErasedEntities(), News()))
    assert [erasure_id("r1")] == [
        each["erasure"] for each in logs if each["event"] == "erasure_unreadable"
    ]


def test_erasure_that_cannot_be_read_is_listed_as_such_and_told_to_who_asks_for_it(world):
    spoil(world, world.erase("UA1", "r1"))
    other = world.erase("UA2", "r2")
    page, unreadable, _ = list_erasures(0, "", erasures=world.eraser.erasures)

    assert ([other.id], [erasure_id("r1")]) == ([each.id for each in page], unreadable)
    with pytest.raises(Corrupt, match="ERASURE_UNREADABLE"):
        world.erase("UA1", "r1")


def test_erasure_that_cannot_be_read_keeps_no_other_open(world):
    spoil(world, world.erase("UA1", "r1"))
    world.erase("UA2", "r2")
    world.clock.advance(SETTLE_US + 1)
    world.go_on()

    assert [erasure_id("r1")] == world.eraser.erasures.unsettled()


def test_topic_names_the_erasure_by_its_id(world):
    message = erased_message(erasure := world.erase())

    assert erasure.id == to_erasure_id(a_record(message.value, headers=dict(message.headers)))


def test_what_happens_after_the_erasure_stays(world):
    world.clock.advance(-1)
    world.erase()

    assert ["UA1", "UA1", "UA2"] == world.flights()


def test_entity_that_is_nowhere_is_told_all_the_same(world):
    erasure = world.erase("UA9")

    assert ({STREAM: 0, OTHER: 0}, ()) == (erasure.rows_by_stream, erasure.trained_versions)
    assert 1 == len(world.news.told)


@pytest.mark.parametrize("step", STEPS)
def test_each_event_is_told_before_it_goes(world, step):
    world.create("all")
    arm(f"ingest.erase.{step}:1:raise")
    with pytest.raises(FailpointRaised):
        world.erase()
    arm(None)
    gone = {"departed:0", "departed:1"} - set(world.events())

    assert gone <= {event_id for stream, event_id in world.news.events if stream == STREAM}


def test_stream_whose_events_retention_removed_is_told_of_the_entity(world):
    world.erase("UA9")

    assert {(STREAM, entity_key_digest("UA9")), (OTHER, entity_key_digest("UA9"))} == set(
        world.news.keys
    )


def test_event_that_is_stored_while_others_are_told_is_told_too(world):
    def store_one():
        world.news.meanwhile = lambda: None
        world.tables.append(STREAM, rows(7))

    world.news.meanwhile = store_one
    world.erase()

    assert ["UA2"] == world.flights()
    assert (STREAM, "departed:7") in world.news.events


def test_column_that_no_stream_has_is_not_found(world):
    with pytest.raises(NotFound, match=r"COLUMN_UNKNOWN.*customer"):
        world.erase(column="customer")


def test_request_id_of_another_entity_conflicts(world):
    world.erase()

    with pytest.raises(Conflict, match="REQUEST_REUSED"):
        world.erase("UA2")


@pytest.mark.parametrize(
    "wrong",
    [{"column": 'x" or true --'}, {"column": ""}, {"value": ""}, {"request_id": ""}],
)
def test_request_that_makes_no_sense_is_refused(world, wrong):
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        world.erase(**wrong)


def test_pages_hold_every_erasure_once(world):
    for number in range(3):
        world.erase(f"UA{number}", f"r{number}")
    first, _, token = list_erasures(2, "", erasures=world.eraser.erasures)
    second, _, end = list_erasures(2, token, erasures=world.eraser.erasures)

    assert 3 == len({each.id for each in (*first, *second)})
    assert "" == end
    with pytest.raises(Invalid, match="page_token"):
        list_erasures(2, "x", erasures=world.eraser.erasures)
