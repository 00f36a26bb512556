# SPDX-License-Identifier: Apache-2.0
"""The offline feature table: each row is the online read as of its moment, once, whole or not."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from feature_definitions import views
from feature_oracle import MEANINGS
from feature_world import (
    ASKER,
    DAY,
    HOUR,
    MINUTE,
    RIDES,
    START,
    Air,
    Event,
    World,
    a_bench,
    a_catalogue,
    a_view,
    air_lists,
    bits,
    event_lists,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.data_contract import Stream
from headrace.entity import text_of
from headrace.errors import Invalid, NotFound, Unavailable
from headrace.feature_view import StreamView, feature_names
from headrace_feature import materialize_handlers
from headrace_feature.adapters import delta_features
from headrace_feature.adapters.delta_features import DeltaFeatureTables
from headrace_feature.adapters.memory_archive import MemoryArchive
from headrace_feature.domain.log_place import LogPlace
from headrace_feature.materialize_handlers import MaterializeView, materialize_view, view_source
from headrace_kit import failpoints
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.failpoints import FailpointRaised
from headrace_kit.testing import FixedClock

AFTER = START + 30 * DAY
VIEW = a_view(
    {
        "count": {"aggregate": "count", "window": "1h"},
        "mean": {"aggregate": "mean", "column": "fare", "window": "1h"},
    }
)


class Lake:
    """A folder with feature tables, and what they are made from."""

    def __init__(self, folder, view=VIEW):
        self.folder, self.catalogue = Path(folder), a_catalogue(view)
        self.log_id = "1st"  # of the log of erasures that is there
        self.restart()

    def restart(self):
        self.erased = ErasedEntities()
        self.tables = self.tables_of(self.erased)

    def tables_of(self, erased, log_id="1st", *, clock=None):
        """Of a worker that knows these, as the log of this id tells them."""
        clock = clock or FixedClock(AFTER)
        tables = DeltaFeatureTables(
            self.folder.as_uri(), {}, clock, erased, log_id=lambda: self.log_id
        )
        tables.know(LogPlace(0, log_id))
        return tables

    def materialize(self, rides, *, airs=(), view="zone", tables=None, **asked):
        after = [Event("after-all", AFTER + 1, AFTER + 1)], [Air("after-all", AFTER + 1, AFTER + 1)]
        archive = MemoryArchive(
            {
                "rides": [e.row() for e in (*rides, *after[0])],
                "air": [a.row() for a in (*airs, *after[1])],
            }
        )
        return self.materialize_from(archive, view, tables, **{"until_us": AFTER, **asked})

    def materialize_from(self, archive, view="zone", tables=None, **asked):
        command, catalogue = MaterializeView(view, **asked), self.catalogue
        source = view_source(command, ASKER, catalogue=catalogue, archive=archive)
        tables = tables or self.tables
        with a_bench() as bench:
            return list(
                materialize_view(command, source, catalogue=catalogue, bench=bench, tables=tables)
            )

    def rows(self, view="zone"):
        """By event id."""
        table = DeltaTable((self.folder / "features" / view).as_uri()).to_pyarrow_table()
        found = table.to_pylist()
        assert len(found) == len({(row["_event_id"], row["_definition"]) for row in found})
        return {row["_event_id"]: row for row in found}


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path)


def expected_rows(view: StreamView, rides) -> dict[str, tuple[Event, int]]:
    """By id, the record and its moment: first known, counted, with an entity."""
    first = {}
    for ride in sorted(rides, key=lambda ride: (ride.known, ride.at)):
        first.setdefault(ride.id, ride)
    return {
        ride.id: (ride, max(ride.at, ride.known))
        for ride in first.values()
        if all(getattr(ride, name) is not None for name in view.entity)
        and (view.filter is None or MEANINGS[view.filter](ride))
    }


@given(
    data=st.data(),
    view=st.booleans().flatmap(lambda looking: views(looking=looking)),
    events=event_lists(events_max=12),
    airs=air_lists(airs_max=8),
    rows_max=st.sampled_from([1, 3, 100]),
)
@settings(max_examples=15)
def test_each_row_is_the_online_read_as_of_its_moment(data, view, events, airs, rows_max):
    repeats = data.draw(st.lists(st.sampled_from(events), max_size=3)) if events else []
    rides = data.draw(
        st.permutations([*events, *(replace(each, known=each.known + HOUR) for each in repeats)])
    )
    world, names = World(a_catalogue(view)), feature_names(view)
    if rides:
        world.fold(*rides)
    if airs:
        world.fold(*airs)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(materialize_handlers, "ROUND_ROWS_MAX", rows_max)
        lake = Lake(folder, view)
        while lake.materialize(rides, airs=airs, view="drawn")[-1].reached_us < AFTER:
            pass
        made = lake.rows("drawn")

    expected = expected_rows(view, rides)
    moments = {named: moment for named, (_, moment) in expected.items()}
    assert moments == {named: row["_known_time_us"] for named, row in made.items()}
    if expected:
        asked = [(ride.zone, ride.kind, moment) for ride, moment in expected.values()]
        nights = [text_of(ride.night) or "" for ride, _ in expected.values()]
        columns = [name.partition(":")[2] for name in names]
        stored = [[made[named][column] for column in columns] for named in expected]
        read = world.read(asked, names, night=nights)
        assert bits(read) == bits(np.array(stored, np.float32))


def test_a_call_does_a_bounded_part(lake, monkeypatch):
    monkeypatch.setattr(materialize_handlers, "ROUND_ROWS_MAX", 1)
    monkeypatch.setattr(materialize_handlers, "ROUNDS_MAX", 2)
    first, second = (lake.materialize(some_rides(3)) for _ in range(2))

    assert [0, 1, 2] == [each.rows for each in first]
    reached = START + 2 * MINUTE - 1
    assert reached == first[-1].reached_us
    assert [(0, reached), (1, AFTER)] == [(each.rows, each.reached_us) for each in second]


def some_rides(count):
    return [Event(f"ride-{n}", START + n * MINUTE, START + n * MINUTE) for n in range(count)]


def test_table_goes_on_where_it_ended(lake, monkeypatch):
    monkeypatch.setattr(materialize_handlers, "ROUND_ROWS_MAX", 4)
    rides = some_rides(10)
    first = lake.materialize(rides, until_us=START + 5 * MINUTE)
    assert [f"ride-{n}" for n in range(6)] == sorted(lake.rows())
    later = lake.materialize(rides)

    assert [0, 4, 6] == [each.rows for each in first]
    assert [0, 4] == [each.rows for each in later]
    assert [START + 5 * MINUTE, AFTER] == [each.reached_us for each in later]
    assert 10 == len(lake.rows())


def test_table_that_reaches_further_is_left_as_it_is(lake):
    lake.materialize(some_rides(3))
    again = lake.materialize(some_rides(3), until_us=START)

    assert [(0, AFTER)] == [(each.rows, each.reached_us) for each in again]


def test_late_record_gets_its_row_when_it_is_known_and_changes_none_before(lake):
    rides = some_rides(3)
    lake.materialize(rides, until_us=START + 5 * MINUTE)
    before = lake.rows()
    late = Event("late", START, START + 6 * MINUTE)
    lake.materialize([*rides, late])

    rows = lake.rows()
    assert (4.0, late.known) == (rows["late"]["count"], rows["late"]["_known_time_us"])
    assert before == {named: rows[named] for named in before}


def test_table_can_begin_at_a_moment_and_looks_back_behind_it(lake):
    lake.materialize(some_rides(4), from_us=START + 2 * MINUTE)

    counts = {named: row["count"] for named, row in lake.rows().items()}
    assert {"ride-2": 3.0, "ride-3": 4.0} == counts


def test_changed_view_has_rows_of_its_own_in_the_same_table(lake):
    lake.materialize(some_rides(2))
    [old] = {row["_definition"] for row in lake.rows().values()}
    wider = a_view(
        {
            "count": {"aggregate": "count", "window": "2h"},
            "riders": {"aggregate": "sum", "column": "riders", "window": "1h"},
        }
    )
    lake.catalogue = lake.catalogue.with_definition(wider)
    made = lake.materialize(some_rides(3))

    assert 3 == made[-1].rows
    table = DeltaTable((lake.folder / "features" / "zone").as_uri()).to_pyarrow_table().to_pylist()
    new = [row for row in table if row["_definition"] != old]
    assert [(None, 1.0), (None, 2.0), (None, 3.0)] == sorted(
        (row["mean"], row["riders"]) for row in new
    )
    assert 5 == len(table)


def test_absent_value_is_null(lake):
    lake.materialize([replace(some_rides(1)[0], fare=None)])

    assert (1.0, None) == (lake.rows()["ride-0"]["count"], lake.rows()["ride-0"]["mean"])


@pytest.mark.parametrize("fare", [1.5, None])
def test_rows_are_found_by_the_values_of_their_columns(lake, fare):
    lake.materialize([replace(ride, fare=fare) for ride in some_rides(3)])
    table = DeltaTable((lake.folder / "features" / "zone").as_uri()).to_pyarrow_dataset()

    assert 1 == table.count_rows(pc.field("count") > 2)
    assert 3 == table.count_rows(pc.field("_definition") > "0")
    assert 1 == table.count_rows(pc.field("_event_id") == "ride-1")
    assert (3 if fare else 0) == table.count_rows(pc.field("mean") > 1)


class Overtaken:
    """Tables of which another process writes whenever ours was opened for a round."""

    def __init__(self, lake, rides):
        self.lake, self.rides, self.opened = lake, rides, 0

    def open(self, view, definition):
        found = self.lake.tables.open(view, definition)
        self.opened += 1
        if self.opened == 1:
            self.lake.materialize(self.rides, until_us=START + MINUTE)
        return found


@pytest.mark.parametrize("there", [0, 1])
def test_of_two_that_materialize_one_writes_each_row(lake, there):
    rides = some_rides(4)
    if there:
        lake.materialize(rides, until_us=START)
    made = lake.materialize(rides, tables=Overtaken(lake, rides))

    assert AFTER == made[-1].reached_us
    assert 4 == len(lake.rows())


def refuse(monkeypatch, times):
    """Commits that others are before, so many times."""
    write, left = DeltaTable.create_write_transaction, iter(range(times))

    def overtaken(table, *given, **named):
        if next(left, None) is not None:
            raise CommitFailedError("a concurrent transaction was committed")
        write(table, *given, **named)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", overtaken)


def test_round_whose_commit_another_is_before_is_made_again(lake, monkeypatch):
    lake.materialize(some_rides(3), until_us=START)
    refuse(monkeypatch, 1)
    made = lake.materialize(some_rides(3))

    assert [(0, START), (0, START), (2, AFTER)] == [(each.rows, each.reached_us) for each in made]
    assert 3 == len(lake.rows())


def test_round_whose_files_ingest_may_soon_take_for_left_over_is_made_again(lake, monkeypatch):
    lake.materialize(some_rides(3), until_us=START)
    clock, write, slept = FixedClock(AFTER), delta_features._written, []
    tables = lake.tables_of(lake.erased, clock=clock)

    def written(*given):
        if not slept:
            clock.advance(DAY)
            slept.append(DAY)
        return write(*given)

    monkeypatch.setattr(delta_features, "_written", written)
    made = lake.materialize(some_rides(3), tables=tables)

    assert [(0, START), (0, START), (2, AFTER)] == [(each.rows, each.reached_us) for each in made]
    assert 3 == len(lake.rows())


def test_view_of_which_no_commit_is_first_says_that_others_write(lake, monkeypatch):
    lake.materialize(some_rides(3), until_us=START)
    refuse(monkeypatch, 100)
    with pytest.raises(Unavailable, match="TABLE_CONTENDED"):
        lake.materialize(some_rides(3))

    assert ["ride-0"] == list(lake.rows())


def test_what_was_written_and_not_committed_is_never_seen(lake):
    rides = some_rides(3)
    lake.materialize(rides, until_us=START)
    failpoints.arm("feature.offline.parquet_written:1:raise")
    try:
        with pytest.raises(FailpointRaised):
            lake.materialize(rides)
    finally:
        failpoints.arm(None)
    assert ["ride-0"] == list(lake.rows())
    files = list((lake.folder / "features").rglob("*.parquet"))
    assert 2 == len([each for each in files if "_delta_log" not in each.parts])

    lake.materialize(rides)
    assert 3 == len(lake.rows())


def test_filter_reads_the_column_of_its_stream_and_no_moment_of_a_row(lake):
    columns = {**RIDES["columns"], "as_of_us": {"type": "int64"}}
    stream = Stream.model_validate({**RIDES, "columns": columns})
    few = a_view({"count": {"aggregate": "count", "window": "1h"}}, filter="as_of_us < 2")
    lake.catalogue = lake.catalogue.with_definition(stream).with_definition(few)
    rows = [ride.row() | {"as_of_us": number} for number, ride in enumerate(some_rides(4))]
    lake.materialize_from(MemoryArchive({"rides": rows}), until_us=START + 2 * MINUTE)

    assert ["ride-0", "ride-1"] == sorted(lake.rows())


def test_view_whose_feature_is_named_as_its_entity_is_refused(tmp_path):
    lake = Lake(tmp_path, a_view({"zone": {"aggregate": "count", "window": "1h"}}))
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        lake.materialize([])


@pytest.mark.parametrize("view", ["none", "ask"])
def test_what_is_no_view_of_a_stream_is_unknown(lake, view):
    with pytest.raises(NotFound, match="VIEW_UNKNOWN"):
        lake.materialize([], view=view)


def test_moment_that_the_archive_has_not_passed_is_unavailable(lake):
    with pytest.raises(Unavailable, match="RECORDS_BEHIND"):
        lake.materialize([], until_us=AFTER + 1)


def test_without_a_moment_it_goes_as_far_as_the_archive_holds_all(lake):
    made = lake.materialize(some_rides(2), until_us=None)

    assert (2, AFTER) == (made[-1].rows, made[-1].reached_us)


LOOKING = a_view(
    {"mean": {"aggregate": "mean", "column": "temp", "window": "1h"}},
    lookups={"temp": {"stream": "air", "key": {"zone": "zone"}, "column": "temp", "max_age": "1d"}},
)


def looked_into(rides, airs, **told):
    rows = {"rides": [each.row() for each in rides], "air": [each.row() for each in airs]}
    return MemoryArchive(rows, **told)


def test_lookup_that_is_behind_holds_the_table_back_and_is_named(tmp_path):
    lake, airs = Lake(tmp_path, LOOKING), [Air("air", START, START)]
    made = lake.materialize_from(looked_into(some_rides(3), airs))

    assert (0, START - 1) == (made[-1].rows, made[-1].reached_us)
    assert "air: complete up to 2013-01-01 00:26:39 UTC" in made[-1].waits_for


def test_quiet_lookup_holds_nothing_back(tmp_path):
    lake, airs = Lake(tmp_path, LOOKING), [Air("air", START, START)]
    made = lake.materialize_from(looked_into(some_rides(3), airs, quiet=["air"]))

    assert (2, START + 2 * MINUTE - 1) == (made[-1].rows, made[-1].reached_us)
    assert made[-1].waits_for.startswith("rides: complete up to")


def test_table_of_quiet_streams_reaches_their_newest_record_and_goes_on_from_there(tmp_path):
    lake, airs = Lake(tmp_path, LOOKING), [Air("air", START, START)]
    first = lake.materialize_from(looked_into(some_rides(3), airs, quiet=["air", "rides"]))
    later = lake.materialize_from(looked_into(some_rides(5), airs, quiet=["air", "rides"]))

    reached = [START + 2 * MINUTE, START + 4 * MINUTE]
    assert reached == [first[-1].reached_us, later[-1].reached_us]
    assert [3, 2] == [first[-1].rows, later[-1].rows]
    assert "" == later[-1].waits_for


@pytest.mark.parametrize(
    ("told", "said"),
    [({}, "air: nothing was published yet"), ({"unarchived": {"air": 4}}, "air: 4 published")],
)
def test_table_that_cannot_begin_says_what_it_waits_for(tmp_path, told, said):
    made = Lake(tmp_path, LOOKING).materialize_from(looked_into(some_rides(3), [], **told))

    assert [(0, -1)] == [(each.rows, each.reached_us) for each in made]
    assert made[0].waits_for.startswith(said)


@pytest.mark.parametrize(
    ("field", "moments"),
    [
        ("from_us", {"from_us": -5}),
        ("until_us", {"until_us": -5}),
        ("until_us", {"from_us": START + 1, "until_us": START}),
    ],
)
def test_moments_that_make_no_span_are_refused(lake, field, moments):
    with pytest.raises(Invalid, match="BAD_REQUEST") as refused:
        lake.materialize(some_rides(1), **moments)

    assert field == refused.value.metadata["field"]


def test_span_of_one_moment_is_materialized(lake):
    lake.materialize(some_rides(1), from_us=START, until_us=START)

    assert 1 == len(lake.rows())
