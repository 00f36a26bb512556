# SPDX-License-Identifier: Apache-2.0
"""Features for a caller's rows: P5 against the online read, time travel, and what is refused."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from feature_world import (
    HOUR,
    KINDS,
    MOMENTS,
    START,
    WINDOW_FEATURES,
    ZONES,
    Event,
    World,
    a_bench,
    a_catalogue,
    a_request_view,
    a_view,
    a_window_view,
    bits,
    event_lists,
    made_historical,
)
from hypothesis import given
from hypothesis import strategies as st
from test_archive_waits import Context, an_api

from headrace.entity import text_of
from headrace.errors import Busy, Conflict, Invalid, NotFound, Unavailable
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace_feature.adapters.arrow_ipc import SentRows, historical_stream
from headrace_feature.adapters.memory_archive import MemoryArchive
from headrace_feature.domain.online_query import FEATURES_MAX
from headrace_feature.offline_handlers import GetHistoricalFeatures
from headrace_kit.clock import CLOCK_SKEW_US
from headrace_kit.testing import FixedClock

ROWS = st.lists(st.tuples(ZONES, KINDS, MOMENTS), min_size=1, max_size=12)
FEATURES = ("zone:count_1h", "zone:sum_fare_1h")
CLOCK = FixedClock(START)


@given(rides=event_lists(), rows=ROWS)
def test_historical_features_equal_the_online_read_bit_for_bit(rides, rows):
    world = World()
    world.fold(*rides)

    assert bits(world.read(rows)) == bits(World().historical(rides, rows))


@given(rides=event_lists(), rows=ROWS, cut=MOMENTS)
def test_nothing_that_became_known_after_the_cut_counts(rides, rows, cut):
    late = Event("too-late", cut, cut + 1, riders=None)
    known = [ride for ride in rides if ride.known <= cut]

    assert bits(World().historical(known, rows)) == bits(
        World().historical([*rides, late], rows, known_as_of_us=cut)
    )


BY_NIGHT = a_view(
    {"count": {"aggregate": "count", "window": "1h"}}, name="night", entity=("night",)
)
NIGHTS = [Event(f"e{n}", START, START, night=night) for n, night in enumerate([True] * 3 + [False])]


@pytest.mark.parametrize("observations_max", [1_000, 2], ids=["whole", "in shares"])
@pytest.mark.parametrize(
    ("named", "counted"),
    [
        (pa.array([True, False, None]), [3, 1, 0]),
        (pa.array(["true", "false", "True"]), [3, 1, 0]),
        (pa.array([1, 0, 2]), [0, 0, 0]),
        (pa.array([1.0, 0.0, 0.5]), [0, 0, 0]),
        (pa.array(["1", "0", ""]), [0, 0, 0]),
    ],
    ids=["truths", "texts", "whole numbers", "numbers", "numbers as texts"],
)
def test_entity_of_a_bool_has_one_spelling_whoever_asks(named, counted, observations_max):
    world = World(a_catalogue(BY_NIGHT))
    world.fold(*NIGHTS)
    numeric = not pa.types.is_string(named.type) and not pa.types.is_boolean(named.type)
    sent = named.to_numpy() if numeric else [text_of(each) or "" for each in named.to_pylist()]
    online = world.read_columns(["night:count"], {"night": sent}, [START] * 3)
    batch = pa.record_batch({"night": named, "as_of_us": pa.array([START] * 3, pa.int64())})
    offline = historical_of(batch, ["night:count"], world, NIGHTS, observations_max)

    assert counted == online[:, 0].tolist() == offline[:, 0].tolist()


def test_category_of_a_bool_is_found_by_its_spelling():
    by_night = {"transform": "category", "column": "night", "categories": ["false", "true"]}
    world = World(a_catalogue(a_request_view({"night": by_night})))
    online = world.read_columns(["ask:night"], {"night": ["true", "false", ""]}, [START] * 3)
    nights = pa.array([True, False, None])
    batch = pa.record_batch({"night": nights, "as_of_us": pa.array([START] * 3, pa.int64())})

    assert [2, 1, 0] == online[:, 0].tolist()
    assert [2, 1, 0] == historical_of(batch, ["ask:night"], world, [], 1_000)[:, 0].tolist()


def a_numbered_batch(name, *numbers):
    moments = pa.array([START] * len(numbers), pa.int64())
    return pa.record_batch({name: pa.array(numbers, pa.uint64()), "as_of_us": moments})


@pytest.mark.parametrize(
    ("name", "feature"), [("kind", "kind:count_1h"), ("distance", "ask:distance")]
)
@pytest.mark.parametrize("observations_max", [1_000, 1], ids=["whole", "in shares"])
def test_unsigned_column_that_names_numbers_beyond_int64_is_refused(
    name, feature, observations_max
):
    by_kind = a_window_view("kind", ("kind",), "1h")
    distance = a_request_view({"distance": {"transform": "value", "column": "distance"}})
    rides = [Event(f"of-{kind}", START, START, kind=kind) for kind in (1, 2)]
    asked_of = ([feature], World(a_catalogue(by_kind, distance)), rides, observations_max)

    assert [[1.0]] == historical_of(a_numbered_batch(name, 1), *asked_of).tolist()
    with pytest.raises(Invalid, match="has numbers beyond int64") as refused:
        historical_of(a_numbered_batch(name, 1, 2**63), *asked_of)
    assert ("BAD_REQUEST", name) == (refused.value.reason, refused.value.metadata["field"])


def historical_of(batch, features, world, rides, observations_max):
    archive = MemoryArchive({"rides": [ride.row() for ride in rides]})
    with a_bench(observations_max=observations_max) as bench:
        stored = bench.stored([batch], batch.schema)
        query = GetHistoricalFeatures(tuple(features))
        made = made_historical(query, stored, world.catalogue, archive, bench)
        return np.concatenate([answers for _, answers in made.answered])


def asked(rides, rows=(("a", 1, START),), world=None, **query):
    """The bytes, and what they were made from."""
    batch = sent_batch(rows)
    archive = MemoryArchive({"rides": [ride.row() for ride in rides]})
    with a_bench() as bench:
        stored = bench.stored([batch], batch.schema)
        made = made_historical(
            GetHistoricalFeatures(FEATURES, **query),
            stored,
            (world or World()).catalogue,
            archive,
            bench,
        )
        return b"".join(historical_stream(made.answered, made.features, batch.schema)), made


def sent_batch(rows):
    zones, kinds, moments = zip(*rows, strict=True)
    return pa.record_batch(
        {"zone": zones, "kind": kinds, "as_of_us": pa.array(moments, pa.int64())}
    )


def test_manifest_gives_the_same_bytes_after_more_has_come():
    rides = [Event("one", START, START), Event("two", START, START)]
    first, made = asked(rides[:1])
    again, _ = asked(rides, version_by_stream=made.version_by_stream, definitions=made.definitions)

    assert (first, {"rides": 1}) == (again, made.version_by_stream)


def test_manifest_of_another_definition_is_refused():
    _, made = asked([])
    world = World()
    changed = a_window_view("zone", ("zone",), "1h", "2h", "3h")
    world.catalogue = world.catalogue.with_definition(changed)
    with pytest.raises(Conflict, match="DEFINITIONS_CHANGED"):
        asked([], world=world, definitions=made.definitions)


def test_version_that_the_archive_has_not_is_refused():
    with pytest.raises(NotFound, match="ARCHIVE_VERSION_UNKNOWN"):
        asked([], version_by_stream={"rides": 9})


def test_cut_that_is_still_to_come_is_refused():
    with pytest.raises(Invalid, match="still to come"):
        asked([], known_as_of_us=2**62)


def test_cut_that_the_archive_has_not_reached_is_unavailable():
    with pytest.raises(Unavailable, match="RECORDS_BEHIND"):
        asked([Event("one", START, START)], known_as_of_us=START)


def test_answers_stand_beside_the_rows_as_they_were_sent():
    data, _ = asked([Event("one", START, START)], [("a", 7, START), ("none", 8, START)])
    table = pa.ipc.open_stream(data).read_all()

    assert ["zone", "kind", "as_of_us", *FEATURES] == table.column_names
    assert [7, 8] == table["kind"].to_pylist()
    assert [1.0, 0.0] == table["zone:count_1h"].to_pylist()
    assert np.isnan(table["zone:sum_fare_1h"][1].as_py())


def test_rows_beyond_the_disk_cap_are_busy():
    batch = sent_batch([("a", 1, START)] * 1_000)
    with a_bench(disk_bytes_max=1_000) as bench, pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        bench.stored([batch], batch.schema)


def sent(table, size=7):
    """The stream of a table in pieces of so many bytes, and the stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    data = sink.getvalue().to_pybytes()
    return SentRows(data[at : at + size] for at in range(0, len(data), size)), data


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_sent_rows_read_back_whatever_the_pieces(size):
    table = pa.table({"zone": ["a", None, "c"], "as_of_us": [1, 2, 3]})
    rows, data = sent(table, size)

    assert table == pa.Table.from_batches(rows.batches(CLOCK))
    assert hashlib.sha256(data).hexdigest() == rows.digest


