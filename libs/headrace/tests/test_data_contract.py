# SPDX-License-Identifier: Apache-2.0
"""A contract that could not do what it says is refused when it is applied."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.application import build_application, definition_json, parse_definition
from headrace.application import parse_definition_json as parsed_back
from headrace.data_contract import Column, Pii, Stream
from headrace.errors import Invalid
from headrace.protobuf_values import encoded, message_class, proto_text
from headrace.units import conversion

HASH = {"category": "contact", "treatment": "hash"}


def a_stream(columns: dict[str, dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "stream",
        "name": "rides",
        "description": "Rides.",
        "owner": "tests",
        "key": "rider",
        "id": "ride",
        "event_time": "at",
        "lateness_allowed": "1h",
        "columns": {
            "ride": {"type": "string", "required": True},
            "rider": {"type": "string", "required": True},
            "at": {"type": "timestamp", "required": True},
            "fare": {"type": "float64"},
        }
        | (columns or {}),
    } | changes


def one(**column: Any) -> dict[str, Any]:
    return {"columns": {"more": column}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lateness_allowed": "50000001d"}, "a duration is at most 50000000d"),
        ({"retention": "9223372036854775808s"}, "a duration is at most 50000000d"),
        (one(type="int64", min=3, max=2), "min 3.0 is above max 2.0"),
        (one(type="string", min=3), "min and max are for numbers and times"),
        (one(type="string", one_of=[]), "at least 1 item"),
        (one(type="float64", clip=True), "clip needs a number with min or max"),
        (one(type="string", cast=True), "cast takes numbers sent as text"),
        (one(type="int64", unit="m", unit_from="km"), "unit_from needs a float64"),
        (one(type="float64", unit_from="km"), "unit_from needs unit"),
        (one(type="float64", unit="kg", unit_from="km"), "km is a unit of length, kg of mass"),
        (one(type="float64", unit="m", unit_from="league"), "unit league is not in the table"),
        (one(type="int64", default=1, required=True), "never missing"),
        (one(type="int64", default=1.5), "default must be of type int64"),
        (one(type="int64", default=True), "default must be of type int64"),
        (one(type="int64", default=9, max=8), "within min, max and one_of"),
        (one(type="string", default="c", one_of=["a", "b"]), "within min, max and one_of"),
        (one(type="int64", pii=HASH), "only texts are hashed"),
        (one(type="string", derive="rider", trim=True), "a derived column is not sent"),
        (one(type="string", derive="rider ||"), "columns.more.derive, position 8"),
        (one(type="string", derive="fare"), "columns.more.derive is float64, not string"),
        (one(type="string", derive="nowhere"), "column nowhere is unknown"),
        (
            {"columns": {"a": {"type": "int64", "derive": "b"},
                         "b": {"type": "int64", "derive": "a"}}},
            "derived columns read one another: a, b",
        ),
        ({"columns": {"rider": {"type": "string", "pii": HASH}}}, "publish a pseudonym"),
        ({"rules": {"cheap": "fare"}}, "a rule is a condition"),
        ({"rules": {"cheap": "fare <"}}, "rules.cheap, position 6"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(changes: dict[str, Any], told: str):
    with pytest.raises(Invalid, match="BAD_DEFINITION") as raised:
        parse_definition(a_stream(**changes))

    assert told in raised.value.metadata["problem"]


@pytest.mark.parametrize(
    ("format_", "fields", "told"),
    [
        ("json", {"ride": 1}, "field is for format: protobuf"),
        ("protobuf", {"ride": 1, "rider": 2, "at": 3}, "column fare: field is needed"),
        ("protobuf", {"ride": 1, "rider": 2, "at": 3, "fare": 3}, "given twice"),
        ("protobuf", {"ride": 1, "rider": 2, "at": 3, "fare": 19_500}, "belong to Protobuf"),
    ],
)
def test_field_numbers_are_those_of_protobuf(format_: str, fields: dict[str, int], told: str):
    document = a_stream(format=format_)
    for name, number in fields.items():
        document["columns"][name] = document["columns"][name] | {"field": number}

    with pytest.raises(Invalid, match="BAD_DEFINITION") as raised:
        parse_definition(document)

    assert told in raised.value.metadata["problem"]


def test_proto_file_is_told_in_the_order_of_its_fields():
    document = a_stream(format="protobuf", name="rides-2.x")
    for number, name in enumerate(reversed(document["columns"]), start=1):
        document["columns"][name] = document["columns"][name] | {"field": number}
    stream = parse_definition(document)

    assert (
        'syntax = "proto3";\n\npackage rides_2.x;\n\nmessage Record {\n'
        "  optional double fare = 1;\n  optional int64 at = 2;\n"
        "  optional string rider = 3;\n  optional string ride = 4;\n}\n"
    ) == proto_text(stream)
    record = {"ride": "r1", "fare": 2.5, "note": "left out", "rider": None}
    of = message_class(stream)
    assert of(ride="r1", fare=2.5) == of.FromString(encoded(record, of))


def test_contract_comes_back_from_its_json():
    columns = {
        "wind": {"type": "float64", "unit": "m/s", "unit_from": "kn", "default": 0.0},
        "email": {"type": "string", "pii": HASH},
        "double": {"type": "float64", "derive": "fare * 2"},
    }
    stream = parse_definition(a_stream(columns, rules={"cheap": "fare < 100"}))

    assert stream == parsed_back(definition_json(stream))


def test_contract_is_written_in_python_as_in_yaml():
    written = Stream(
        name="rides",
        description="Rides.",
        owner="tests",
        key="rider",
        id="ride",
        event_time="at",
        lateness_allowed="1h",
        columns={
            "ride": Column(type="string", required=True),
            "rider": Column(type="string", required=True),
            "at": Column(type="timestamp", required=True),
            "fare": Column(type="float64"),
            "email": Column(type="string", pii=Pii(category="contact", treatment="hash")),
        },
        rules={"paid": "fare >= 0"},
    )
    application = build_application("rides", [written])

    expected = parse_definition(
        a_stream({"email": {"type": "string", "pii": HASH}}, rules={"paid": "fare >= 0"})
    )
    assert [expected] == application.definitions()


@pytest.mark.parametrize(
    ("sent", "stored", "value", "expected"),
    [
        ("km", "m", 5, 5000),
        ("mi", "km", 1, 1.609344),
        ("min", "h", 90, 1.5),
        ("degF", "degC", 32, 0),
        ("degC", "K", 0, 273.15),
        ("%", "1", 50, 0.5),
        ("kn", "km/h", 10, 18.52),
    ],
)
def test_unit_converts(sent: str, stored: str, value: float, expected: float):
    factor, offset = conversion(sent, stored)

    assert pytest.approx(expected) == value * factor + offset
