# SPDX-License-Identifier: Apache-2.0
"""Judges a batch of raw records by a contract: each gets one reason, or becomes a typed row.

Values are decoded one by one, because only a strict decoder sees a key given twice, NaN or 1e999;
all that follows is done by columns. Of several faults the first in the order of `_faults` is told.
Nothing here looks at a clock: a record's own known time, or Kafka's time for it, decides, so that
replaying the past gives the same answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from headrace.application import Column, Stream
from headrace.errors import Invalid
from headrace_ingest.domain.cleansing import DTYPE_BY_TYPE, typed_column
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.envelope import RECORD_BYTES_MAX, RawRecord, envelope_reason

ID_CHARACTERS_MAX = 128
# Control characters, bidi marks, path separators (plain and escaped), what is no UTF-8, "..".
# Rust's regex engine and Python's both read it.
BAD_ID = (
    "[\\x00-\\x1f\\x7f-\\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffd/\\\\]"
    "|%2[eEfF]|%5[cC]|^[.]{0,2}$"
)
CLOCK_SKEW_US = 5 * 60 * 1_000_000
TIME_LAST_US = 7_258_118_400_000_000  # 2200-01-01

# Beside the contract's columns a row has these, in this order and first: Delta keeps statistics of
# the first 32 columns only. The three of a batch are not archived.
ARCHIVE_COLUMNS: dict[str, pl.DataType] = {
    "_event_id": pl.String(),
    "_event_time_us": pl.Int64(),
    "_known_time_us": pl.Int64(),
    "_key": pl.String(),
    "_partition": pl.Int32(),
    "_offset": pl.Int64(),
    "_late": pl.Boolean(),
    "_payload_sha256": pl.Binary(),
    "_event_date": pl.Date(),
}
INDEX, VALUE, PUBLISHED = "_index", "_value", "_published_ms"

Decode = Callable[[bytes], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Judged:
    """`reasons[i]` is why record i is refused, or None: then it is a row, `_index` tells which.

    `rows`: ARCHIVE_COLUMNS, the contract's columns, `_index`, `_value` (the cleansed JSON, Binary)
    and `_published_ms`, in the order of the records.
    """

    reasons: list[str | None]
    rows: pl.DataFrame


def judge(records: Sequence[RawRecord], contract: Contract, *, decode: Decode) -> Judged:
    """Judge records of one stream; `decode` raises Invalid with the reason of a bad value."""
    reasons = [envelope_reason(record, contract) for record in records]
    documents: list[dict[str, Any]] = []
    kept: list[int] = []
    for index, record in enumerate(records):
        if reasons[index] is None:
            try:
                documents.append(decode(record.value or b""))
            except Invalid as err:
                reasons[index] = err.reason
            else:
                kept.append(index)
    rows = _rows([records[index] for index in kept], documents, contract.stream)
    rows = rows.with_columns(pl.Series(INDEX, kept, dtype=pl.Int64))
    refused = rows.filter(pl.col("_reason").is_not_null()).select(INDEX, "_reason")
    for index, reason in refused.iter_rows():
        reasons[index] = reason
    good = rows.filter(pl.col("_reason").is_null())
    columns = (*ARCHIVE_COLUMNS, *contract.stream.columns, INDEX, VALUE, PUBLISHED)
    return Judged(reasons, good.select(columns))


def _rows(
    records: Sequence[RawRecord], documents: Sequence[dict[str, Any]], stream: Stream
) -> pl.DataFrame:
    """All decoded records with their columns and `_reason`, null for the good ones."""
    columns, type_reasons = _columns(documents, stream)
    rows = pl.DataFrame([*columns, *_origin(records)]).with_columns(
        _event_id=pl.coalesce("_ce_id", _text(stream, stream.id)),
        _event_time_us=pl.col(stream.event_time),
        _known_time_us=pl.col(stream.known_time or "_kafka_time_us"),
        _type_reason=pl.Series(
            [type_reasons.get(row) for row in range(len(records))], dtype=pl.String
        ),
    )
    late = pl.col("_event_time_us") < pl.col("_known_time_us") - stream.lateness_allowed_s * 10**6
    return (
        rows.with_columns(
            _late=late,
            _event_date=pl.from_epoch("_event_time_us", time_unit="us").dt.date(),
        )
        .with_columns(
            _value=pl.struct(*_envelope(), *stream.columns).struct.json_encode().cast(pl.Binary),
        )
        .with_columns(_reason=pl.coalesce("_type_reason", *_faults(stream)))
    )


def _envelope() -> list[pl.Expr]:
    """What the platform says about a record, in its value: no column's name begins so."""
    named = {
        "_id": "_event_id",
        "_event_us": "_event_time_us",
        "_known_us": "_known_time_us",
        "_published_ms": PUBLISHED,
        "_late": "_late",
    }
    return [pl.col(column).alias(name) for name, column in named.items()]


