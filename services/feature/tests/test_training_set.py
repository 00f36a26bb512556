# SPDX-License-Identifier: Apache-2.0
"""The training set: P5 against the online read, no leakage, and which rows and labels it has."""

import hashlib
from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from feature_world import (
    HOUR,
    KINDS,
    LAGS,
    MINUTE,
    MOMENTS,
    RECIPE,
    REQUEST_FEATURES,
    START,
    WINDOW_FEATURES,
    ZONES,
    Event,
    TrainingSet,
    World,
    a_bench,
    archived,
    bits,
    event_lists,
    made_training_set,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.entity import text_of
from headrace.errors import NotFound, Unavailable
from headrace.label_definition import LabelDefinition
from headrace_feature import offline_handlers
from headrace_feature.adapters import duckdb_workbench
from headrace_feature.adapters.arrow_ipc import training_stream
from headrace_feature.adapters.conversions import to_training_manifest
from headrace_feature.adapters.memory_archive import MemoryArchive
from headrace_feature.adapters.training_rows_sql import text_of_column, training_rows_sql
from headrace_feature.domain import point_in_time
from headrace_feature.domain.training_set import RawOffsets, SpineTally
from headrace_feature.offline_handlers import CreateTrainingSet

LATER = START + 100 * HOUR
OFFSET = -10 * MINUTE
AFTER_ALL = archived("after-all", LATER + 1, LATER + 1, {})


def an_ask(name="ask", due=START, known=START - HOUR, zone="a", kind=1, distance=1.5):
    value = {"ask_id": name, "zone": zone, "kind": kind, "due": due, "distance": distance}
    return archived(name, known, known, value)


def an_end(name="ask", known=START + HOUR, late_by=9, id="end"):
    return archived(id, known, known, {"ask_id": name, "late_by": late_by})


def complete(rides=(), asks=(), ends=()):
    streams = {"rides": [e.row() for e in rides], "asks": asks, "ends": ends}
    return {stream: [*rows, AFTER_ALL] for stream, rows in streams.items()}


def training_set(*, rides=(), asks=(), ends=(), until=LATER, **bench):
    return World().training_set(*complete(rides, asks, ends).values(), until, **bench)


ASKS = st.lists(st.tuples(ZONES, KINDS, MOMENTS, LAGS, st.none() | st.floats(-9, 9)), max_size=12)


def asks_of(drawn):
    return [
        an_ask(f"ask-{n}", due, due + OFFSET - max(lag, 0), zone, kind, distance)
        for n, (zone, kind, due, lag, distance) in enumerate(drawn)
    ]


@given(data=st.data(), rides=event_lists(), drawn=ASKS)
def test_training_set_equals_the_online_read_bit_for_bit(data, rides, drawn):
    repeats = data.draw(st.lists(st.sampled_from(rides), max_size=4)) if rides else []
    later = [replace(ride, known=ride.known + 50 * HOUR) for ride in repeats]
    asks = asks_of(drawn)
    made = training_set(rides=data.draw(st.permutations([*rides, *later])), asks=asks)
    by_id = {ask["_event_id"]: ask for ask in asks}
    assert sorted(by_id) == sorted(made.entity_keys)
    if not asks or not rides:
        return
    world = World()
    world.fold(*rides)
    rows = [by_id[key] for key in made.entity_keys]
    online = world.read(
        [(row["zone"], row["kind"], as_of) for row, as_of in zip(rows, made.as_of_us, strict=True)],
        (*WINDOW_FEATURES, *REQUEST_FEATURES),
        due=np.array([row["due"] for row in rows]),
        distance=np.array([np.nan if r["distance"] is None else r["distance"] for r in rows]),
    )

    assert bits(online) == bits(made.values)


@given(data=st.data(), rides=event_lists(), drawn=ASKS, cut=MOMENTS)
def test_no_row_depends_on_what_became_known_after_it(data, rides, drawn, cut):
    changed = [
        ride
        if ride.known <= cut
        else Event(ride.id, ride.at + HOUR, ride.known + HOUR, "b", 2, 999, -1e300)
        for ride in rides
        if ride.known <= cut or data.draw(st.booleans())
    ]
    asks = asks_of(drawn)
    before, after = (training_set(rides=each, asks=asks) for each in (rides, changed))
    early = before.as_of_us <= cut

    assert before.entity_keys == after.entity_keys
    assert bits(before.values[early]) == bits(after.values[early])


@given(rides=event_lists(), drawn=ASKS)
def test_work_in_small_pieces_and_shares_gives_the_same(rides, drawn):
    asks = asks_of(drawn)
    whole = training_set(rides=rides, asks=asks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(point_in_time, "PAIRS_MAX", 3)
        patch.setattr(duckdb_workbench, "ROWS_MAX", 2)
        pieces = training_set(rides=rides, asks=asks, observations_max=7)

    assert whole.entity_keys == pieces.entity_keys
    assert bits(whole.values) == bits(pieces.values)


def test_sums_are_exact_and_last_is_that_of_the_greatest_id():
    at = START + OFFSET
    fares = zip("bcead", [1e16, 1.0, -1e16, 0.1, -0.1], strict=True)
    rides = [Event(name, at, at, riders=n, fare=f) for n, (name, f) in enumerate(fares)]
    made = training_set(rides=rides, asks=[an_ask()])
    answers = dict(zip(made.features, made.values[0].tolist(), strict=True))

    assert (1.0, 2.0) == (answers["zone:sum_fare_1h"], answers["zone:last_riders_1h"])


@pytest.mark.parametrize(
    ("end", "label"),
    [
        (an_end(late_by=6), 1),
        (an_end(late_by=5), 0),
        (an_end(late_by=None), 1),
        (an_end(known=START + 2 * HOUR, late_by=0), 0),
        (an_end(known=START + 2 * HOUR + 1, late_by=0), 1),
        (an_end(name="other", late_by=0), 1),
    ],
)
def test_label_is_the_outcome_or_its_absence(end, label):
    made = training_set(asks=[an_ask()], ends=[end])

    assert [label] == made.label.tolist()


def test_first_known_outcome_counts():
    ends = [
        an_end(known=START + 3, late_by=9, id="end-1"),
        an_end(known=START + 2, late_by=1, id="end-2"),
        an_end(known=START + 1, late_by=None, id="end-0"),
    ]
    assert [0] == training_set(asks=[an_ask()], ends=ends).label.tolist()


def lying(row, partition, offset):
    return {**row, "_partition": partition, "_offset": offset}


def test_set_tells_where_its_records_lay_in_the_raw_topics():
    ends = [
        lying(an_end(id=f"end-{offset}", known=known), partition, offset)
        for partition, offset, known in [
            (0, 7, START), (0, 9, START), (1, 3, START), (0, 11, LATER + 1)
        ]
    ]  # fmt: skip
    asks = [lying(an_ask(), 2, 5)]
    archive = MemoryArchive(complete(asks=asks, ends=ends))
    with a_bench() as bench:
        command = CreateTrainingSet("late", LATER)
        made = made_training_set(command, World().catalogue, archive, bench)

    assert (
        RawOffsets("asks", 2, 5, 5), RawOffsets("ends", 0, 7, 9), RawOffsets("ends", 1, 3, 3)
    ) == made.raw_offsets  # fmt: skip
    manifest = to_training_manifest(made, "digest")
    assert [("asks", 2, 5, 5), ("ends", 0, 7, 9), ("ends", 1, 3, 3)] == [
        (each.stream, each.partition, each.first, each.last) for each in manifest.raw_offsets
    ]


WEAK_LABEL = LabelDefinition.model_validate(
    {
        "name": "late",
        "description": "Was it late?",
        "stream": "ends",
        "key": "ask_id",
        "value": "late_by > 5",
        "window": "2h",
        "origin": "said_by",
        "weak": {
            "stream": "asks",
            "key": "ask_id",
            "answer": "late_by",
            "votes": "votes",
            "functions": {"far": {"when": "distance > 1", "label": "9"}},
        },
    }
)


def a_weak_end(id, known, late_by=0, votes='{"far": "0"}', said_by="weak"):
    value = {"ask_id": "ask", "late_by": late_by, "said_by": said_by, "votes": votes}
    return archived(id, START, known, value)


def labels_of(*ends, until=LATER):
    archive = MemoryArchive(complete(asks=[an_ask()], ends=ends))
    catalogue = World().catalogue.with_definition(WEAK_LABEL)
    with a_bench() as bench:
        made = made_training_set(CreateTrainingSet("late", until), catalogue, archive, bench)
        return TrainingSet.of(made).label.tolist()


def test_weak_label_that_was_taken_back_is_as_if_it_had_never_been():
    label = a_weak_end("weak", START + 1)
    back = a_weak_end("back", START + 2, late_by=None, votes="{}")
    again = a_weak_end("again", START + 3)
    human = a_weak_end("human", START + 1, votes=None, said_by="human")

    assert [0] == labels_of(label)
    assert [1] == labels_of(label, back)  # none came within two hours
    assert [0] == labels_of(label, back, again)
    assert [0] == labels_of(label, back, human)
    assert [0] == labels_of(label, a_weak_end("back", START + 2, votes="{}", said_by="other"))


def test_weak_label_that_is_taken_back_later_is_known_until_then():
    back = a_weak_end("back", START + 9 * HOUR, late_by=None, votes="{}")
    ends = a_weak_end("weak", START + 1), back

    assert [0] == labels_of(*ends, until=START + 9 * HOUR - 1)
    assert [1] == labels_of(*ends, until=START + 9 * HOUR)


def test_taken_back_label_definition_says_nothing_of_weak_labels():
    catalogue = World().catalogue.with_definition(WEAK_LABEL)
    assert catalogue.weak_labels_of("ends")

    assert not catalogue.without("label", "late").weak_labels_of("ends")
    assert not catalogue.weak_labels_of("asks")


@pytest.mark.parametrize(
    ("ask", "until", "left_out"),
    [
        (an_ask(), START + HOUR, None),
        (an_ask(), START + HOUR - 1, "label_awaited"),
        (an_ask(), START + OFFSET - 1, "asked_after_known_until"),
        (an_ask(name="absent"), START + 2 * HOUR, None),
        (an_ask(name="absent"), START + 2 * HOUR - 1, "label_awaited"),
        (an_ask(known=START + OFFSET), LATER, None),
        (an_ask(known=START + OFFSET + 1), LATER, "known_after_asked"),
        (an_ask(due=None), LATER, "key_or_time_absent"),
        (an_ask(name=None), LATER, "key_or_time_absent"),
    ],
)
def test_row_takes_part_only_if_it_and_its_label_were_known(ask, until, left_out):
    streams = {"asks": [ask], "ends": [an_end()]}
    made = training_set(**streams, until=until)

    assert (left_out is None) == len(made.label)
    assert ({} if left_out is None else {left_out: 1}) == spine_of(until, **streams).left_out


def spine_of(until, **streams):
    archive = MemoryArchive(complete(**streams))
    command = CreateTrainingSet("late", until)
    with a_bench() as bench:
        return made_training_set(command, World().catalogue, archive, bench).spine


def test_set_of_few_rows_tells_what_there_is(monkeypatch):
    asks = [an_ask(), an_ask(), an_ask("b"), an_ask("c", known=START), an_ask("d", known=START + 1)]
    told = SpineTally("asks", 4, START - HOUR, START + 1, {"known_after_asked": 2})
    nothing = SpineTally("asks", 0, 0, 0, {})

    assert (told, nothing) == (spine_of(LATER, asks=asks), spine_of(LATER))
    monkeypatch.setattr(offline_handlers, "FEW_ROWS", 2)
    assert spine_of(LATER, asks=asks) is None


def test_repeated_ask_is_one_row():
    made = training_set(asks=[an_ask(), an_ask()], ends=[an_end()])

    assert (["ask"], [START + OFFSET]) == (made.entity_keys, made.as_of_us.tolist())


def test_archive_that_is_behind_is_unavailable():
    with pytest.raises(Unavailable, match="RECORDS_BEHIND"):
        World().training_set([], [an_ask()], [an_end()], LATER)


def test_unknown_recipe_is_refused():
    with pytest.raises(NotFound, match="DEFINITION_UNKNOWN"):
        made_training_set(CreateTrainingSet("none", LATER), World().catalogue, None, None)


def streamed(**streams):
    """What was made, and the stream's bytes and digest."""
    archive = MemoryArchive(complete(**streams))
    command = CreateTrainingSet("late", LATER)
    with a_bench() as bench:
        made = made_training_set(command, World().catalogue, archive, bench)
        stream = training_stream(made.answered, len(made.features))
        return b"".join(stream), stream.digest


def test_arrow_stream_reads_back_and_its_digest_is_of_the_bytes():
    rides = [Event("ride", START + OFFSET, START + OFFSET)]
    world = {"rides": rides, "asks": [an_ask(), an_ask(name="b")], "ends": [an_end()]}
    data, digest = streamed(**world)
    table, made = pa.ipc.open_stream(data).read_all(), training_set(**world)

    assert digest == hashlib.sha256(data).hexdigest()
    assert ["entity_key", "as_of_us", "label", "features"] == table.column_names
    assert made.entity_keys == table["entity_key"].to_pylist()
    flat = table["features"].combine_chunks().flatten().to_numpy()
    assert bits(made.values) == bits(flat.reshape(made.values.shape))


def test_training_set_without_rows_is_a_stream_without_rows():
    data, _ = streamed()

    assert 0 == pa.ipc.open_stream(data).read_all().num_rows


@settings(max_examples=20)
@given(numbers=st.lists(st.none() | st.floats() | st.integers().map(float), min_size=1))
def test_number_that_names_an_entity_is_spelled_as_online_as_far_as_duckdb_has_digits(numbers):
    rows = pa.table({"n": range(len(numbers)), "x": pa.array(numbers, pa.float64())})
    with duckdb.connect() as database:
        database.register("numbers", rows)
        sql = f"select {text_of_column('x', {'x': 'double'})} from numbers order by n"  # noqa: S608
        found = [text for (text,) in database.sql(sql).fetchall()]

    ends = [each is None or abs(each) >= 2.0**127 for each in numbers]
    expected = [None if end else text_of(each) for each, end in zip(numbers, ends, strict=True)]
    assert expected == found


def test_columns_of_a_spine_may_have_any_name_of_their_own():
    asked = {"id": "int64", "key": "int64", "known_us": "int64", "absent_us": "int64"}
    fixed = {"_event_id": ["ask"], "_event_time_us": [START], "_known_time_us": [START - HOUR]}
    own = {"ask_id": ["ask"], "due": [START]}
    spine = pa.table(fixed | own | {name: [7] for name in asked})
    ends = pa.table(
        {"_event_id": ["end"], "_event_time_us": [START], "_known_time_us": [START + HOUR]}
        | {"ask_id": ["ask"], "late_by": [9]}
    )
    types = [{each.name: str(each.type) for each in table.schema} for table in (spine, ends)]
    sql = training_rows_sql(RECIPE, asked, *types, LATER)

    database = duckdb.connect()
    database.register("spine_records", spine)
    database.register("label_records", ends)
    [found] = database.sql(sql).to_arrow_table().to_pylist()
    assert dict.fromkeys(asked, 7) == {name: found[name] for name in asked}
    assert ("ask", START + OFFSET, 1) == (found["entity_key"], found["as_of_us"], found["label"])
