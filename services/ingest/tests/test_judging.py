# SPDX-License-Identifier: Apache-2.0
"""Each bad record gets its one reason, and good neighbours stay good (FAULTS 8.1)."""

from __future__ import annotations

import json

import polars as pl
import pytest

from headrace.reasons import REASONS
from headrace_ingest.domain import decoding
from headrace_ingest.domain.faults import leading
from headrace_ingest.domain.judging import judge
from headrace_ingest.testing import a_contract, a_raw
from headrace_kit import frames
from headrace_kit.json_strict import decode_record as decode
from headrace_kit.testing import a_batch

NOW_US = 1_357_000_000_000_000
YEAR_9999_US = 253_370_764_800_000_000
MINUTE_US = 60_000_000
MANY_HEADERS = {f"h{number}": b"" for number in range(100_000)}
DEEP = b'{"a":' * 10_000 + b"1" + b"}" * 10_000


def value(text: str) -> dict:
    """The envelope of a record whose value has this text in the place of the delay."""
    whole = json.dumps(
        {"event_id": "e", "flight": "UA1", "departed_at": NOW_US, "known_at": NOW_US}
    )
    return {"record": {"value": f'{whole[:-1]}, "delay": {text}}}'.encode()}}


BAD = {
    "empty value": ({"record": {"value": b""}}, "EMPTY"),
    "tombstone": ({"record": {"value": None}}, "TOMBSTONE"),
    "no key": ({"record": {"key": None}}, "KEY_MISSING"),
    "empty key": ({"record": {"key": b""}}, "KEY_MISSING"),
    "key of another entity": ({"record": {"key": b"UA2"}}, "KEY_MISMATCH"),
    "key that is a number there": ({"flight": 1}, "BAD_TYPE"),
    "random bytes": ({"record": {"value": b"\x93\x02\xff"}}, "DECODE_ERROR"),
    "cut JSON": ({"record": {"value": b'{"event_id": "e", "fli'}}, "DECODE_ERROR"),
    "invalid UTF-8": ({"record": {"value": b'{"event_id": "\xff"}'}}, "DECODE_ERROR"),
    "deep nesting": ({"record": {"value": DEEP}}, "DECODE_ERROR"),
    "not an object": ({"record": {"value": b"[1]"}}, "BAD_TYPE"),
    "key twice": (value('1, "delay": 2'), "BAD_TYPE"),
    "NaN literal": (value("NaN"), "BAD_TYPE"),
    "1e999": (value("1e999"), "BAD_TYPE"),
    "2^63": (value("9223372036854775808"), "BAD_TYPE"),
    "text for a number": ({"delay": "late"}, "BAD_TYPE"),
    "text for an integer": ({"clock": "five"}, "BAD_TYPE"),
    "fraction for an integer": ({"clock": 5.5}, "BAD_TYPE"),
    "boolean for an integer": ({"clock": True}, "BAD_TYPE"),
    "boolean for a number": ({"delay": True}, "BAD_TYPE"),
    "number for a boolean": ({"diverted": 1}, "BAD_TYPE"),
    "number for a text": ({"origin": 7}, "BAD_TYPE"),
    "object for a text": ({"origin": {"code": "EWR"}}, "BAD_TYPE"),
    "list for a time": ({"departed_at": [NOW_US]}, "BAD_TYPE"),
    "fraction for a time": ({"departed_at": 1.5}, "BAD_TYPE"),
    "other stream's schema": ({"record": {"headers": {"ce_dataschema": b"x/1"}}}, "SCHEMA_UNKNOWN"),
    "garbled schema": ({"record": {"headers": {"ce_dataschema": b"\xff"}}}, "SCHEMA_UNKNOWN"),
    "newer schema": (
        {"record": {"headers": {"ce_dataschema": b"flights.departed/2"}}},
        "SCHEMA_INCOMPATIBLE",
    ),
    "absurd schema version": (
        {"record": {"headers": {"ce_dataschema": b"flights.departed/" + b"9" * 5_000}}},
        "SCHEMA_INCOMPATIBLE",
    ),
    "required column absent": ({"flight": ...}, "MISSING_FIELD"),
    "required column null": ({"event_id": None}, "MISSING_FIELD"),
    "event time absent": ({"departed_at": ...}, "MISSING_FIELD"),
    "below the range": ({"delay": -121}, "OUT_OF_RANGE"),
    "above the range": ({"clock": 2401}, "OUT_OF_RANGE"),
    "not in the list": ({"origin": "LAX"}, "OUT_OF_RANGE"),
    "NaN as text": ({"delay": "NaN"}, "NONFINITE"),
    "infinity as text": ({"delay": "-Infinity"}, "NONFINITE"),
    "id with NUL": ({"event_id": "a\x00b"}, "BAD_ID"),
    "id with a bidi mark": ({"event_id": "a\u202eb"}, "BAD_ID"),
    "id that climbs": ({"event_id": "../a"}, "BAD_ID"),
    "id that climbs in disguise": ({"event_id": "%2E%2e%2fa"}, "BAD_ID"),
    "id of dots": ({"event_id": ".."}, "BAD_ID"),
    "empty id": ({"event_id": ""}, "BAD_ID"),
    "id of 129 characters": ({"event_id": "a" * 129}, "BAD_ID"),
    "bad id in the header": ({"record": {"headers": {"ce_id": b"a/b"}}}, "BAD_ID"),
    "id in the header that is no text": ({"record": {"headers": {"ce_id": b"\xff"}}}, "BAD_ID"),
    "bad key": ({"flight": "a\\b", "record": {"key": b"a\\b"}}, "BAD_ID"),
    "key that is no text": ({"record": {"key": b"\xff"}}, "BAD_ID"),
    "time 0": ({"departed_at": 0}, "BAD_TIMESTAMP"),
    "negative time": ({"departed_at": -1}, "BAD_TIMESTAMP"),
    "year 9999": ({"departed_at": YEAR_9999_US}, "BAD_TIMESTAMP"),
    "event after it was known": ({"departed_at": NOW_US + 6 * MINUTE_US}, "BAD_TIMESTAMP"),
    "known after Kafka's clock": ({"known_at": NOW_US + 6 * MINUTE_US}, "BAD_TIMESTAMP"),
    "known time absent": ({"known_at": ...}, "BAD_TIMESTAMP"),
    "year 9999 beside the event time": ({"landing_at": YEAR_9999_US}, "BAD_TIMESTAMP"),
    "time as prose": ({"departed_at": "yesterday"}, "BAD_TIMESTAMP"),
    "time without zone": ({"departed_at": "2013-01-01T00:26:40"}, "BAD_TIMESTAMP"),
    "thirteenth month": ({"departed_at": "2013-13-01T00:26:40Z"}, "BAD_TIMESTAMP"),
    "more than 1 MiB": ({"origin": "x" * (1 << 20)}, "TOO_LARGE"),
    "100,000 headers": ({"record": {"headers": MANY_HEADERS}}, "TOO_LARGE"),
    "unknown entity": ({"flight": "XX1", "record": {"key": b"XX1"}}, "UNKNOWN_ENTITY"),
    "derived column without a value": ({"delay": None}, "TRANSFORM_ERROR"),
    "broken rule": ({"clock": 1200}, "RULE_BROKEN"),
}
# What only a contract with a list of entities, a derived column and a rule can refuse.
DEPARTURES = a_contract().stream.model_dump(by_alias=True, exclude_none=True)["columns"]
STRICTER = {
    "columns": DEPARTURES
    | {
        "flight": {"type": "string", "one_of": ["UA1", "UA2"]},
        "delay_h": {"type": "float64", "required": True, "derive": "delay / 60"},
    },
    "rules": {"clock_is_morning": "clock < 1200"},
}
STRICTER_ONLY = {"UNKNOWN_ENTITY", "TRANSFORM_ERROR", "RULE_BROKEN"}


