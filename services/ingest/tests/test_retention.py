# SPDX-License-Identifier: Apache-2.0
"""Old days leave the archive, and old versions their files; datasets keep what they name."""

from __future__ import annotations

import polars as pl
import pytest

from headrace.application import definition_json
from headrace.errors import Conflict, NotFound, Unavailable
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.duckdb_rows import DuckDbRows
from headrace_ingest.adapters.memory_tables import MemoryTables
from headrace_ingest.adapters.object_dataset_book import ObjectDatasetBook
from headrace_ingest.domain.dataset_copies import dataset_in, own_copy
from headrace_ingest.domain.datasets import Reference, Selection
from headrace_ingest.domain.judging import ARCHIVE_COLUMNS, judge
from headrace_ingest.handlers import datasets
from headrace_ingest.handlers.datasets import CreateDataset
from headrace_ingest.handlers.retention import COPY_KEEP_H, HOUR_US, KEEP_H, Keeper
from headrace_ingest.ports.definitions import Retracted
from headrace_ingest.testing import NOW_US, MemoryRetracted, a_contract, a_raw, a_view
from headrace_kit.failpoints import FailpointRaised, arm
from headrace_kit.json_strict import decode
from headrace_kit.objects import MemoryObjectStore
from headrace_kit.testing import FixedClock, a_batch, a_record

STREAM, DAY_US = "flights.departed", 24 * HOUR_US


def rows(*numbers, days_ago=0):
    at_us = NOW_US - days_ago * DAY_US
    records = [a_raw(number, departed_at=at_us) for number in numbers]
    columns = (*ARCHIVE_COLUMNS, *a_contract().stream.columns)
    return judge(a_batch(records), a_contract(), decode=decode).rows.select(columns)


class World:
    """A stream with a row of today and one of 20 days ago."""

    def __init__(self, spill):
        self.contracts, self.tables = AppliedContracts(), MemoryTables()
        self.contracts.put(a_contract())
        self.tables.append(STREAM, pl.concat([rows(0), rows(1, days_ago=20)]))
        self.book, self.clock = ObjectDatasetBook(MemoryObjectStore()), FixedClock(NOW_US)
        self.rows = DuckDbRows(self.tables, spill)
        self.retracted = MemoryRetracted()
        self.keeper = Keeper(self.contracts, self.retracted, self.book, self.rows, self.clock)

    def keep(self, retention=None):
        if retention:
            self.contracts.put(a_contract(2, retention=retention))
        list(self.keeper.keep(60.0))

    def take_back(self, contract):
        self.contracts.take(a_record(None, key=f"stream/{STREAM}".encode()))
        self.retracted.answer = Retracted([contract])

    def ids(self, selection=None):
        selection = selection or self.created().selection
        return sorted(self.tables.open(selection)["_event_id"].to_pylist())

    def create(self, name="all"):
        return datasets.create_dataset(
            CreateDataset(name, "", STREAM, "", "", None, 0),
            name,
            contracts=self.contracts,
            book=self.book,
            rows=self.rows,
            clock=self.clock,
            timeout_s=60.0,
        )

    def created(self):
        return datasets.find(Reference("all"), book=self.book)


@pytest.fixture
def world(tmp_path):
    yield World(tmp_path / "spill")
    arm(None)


def test_days_beyond_the_retention_leave_the_archive(world):
    world.keep("14d")
    world.create()

    assert ["departed:0"] == world.ids()


def test_missing_archive_of_a_stream_does_not_keep_others_from_ageing(world, monkeypatch):
    newest_version = world.tables.newest_version

    def version_of(stream, *, view=""):
        if stream == "a":
            raise Unavailable("ARCHIVE_MISSING", stream=stream)
        return newest_version(stream, view=view)

    monkeypatch.setattr(world.tables, "newest_version", version_of)
    world.contracts.put(a_contract(name="a"))
    world.keep("14d")
    world.create()

    assert ["departed:0"] == world.ids()


def test_archive_of_a_stream_that_was_taken_back_ages_by_its_last_contract(world):
    world.take_back(a_contract(retention="14d"))
    world.keep()
    world.contracts.put(a_contract())
    world.create()

    assert ["departed:0"] == world.ids()


def test_stream_that_is_applied_again_ages_by_its_contract_of_now(world):
    world.retracted.answer = Retracted([a_contract(retention="14d")])
    world.keep("30d")

    assert 0 == world.tables.newest_version(STREAM)


def test_applied_streams_age_while_nobody_tells_which_were_taken_back(world):
    world.retracted.answer = Unavailable("SERVICE_UNAVAILABLE")
    with pytest.raises(Unavailable, match="SERVICE_UNAVAILABLE"):
        world.keep("14d")
    world.create()

    assert ["departed:0"] == world.ids()


def test_pass_that_broke_off_is_gone_through_again(world):
    arm("ingest.keep.retired:1:raise")
    with pytest.raises(FailpointRaised):
        world.keep("14d")
    arm(None)
    world.keep()
    world.create()

    assert ["departed:0"] == world.ids()


def test_stream_without_retention_keeps_all(world):
    world.keep()

    assert 0 == world.tables.newest_version(STREAM)


@pytest.mark.parametrize("retention", ["16000d", "1000000d"])
def test_retention_from_before_the_first_event_keeps_all(world, retention):
    world.keep(retention)

    assert 0 == world.tables.newest_version(STREAM)


def test_young_dataset_keeps_its_version_over_the_retention(world):
    made = world.create()
    world.keep("14d")

    assert ["departed:0", "departed:1"] == world.ids(made.selection)


