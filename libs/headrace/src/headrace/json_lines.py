# SPDX-License-Identifier: Apache-2.0
"""Records as JSON lines: what a line says, or what is wrong with it, by its number."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from headrace.errors import HeadraceError, Invalid, error_by_reason

LINES_MAX = 10_000_000
DIGITS_MAX = 308  # of the longest number that a double holds
BYTE_ORDER_MARK = "\ufeff"


class RecordLines:
    """The JSON objects of lines, one a line; blank lines are left out. Iterate once."""

    def __init__(self, lines: Iterable[str | bytes]) -> None:
        self._lines, self._blank = lines, list[int]()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Raises Invalid BAD_REQUEST with the number of a line that is no JSON object."""
        for number, line in enumerate(self._lines, start=1):
            if number > LINES_MAX:
                raise Invalid("BAD_REQUEST", line=number, problem=f"more than {LINES_MAX} lines")
            if line.strip():
                yield _record(number, line)
            else:
                self._blank.append(number)

    def told(self, error: HeadraceError) -> HeadraceError:
        """An error that counts records, as one that counts lines."""
        if "row" not in error.metadata:
            return error
        line = int(error.metadata["row"])
        for blank in self._blank:
            line += blank <= line
        metadata = {name: value for name, value in error.metadata.items() if name != "row"}
        return error_by_reason(error.reason, line=line, **metadata)


def json_problem(err: Exception) -> str:
    """Why a text cannot be read as JSON, or a value not be written as it, in words of JSON."""
    if isinstance(err, json.JSONDecodeError):
        return err.msg
    if isinstance(err, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(err, UnicodeEncodeError):
        return "it holds half a surrogate pair, which is no character"
    if isinstance(err, RecursionError):
        return "it is nested too deep"
    return str(err)


def _record(number: int, line: str | bytes) -> dict[str, Any]:
    try:
        record = _read(line if isinstance(line, str) else line.decode())
    except (ValueError, RecursionError) as err:
        problem = f"no JSON: {json_problem(err)}"
        raise Invalid("BAD_REQUEST", line=number, problem=problem) from err
    if not isinstance(record, dict):
        raise Invalid("BAD_REQUEST", line=number, problem="not a JSON object")
    return record


def _read(text: str) -> Any:
    if text.startswith(BYTE_ORDER_MARK):
        raise ValueError("it begins with a byte order mark")
    return _LINES.decode(text)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"{twice} is given twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > DIGITS_MAX:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


# What Python takes beside JSON would be sent as something that the line did not say.
_LINES = json.JSONDecoder(
    object_pairs_hook=_each_key_once, parse_int=_whole, parse_float=_finite, parse_constant=_finite
)