@pytest.mark.parametrize(
    "columns",
    [
        {"zone": ["a"]},
        {"as_of_us": ["now"]},
        {"as_of_us": pa.array([None], pa.int64())},
        {"as_of_us": [-1]},
        {"as_of_us": [2**62]},
        {"as_of_us": [1], "zone": [["nested"]]},
    ],
)
def test_rows_that_say_no_moment_are_refused(columns):
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        list(sent(pa.table(columns))[0].batches(CLOCK))


def test_row_as_of_a_moment_to_come_is_refused_with_its_batch():
    edge = START + CLOCK_SKEW_US
    batches = sent(pa.table({"as_of_us": [1, START, edge, edge, 1, edge + 1]}))[0].batches(CLOCK)

    assert [[1, START], [edge, edge]] == [next(batches)["as_of_us"].to_pylist() for _ in range(2)]
    with pytest.raises(Invalid, match="still to come") as refused:
        next(batches)
    assert ("BAD_REQUEST", "as_of_us") == (refused.value.reason, refused.value.metadata["field"])


@pytest.mark.parametrize("data", [b"", b"no arrow", b"\xff" * 64])
def test_bytes_that_are_no_arrow_stream_are_refused(data):
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        list(SentRows(iter([data])).batches(CLOCK))


def test_column_whose_name_is_no_text_is_refused():
    _, data = sent(pa.table({"as_of_us": [1], "\xe9\xe9": [2]}))
    with pytest.raises(Invalid, match="BAD_REQUEST") as refused:
        SentRows(iter([data.replace("\xe9\xe9".encode(), b"\xff" * 4)]))

    assert "arrow_ipc" == refused.value.metadata["field"]


