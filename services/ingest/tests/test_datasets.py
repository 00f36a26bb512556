# SPDX-License-Identifier: Apache-2.0
"""Datasets: created once, numbered without a gap, read and compared as they were."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest
from dataset_world import STREAM, World, rows, statistics

from headrace.errors import Busy, Conflict, Invalid, NotFound, Unavailable
from headrace_ingest.adapters.duckdb_work import WORKS_MAX
from headrace_ingest.adapters.object_dataset_book import ObjectDatasetBook
from headrace_ingest.domain.datasets import Diff, Reference
from headrace_ingest.handlers import datasets
from headrace_ingest.handlers.datasets import (
    ListDatasets,
    Progress,
)
from headrace_ingest.testing import NOW_US, a_contract
from headrace_kit.failpoints import FailpointRaised, arm


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "spill")


def test_dataset_keeps_its_rows_when_more_come(world):
    world.create()
    world.tables.append(STREAM, rows(20, 21))

    assert 20 == world.read(Reference("departures")).height


def test_digest_is_of_the_content_and_not_of_its_order_and_files(world):
    first = world.create()
    world.replace_tables()
    for part in (range(10, 20), range(9, -1, -1)):
        world.tables.append(STREAM, rows(*part))
    second = world.create()

    assert first.content.digest == second.content.digest
    assert first.selection != second.selection


@pytest.mark.parametrize("change", [{"delay": 2.6}, {"delay": None}, {"origin": "JFK"}])
def test_digest_tells_one_changed_value(world, change):
    first = world.create()
    world.tables.append(STREAM, rows(20))
    second = world.create(filter="event_id != 'departed:0'")
    world.tables.append(STREAM, rows(0, **change))
    third = world.create(filter="event_id != 'departed:20'", delta_version=2)

    assert 3 == len({each.content.digest for each in (first, second, third)})


def test_numbers_have_no_gap_under_racing_creations(world):
    world.create()
    with ThreadPoolExecutor(WORKS_MAX) as pool:
        made = list(pool.map(lambda n: world.create(request_id=f"r{n}"), range(8)))

    assert list(range(2, 10)) == sorted(each.number for each in made)


def test_repeated_request_gets_the_first_answer(world):
    first = world.create(request_id="r")
    world.tables.append(STREAM, rows(20))

    assert first == world.create(request_id="r")
    assert [("departures", 1)] == world.book.places()


def test_request_id_of_other_content_conflicts(world):
    world.create(request_id="r")

    with pytest.raises(Conflict, match="REQUEST_REUSED"):
        world.create(request_id="r", filter="delay > 0")


@pytest.mark.parametrize(
    "step", ["ingest.dataset.claimed", "ingest.dataset.described", "ingest.dataset.added"]
)
def test_creation_that_broke_off_names_the_same_rows_when_repeated(world, step):
    arm(f"{step}:1:raise")
    with pytest.raises(FailpointRaised):
        world.create(request_id="r")
    arm(None)
    world.create(request_id="another")
    world.tables.append(STREAM, rows(20))
    repeated = world.create(request_id="r")

    assert (0, 20) == (repeated.selection.delta_version, repeated.content.rows)
    assert 2 == len(world.book.places("departures"))


def test_dataset_survives_all_but_the_object_store(world):
    made = world.create()
    tag = world.tag("gold", 1)
    again = ObjectDatasetBook(world.objects)

    assert (made, [tag]) == datasets.get_dataset(Reference("departures", tag="gold"), book=again)


def test_filter_chooses_rows(world):
    world.tables.append(STREAM, rows(20, 21, delay=100))
    made = world.create(filter="delay > 50 and origin = 'EWR'")

    assert 2 == made.content.rows
    ids = world.read(Reference("departures"), "event_id")["event_id"]
    assert ["departed:20", "departed:21"] == sorted(ids)


@pytest.mark.parametrize("wrong", ["delay >", "speed > 3", "delay + 1", "delay > 'x'"])
def test_filter_that_cannot_be_read_is_refused(world, wrong):
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        world.create(filter=wrong)


def test_known_time_cuts_what_came_later(world):
    later = NOW_US + 60_000_000
    world.tables.append(STREAM, rows(20, known_at=later, record={"timestamp_ms": later // 1000}))
    made = world.create(known_until_us=NOW_US)

    assert (20, 21) == (made.content.rows, world.create().content.rows)


def test_statistics_tell_how_a_column_looks(world):
    world.tables.append(STREAM, rows(*range(20, 40), delay=None))
    world.tables.append(STREAM, rows(*range(40, 50), delay=10.0, origin="JFK"))
    made = world.create()
    delay, origin = statistics(made, "delay"), statistics(made, "origin")

    assert (20, 2, 2.5, 10.0, 5.0) == (
        delay.nulls,
        delay.distinct,
        delay.min,
        delay.max,
        delay.mean,
    )
    assert 50 == sum(delay.counts)
    assert (("EWR", "JFK"), (40, 10, 0, 0)) == (origin.values, origin.counts)


def test_manifest_holds_no_value_of_a_key(world):
    made = world.create()

    assert () == statistics(made, "flight").values
    assert b"UA1" not in b"".join(map(world.objects.get, world.objects.keys()))


def test_diff_tells_rows_columns_and_distributions(world):
    world.create()
    world.contracts.put(
        a_contract(2, columns=dict(a_document()["columns"], gate={"type": "string"}))
    )
    world.tables.append(STREAM, rows(*range(100, 130), delay=500.0))
    world.create(filter="event_id != 'departed:3'")
    *progress, diff = world.diff(1, 2)

    assert [Progress("rows", 0), Progress("distributions", 1)] == progress
    assert isinstance(diff, Diff)
    assert (30, 1, 0) == (diff.rows.added, diff.rows.removed, diff.rows.changed)
    assert ("departed:3",) == diff.rows.removed_ids
    assert [("gate", "", "string")] == [
        (each.column, each.type_before, each.type_after) for each in diff.columns
    ]
    shifts = {each.column: each for each in diff.shifts}
    assert shifts["origin"].p_value > 0.5


def a_document():
    from headrace_ingest.testing import a_stream_document

    return a_stream_document()


def test_diff_tells_a_shift_of_the_values(world):
    spread = pl.concat([rows(n, delay=float(n % 100)) for n in range(1_000, 1_400)])
    moved = pl.concat([rows(n, delay=float(n % 100) + 40) for n in range(2_000, 2_400)])
    world.tables.append(STREAM, spread)
    world.create(filter="event_id > 'departed:1' and delay != 2.5")
    world.tables.append(STREAM, moved)
    world.create(filter="event_id >= 'departed:2000' and event_id < 'departed:24'")
    shifts = {each.column: each for each in world.diff(1, 2)[-1].shifts}

    assert shifts["delay"].p_value < 1e-6
    assert shifts["delay"].psi > 0.1


def test_diff_of_a_dataset_with_itself_is_empty(world):
    world.create()
    diff = world.diff(1, 1)[-1]

    assert (0, 0, 0) == (diff.rows.added, diff.rows.removed, diff.rows.changed)
    assert all(each.psi <= 0 for each in diff.shifts)


def test_changed_row_is_found_by_its_event_id(world):
    world.create(filter="event_id = 'departed:0'")
    world.replace_tables()
    world.tables.append(STREAM, rows(0))
    world.tables.append(STREAM, rows(0, delay=3.0))
    made = world.create(filter="event_id = 'departed:0' and delay = 3.0")
    diff = world.diff(1, made.number)[-1]

    assert (1, ("departed:0",)) == (diff.rows.changed, diff.rows.changed_ids)


def test_stream_is_read_as_it_was_at_a_version(world):
    world.tables.append(STREAM, rows(20))

    assert 20 == world.read_stream("event_id", delta_version=0).height
    assert 21 == world.read_stream("event_id").height


def test_reading_gives_the_columns_that_are_asked_for_in_their_order(world):
    assert ["delay", "_event_id"] == world.read_stream("delay", "_event_id").columns
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        world.read_stream('x" from rows --')


@pytest.mark.parametrize("times", [2, 20_000])
def test_column_that_is_named_twice_is_refused(world, times):
    with pytest.raises(Invalid, match="BAD_REQUEST") as refused:
        world.read_stream(*["delay"] * times)

    assert {"field": "columns", "problem": "names delay twice"} == refused.value.metadata


def test_version_beyond_the_newest_is_refused(world):
    with pytest.raises(Invalid, match="delta_version"):
        world.read_stream(delta_version=1)


def test_stream_without_records_is_empty(world):
    world.contracts.put(a_contract(name="flights.landed"))

    with pytest.raises(NotFound, match="STREAM_EMPTY"):
        world.create(stream="flights.landed")


@pytest.mark.parametrize(
    ("number", "generation", "field"), [(0, 0, "number"), (1, -1, "generation_expected")]
)
def test_tag_that_is_asked_for_wrongly_names_the_field(world, number, generation, field):
    world.create()

    with pytest.raises(Invalid, match="BAD_REQUEST") as refused:
        world.tag("gold", number, generation)

    assert field == refused.value.metadata["field"]


def test_tag_moves_by_compare_and_set(world):
    world.create()
    world.create()
    world.tag("gold", 1)
    with pytest.raises(Conflict, match="TAG_MOVED"):
        world.tag("gold", 2, request_id="late")
    moved = world.tag("gold", 2, 1, request_id="second")

    assert moved == world.tag("gold", 2, 1, request_id="second")
    assert [(2, 2)] == [(each.number, each.generation) for each in world.book.tags("departures")]


@pytest.mark.parametrize("tag", ["latest", "7", "Gold", "a/b", ""])
def test_tag_that_reads_as_something_else_is_refused(world, tag):
    world.create()

    with pytest.raises(Invalid, match="BAD_NAME"):
        world.tag(tag, 1)


def test_deleted_dataset_keeps_its_number_and_loses_its_pin(world):
    world.create()
    world.create()
    datasets.delete_dataset("departures", 2, "r", book=world.book)
    datasets.delete_dataset("departures", 2, "r", book=world.book)

    assert {0} == datasets.pinned_versions(STREAM, book=world.book)
    assert 1 == datasets.find(Reference("departures"), book=world.book).number
    assert 3 == world.create().number
    with pytest.raises(Conflict, match="DATASET_DELETED"):
        world.read(Reference("departures", 2))


def test_datasets_of_other_streams_are_not_read_for_the_pins_of_one(world, monkeypatch):
    world.contracts.put(a_contract(name="landed"))
    world.tables.append("landed", rows(1))
    world.create()
    world.create("arrivals", stream="landed")
    assert [{0}] * 2 == [pins_of(stream, world) for stream in ("landed", STREAM)]

    get, read = world.objects.get, []
    monkeypatch.setattr(world.objects, "get", lambda key: read.append(key) or get(key))
    assert {0} == pins_of("landed", world)
    assert {"arrivals"} == {key.split("/")[1] for key in read}


def pins_of(stream, world):
    return datasets.pinned_versions(stream, book=world.book)


def test_tagged_dataset_is_not_deleted(world):
    world.create()
    world.tag("gold", 1)

    with pytest.raises(Conflict, match="DATASET_TAGGED"):
        datasets.delete_dataset("departures", 1, "r", book=world.book)


def test_pages_hold_every_dataset_once(world):
    for name in ("b", "a", "b"):
        world.create(name)
    token, seen = "", []
    while True:
        page, token = datasets.list_datasets(ListDatasets("", 2, token), book=world.book)
        seen += [(each.name, each.number) for each, _ in page]
        if not token:
            break

    assert [("a", 1), ("b", 2), ("b", 1)] == seen


def test_token_of_another_list_is_refused(world):
    for _ in range(2):
        world.create("b")
    _, token = datasets.list_datasets(ListDatasets("", 1, ""), book=world.book)

    for name, changed in (("b", token), ("", token[:-1] + "0"), ("", "b/x/0")):
        with pytest.raises(Invalid, match="page_token"):
            datasets.list_datasets(ListDatasets(name, 1, changed), book=world.book)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Bad"},
        {"name": "../x"},
        {"request_id": "\n"},
        {"stream": "", "view": ""},
        {"view": "delays"},
        {"known_until_us": -1},
        {"delta_version": -1},
        {"description": "x" * 2_001},
    ],
)
def test_request_that_makes_no_sense_is_refused(world, wrong):
    with pytest.raises(Invalid):
        world.create(**wrong)


def test_unknown_dataset_is_not_found(world):
    for reference in (Reference("absent"), Reference("absent", 3), Reference("absent", tag="t")):
        with pytest.raises(NotFound, match="DATASET_UNKNOWN"):
            datasets.get_dataset(reference, book=world.book)


def test_more_works_at_once_than_allowed_are_busy(world):
    selection = world.create().selection
    readers = [world.rows.read(selection, (), timeout_s=60.0) for _ in range(WORKS_MAX)]
    for reader in readers:
        next(reader)
    with pytest.raises(Busy, match="QUEUE_FULL"):
        world.create()
    for reader in readers:
        reader.close()

    assert 2 == world.create().number


def test_work_ends_when_its_time_is_up(world):
    world.tables.append(STREAM, pl.concat([rows(0)] * 20_000))

    with pytest.raises(Unavailable, match="SERVICE_UNAVAILABLE"):
        world.create(timeout_s=0.0)
