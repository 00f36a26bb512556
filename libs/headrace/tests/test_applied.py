# SPDX-License-Identifier: Apache-2.0
"""A record of `registry.definitions` is a definition, a tombstone, or refused with a reason."""

import pytest

from headrace.application import definition_json, parse_definition
from headrace.applied import AppliedDefinition, read_applied
from headrace.errors import Invalid
from headrace.registry.v1.registry_events_pb2 import Definition

STREAM = parse_definition(
    {
        "kind": "stream",
        "name": "rides",
        "description": "Rides.",
        "owner": "tests",
        "key": "id",
        "id": "id",
        "event_time": "at",
        "lateness_allowed": "1h",
        "columns": {"id": {"type": "string"}, "at": {"type": "timestamp"}},
    }
)


def a_value(spec_json: bytes = definition_json(STREAM)) -> bytes:
    message = Definition(kind="stream", name="rides", version=3, spec_json=spec_json)
    return message.SerializeToString()


def test_definition_comes_with_its_version():
    applied = read_applied(b"stream/rides", a_value())

    assert AppliedDefinition("stream", "rides", 3, STREAM) == applied


def test_tombstone_names_what_was_taken_back():
    assert AppliedDefinition("view", "v.1", 0, None) == read_applied(b"view/v.1", None)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"stream/rides", b"\xff\xff", "DECODE_ERROR"),
        (b"stream/rides", b"", "BAD_DEFINITION"),
        (b"stream/rides", a_value(b"{"), "BAD_DEFINITION"),
        (b"stream/rides", a_value(b'{"kind": "stream"}'), "BAD_DEFINITION"),
        (b"stream/other", a_value(), "KEY_MISMATCH"),
        (b"view/rides", a_value(), "KEY_MISMATCH"),
        (None, a_value(), "DECODE_ERROR"),
        (b"rides", None, "DECODE_ERROR"),
        (b"\xff/rides", None, "DECODE_ERROR"),
    ],
)
def test_what_cannot_be_read_is_invalid(key, value, reason):
    with pytest.raises(Invalid, match=reason):
        read_applied(key, value)