@pytest.mark.parametrize(
    ("column", "features"),
    [
        ("zone:count_1h", ["zone:count_1h"]),
        ("zone", ["zone:count_1h", "zone:count_1h"]),
        ("zone", ["zone:count_1h"] * (FEATURES_MAX + 1)),
    ],
)
def test_features_whose_columns_could_not_be_told_apart_or_are_too_many_are_refused(
    tmp_path, column, features
):
    api = an_api(tmp_path, MemoryArchive({}))
    _, data = sent(pa.table({"as_of_us": [1], column: ["a"]}))
    query = wire.GetHistoricalFeaturesRequest(query=wire.HistoricalQuery(features=features))
    rows = wire.GetHistoricalFeaturesRequest(arrow_ipc=data)
    with pytest.raises(Invalid, match="BAD_REQUEST") as refused:
        list(api.GetHistoricalFeatures(iter([query, rows]), Context()))

    assert "features" == refused.value.metadata["field"]


def test_stream_cut_short_is_refused():
    table = pa.table({"as_of_us": list(range(HOUR // 1_000_000))})
    _, data = sent(table)
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        list(SentRows(iter([data[: len(data) // 2]])).batches(CLOCK))


def test_every_window_feature_is_there_for_rows_without_any_record():
    answers = World().historical([], [("a", 1, START)])

    assert len(WINDOW_FEATURES) == answers.shape[1]
    assert {0.0} == set(answers[0][~np.isnan(answers[0])].tolist())
