# SPDX-License-Identifier: Apache-2.0
"""What may be wrong with a typed record: one reason by column, found by columns.

Good records pay for one flag each. All reasons of a record are gathered for the refused ones only,
as a compact text `REASON:column,REASON:column`, of which each column has the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import polars as pl

from headrace.data_contract import Column, Stream
from headrace_kit.clock import CLOCK_SKEW_US
from headrace_kit.expressions import to_polars

ID_CHARACTERS_MAX = 128
# Control characters, bidi marks, path separators (plain and escaped), what is no UTF-8, "..".
# Rust's regex engine and Python's both read it.
BAD_ID = (
    "[\\x00-\\x1f\\x7f-\\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffd/\\\\]"
    "|%2[eEfF]|%5[cC]|^[.]{0,2}$"
)
TIME_LAST_US = 7_258_118_400_000_000  # 2200-01-01
TOLD_REASONS_MAX = 32


@dataclass(frozen=True, slots=True)
class Fault:
    """`holds` where a record has it; `place` is the column, header or rule that is told."""

    reason: str
    place: str
    holds: pl.Expr


def first_reason(faults: Sequence[Fault]) -> list[pl.Expr]:
    """Of each kind of fault its reason where one holds, else null; the first not null counts."""
    kinds = groupby(faults, key=lambda fault: fault.reason)
    return [
        pl.when(pl.any_horizontal(*(fault.holds for fault in some))).then(pl.lit(reason))
        for reason, some in kinds
    ]


def all_reasons(faults: Sequence[Fault]) -> pl.Expr:
    """Every fault that holds, as `REASON:place` with commas between."""
    told = [pl.when(f.holds).then(pl.lit(f"{f.reason}:{f.place}")) for f in faults]
    return pl.concat_str(*told, separator=",", ignore_nulls=True)


def told_once(told: str) -> str:
    """The first reason of each place: what is missing is not out of its range as well."""
    first: dict[str, str] = {}
    for each in filter(None, told.split(",")):
        first.setdefault(each.partition(":")[2], each)
    return ",".join(list(first.values())[:TOLD_REASONS_MAX])


def leading(told: str) -> str:
    """The reason that counts, of such a text."""
    return told.partition(",")[0].partition(":")[0]


def places_of(told: str) -> list[tuple[str, str]]:
    """Each reason of such a text with its column or rule, which is empty for the whole record."""
    parts = (each.partition(":") for each in told.split(","))
    return [(reason, place) for reason, _, place in parts]


def faults_of(stream: Stream) -> list[Fault]:
    """In the order in which they are told; faults of one reason stand together."""
    return [
        *_missing(stream),
        Fault("BAD_ID", "ce_id", _bad_id("_ce_id")),
        Fault("BAD_ID", stream.id, pl.col("_ce_id").is_null() & _bad_id("_event_id")),
        Fault("BAD_ID", stream.key, _bad_id("_key")),
        Fault("KEY_MISMATCH", stream.key, text_of(stream, stream.key) != pl.col("_key")),
        *_bad_times(stream),
        *_unlisted(stream),
        *_beyond(stream),
        *_derived_null(stream),
        *(Fault("RULE_BROKEN", n, ~to_polars(rule)) for n, rule in stream.row_rules.items()),
    ]


def text_of(stream: Stream, name: str) -> pl.Expr:
    column = pl.col(name)
    return column if stream.columns[name].type == "string" else column.cast(pl.String)


def _missing(stream: Stream) -> Iterator[Fault]:
    for name, column in sorted(stream.columns.items()):
        if (column.required and column.derive is None) or name == stream.key:
            yield Fault("MISSING_FIELD", name, pl.col(name).is_null())
    yield Fault("MISSING_FIELD", stream.id, pl.col("_event_id").is_null())


def _bad_id(name: str) -> pl.Expr:
    text = pl.col(name).str
    return (text.len_chars() > ID_CHARACTERS_MAX) | text.contains(BAD_ID)


def _bad_times(stream: Stream) -> Iterator[Fault]:
    """Absent, not after 1970-01-01T00:00:00Z, after 2199, or later than its clock, plus skew."""
    event, known = pl.col("_event_time_us"), pl.col("_known_time_us")
    known_time = stream.known_time or "_kafka_time"
    ahead = known > pl.col("_kafka_time_us") + CLOCK_SKEW_US
    yield Fault(
        "BAD_TIMESTAMP", stream.event_time, event.is_null() | (event > known + CLOCK_SKEW_US)
    )
    yield Fault("BAD_TIMESTAMP", known_time, known.is_null() | ahead | (known <= 0))
    for name, column in stream.columns.items():
        if column.type == "timestamp":
            within = pl.col(name).is_between(1, TIME_LAST_US, closed="left")
            yield Fault("BAD_TIMESTAMP", name, ~within)


def _unlisted(stream: Stream) -> Iterator[Fault]:
    """A key outside its list names an entity that the contract does not know."""
    for name, column in stream.columns.items():
        if column.one_of is not None and name == stream.key:
            yield Fault("UNKNOWN_ENTITY", name, _outside(name, column.one_of))


def _outside(name: str, values: Sequence[str]) -> pl.Expr:
    return ~pl.col(name).cast(pl.String).is_in(values)


def _beyond(stream: Stream) -> Iterator[Fault]:
    for name, column in stream.columns.items():
        beyond = [*_limits(name, column)]
        if column.one_of is not None and name != stream.key:
            beyond.append(_outside(name, column.one_of))
        if column.conversion is not None:
            beyond.append(pl.col(name).is_infinite())
        if beyond:
            yield Fault("OUT_OF_RANGE", name, pl.any_horizontal(*beyond))


def _limits(name: str, column: Column) -> Iterator[pl.Expr]:
    if column.min is not None:
        yield pl.col(name) < column.min
    if column.max is not None:
        yield pl.col(name) > column.max


def _derived_null(stream: Stream) -> Iterator[Fault]:
    """A column that must be there and could not be computed."""
    for name, column in stream.columns.items():
        if column.derive is not None and column.required:
            yield Fault("TRANSFORM_ERROR", name, pl.col(name).is_null())
