# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import Invalid
from headrace_kit import json_strict


@pytest.mark.parametrize(
    ("value", "decoded"),
    [
        (b'{"a": 1, "b": [1.5, true, null], "c": {"d": "\xc3\xa9"}}',
         {"a": 1, "b": [1.5, True, None], "c": {"d": "é"}}),
        (b'{"a": 9223372036854775807, "b": -9223372036854775808}',
         {"a": 2**63 - 1, "b": -(2**63)}),
        (b'{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
        (b'{"a": "' + b"[" * 10_000 + b'"}', {"a": "[" * 10_000}),
        (b'{"a": "\\"' + b"{" * 100 + b'"}', {"a": '"' + "{" * 100}),
        (b"{}", {}),
    ],
)  # fmt: skip
def test_object_is_decoded(value, decoded):
    assert decoded == json_strict.decode(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "DECODE_ERROR"),
        (b"\x00\x9f\x92", "DECODE_ERROR"),
        (b'{"a": 1', "DECODE_ERROR"),
        (b'{"a": "\xff"}', "DECODE_ERROR"),
        ('{"a": 1}'.encode("utf-16"), "DECODE_ERROR"),
        (b'\xef\xbb\xbf{"a": 1}', "DECODE_ERROR"),
        (b'{"a": 1} {"b": 2}', "DECODE_ERROR"),
        (b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "DECODE_ERROR"),
        (b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}", "DECODE_ERROR"),
        (b'{"a":' * 200_000, "DECODE_ERROR"),
        (b'{"a": "\\ud800"}', "DECODE_ERROR"),
        (b'{"\\udfff": 1}', "DECODE_ERROR"),
        (b'{"a": 1, "a": 2}', "BAD_TYPE"),
        (b'{"a": {"b": 1, "b": 1}}', "BAD_TYPE"),
        (b'{"a": NaN}', "BAD_TYPE"),
        (b'{"a": -Infinity}', "BAD_TYPE"),
        (b'{"a": 1e999}', "BAD_TYPE"),
        (b'{"a": 9223372036854775808}', "BAD_TYPE"),
        (b'{"a": -9223372036854775809}', "BAD_TYPE"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "BAD_TYPE"),
        (b"[1, 2]", "BAD_TYPE"),
        (b'"text"', "BAD_TYPE"),
        (b"null", "BAD_TYPE"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else value,
)
def test_everything_else_is_refused_with_its_reason(value, reason):
    with pytest.raises(Invalid, match=reason):
        json_strict.decode(value)


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (b"9223372036854775808", json_strict.BeyondInt64),
        (b"-9223372036854775809", json_strict.BeyondInt64),
        (b"9" * 100_000, json_strict.BeyondInt64),
        (b"1e999", json_strict.NotFinite),
        (b"-Infinity", json_strict.NotFinite),
        (b"NaN", json_strict.NotFinite),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else value.__name__,
)
def test_number_that_does_not_fit_has_a_stand_in_in_its_place_of_a_record(token, kind):
    decoded = json_strict.decode_record(b'{"a": 1, "b": ' + token + b', "c": [' + token + b"]}")

    assert [int, kind, kind] == [type(decoded["a"]), type(decoded["b"]), type(decoded["c"][0])]
    again = json_strict.decode_record(json.dumps(decoded).encode())
    assert [int, kind, kind] == [type(again["a"]), type(again["b"]), type(again["c"][0])]


def test_record_is_refused_for_all_else_as_any_object_is():
    for value in (b"[1]", b'{"a": 1, "a": 2}', b'{"a": "\xff"}', b'{"a": ' + b"[" * 65):
        with pytest.raises(Invalid) as strict:
            json_strict.decode(value)
        with pytest.raises(Invalid) as placing:
            json_strict.decode_record(value)
        assert strict.value.reason == placing.value.reason


@pytest.mark.parametrize("depth", [64, 65])
def test_depth_is_counted_through_objects_and_arrays(depth):
    pairs, text = depth // 2, b'"{[\\"[{"'
    inner = b"[]" if depth % 2 else text
    value = b'{"a":[' * pairs + inner + b"]}" * pairs

    if depth == 64:
        assert value.count(b"a") == str(json_strict.decode(value)).count("a")
        return
    with pytest.raises(Invalid, match="depth_max=64"):
        json_strict.decode(value)


def test_texts_are_left_out_with_their_escapes():
    value = b'{"a\\"{": [1, "b\\\\"], "": "unclosed [ '

    assert b"{: [1, ], : " == json_strict.outside_strings(value)


def a_long(*values):
    return b'{"a": [' + b", ".join([b"-1.25", b"7"] * 10_000 + list(values)) + b"]}"


def test_long_list_of_numbers_is_read_without_a_call_for_each(monkeypatch):
    monkeypatch.setattr(json_strict, "_STRICT", None)
    monkeypatch.setattr(json_strict, "_PLACING", None)
    value, numbers = a_long(b"9" * 18, b"0.12345678901234567"), [-1.25, 7] * 10_000

    decoded = {"a": [*numbers, 10**18 - 1, 0.12345678901234567]}
    assert decoded == json_strict.decode(value) == json_strict.decode_record(value)