def test_old_dataset_has_its_own_table_before_its_version_goes(world):
    made = world.create()
    world.clock.advance((KEEP_H - 47) * HOUR_US)
    world.keep("14d")
    world.tables.append(STREAM, rows(2))
    world.keep()

    with pytest.raises(Conflict, match="VERSION_EXPIRED"):
        world.tables.open(made.selection)
    assert ["departed:0", "departed:1"] == world.ids()
    assert (made.content, 0) == (world.created().content, world.created().rows_erased)


def test_dataset_of_an_archive_that_was_lost_keeps_nothing_from_ageing(world):
    world.tables.append(STREAM, rows(2))
    world.create()
    world.tables.take(STREAM)
    world.tables.append(STREAM, pl.concat([rows(0), rows(1, days_ago=20)]))
    world.clock.advance(6 * DAY_US)
    world.keep("14d")
    columns = (("_event_id", "string"),)

    assert ["departed:0"] == world.ids(Selection(STREAM, 1, columns))


def test_copied_dataset_is_copied_once(world):
    world.create()
    world.clock.advance((KEEP_H - 47) * HOUR_US)
    world.keep()
    world.keep()

    assert 1 == world.created().revision


def test_step_copies_one_dataset(world):
    for name in ("all", "more", "most"):
        world.create(name)
    world.clock.advance((KEEP_H - 47) * HOUR_US)
    manifests = [world.book.get(*place) for place in world.book.places()]
    copied = [
        sum(bool(world.book.get(each.name, each.number).selection.copy) for each in manifests)
        for _ in world.keeper.keep(60.0)
    ]

    assert [1, 2, 3] == copied[:3]


def cleaned(world, monkeypatch):
    """Of which tables, and which versions stay: by the name of stream, view or copy."""
    found = {}

    def clean(selection, keep, *, keep_h):
        found[selection.copy or selection.view or selection.stream] = (set(keep), keep_h)

    monkeypatch.setattr(world.tables, "clean", clean)
    world.keep()
    return found


def test_feature_tables_are_cleaned_also_of_views_that_were_taken_back(world, monkeypatch):
    spec = definition_json(a_view(name="applied"))
    applied = Definition(kind="view", name="applied", version=1, spec_json=spec)
    world.contracts.take(a_record(applied.SerializeToString(), key=b"view/applied"))
    world.retracted.answer = Retracted(views=[a_view(name="gone"), a_view(name="empty")])
    for name in ("applied", "gone"):
        world.tables.append(f"features/{name}", rows(0))

    assert {"applied", "gone", STREAM} == cleaned(world, monkeypatch).keys()


def test_table_of_a_dataset_is_cleaned_of_what_a_day_replaced(world, monkeypatch):
    world.create()
    assert {STREAM: ({0}, KEEP_H)} == cleaned(world, monkeypatch)
    world.clock.advance((KEEP_H - 47) * HOUR_US)

    found = cleaned(world, monkeypatch).items()
    told = {dataset_in(name) if "/" in name else name: how for name, how in found}

    assert {STREAM: (set(), KEEP_H), "all/1": (set(), COPY_KEEP_H)} == told


@pytest.mark.parametrize(
    "gone",
    [NotFound("STREAM_EMPTY", stream=STREAM), Unavailable("ARCHIVE_MISSING", stream=STREAM)],
    ids=["of a stream without records", "of one that was read"],
)
def test_table_of_a_dataset_that_is_gone_keeps_no_other_from_being_cleaned(
    gone, world, monkeypatch
):
    world.create("all")
    world.clock.advance((KEEP_H - 47) * HOUR_US)
    world.keep()
    world.retracted.answer = Retracted(views=[a_view(name="gone")])
    world.tables.append("features/gone", rows(0))
    seen = []

    def clean(selection, keep, *, keep_h):
        seen.append(selection.view)
        if selection.copy:
            raise gone

    monkeypatch.setattr(world.tables, "clean", clean)
    world.keep()

    assert "gone" == seen[-1]


def test_dataset_that_is_deleted_while_a_pass_runs_ends_no_pass(world, monkeypatch):
    for name in ("all", "more"):
        world.create(name)
    places = world.book.places

    def deleted_meanwhile(name=""):
        found = places(name)
        world.book.delete("all", 1)
        return found

    monkeypatch.setattr(world.book, "places", deleted_meanwhile)

    assert {STREAM: ({0}, KEEP_H)} == cleaned(world, monkeypatch)


def test_table_of_a_deleted_dataset_goes_and_those_of_others_stay(world):
    for name in ("all", "more"):
        world.create(name)
    world.clock.advance((KEEP_H - 47) * HOUR_US)
    world.keep()
    assert ["all/1", "more/1"] == sorted(map(dataset_in, world.tables.copies()))
    datasets.delete_dataset("more", 1, "delete", book=world.book)
    world.keep()

    assert ["all/1"] == [*map(dataset_in, world.tables.copies())]
    assert ["departed:0", "departed:1"] == world.ids()


def test_table_of_a_writer_that_ended_goes_after_a_day_and_the_used_one_stays(world):
    world.create("all")
    world.clock.advance((KEEP_H - 47) * HOUR_US)
    world.keep()
    (used,) = world.tables.copies()
    (manifest,) = datasets.manifests([("all", 1)], book=world.book)
    left = own_copy(manifest, world.clock.now_us())
    world.tables.write_copy(left, world.tables.open(manifest.selection).to_reader())
    world.keep()
    assert {used, left} == world.tables.copies()
    world.clock.advance(25 * HOUR_US)
    world.keep()

    assert {used} == world.tables.copies()
