# SPDX-License-Identifier: Apache-2.0
"""JSON objects as the JSON standard (RFC 8259, I-JSON) has them, and not one value more.

Python's decoder takes NaN, turns 1e999 into infinity, keeps the last of two equal keys and guesses
UTF-16: each of these would store something that the sender did not say.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

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
# Of a list that is read in steps: a millisecond of numbers.
STEP_BYTES = 16 * 1024
# How an escape of a half of a surrogate pair begins.
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")


class _Numbers(NamedTuple):
    """Where a list of numbers stands, its brackets with it."""

    begin: int
    end: int


class BeyondInt64(int):
    """Stands in `decode_record` for an integer that does not fit int64."""


class NotFinite(float):
    """Stands in `decode_record` for a number that is not finite."""


def decode(value: bytes, *, numbers_key: str = "") -> dict[str, Any]:
    """The object in these bytes. Long lists of numbers, nested or not, under that key are read in
    steps: in one go a million hold the interpreter's lock for a tenth of a second, and for more
    than half of one where each is in lists of its own.

    Raises Invalid DECODE_ERROR (not UTF-8, not JSON, nested deeper than 64) or BAD_TYPE (not an
    object, a key twice, a number that is not finite or does not fit int64).
    """
    _refuse_deep(value)
    found = list(_long_lists(value, numbers_key)) if numbers_key else []
    if not found:
        return _decoded(value, _STRICT)
    begins, ends = [0, *(each.end for each in found)], [*(each.begin for each in found), len(value)]
    # Read by a call of ours, in their order; and no NaN stands elsewhere.
    rest = b"NaN".join([value[begin:end] for begin, end in zip(begins, ends, strict=True)])
    lists = (_read_in_steps(value, each) for each in found)
    decoder = json.JSONDecoder(
        object_pairs_hook=_object,
        parse_float=_float,
        parse_int=_int,
        parse_constant=lambda name: next(lists) if name == "NaN" else _constant(name),
    )
    return _decoded(rest, decoder)


def decode_record(value: bytes) -> dict[str, Any]:
    """As `decode`, but a number that is not finite or does not fit has a stand-in in its place.

    So who knows the columns can tell which of them is wrong.
    """
    _refuse_deep(value)
    return _decoded(value, _PLACING)


def _decoded(value: bytes, decoder: json.JSONDecoder) -> dict[str, Any]:
    if len(value) >= LONG_BYTES and _plain(value):
        decoder = _PLAIN
    try:
        decoded = decoder.decode(value.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as err:
        raise Invalid("DECODE_ERROR") from err
    if not isinstance(decoded, dict):
        raise Invalid("BAD_TYPE", found=KIND_BY_TYPE.get(type(decoded), "a number"))
    if SURROGATE.search(value):
        _refuse_surrogates(value)
    return decoded


def _long_lists(value: bytes, key: str) -> Iterator[_Numbers]:
    """None where a NaN stands in the bytes. What is found is a value if the rest is JSON.

    No byte is looked at again and again, whatever stands there.
    """
    if len(value) < LONG_BYTES or b"NaN" in value:
        return
    masked = value.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    name, at, brace = f'"{key}":'.encode(), 0, 0
    while (at := masked.find(name, at)) >= 0:
        at += len(name)
        if brace < at and (brace := masked.find(b"}", at)) < 0:
            return
        quote = masked.find(b'"', at, brace)
        end = brace if quote < 0 else quote
        if end - at >= LONG_BYTES:
            yield from _numbers(value[at:end], at)


def _numbers(text: bytes, at: int) -> Iterator[_Numbers]:
    """The list that the text begins with, if it is all but a comma, and of numbers or lists."""
    begin, end = text.find(b"["), text.rfind(b"]") + 1
    alone = not text[:begin].strip() and text[end:].strip() in (b"", b",")
    if not 0 <= begin < end or not alone or b"{" in text:
        return
    # Within the outermost ones: one list alone, all of whose brackets have their other one.
    if not _unpaired(text.translate(None, NO_BRACKETS)[1:-1]):
        yield _Numbers(at + begin, at + end)


def _read_in_steps(value: bytes, numbers: _Numbers) -> list[Any]:
    """A step ends at a comma, amid lists that are closed there, and opened anew for the next."""
    read: list[Any] = []
    depth, begin, last = 1, numbers.begin + 1, numbers.end - 1
    while begin <= last:
        comma = value.find(b",", begin + STEP_BYTES, last)
        end = last if comma < 0 else comma
        part = value[begin:end].strip()
        absent = not part and (read or end < last)
        if absent or part.startswith(b"]") or part.endswith(b"["):
            raise Invalid("DECODE_ERROR")  # two commas, or one where a list begins or ends
        depth_after = depth + part.count(b"[") - part.count(b"]")
        part = b"[" * depth + part + b"]" * depth_after
        found = (_PLAIN if _plain(part) else _STRICT).decode(part.decode("utf-8"))
        _go_on(read, found, depth)
        depth, begin = depth_after, end + 1
    return read


def _go_on(read: list[Any], found: list[Any], depth: int) -> None:
    """So many lists that end the one that was read are begun in what was found."""
    for _ in range(depth - 1):
        open_, first = read[-1], found[0]
        read += found[1:]
        read, found = open_, first
    read += found


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


def _refuse_deep(value: bytes) -> None:
    if value.count(b"[") + value.count(b"{") <= DEPTH_MAX:
        return
    brackets = _unpaired(outside_strings(value).translate(AS_ARRAYS).translate(None, NO_BRACKETS))
    if b"[]" in brackets or brackets.count(b"[") > DEPTH_MAX:
        raise Invalid("DECODE_ERROR", depth_max=DEPTH_MAX)


def _unpaired(brackets: bytes) -> bytes:
    """Takes the innermost ones away, a level a round; millions of them cost no loop of ours."""
    for _ in range(DEPTH_MAX):
        if b"[]" not in brackets:
            break
        brackets = brackets.replace(b"[]", b"")
    return brackets


def _refuse_surrogates(value: bytes) -> None:
    """Half a surrogate pair, which an escape can write, is no character of UTF-8.

    Read anew, without the numbers that were read apart.
    """
    try:
        json.dumps(_TEXTS.decode(value.decode("utf-8")), ensure_ascii=False).encode("utf-8")
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
_TEXTS = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
