# SPDX-License-Identifier: Apache-2.0
"""JSON objects as the JSON standard (RFC 8259, I-JSON) has them, and not one value more.

Python's decoder takes NaN, turns 1e999 into infinity, keeps the last of two equal keys and guesses
UTF-16: each of these would store something that the sender did not say.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from headrace.errors import Invalid

DEPTH_MAX = 64
INT64_DIGITS_SURE = 18
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
KIND_BY_TYPE = {
    list: "an array",
    str: "a text",
    bool: "a truth value",
    type(None): "null",
}
AS_ARRAYS = bytes.maketrans(b"{}", b"[]")
NO_BRACKETS = bytes(set(range(256)) - set(b"[]"))
# From here on it is worth a look whether Python's own numbers do.
LONG_BYTES = 64 * 1024
AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")


class BeyondInt64(int):
    """Stands in `decode_record` for an integer that does not fit int64."""


class NotFinite(float):
    """Stands in `decode_record` for a number that is not finite."""


def decode(value: bytes) -> dict[str, Any]:
    """The object in these bytes.

    Raises Invalid DECODE_ERROR (not UTF-8, not JSON, nested deeper than 64) or BAD_TYPE (not an
    object, a key twice, a number that is not finite or does not fit int64).
    """
    return _decoded(value, _STRICT)


def decode_record(value: bytes) -> dict[str, Any]:
    """As `decode`, but a number that is not finite or does not fit has a stand-in in its place.

    So who knows the columns can tell which of them is wrong.
    """
    return _decoded(value, _PLACING)


def _decoded(value: bytes, decoder: json.JSONDecoder) -> dict[str, Any]:
    if value.count(b"[") + value.count(b"{") > DEPTH_MAX:
        _refuse_depth(value)
    if len(value) >= LONG_BYTES and _plain(value):
        decoder = _PLAIN
    try:
        decoded = decoder.decode(value.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as err:
        raise Invalid("DECODE_ERROR") from err
    if not isinstance(decoded, dict):
        raise Invalid("BAD_TYPE", found=KIND_BY_TYPE.get(type(decoded), "a number"))
    if b"\\u" in value:
        _refuse_surrogates(decoded)
    return decoded


def without_escapes(value: bytes) -> bytes:
    """JSON whose quotes are all ends of texts; who counts them needs no loop of ours."""
    return value.replace(b"\\\\", b"").replace(b'\\"', b"")


def outside_strings(value: bytes) -> bytes:
    """Of JSON all but its texts: who counts there decodes nothing, and needs no time for it."""
    return b"".join(without_escapes(value).split(b'"')[::2])


def _plain(value: bytes) -> bool:
    """No number in it can be infinite or beyond int64: each is read without a call of ours, which
    takes four times as long. A text that looks so costs that time, and nothing else.
    """
    numbers = value.translate(AS_ZEROS)
    doubtful = (b"0" * (INT64_DIGITS_SURE + 1), b"0e", b"0E", b"NaN", b"Infinity")
    return not any(mark in numbers for mark in doubtful)


def _refuse_depth(value: bytes) -> None:
    """Takes the innermost brackets away, a level a round; millions of them cost no loop of ours."""
    brackets = outside_strings(value).translate(AS_ARRAYS).translate(None, NO_BRACKETS)
    for _ in range(DEPTH_MAX):
        if b"[]" not in brackets:
            break
        brackets = brackets.replace(b"[]", b"")
    if b"[]" in brackets or brackets.count(b"[") > DEPTH_MAX:
        raise Invalid("DECODE_ERROR", depth_max=DEPTH_MAX)


def _refuse_surrogates(decoded: dict[str, Any]) -> None:
    """Half a surrogate pair, which an escape can write, is no character of UTF-8."""
    try:
        json.dumps(decoded, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as err:
        raise Invalid("DECODE_ERROR") from err


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    decoded = dict(pairs)
    if len(decoded) != len(pairs):
        raise Invalid("BAD_TYPE", found="a key twice")
    return decoded


def _placed_float(text: str) -> float:
    number = float(text)
    return NOT_FINITE if math.isinf(number) else number


def _placed_int(text: str) -> int:
    # Python refuses more than 4,300 digits by ValueError; nothing near that is converted here.
    if len(text) <= INT64_DIGITS_SURE:
        return int(text)
    if len(text) > INT64_DIGITS_SURE + 2:
        return BEYOND_INT64
    return number if INT64_MIN <= (number := int(text)) <= INT64_MAX else BEYOND_INT64


def _placed_constant(_: str) -> float:
    return NOT_FINITE


def _float(text: str) -> float:
    if (number := _placed_float(text)) is NOT_FINITE:
        raise Invalid("BAD_TYPE", found="a number that is not finite")
    return number


def _int(text: str) -> int:
    if (number := _placed_int(text)) is BEYOND_INT64:
        raise Invalid("BAD_TYPE", found="an integer beyond int64")
    return number


def _constant(name: str) -> NoReturn:
    raise Invalid("BAD_TYPE", found=name)


# Written as JSON again, they are read as what they stand for.
BEYOND_INT64, NOT_FINITE = BeyondInt64(INT64_MAX + 1), NotFinite("inf")
_STRICT = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_constant
)
_PLACING = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_float=_placed_float,
    parse_int=_placed_int,
    parse_constant=_placed_constant,
)
_PLAIN = json.JSONDecoder(object_pairs_hook=_object)
