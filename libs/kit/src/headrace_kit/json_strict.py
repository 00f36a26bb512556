# SPDX-License-Identifier: Apache-2.0
"""JSON objects as the JSON standard (RFC 8259, I-JSON) has them, and not one value more.

Python's decoder takes NaN, turns 1e999 into infinity, keeps the last of two equal keys and guesses
UTF-16: each of these would store something that the sender did not say.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from headrace.errors import Invalid

DEPTH_MAX = 64
INT64_DIGITS_SURE = 18
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
TOKEN = re.compile(rb'[\[\]{}"]|\\.', re.DOTALL)  # an escape is a token, so its quote is none


def decode(value: bytes) -> dict[str, Any]:
    """The object in these bytes.

    Raises Invalid DECODE_ERROR (not UTF-8, not JSON, nested deeper than 64) or BAD_TYPE (not an
    object, a key twice, a number that is not finite or does not fit int64).
    """
    if value.count(b"[") + value.count(b"{") > DEPTH_MAX:
        _refuse_depth(value)
    try:
        decoded = _DECODER.decode(value.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as err:
        raise Invalid("DECODE_ERROR") from err
    if not isinstance(decoded, dict):
        raise Invalid("BAD_TYPE", found=type(decoded).__name__)
    if b"\\u" in value:
        _refuse_surrogates(decoded)
    return decoded


def _refuse_depth(value: bytes) -> None:
    depth, in_string = 0, False
    for token in TOKEN.findall(value):
        if token == b'"':
            in_string = not in_string
        elif not in_string and token in b"[{":
            depth += 1
        elif not in_string and token in b"]}":
            depth -= 1
        if depth > DEPTH_MAX:
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


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise Invalid("BAD_TYPE", found="a number that is not finite")
    return number


def _int(text: str) -> int:
    # Python refuses more than 4,300 digits by ValueError; nothing near that is converted here.
    if len(text) > INT64_DIGITS_SURE and not (
        len(text) <= INT64_DIGITS_SURE + 2 and INT64_MIN <= int(text) <= INT64_MAX
    ):
        raise Invalid("BAD_TYPE", found="an integer beyond int64")
    return int(text)


def _constant(name: str) -> NoReturn:
    raise Invalid("BAD_TYPE", found=name)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_constant
)