@pytest.mark.parametrize(("changes", "reason"), BAD.values(), ids=BAD.keys())
def test_bad_record_gets_its_reason_between_good_ones(changes, reason):
    records = [a_raw(0), a_raw(1, **changes), a_raw(2)]

    contract = a_contract(**(STRICTER if reason in STRICTER_ONLY else {}))
    judged = judge(a_batch(records), contract, decode=decode)

    assert {1: reason} == {index: leading(told) for index, told in judged.refused.items()}
    assert [0, 2] == judged.rows["_index"].to_list()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"delay": "late", "clock": 2401}, "BAD_TYPE:delay,OUT_OF_RANGE:clock"),
        (value("9223372036854775808"), "BAD_TYPE:delay"),
        (value("NaN"), "BAD_TYPE:delay"),
        (value('1e999, "clock": 2401'), "BAD_TYPE:delay,OUT_OF_RANGE:clock"),
        ({"delay": "late", "clock": "five"}, "BAD_TYPE:delay,BAD_TYPE:clock"),
        ({"flight": 1, "origin": "LAX"}, "BAD_TYPE:flight,OUT_OF_RANGE:origin"),
        (
            {"event_id": "a/b", "departed_at": 0, "delay": -121},
            "BAD_ID:event_id,BAD_TIMESTAMP:departed_at,OUT_OF_RANGE:delay",
        ),
        (
            {"record": {"headers": {"ce_id": b"a/b"}}, "delay": -121},
            "BAD_ID:ce_id,OUT_OF_RANGE:delay",
        ),
        ({"departed_at": ..., "clock": -1}, "MISSING_FIELD:departed_at,OUT_OF_RANGE:clock"),
        ({"record": {"value": b"{"}}, "DECODE_ERROR"),
    ],
)
def test_all_reasons_are_told_each_column_once(changes, told):
    judged = judge(a_batch([a_raw(0), a_raw(1, **changes)]), a_contract(), decode=decode)

    assert {1: told} == judged.refused


