# SPDX-License-Identifier: Apache-2.0
"""The fast way of decoding gives what the strict one gives, or leaves the value to it."""

from __future__ import annotations

import gzip
import json
import zlib
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace_ingest.domain import decoding
from headrace_ingest.domain.cleansing import REASON
from headrace_ingest.domain.decoding import decoded
from headrace_ingest.testing import a_contract, a_departure, a_stream_document
from headrace_kit.json_strict import decode_record as decode

# With numbers that may be sent as texts.
CAST = {
    "gates": {"type": "int64", "cast": True, "trim": True},
    "fare": {"type": "float64", "cast": True},
}
STREAM = a_contract(columns=a_stream_document()["columns"] | CAST).stream
COLUMNS = list(STREAM.columns)


@pytest.fixture(autouse=True, scope="module")
def none_are_few():
    """Else these few values would all be decoded strictly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "FEW_VALUES_MAX", 0)
        yield


def strictly(values):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_all_fast", lambda stream: False)
        return decoded(values, STREAM, decode=decode)


def counted(values):
    """The decoded columns, and the values that were left to the strict way."""
    left = []

    def decode_and_count(value):
        left.append(value)
        return decode(value)

    return decoded(values, STREAM, decode=decode_and_count), left


# Pieces of JSON that meet in values which no honest program writes.
TEXTS = st.one_of(
    st.sampled_from(
        ["EWR", " EWR ", "\u00a0EWR\u2003", "null", "x:null", "delay", "2400", "NA", "", "[", "{"]
    ),
    st.sampled_from(["\u00e9", "\x1f", "\x85EWR"]),
    st.text(max_size=6),
)
MOMENTS = st.datetimes(datetime(1950, 1, 1), datetime(2250, 1, 1)).map(
    lambda moment: moment.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.sampled_from(["12", " 7\n", "-3.5e2", "1e999", "9223372036854775808", "+1", "1.", "00"]),
    st.sampled_from([2400, 2**63, -(2**63), 2**53 + 1, 1_357_000_000_000_000]),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
    MOMENTS,
    st.sampled_from(["2013-01-01T00:00:60Z", "2013-01-01T00:00:00.5+01:00"]),
    st.sampled_from(["2013-02-30T00:00:00Z", "2013-01-01T24:00:00Z"]),
)
ANY = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(TEXTS, SCALARS, max_size=2))
TOKENS = st.one_of(ANY.map(json.dumps), st.sampled_from(["NaN", "1e999", "01", "1E2", "-0", "5.0"]))
NAMES = st.sampled_from([*COLUMNS, "other"])
BLANKS = st.sampled_from(["", "", "", " ", "\t", "\r"])


@st.composite
def json_texts(draw):
    pairs = draw(st.lists(st.tuples(NAMES, BLANKS, BLANKS, TOKENS), max_size=8))
    inner = ",".join(f'"{name}"{before}:{after}{token}' for name, before, after, token in pairs)
    return ("{" + inner + "}").encode()


VALUES = st.one_of(
    json_texts(),
    st.fixed_dictionaries({}, optional=dict.fromkeys(COLUMNS, SCALARS)).map(
        lambda document: json.dumps(a_departure() | document).encode()
    ),
    st.fixed_dictionaries({}, optional=dict.fromkeys(COLUMNS, SCALARS)).map(
        lambda document: json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    ),
    st.binary(min_size=1, max_size=8),
    st.sampled_from([b" ", b"{}", b"{}{}", b"{}\n{}", b'{"delay":1}\n', b"null", b"[1]", b'"x"']),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(VALUES, max_size=12))
@example([b'{"origin":5,"origin" :6}'])
@example([b'{"delay":1,"delay":null}'])
@example([b'{"delay":1,"delay":null,"origin":"diverted"}'])
@example([b'{"origin":["x"]}'])
@example([b'{"origin":"x:null","clock":1,"clock":2}'])
@example([b'{}\n{"delay":1}', b" "])
@example([b"(\xb5/\xfd"])
@example([zlib.compress(b'{"delay":1}')])
@example([gzip.compress(b'{"delay":1}')])
@example([b"{}", b'{"event_id":false,"known_at":"null"}'])
@example([b'{"event_id":{},"event_id":{},"event_id":{}}', b"0", b"0", b"null"])
def test_both_ways_give_the_same(values):
    expected, found = strictly(values), decoded(values, STREAM, decode=decode)

    assert expected.schema == found.schema
    assert expected.equals(found)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"delay": None, "diverted": None},
        {"delay": ..., "landing_at": ...},
        {"clock": 2400, "origin": " EWR "},
        {"gates": "12", "fare": "-3.5e2"},
        {"gates": 12, "fare": 2.5},
        {"departed_at": "2013-01-01T01:26:40.25Z", "known_at": "2013-01-01T00:30:00Z"},
    ],
)
def test_honest_values_are_decoded_by_columns(separators, changes):
    values = [
        json.dumps(a_departure(number, **changes), separators=separators).encode()
        for number in range(9)
    ]
    found, left = counted(values)

    if "departed_at" in changes:  # all times of a batch are read as its first value writes them
        assert len(left) in (0, 9)
    else:
        assert [] == left
    assert strictly(values).equals(found)


@pytest.mark.parametrize("token", ["NaN", "-Infinity", "1e400", '{"deep": [1, NaN]}', "[-1e999]"])
def test_number_that_is_not_finite_spoils_a_column_that_is_left_out(token):
    good = json.dumps(a_departure() | {"other": [{"n": 1.5}, 2**70, None]}).encode()
    bad = good[:-1] + b', "another": %s}' % token.encode()
    values = [good, bad, good]

    assert [None, "BAD_TYPE", None] == decoded(values, STREAM, decode=decode)[REASON].to_list()
    assert strictly(values).equals(decoded(values, STREAM, decode=decode))


def test_bad_values_alone_are_left_to_the_strict_way():
    good = json.dumps(a_departure()).encode()
    bad = [b'{"delay":', b'{"delay":"late"}', b"\xff", b'{"delay":1,"delay":2}']
    values = [good, bad[0], good, good, bad[1], bad[2], *[good] * 50, bad[3]]
    found, left = counted(values)

    assert sorted(bad) == sorted(left)
    assert strictly(values).equals(found)


def test_batch_full_of_spoilers_is_decoded_in_bounded_steps():
    values = [b'{"delay":', json.dumps(a_departure()).encode()] * 500
    found, left = counted(values)

    assert len(left) <= 1_000
    assert strictly(values).equals(found)


def test_few_values_are_decoded_strictly_at_once(monkeypatch):
    monkeypatch.setattr(decoding, "FEW_VALUES_MAX", 3)
    values = [json.dumps(a_departure(number)).encode() for number in range(4)]

    assert values[:3] == counted(values[:3])[1]
    assert [] == counted(values)[1]
