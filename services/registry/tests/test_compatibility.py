# SPDX-License-Identifier: Apache-2.0
"""Which contract may take the place of the one before, and how a refusal reads."""

from __future__ import annotations

from typing import Any

import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from headrace.application import Stream, parse_definition
from headrace.errors import Conflict
from headrace.rpc import part_name
from headrace_kit.error_status import to_status
from headrace_registry.domain.compatibility import CHANGES_TOLD_MAX, differences, told
from headrace_registry.testing import FLIGHTS

COLUMNS: dict[str, Any] = {
    "flight_id": {"type": "string", "required": True},
    "origin": {"type": "string", "one_of": ["EWR", "JFK"], "trim": True},
    "departed_at": {"type": "timestamp", "required": True},
    "known_at": {"type": "timestamp"},
    "delay": {"type": "float64", "min": -120, "max": 2880, "map": {"NA": None}},
    "gate": {"type": "string"},
    "wind": {"type": "float64", "unit": "m/s", "unit_from": "kn", "default": 0.0},
    "fuel": {"type": "float64", "cast": True, "min": 0, "clip": True},
    "delay_h": {"type": "float64", "derive": "delay / 60"},
    "pilot": {"type": "string", "pii": {"category": "identity", "treatment": "hash"}},
}
KEEP = {"pii": {"category": "identity", "treatment": "keep"}}
DROP = {"pii": {"category": "other", "treatment": "drop"}}


def a_stream(columns: dict[str, dict[str, Any] | None] | None = None, **changes: Any) -> Stream:
    """The contract with changes; a column changes by key, and None takes a column or key out."""
    document = {**FLIGHTS, "known_time": "known_at", "columns": dict(COLUMNS)}
    document |= {"rules": {"sane": "delay < 9999"}, **changes}
    for name, change in (columns or {}).items():
        merged = {**COLUMNS.get(name, {}), **(change or {})}
        document["columns"][name] = {k: v for k, v in merged.items() if v is not None}
        if change is None:
            del document["columns"][name]
    stream = parse_definition({key: each for key, each in document.items() if each is not None})
    assert isinstance(stream, Stream)
    return stream


@pytest.mark.parametrize(
    "later",
    [
        a_stream(),
        a_stream({"tail": {"type": "string"}}),
        a_stream({"delay": {"min": -240, "max": 5000}}),
        a_stream({"delay": {"min": None, "max": None}}),
        a_stream({"origin": {"one_of": ["LGA", "JFK", "EWR"]}}),
        a_stream({"origin": {"one_of": None}}),
        a_stream({"delay": {"map": {"NA": None, "": None}}}),
        a_stream({"gate": {"trim": True, "description": "Where.", "unit": "door"}}),
        a_stream({"flight_id": {"required": False}}),
        a_stream({"gate": {"default": "A1"}}),
        a_stream({"delay": {"cast": True}}),
        a_stream({"delay": {"clip": True, "min": 0}}),
        a_stream({"sum": {"type": "float64", "derive": "delay + fuel"}}),
        a_stream({"pilot": DROP}),
        a_stream(rules={}),
        a_stream(lateness_allowed="2d"),
        a_stream(description="Other.", owner="others"),
    ],
)
def test_contract_that_takes_all_that_the_one_before_took_may_follow(later: Stream) -> None:
    assert [] == differences(a_stream(), later)


@pytest.mark.parametrize(
    ("later", "difference"),
    [
        (a_stream({"gate": {"type": "int64"}}), "column gate: type was string, is int64"),
        (a_stream({"gate": None}), "column gate: is gone"),
        (a_stream({"tail": {"type": "string", "required": True}}), "column tail: new and required"),
        (a_stream({"gate": {"required": True}}), "column gate: was optional, is required"),
        (a_stream({"delay": {"min": 0}}), "column delay: min was -120, is 0"),
        (a_stream({"delay": {"max": 60}}), "column delay: max was 2880, is 60"),
        (a_stream({"origin": {"one_of": ["EWR"]}}), "column origin: no longer takes JFK"),
        (a_stream({"gate": {"one_of": ["A"]}}), "column gate: one_of is new"),
        (a_stream({"origin": {"trim": None}}), "column origin: is no longer trimmed"),
        (a_stream({"delay": {"map": {"NA": 0}}}), "column delay: no longer maps NA as before"),
        (a_stream({"delay": {"map": None}}), "column delay: no longer maps NA as before"),
        (
            a_stream({"wind": {"unit_from": "km/h"}}),
            "column wind: unit was kn to m/s, is km/h to m/s",
        ),
        (a_stream({"wind": {"default": 1.0}}), "column wind: default was 0.0, is 1.0"),
        (a_stream({"wind": {"default": None}}), "column wind: default was 0.0, is absent"),
        (a_stream({"fuel": {"cast": None}}), "column fuel: no longer takes numbers sent as text"),
        (a_stream({"fuel": {"clip": None}}), "column fuel: is no longer clipped"),
        (a_stream({"fuel": {"min": -1}}), "column fuel: is clipped to another range"),
        (
            a_stream({"delay_h": {"derive": "delay"}}),
            "column delay_h: derive was delay / 60, is delay",
        ),
        (
            a_stream({"pilot": KEEP}),
            "column pilot: personal data: treatment was hash, is keep",
        ),
        (a_stream(rules={"sane": "delay < 99"}), "rule sane: changed"),
        (a_stream(rules={"sane": "delay < 9999", "more": "delay > 0"}), "rule more: new"),
        (a_stream(key="flight_id"), "key: was origin, is flight_id"),
        (a_stream(id="origin"), "id: was flight_id, is origin"),
        (a_stream(event_time="known_at"), "event_time: was departed_at, is known_at"),
        (a_stream(known_time=None), "known_time: was known_at, is absent"),
        (a_stream(lateness_allowed="1h"), "lateness_allowed: was 86400s, is 3600s"),
    ],
)
def test_contract_that_would_refuse_what_the_one_before_took_is_told(
    later: Stream, difference: str
) -> None:
    assert [difference] == differences(a_stream(), later)


def test_protobuf_field_keeps_its_number() -> None:
    def numbered(origin: int) -> Stream:
        fields = dict(zip(COLUMNS, range(1, 99), strict=False)) | {"origin": origin}
        sent = {n: {"field": f, "cast": None} for n, f in fields.items() if n != "delay_h"}
        return a_stream(sent, format="protobuf")

    assert ["column origin: field was 2, is 50"] == differences(numbered(2), numbered(50))
    assert "format: was json, is protobuf" in differences(a_stream(), numbered(2))


def test_new_bound_of_an_open_range_is_told() -> None:
    assert ["column delay: min was open, is -120"] == differences(
        a_stream({"delay": {"min": None}}), a_stream()
    )


def test_long_list_of_differences_is_cut_and_says_how_many_are_left() -> None:
    count = CHANGES_TOLD_MAX + 15
    lines = told([f"column c{number}: {'läng ' * 100}" for number in range(count)]).splitlines()

    assert CHANGES_TOLD_MAX + 1 == len(lines)
    assert "and 15 more" == lines[-1]


def test_every_difference_of_an_error_comes_over_the_wire() -> None:
    """In eight values of 512 bytes, of which two are names and versions."""
    lines = told([f"column c{number}: {'long ' * 100}" for number in range(50)])
    error = Conflict("CONTRACT_INCOMPATIBLE", stream="s", version=1, changes=lines)

    info = ErrorInfo()
    assert to_status(error).details[0].Unpack(info)
    parts = [info.metadata[part_name("changes", number)] for number in range(1, 7)]
    assert lines == "\n".join(parts)