@pytest.mark.parametrize(
    ("column", "text", "told"),
    [
        ({}, "", {}),
        ({"map": {"": None}}, "", {0: "MISSING_FIELD:origin"}),
        ({"map": {"": None}}, " ", {}),
        ({"map": {"": None}, "trim": True}, " \t", {0: "MISSING_FIELD:origin"}),
    ],
)
def test_empty_text_is_there_unless_the_contract_maps_it_to_null(column, text, told):
    origin = {"type": "string", "required": True} | column
    contract = a_contract(columns=DEPARTURES | {"origin": origin})

    assert told == judge(a_batch([a_raw(origin=text)]), contract, decode=decode).refused


def test_value_that_cleansing_makes_larger_than_the_cap_is_too_large():
    columns = a_contract().stream.model_dump()["columns"]
    more = {
        name: {"type": "string"} for name in ("note", "absent_one", "absent_two", "absent_three")
    }
    contract = a_contract(columns=columns | more)
    size = len(a_raw(note="").value) + len(b"UA1")

    judged = judge(a_batch([a_raw(note="x" * ((1 << 20) - size))]), contract, decode=decode)

    assert {0: "TOO_LARGE"} == judged.refused


def test_all_reasons_of_records_but_three_are_judged_here():
    judged_elsewhere = {"DUPLICATE_CONFLICT", "ENTITY_ERASED", "POISON_CRASH"}

    of_records = {name for name, reason in REASONS.items() if reason.records}

    assert of_records == {reason for _, reason in BAD.values()} | judged_elsewhere


def test_good_record_becomes_a_typed_row():
    judged = judge(a_batch([a_raw(7, record={"partition": 3})]), a_contract(), decode=decode)

    row = judged.rows.row(0, named=True)
    assert "departed:7" == row["_event_id"]
    assert (NOW_US, NOW_US) == (row["_event_time_us"], row["_known_time_us"])
    assert ("UA1", 3, 7) == (row["_key"], row["_partition"], row["_offset"])
    assert (2.5, 517, False) == (row["delay"], row["clock"], row["diverted"])
    assert pl.Float64 == judged.rows.schema["delay"]


def test_cleansed_value_holds_declared_columns_only():
    record = a_raw(origin=" EWR ", clock=2400, delay=3, note="not declared", diverted=...)

    judged = judge(a_batch([record]), a_contract(), decode=decode)

    cleansed = decode(judged.rows["_value"][0])
    assert list(a_contract().stream.columns) == [n for n in cleansed if not n.startswith("_")]
    assert ("EWR", 0, 3.0, None) == tuple(
        cleansed[name] for name in ("origin", "clock", "delay", "diverted")
    )


