# SPDX-License-Identifier: Apache-2.0
"""From JSON values to the contract's columns: at C speed where that is surely right, else strictly.

The fast parser is lenient: of a key given twice it keeps one, it makes a text of a number, and what
does not fit a column's type it leaves out. So it is believed only for a value whose quotes, keys
and nulls are exactly as many as the columns that it gave explain; every other value, and each one
with an escape, a bracket or a nested object, is decoded again strictly, which alone gives reasons.

Why counting suffices, for a value without backslash, bracket, nested object and blank between key
and colon: a quote delimits a key or a text, and `":` stands where a key ends and nowhere else. So there
are as many keys as `":`. If these are as many as the columns found and the explicit nulls of
others, each key is another declared column. If the quotes are twice the keys and the texts found,
each text was one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.application import Column, Stream
from headrace.errors import Invalid
from headrace_ingest.domain.cleansing import DTYPE_BY_TYPE, REASON, cleansed, typed_column

Decode = Callable[[bytes], dict[str, Any]]
# Beyond, an integer would not fit int64, and a float column would not show it.
FLOAT_SURE_MAX = float(1 << 63)
BLANK_BEFORE_COLON = re.compile(rb'"[ \t\r]+:')
# So many values may spoil the fast parse of a batch before the rest is decoded strictly.
SPOILERS_MAX = 32
_ROW = "_row"


def decoded(values: Sequence[bytes], stream: Stream, *, decode: Decode) -> pl.DataFrame:
    """The contract's columns, cleansed, and `_type_reason`: null, or why a value is refused.

    `decode` raises Invalid with the reason of a bad value.
    """
    parts, doubtful = _believed(values, stream)
    if doubtful or not parts:
        strict = _strictly([values[row] for row in doubtful], stream, decode)
        parts.append(strict.with_columns(pl.Series(_ROW, doubtful, dtype=pl.Int64)))
    if len(parts) == 1:
        return parts[0].drop(_ROW)
    return pl.concat(parts).sort(_ROW).drop(_ROW)


def _strictly(values: Sequence[bytes], stream: Stream, decode: Decode) -> pl.DataFrame:
    documents, reasons = list[dict[str, Any]](), dict[int, str]()
    for row, value in enumerate(values):
        try:
            documents.append(decode(value))
        except Invalid as err:
            documents.append({})
            reasons[row] = err.reason
    series = []
    for name, column in stream.columns.items():
        one, bad = typed_column(name, column, [document.get(name) for document in documents])
        series.append(one)
        reasons = bad | reasons
    told = [reasons.get(row) for row in range(len(values))]
    return pl.DataFrame([*series, pl.Series(REASON, told, dtype=pl.String)])


def _believed(values: Sequence[bytes], stream: Stream) -> tuple[list[pl.DataFrame], list[int]]:
    """Frames of rows that are surely right, with `_row`, and the rows that are not."""
    parts, doubtful, spoilers = list[pl.DataFrame](), list[int](), 0
    if not _all_fast(stream):
        return parts, list(range(len(values)))
    waiting = [range(len(values))] if values else []
    while waiting:
        rows = waiting.pop()
        some = values[rows.start : rows.stop]
        lines = b"\n".join(some)
        frame = _parsed(lines, some[0], stream)
        if frame is not None and len(frame) == len(some) == lines.count(b"\n") + 1:
            sure = _sure(some, lines, frame, stream)
            numbered = frame.with_columns(pl.Series(_ROW, rows, dtype=pl.Int64))
            clean, unsure = cleansed(numbered.filter(pl.Series(sure)), stream)
            parts.append(clean.select(*stream.columns, REASON, _ROW))
            doubtful += [*(np.flatnonzero(~sure) + rows.start).tolist(), *unsure[_ROW]]
        elif len(rows) == 1 or spoilers >= SPOILERS_MAX:
            doubtful += rows
            spoilers += 1
        else:
            middle = (rows.start + rows.stop) // 2
            waiting += [range(rows.start, middle), range(middle, rows.stop)]
    return parts, sorted(doubtful)


def _all_fast(stream: Stream) -> bool:
    """Whether the stream's rules can be applied to whole columns, and its nulls be counted."""
    return all(
        "null" not in name and (column.map is None or _mapped_whole(column))
        for name, column in stream.columns.items()
    )


