# SPDX-License-Identifier: Apache-2.0
"""Trim, map, then the contract's type: of whole columns, or value by value with reasons.

`True` is no integer and `1.0` is none either: what was sent is stored, or refused by name, never
bent. Both ways give the same values; `tests/test_decoding.py` holds them to it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import NoneType
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.data_contract import Column, Stream
from headrace.expression import BLANKS, NUMBER_TEXT
from headrace_kit.expressions import DTYPE_BY_TYPE
from headrace_kit.frames import computed

REASON = "_type_reason"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# The commonest form of RFC 3339; the others are left to the slower way.
COMMON_TIME = r"^[12]\d{3}-\d\d-\d\dT\d\d:\d\d:[0-5]\d(\.\d{1,6})?Z$"
# RFC 3339, section 5.6: `fromisoformat` alone would also take week dates and times without a zone.
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
# Rust's engine ends a text by \z, Python's by \Z.
NUMBER = {name: re.compile(text.replace(r"\z", r"\Z")) for name, text in NUMBER_TEXT.items()}
NONFINITE_TEXTS = frozenset(
    sign + text for sign in ("", "+", "-") for text in ("nan", "inf", "infinity")
)
_FITTING_BY_TYPE: dict[str, frozenset[type]] = {
    "string": frozenset({str, NoneType}),
    "int64": frozenset({int, NoneType}),
    "float64": frozenset({float, int, NoneType}),
    "bool": frozenset({bool, NoneType}),
    "timestamp": frozenset({int, NoneType}),
}


def cleansed(frame: pl.DataFrame, stream: Stream) -> tuple[pl.DataFrame, NDArray[np.bool_]]:
    """Rows of the contract's columns, cleansed, with no reason; and which the other way must do.

    Columns are of their type, but times, and numbers that may be cast, may be texts.
    """
    changed = {
        name: value
        for name, column in stream.columns.items()
        if (value := _cleansed_column(column, pl.col(name), text=frame[name].dtype == pl.String))
        is not None
    }
    ready = computed(frame, [*changed.values(), pl.lit(None, dtype=pl.String).alias(REASON)])
    lost = np.zeros(len(frame), dtype=np.bool_)
    for name in changed:
        column = stream.columns[name]
        if column.type == "timestamp" or column.cast:
            lost |= _newly_null(frame[name], ready[name])
    return ready, lost


def _newly_null(before: pl.Series, after: pl.Series) -> NDArray[np.bool_]:
    """Where a value was lost; what was null stays so."""
    if before.null_count() == after.null_count():
        return np.zeros(len(after), dtype=np.bool_)
    return (after.is_null() & before.is_not_null()).to_numpy()


def _cleansed_column(column: Column, value: pl.Expr, *, text: bool) -> pl.Expr | None:
    """None where nothing is to do; `text`: whether the values are texts."""
    if column.type == "timestamp" and text:
        common = pl.when(value.str.contains(COMMON_TIME)).then(value)
        return common.str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", strict=False).cast(
            pl.Int64
        )
    if column.trim and text:
        value = value.str.strip_chars(BLANKS)
    if column.cast and text:
        return _cast_column(value, column)
    if column.map is not None:
        value = _replaced(value, column)
    return None if value.meta.is_column() else value


def _cast_column(value: pl.Expr, column: Column) -> pl.Expr:
    """What is no number, or does not fit, is null here and left to the other way."""
    text = value.str.extract(NUMBER_TEXT[column.type], 0)
    number = text.cast(DTYPE_BY_TYPE[column.type], strict=False)
    return pl.when(number.is_finite()).then(number) if column.type == "float64" else number


def _replaced(value: pl.Expr, column: Column) -> pl.Expr:
    """By the contract's map; a whole number is looked up by its digits."""
    replacements = dict(column.map or {})
    if column.type == "int64":
        wanted = {int(key): new for key, new in replacements.items() if _digits(key)}
        return value.replace(wanted) if wanted else value
    return value.replace(replacements) if replacements else value


def _digits(key: str) -> bool:
    """Whether an int64 is written so."""
    return (
        bool(re.fullmatch(r"-?\d{1,19}", key))
        and str(int(key)) == key
        and -(2**63) <= int(key) < 2**63
    )


def typed_column(
    name: str, column: Column, values: Sequence[Any]
) -> tuple[pl.Series, dict[int, str]]:
    """The column's series, and the reason by row of each value that has not its type.

    Such a value is null in the series. Timestamps are int64 microseconds since the epoch.
    """
    values = _cleansed(column, values)
    reasons: dict[int, str] = {}
    if not set(map(type, values)) <= _FITTING_BY_TYPE[column.type]:
        values = list(values)
        for row, value in enumerate(values):
            values[row], reason = _typed(column, value)
            if reason is not None:
                reasons[row] = reason
    return pl.Series(name, values, dtype=DTYPE_BY_TYPE[column.type]), reasons


def _cleansed(column: Column, values: Sequence[Any]) -> Sequence[Any]:
    if column.trim:
        values = [value.strip(BLANKS) if type(value) is str else value for value in values]
    if column.map is not None:
        values = [_mapped(column.map, value) for value in values]
    return values


def _mapped(replacements: dict[str, Any], value: Any) -> Any:
    """The keys of a map are texts; a whole number is looked up by its digits."""
    if type(value) is str:
        return replacements.get(value, value)
    if type(value) is int:
        return replacements.get(str(value), value)
    return value


def _typed(column: Column, value: Any) -> tuple[Any, str | None]:
    if type(value) in _FITTING_BY_TYPE[column.type]:
        return value, None
    if type(value) is str and column.cast and NUMBER[column.type].match(value):
        return _cast(column.type, value)
    if type(value) is str and (parse := _PARSERS_BY_TYPE.get(column.type)):
        return parse(value)
    return None, "BAD_TYPE"


def _cast(type_name: str, text: str) -> tuple[Any, str | None]:
    number = int(text) if type_name == "int64" else float(text)
    fits = math.isfinite(number) if isinstance(number, float) else -(2**63) <= number < 2**63
    return (number, None) if fits else (None, "BAD_TYPE")


def _time_of_text(text: str) -> tuple[int | None, str | None]:
    if not RFC_3339.fullmatch(text):
        return None, "BAD_TIMESTAMP"
    try:
        return (datetime.fromisoformat(text.upper()) - EPOCH) // MICROSECOND, None
    except (ValueError, OverflowError):  # a thirteenth month, a leap second, beyond year 9999
        return None, "BAD_TIMESTAMP"


def _number_of_text(text: str) -> tuple[None, str]:
    """Numbers are not written as text; JSON's way to send NaN is one, and has its own reason."""
    return None, "NONFINITE" if text.strip().lower() in NONFINITE_TEXTS else "BAD_TYPE"


_PARSERS_BY_TYPE: dict[str, Callable[[str], tuple[Any, str | None]]] = {
    "timestamp": _time_of_text,
    "float64": _number_of_text,
}