def test_whole_number_beyond_int64_is_left_out_with_a_column_that_is_not_declared():
    """It is JSON, and nothing of it is stored; NaN is none, wherever it stands."""
    records = [a_raw(0, note=2**63), a_raw(1, note=float("nan"))]

    judged = judge(a_batch(records), a_contract(), decode=decode)

    assert ["departed:0"] == judged.rows["_event_id"].to_list()
    assert {1: "BAD_TYPE"} == judged.refused


def test_rfc_3339_becomes_microseconds():
    record = a_raw(departed_at="2013-01-01T01:26:40.000250+01:00", known_at="2013-01-01T00:30:00Z")

    judged = judge(a_batch([record]), a_contract(), decode=decode)

    assert [1_357_000_000_000_250] == judged.rows["_event_time_us"].to_list()
    assert [1_357_000_200_000_000] == judged.rows["_known_time_us"].to_list()


def test_header_id_wins_over_the_column():
    judged = judge(
        a_batch([a_raw(record={"headers": {"ce_id": b"mine"}})]), a_contract(), decode=decode
    )

    assert ["mine"] == judged.rows["_event_id"].to_list()


def test_record_of_an_older_version_is_taken():
    record = a_raw(record={"headers": {"ce_dataschema": b"flights.departed/1"}})

    assert {} == judge(a_batch([record]), a_contract(version=2), decode=decode).refused


@pytest.mark.parametrize(("behind_us", "late"), [(3_600_000_000, False), (3_600_000_001, True)])
def test_record_is_late_beyond_the_allowed_lateness(behind_us, late):
    judged = judge(a_batch([a_raw(departed_at=NOW_US - behind_us)]), a_contract(), decode=decode)

    assert [late] == judged.rows["_late"].to_list()


def test_stream_without_known_time_goes_by_kafkas_clock():
    contract = a_contract(known_time=None)

    judged = judge(a_batch([a_raw(known_at=...)]), contract, decode=decode)

    assert [NOW_US] == judged.rows["_known_time_us"].to_list()


def test_batch_of_bad_records_alone_gives_no_row():
    judged = judge(a_batch([a_raw(record={"value": None})]), a_contract(), decode=decode)

    assert ({0: "TOMBSTONE"}, 0) == (judged.refused, judged.rows.height)


def test_changed_contract_is_judged_by_its_own_steps_and_not_by_the_ones_before():
    stricter = DEPARTURES | {"delay": DEPARTURES["delay"] | {"max": 2.0}}
    contracts = [
        a_contract(1),
        a_contract(2, columns=stricter, lateness_allowed="1s"),
        a_contract(3),
    ]
    batch = a_batch([a_raw(0), a_raw(1, delay=1.5, departed_at=NOW_US - 2_000_000)])

    judged = [judge(batch, contract, decode=decode) for contract in contracts]

    assert [{}, {0: "OUT_OF_RANGE:delay"}, {}] == [each.refused for each in judged]
    assert [[False, False], [True], [False, False]] == [
        each.rows["_late"].to_list() for each in judged
    ]
    assert [[1, 1], [2], [3, 3]] == [
        [decode(value)["_contract"] for value in each.rows["_value"]] for each in judged
    ]


def test_few_records_and_many_are_judged_alike():
    contract = a_contract(**STRICTER)
    records = [a_raw(0), a_raw(1, origin=" JFK ", clock=2400, delay=1)]
    records += [a_raw(2 + n, **changes) for n, (changes, _) in enumerate(BAD.values())]
    records = [each for each in records if len(each.headers) < 100 and len(each.value or b"") < 999]
    few = judge(a_batch(records), contract, decode=decode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "FEW_ROWS_MAX", 0)
        patch.setattr(decoding, "FEW_VALUES_MAX", 0)
        many = judge(a_batch(records), contract, decode=decode)

    assert few.refused == many.refused
    assert few.rows.equals(many.rows)