def _mapped_whole(column: Column) -> bool:
    fitting = {"string": str, "int64": int}.get(column.type)
    values = (column.map or {}).values()
    return fitting is not None and all(value is None or type(value) is fitting for value in values)


def _parsed(lines: bytes, first: bytes, stream: Stream) -> pl.DataFrame | None:
    """The declared columns as the fast parser sees them; None when it cannot read the lines."""
    types = {name: _dtype(name, column, first) for name, column in stream.columns.items()}
    try:
        return pl.read_ndjson(lines, schema=types, ignore_errors=True)
    except pl.exceptions.ComputeError:
        return None


def _dtype(name: str, column: Column, first: bytes) -> pl.DataType:
    """Times are read as the first value writes them; one that differs is not believed."""
    if column.type == "timestamp" and b'"%s":"' % name.encode() in first.replace(b" ", b""):
        return pl.String()
    return DTYPE_BY_TYPE[column.type]


def _sure(
    values: Sequence[bytes], lines: bytes, frame: pl.DataFrame, stream: Stream
) -> NDArray[np.bool_]:
    """Which rows hold what a strict parser would have found."""
    names = list(stream.columns)
    found = _filled(frame, names)
    texts = _filled(frame, [name for name in names if frame.schema[name] == pl.String])
    tally = _tally(lines)
    nulls = _counts(values, b"null") if b"null" in lines else np.zeros(len(values), np.int64)
    sure = (tally.keys == found + nulls) & (tally.quotes == 2 * (tally.keys + texts))
    for row in np.flatnonzero(sure & (tally.blanks > 0)).tolist():
        sure[row] = not BLANK_BEFORE_COLON.search(values[row])
    for token, allowed in ((b"\\", 0), (b"[", 0), (b"{", 1)):
        if lines.count(token) != allowed * len(values):
            sure &= _counts(values, token) == allowed
    for name in names:
        if frame.schema[name] == pl.Float64:
            sure &= (frame[name].abs() < FLOAT_SURE_MAX).fill_null(value=True).to_numpy()
    for row in np.flatnonzero(sure & (nulls > 0)).tolist():
        empty = [name for name in names if frame[name][row] is None]
        explicit = sum(b'"%s":' % name.encode() in values[row] for name in empty)
        sure[row] = explicit == nulls[row]
    return sure


def _filled(frame: pl.DataFrame, names: Sequence[str]) -> NDArray[np.int64]:
    """How many of these columns have a value, by row."""
    filled = np.zeros(len(frame), dtype=np.int64)
    for name in names:
        filled += frame[name].is_not_null().to_numpy()
    return filled


@dataclass(frozen=True, slots=True)
class _Tally:
    """By line: quotes, quotes with a colon behind, quotes with a blank behind."""

    quotes: NDArray[np.int64]
    keys: NDArray[np.int64]
    blanks: NDArray[np.int64]


def _tally(lines: bytes) -> _Tally:
    text = np.frombuffer(lines + b"\n", dtype=np.uint8)
    places = np.flatnonzero(text == ord('"'))
    bounds = np.concatenate(([0], places.searchsorted(np.flatnonzero(text == ord("\n")))))
    behind = text[places + 1]

    def by_line(wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.diff(np.concatenate(([0], wanted.cumsum()))[bounds])

    keys, blanks = behind == ord(":"), np.isin(behind, list(b" \t\r"))
    return _Tally(np.diff(bounds), by_line(keys), by_line(blanks))


def _counts(values: Sequence[bytes], token: bytes) -> NDArray[np.int64]:
    return np.fromiter((value.count(token) for value in values), np.int64, len(values))