def _columns(
    documents: Sequence[dict[str, Any]], stream: Stream
) -> tuple[list[pl.Series], dict[int, str]]:
    series, reasons = [], dict[int, str]()
    for name, column in stream.columns.items():
        values = [document.get(name) for document in documents]
        one, bad = typed_column(name, column, values)
        series.append(one)
        reasons = bad | reasons
    return series, reasons


def _origin(records: Sequence[RawRecord]) -> list[pl.Series]:
    """What Kafka says about the records; what is not UTF-8 holds U+FFFD, which no id may."""
    ce_ids = [record.headers.get("ce_id") for record in records]
    return [
        pl.Series("_ce_id", [_decoded(ce_id) for ce_id in ce_ids], dtype=pl.String),
        pl.Series("_key", [_decoded(record.key) for record in records], dtype=pl.String),
        pl.Series("_partition", [record.partition for record in records], dtype=pl.Int32),
        pl.Series("_offset", [record.offset for record in records], dtype=pl.Int64),
        pl.Series(PUBLISHED, [record.timestamp_ms for record in records], dtype=pl.Int64),
        pl.Series(
            "_kafka_time_us", [record.timestamp_ms * 1000 for record in records], dtype=pl.Int64
        ),
        pl.Series(
            "_payload_sha256",
            [hashlib.sha256(record.value or b"").digest() for record in records],
            dtype=pl.Binary,
        ),
    ]


def _decoded(text: bytes | None) -> str | None:
    return None if text is None else text.decode("utf-8", "replace")


def _faults(stream: Stream) -> list[pl.Expr]:
    """The reason of each fault where it holds, else null; the first one counts."""
    required = {stream.key} | {n for n, column in stream.columns.items() if column.required}
    missing = pl.any_horizontal(*(pl.col(name).is_null() for name in sorted(required)))
    faults = [
        ("MISSING_FIELD", missing | pl.col("_event_id").is_null()),
        ("BAD_ID", _bad_id("_event_id") | _bad_id("_key")),
        ("KEY_MISMATCH", _text(stream, stream.key) != pl.col("_key")),
        ("BAD_TIMESTAMP", _bad_times(stream)),
        *(
            ("OUT_OF_RANGE", beyond)
            for name, column in stream.columns.items()
            for beyond in _out_of_range(name, column)
        ),
        # Absent columns become nulls: the cleansed value may be longer than what was sent.
        ("TOO_LARGE", pl.col(VALUE).bin.size() > RECORD_BYTES_MAX),
    ]
    return [pl.when(holds).then(pl.lit(reason)) for reason, holds in faults]


def _text(stream: Stream, name: str) -> pl.Expr:
    column = pl.col(name)
    return column if stream.columns[name].type == "string" else column.cast(pl.String)


def _bad_id(name: str) -> pl.Expr:
    text = pl.col(name).str
    return (text.len_chars() > ID_CHARACTERS_MAX) | text.contains(BAD_ID)


def _bad_times(stream: Stream) -> pl.Expr:
    """Absent, before 1970, after 2199, or later than the clock that it goes by, plus skew."""
    event, known = pl.col("_event_time_us"), pl.col("_known_time_us")
    times = [n for n, column in stream.columns.items() if column.type == "timestamp"]
    return pl.any_horizontal(
        event.is_null(),
        known.is_null(),
        event > known + CLOCK_SKEW_US,
        known > pl.col("_kafka_time_us") + CLOCK_SKEW_US,
        known <= 0,
        *(~pl.col(name).is_between(1, TIME_LAST_US, closed="left") for name in times),
    )


def _out_of_range(name: str, column: Column) -> list[pl.Expr]:
    beyond = []
    if column.type in ("int64", "float64", "timestamp"):
        if column.min is not None:
            beyond.append(pl.col(name) < column.min)
        if column.max is not None:
            beyond.append(pl.col(name) > column.max)
    if column.one_of is not None:
        beyond.append(~pl.col(name).cast(pl.String).is_in(column.one_of))
    return beyond


def empty_rows(stream: Stream) -> pl.DataFrame:
    """No row, with the columns of the archive and their types."""
    columns = {name: DTYPE_BY_TYPE[column.type] for name, column in stream.columns.items()}
    return pl.DataFrame(schema=ARCHIVE_COLUMNS | columns)
