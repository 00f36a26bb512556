# SPDX-License-Identifier: Apache-2.0
"""Judges a batch of raw records by a contract: each gets one reason, or becomes a typed row.

All is done by columns. Of several faults the first in the order of `_faults` is told.
Nothing here looks at a clock: a record's own known time, or Kafka's time for it, decides, so that
replaying the past gives the same answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from headrace.application import Column, Stream
from headrace_ingest.domain.cleansing import DTYPE_BY_TYPE
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.decoding import Decode, decoded
from headrace_ingest.domain.envelope import (
    RECORD_BYTES_MAX,
    RawBatch,
    envelope_reasons,
    sent_again,
)

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


@dataclass(frozen=True, slots=True)
class Judged:
    """`refused`: why, by index of the record; every other record is a row, `_index` tells which.

    `rows`: ARCHIVE_COLUMNS, the contract's columns, `_index`, `_value` (the cleansed JSON, Binary)
    and `_published_ms`, in the order of the records. `redriven`: which records are dead letters
    that were sent again.
    """

    refused: Mapping[int, str]
    rows: pl.DataFrame
    redriven: frozenset[int]


def judge(records: RawBatch, contract: Contract, *, decode: Decode) -> Judged:
    """Judge records of one stream; `decode` raises Invalid with the reason of a bad value."""
    refused = envelope_reasons(records, contract)
    places = [index for index in range(len(records)) if index not in refused]
    readable = records.where(i not in refused for i in range(len(records))) if refused else records
    values = [value or b"" for value in readable.values()]
    columns = decoded(values, contract.stream, decode=decode)
    rows = pl.concat([columns, _origin(readable, values, places)], how="horizontal")
    rows = _rows(rows, contract)
    if rows["_reason"].null_count() < len(rows):
        bad = rows.filter(pl.col("_reason").is_not_null()).select(INDEX, "_reason")
        refused |= dict(bad.iter_rows())
        rows = rows.filter(pl.col("_reason").is_null())
    return Judged(refused, rows.drop("_reason"), _redriven(records))


def _redriven(records: RawBatch) -> frozenset[int]:
    headers = records.headers()
    if not any(headers):
        return frozenset()
    return frozenset(row for row, given in enumerate(headers) if given and sent_again(given))


def _rows(rows: pl.DataFrame, contract: Contract) -> pl.DataFrame:
    """All decoded records with what the platform says, and `_reason`, null for the good ones."""
    stream = contract.stream
    late = pl.col("_event_time_us") < pl.col("_known_time_us") - stream.lateness_allowed_s * 10**6
    return (
        rows.lazy()
        .with_columns(
            _event_id=pl.coalesce("_ce_id", _text(stream, stream.id)),
            _event_time_us=pl.col(stream.event_time),
            _known_time_us=pl.col(stream.known_time or "_kafka_time_us"),
        )
        .with_columns(
            _late=late,
            _event_date=pl.from_epoch("_event_time_us", time_unit="us").dt.date(),
        )
        .with_columns(
            pl.struct(*_envelope(contract), *stream.columns)
            .struct.json_encode()
            .cast(pl.Binary)
            .alias(VALUE)
        )
        .with_columns(_reason=pl.coalesce("_type_reason", *_faults(stream)))
        .select(*ARCHIVE_COLUMNS, *stream.columns, INDEX, VALUE, PUBLISHED, "_reason")
        .collect()
    )


def _envelope(contract: Contract) -> list[pl.Expr]:
    """What the platform says about a record, in its value: no column's name begins so."""
    named = {
        "_id": "_event_id",
        "_event_us": "_event_time_us",
        "_known_us": "_known_time_us",
        "_published_ms": PUBLISHED,
        "_late": "_late",
    }
    told = [pl.col(column).alias(name) for name, column in named.items()]
    return [*told, pl.lit(contract.version).alias("_contract")]


def _origin(records: RawBatch, values: Sequence[bytes], places: Sequence[int]) -> pl.DataFrame:
    """What Kafka says about the records; what is not UTF-8 holds U+FFFD, which no id may."""
    ce_ids = [dict(given).get("ce_id") if given else None for given in records.headers()]
    published = pl.Series(PUBLISHED, records.timestamps_ms(), dtype=pl.Int64)
    sha256 = hashlib.sha256
    return pl.DataFrame(
        [
            pl.Series(INDEX, places, dtype=pl.Int64),
            _texts("_ce_id", ce_ids),
            _texts("_key", records.keys()),
            pl.Series("_partition", records.partitions, dtype=pl.Int32),
            pl.Series("_offset", records.offsets, dtype=pl.Int64),
            published,
            (published * 1000).alias("_kafka_time_us"),
            pl.Series(
                "_payload_sha256", [sha256(value).digest() for value in values], dtype=pl.Binary
            ),
        ]
    )


def _texts(name: str, given: Sequence[bytes | None]) -> pl.Series:
    try:
        return pl.Series(name, given, dtype=pl.Binary).cast(pl.String)
    except pl.exceptions.ComputeError:  # some of it is not UTF-8
        texts = [None if each is None else each.decode("utf-8", "replace") for each in given]
        return pl.Series(name, texts, dtype=pl.String)


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


def no_rows(stream: Stream) -> pl.DataFrame:
    """No row, with the columns of a batch and their types."""
    return empty_rows(stream).with_columns(
        pl.lit(None, dtype=pl.Int64).alias(INDEX),
        pl.lit(None, dtype=pl.Binary).alias(VALUE),
        pl.lit(None, dtype=pl.Int64).alias(PUBLISHED),
    )


def empty_rows(stream: Stream) -> pl.DataFrame:
    """No row, with the columns of the archive and their types."""
    columns = {name: DTYPE_BY_TYPE[column.type] for name, column in stream.columns.items()}
    return pl.DataFrame(schema=ARCHIVE_COLUMNS | columns)
