# SPDX-License-Identifier: Apache-2.0
"""Protobuf values read by columns, held to what Google's own runtime reads."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.protobuf_values import message_class
from headrace_ingest.domain.judging import judge
from headrace_ingest.domain.protobuf_values import typed_columns
from headrace_ingest.testing import NOW_US, a_contract, a_raw, a_stream_document
from headrace_kit.json_strict import decode
from headrace_kit.testing import a_batch


def a_protobuf_contract(**changes: Any):
    """The departures, each column with the number of its place."""
    columns = a_stream_document()["columns"]
    numbered = {
        name: {k: v for k, v in column.items() if k != "map"} | {"field": number}
        for number, (name, column) in enumerate(columns.items(), start=1)
    }
    return a_contract(columns=numbered, format="protobuf", **changes)


CONTRACT = a_protobuf_contract()
STREAM = CONTRACT.stream
Message = message_class(STREAM)
GOOD = {
    "event_id": "e1", "flight": "UA1", "origin": " EWR ", "delay": -2.5, "clock": 517,
    "diverted": True, "departed_at": NOW_US, "known_at": NOW_US,
}  # fmt: skip


def wire(**fields: Any) -> bytes:
    return Message(**fields).SerializeToString()


def by_columns(values: list[bytes]) -> list[dict[str, Any] | str]:
    frame, reasons = typed_columns(values, STREAM)
    return [reason or row for reason, row in zip(reasons, frame.to_dicts(), strict=True)]


def by_google(value: bytes) -> dict[str, Any] | str:
    try:
        message = Message.FromString(value)
    except DecodeError:
        return "DECODE_ERROR"
    if not math.isfinite(message.delay):
        return "NONFINITE:delay"
    return {name: getattr(message, name) if message.HasField(name) else None
            for name in STREAM.columns}  # fmt: skip


FIELDS = {
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "timestamp": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(),
    "bool": st.booleans(),
}
MESSAGES = st.fixed_dictionaries(
    {}, optional={name: FIELDS[column.type] for name, column in STREAM.columns.items()}
).map(lambda fields: wire(**fields))


@settings(max_examples=300, deadline=None)
@given(st.lists(MESSAGES, max_size=8))
def test_messages_are_read_as_googles_runtime_reads_them(values):
    assert [by_google(value) for value in values] == by_columns(values)


@settings(max_examples=300, deadline=None)
@given(MESSAGES.flatmap(lambda value: st.integers(0, len(value)).map(lambda end: value[:end])))
@example(b"\x28\x80")
def test_cut_message_is_refused_or_read_as_googles_runtime_does(value):
    assert [by_google(value)] == by_columns([value])


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"\x28\x80", "DECODE_ERROR"),  # a varint that is cut
        (b"\x28" + b"\xff" * 10 + b"\x01", "DECODE_ERROR"),  # longer than 64 bits
        (b"\x28" + b"\xff" * 9 + b"\x02", "DECODE_ERROR"),
        (b"\x0a\x05abc", "DECODE_ERROR"),  # a length beyond the end
        (b"\x0a" + b"\xff" * 9 + b"\x01", "DECODE_ERROR"),  # a length of 2^64 - 1
        (b"\x21\x00\x00", "DECODE_ERROR"),  # a cut double
        (b"\x0a\x01\xff", "DECODE_ERROR"),  # no UTF-8
        (b"\x0b\x0c", "DECODE_ERROR"),  # a group
        (b"\x0f", "DECODE_ERROR"),  # wire type 7
        (b"\x80\x80\x80\x80\x10\x01", "DECODE_ERROR"),  # field 2^29, one beyond the last
        (b"\x00\x00", "DECODE_ERROR"),  # field 0
        (b"\x78\x01" * 1_025, "DECODE_ERROR"),  # more fields than any contract has
        (b"\x29" + bytes(8), "BAD_TYPE:clock"),  # a double for an int64
        (b"\x08\x01", "BAD_TYPE:event_id"),  # a varint for a text
        (b"\x30\x02", "BAD_TYPE:diverted"),  # a bool that is two
        (b"\x21\x00\x00\x00\x00\x00\x00\xf0\x7f", "NONFINITE:delay"),
    ],
)
def test_bad_value_between_good_ones_is_told(value, told):
    good = wire(**GOOD)

    found = by_columns([good, value, good])

    assert told == found[1]
    assert found[0] == found[2] == by_google(good)


def test_unknown_fields_are_left_out():
    unknown = b"\xf8\x07\x01" + b"\xfa\x07\x02hi" + b"\xfd\x07" + bytes(4) + b"\xf9\x07" + bytes(8)

    assert by_columns([wire(clock=5)]) == by_columns([unknown + wire(clock=5) + unknown])


def test_protobuf_record_is_judged_as_a_json_one():
    raw = [a_raw(n, record={"value": wire(**GOOD | {"event_id": f"e{n}"} | more)})
           for n, more in enumerate([{}, {"clock": 9999}, {}])]  # fmt: skip

    judged = judge(a_batch(raw), CONTRACT, decode=decode)

    assert {1: "OUT_OF_RANGE:clock"} == judged.refused
    row = judged.rows.row(0, named=True)
    assert ("EWR", -2.5, 517, True, None) == tuple(
        row[name] for name in ("origin", "delay", "clock", "diverted", "landing_at")
    )


def test_json_on_a_protobuf_stream_is_refused():
    judged = judge(a_batch([a_raw(0)]), CONTRACT, decode=decode)

    assert {0: "DECODE_ERROR"} == judged.refused


def test_time_that_the_contract_maps_to_null_is_absent():
    columns = STREAM.model_dump(by_alias=True, exclude_none=True)["columns"]
    columns["landing_at"] |= {"map": {"7": None}}
    contract = a_contract(columns=columns, format="protobuf")
    records = [
        a_raw(number, record={"value": wire(**GOOD, landing_at=at)})
        for number, at in enumerate([7, NOW_US])
    ]

    judged = judge(a_batch(records), contract, decode=decode)

    assert [None, NOW_US] == judged.rows["landing_at"].to_list()