@pytest.mark.parametrize(
    "token",
    [b"9223372036854775808", b"-" + b"9" * 5_000, b"1e999", b"-1E999", b"NaN", b"-Infinity"],
    ids=lambda token: repr(token[:24]),
)
def test_number_that_does_not_fit_is_found_among_many(token):
    with pytest.raises(Invalid, match="BAD_TYPE"):
        json_strict.decode(a_long(token))
    placed = json_strict.decode_record(a_long(token))["a"][-1]
    assert type(placed) in (json_strict.BeyondInt64, json_strict.NotFinite)


def test_numbers_that_need_a_look_are_read_as_they_are_among_many():
    value = a_long(b"9223372036854775807", b"1e300", b"0.1234567890123456789")

    assert [2**63 - 1, 1e300, 0.1234567890123456789] == json_strict.decode(value)["a"][-3:]


NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.recursive(
    st.lists(NUMBERS, max_size=9), lambda inner: st.lists(inner, max_size=5), max_leaves=9
)


@pytest.fixture
def short_steps(monkeypatch):
    monkeypatch.setattr(json_strict, "LONG_BYTES", 4)
    monkeypatch.setattr(json_strict, "STEP_BYTES", 6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries(
            {"data": ROWS | st.lists(ROWS, max_size=3) | st.text()},
            optional={"name": st.text(), "rest": st.dictionaries(st.text(), ROWS, max_size=2)},
        ),
        max_size=3,
    ),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_numbers_are_the_same_when_they_are_read_in_steps(short_steps, inputs, indent, ascii_):
    value = json.dumps({"inputs": inputs}, indent=indent, ensure_ascii=ascii_).encode()

    assert json_strict.decode(value) == json_strict.decode(value, numbers_key="data")


BROKEN = [
    b"[1,2,3,4,5,,6,7]",
    b"[1,2,3,4,5,6,7,]",
    b"[,1,2,3,4,5,6,7]",
    b"[        ,1,2,3]",
    b"[1,2,3,4,5 6,7,8]",
    b"[1,2,3],[4,5,6]",
    b"[[1,2,3],[4,5,6]",
    b"[[1,2,3],[4,5,6],]",
    b"[[1,2,3],,[4,5,6]]",
    b"[1,2,3,4,5]]",
    b"[[[1,2,3],[4]],[[5],,[6]]]",
    b"[[[1,2,3],[4]],[,[5],[6]]]",
    b"[[[1,2,3],[4]],[[5],[6], ]]",
    b"[[[1,2,3],[4]],[[5],[6]]",
    b"[[[1,2,3],[4]]][[[5],[6]]]",
    b"[1,2,3,4,5\xff]",
    b"[1,2,3,4,5,1e999]",
    b"[1,2,3,9223372036854775808]",
    b"[1,2,3,4,5,NaN]",
    b"[1,2,3,4,5,Infinity]",
    b"1,2,3,4,5,6,7]",
    b"1[2,3,4,5,6,7]",
    b"[1,2,3,4,5,6]7",
]


@pytest.mark.parametrize("numbers", BROKEN)
@pytest.mark.parametrize("behind", [b"", b',"a":1'])
def test_mistake_in_numbers_is_found_when_they_are_read_in_steps(short_steps, numbers, behind):
    value = b'{"data":' + numbers + behind + b"}"
    with pytest.raises(Invalid) as whole:
        json_strict.decode(value)
    with pytest.raises(Invalid) as in_steps:
        json_strict.decode(value, numbers_key="data")

    assert (whole.value.reason, whole.value.metadata) == (
        in_steps.value.reason,
        in_steps.value.metadata,
    )


@pytest.mark.parametrize(
    "value",
    [
        rb'{"a":"\"data\":[1,2,3,4,5]","data":[1,2,3,4,5,6],"b":"[1,2,3,4,5]"}',
        rb'{"a":"\\","data":[      ],"b":{"data":[1,2,3,4,5,6]}}',
        rb'{"data":[true,null,false,1,2.5]}',
        rb'{"data":{"data":[1,2,3,4,5]}}',
    ],
)
def test_what_looks_like_numbers_is_told_apart(short_steps, value):
    assert json.loads(value) == json_strict.decode(value, numbers_key="data")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("[], 1", max_size=40))
def test_what_is_no_list_is_found_in_steps_where_it_is_found_at_once(short_steps, text):
    value = b'{"data":[' + text.encode() + b"]}"
    try:
        whole = json_strict.decode(value)
    except Invalid as refused:
        with pytest.raises(Invalid, match=refused.reason):
            json_strict.decode(value, numbers_key="data")
    else:
        assert whole == json_strict.decode(value, numbers_key="data")


def test_no_more_numbers_are_read_at_once_than_a_step(short_steps, monkeypatch):
    parts, plain = [], json_strict._PLAIN

    class Noted:
        def decode(self, text):
            parts.append(text)
            return plain.decode(text)

    monkeypatch.setattr(json_strict, "_PLAIN", Noted())
    value = (
        b'{"name":"x","data":[[1,2],[3,4],[5,6],[7,8]],"flat":{"data":[1,2,3,4,5,6]},'
        b'"deep":{"data":[[[1],[2],[3]],[[4],[5],[6]]]}}'
    )
    json_strict.decode(value, numbers_key="data")

    assert ["[[1,2],[3]]", "[[4],[5,6]]", "[[7,8]]"] == parts[:3]
    assert ["[1,2,3,4]", "[5,6]"] == parts[3:5]
    assert ["[[[1],[2]]]", "[[[3]],[[4]]]", "[[[5],[6]]]"] == parts[5:8]
