# SPDX-License-Identifier: Apache-2.0
"""From JSON values to the contract's columns: at C speed where that is surely right, else strictly.

The fast parser is lenient: of a key given twice it keeps one, it makes a text of a number, and what
does not fit a column's type it leaves out. So it is believed only for a value whose keys, texts and
nulls are exactly as many as the columns that it gave explain; every other value, and each one with
an escape, a list or a nested object, is decoded again strictly, which alone gives reasons.

Why counting suffices, for a value without backslash, bracket, nested object and blank before a
colon: `":` stands where a key ends and nowhere else, and what follows tells a text, a null or
another value. If the keys without null are as many as the columns found, each is a declared column,
once, of its type or made a text; if the texts are as many as the text columns found, none was made.
If the nulls are as many as the empty columns that the value names, each is another column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.data_contract import Column, Stream
from headrace.errors import Invalid
from headrace_ingest.domain.cleansing import REASON, cleansed, typed_column
from headrace_ingest.domain.protobuf_values import typed_columns
from headrace_kit.expressions import DTYPE_BY_TYPE

Decode = Callable[[bytes], dict[str, Any]]
# Beyond, an integer would not fit int64, and a float column would not show it.
FLOAT_SURE_MAX = float(1 << 63)
BLANK = np.isin(np.arange(256), list(b" \t\r"))  # by byte
BLANK_BEFORE_COLON = re.compile(rb'"[ \t\r]+:')
# So few are decoded strictly at once: that costs less than the parser, which waits a dozen times
# for a thread of its own, on a core that others may share.
FEW_VALUES_MAX = 128
# So many values may spoil the fast parse of a batch before the rest is decoded strictly.
SPOILERS_MAX = 32


def decoded(values: Sequence[bytes], stream: Stream, *, decode: Decode) -> pl.DataFrame:
    """The contract's columns, cleansed, and `_type_reason`: null, or why a value is refused.

    Why: `REASON:column,REASON:column`, or the reason alone of a value that cannot be read.
    `decode` raises Invalid with the reason of a bad value.
    """
    if stream.format == "protobuf":
        frame, reasons = typed_columns(values, stream)
        clean, _ = cleansed(frame, stream)
        return clean.with_columns(pl.Series(REASON, reasons, dtype=pl.String))
    parts, doubtful = _believed(values, stream)
    if len(doubtful) or not parts:
        strict = _strictly([values[row] for row in doubtful.tolist()], stream, decode)
        parts.append(_Part(doubtful, strict))
    if len(parts) == 1:
        return parts[0].frame
    order = np.argsort(np.concatenate([part.rows for part in parts]))
    return pl.concat([part.frame for part in parts])[order]


def _strictly(values: Sequence[bytes], stream: Stream, decode: Decode) -> pl.DataFrame:
    documents, reasons = list[dict[str, Any]](), dict[int, str]()
    for row, value in enumerate(values):
        try:
            documents.append(decode(value))
        except Invalid as err:
            documents.append({})
            reasons[row] = err.reason
        others = documents[-1].keys() - stream.columns.keys()
        # A column is left out, but NaN makes the whole value no JSON, wherever it stands.
        if any(_holds_not_finite(documents[-1][name]) for name in others):
            reasons[row] = "BAD_TYPE"
    series = []
    for name, column in stream.columns.items():
        one, bad = typed_column(name, column, [document.get(name) for document in documents])
        series.append(one)
        for row, reason in bad.items():
            reasons[row] = (
                f"{reasons[row]},{reason}:{name}" if row in reasons else f"{reason}:{name}"
            )
    told = [reasons.get(row) for row in range(len(values))]
    return pl.DataFrame([*series, pl.Series(REASON, told, dtype=pl.String)])


def _holds_not_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_not_finite, value.values()))
    if isinstance(value, list):
        return any(map(_holds_not_finite, value))
    return isinstance(value, float) and not math.isfinite(value)


@dataclass(frozen=True, slots=True)
class _Part:
    """Decoded values, and which of all these are."""

    rows: NDArray[np.int64]
    frame: pl.DataFrame


def _believed(values: Sequence[bytes], stream: Stream) -> tuple[list[_Part], NDArray[np.int64]]:
    """Those that are surely right, and the rows that are not."""
    parts, doubtful, spoilers = list[_Part](), list[NDArray[np.int64]](), 0
    if len(values) <= FEW_VALUES_MAX or not _all_fast(stream):
        return parts, np.arange(len(values))
    waiting = [range(len(values))] if values else []
    while waiting:
        rows = waiting.pop()
        numbers = np.arange(rows.start, rows.stop)
        some = values[rows.start : rows.stop]
        lines = b"\n".join(some)
        frame = _parsed(lines, some[0], stream)
        if frame is not None and len(frame) == len(some) == lines.count(b"\n") + 1:
            sure = _sure(some, lines, frame)
            clean, lost = cleansed(frame, stream)
            sure &= ~lost
            parts.append(_Part(numbers[sure], clean if sure.all() else clean.filter(sure)))
            doubtful.append(numbers[~sure])
        elif len(rows) == 1 or spoilers >= SPOILERS_MAX:
            doubtful.append(numbers)
            spoilers += 1
        else:
            middle = (rows.start + rows.stop) // 2
            waiting += [range(rows.start, middle), range(middle, rows.stop)]
    return parts, np.sort(np.concatenate([np.arange(0), *doubtful]))


def _all_fast(stream: Stream) -> bool:
    """Whether the stream's rules can be applied to whole columns, and its nulls be counted."""
    return all(
        "null" not in name and (column.map is None or _mapped_whole(column))
        for name, column in stream.columns.items()
    )


def _mapped_whole(column: Column) -> bool:
    fitting = None if column.cast else {"string": str, "int64": int}.get(column.type)
    values = (column.map or {}).values()
    return fitting is not None and all(value is None or type(value) is fitting for value in values)


def _parsed(lines: bytes, first: bytes, stream: Stream) -> pl.DataFrame | None:
    """The declared columns as the fast parser sees them; None when it cannot read the lines.

    It would unpack what begins as a compressed file does, whatever comes out: no record is one.
    """
    if not first.lstrip().startswith(b"{"):
        return None
    types = {name: _dtype(name, column, first) for name, column in stream.columns.items()}
    try:
        return pl.read_ndjson(lines, schema=types, ignore_errors=True)
    except pl.exceptions.ComputeError:
        return None


def _dtype(name: str, column: Column, first: bytes) -> pl.DataType:
    """As the first value writes times, and numbers to cast; what differs is not believed."""
    if (column.type == "timestamp" or column.cast) and b'"%s":"' % name.encode() in first.replace(
        b" ", b""
    ):
        return pl.String()
    return DTYPE_BY_TYPE[column.type]


def _sure(values: Sequence[bytes], lines: bytes, frame: pl.DataFrame) -> NDArray[np.bool_]:
    """Which rows hold what a strict parser would have found."""
    filled = _filled(frame)
    found = np.sum(list(filled.values()), axis=0, dtype=np.int64)
    texts = np.zeros(len(values), dtype=np.int64)
    for column in frame.iter_columns():
        if column.dtype == pl.String:
            texts += filled[column.name]
    tally = _tally(lines)
    nulls = tally.per_line(tally.nulls)
    sure = (tally.per_line(tally.keys) - nulls == found) & (tally.per_line(tally.texts) == texts)
    sure &= _explicit_nulls(tally, filled) == nulls
    for row in np.flatnonzero(sure & (tally.per_line(tally.blanks) > 0)).tolist():
        sure[row] = not BLANK_BEFORE_COLON.search(values[row])
    if lines.count(b"{") != len(values) or not tally.begin_with(b"{"):
        sure &= _counts(values, b"{") == 1
    for token in (b"\\", b"["):
        if token in lines:
            sure &= _counts(values, token) == 0
    for column in frame.iter_columns():
        if column.dtype == pl.Float64:  # what is null is NaN here
            sure &= (np.abs(column.to_numpy()) < FLOAT_SURE_MAX) | ~filled[column.name]
    return sure


def _filled(frame: pl.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """By column the rows that have a value; polars is asked, once, for those that are mixed."""
    nulls = {column.name: column.null_count() for column in frame.iter_columns()}
    mixed = [name for name, count in nulls.items() if 0 < count < len(frame)]
    told = frame.select_seq(pl.col(mixed).is_not_null()) if mixed else frame
    return {
        name: told[name].to_numpy() if name in mixed else np.full(len(frame), not count)
        for name, count in nulls.items()
    }


@dataclass(frozen=True, slots=True)
class _Tally:
    """Where keys end, those whose value is a text or a null, and quotes before a blank."""

    text: NDArray[np.uint8]
    ends: NDArray[np.int64]
    keys: NDArray[np.int64]
    texts: NDArray[np.int64]
    nulls: NDArray[np.int64]
    blanks: NDArray[np.int64]

    def begin_with(self, byte: bytes) -> bool:
        """Whether every line does."""
        firsts = self.text[np.concatenate(([0], self.ends[:-1] + 1))]
        return bool((firsts == ord(byte)).all())

    def per_line(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many of the places lie in each line."""
        counts = places.searchsorted(self.ends)
        counts[1:] -= counts[:-1].copy()
        return counts


def _tally(lines: bytes) -> _Tally:
    text = np.frombuffer(lines + b"\n" * 3, dtype=np.uint8)
    quotes = np.flatnonzero(text == ord('"'))
    behind = text[quotes + 1]
    keys = quotes[behind == ord(":")]
    value = text[keys + 2]
    after_blank = np.flatnonzero(BLANK[value])
    value[after_blank] = text[keys[after_blank] + 3]  # after two blanks: none of both
    return _Tally(
        text=text,
        ends=np.flatnonzero(text[:-2] == ord("\n")),
        keys=keys,
        texts=keys[value == ord('"')],
        nulls=keys[value == ord("n")],
        blanks=quotes[BLANK[behind]],
    )


def _explicit_nulls(tally: _Tally, filled: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.int64]:
    """How many of the columns without value are named with a null, by line."""
    named = np.zeros(len(tally.ends), dtype=np.int64)
    lines = tally.ends.searchsorted(tally.nulls)
    for name, present in filled.items():
        if len(tally.nulls) and not present.all():
            key = np.frombuffer(b'"%s"' % name.encode(), dtype=np.uint8)
            first = tally.nulls - (len(key) - 1)
            spelled = tally.text[first[:, None] + np.arange(len(key))]
            here = np.zeros(len(named), dtype=np.bool_)
            here[lines[(spelled == key).all(axis=1)]] = True
            named += here & ~present
    return named


def _counts(values: Sequence[bytes], token: bytes) -> NDArray[np.int64]:
    return np.fromiter((value.count(token) for value in values), np.int64, len(values))
