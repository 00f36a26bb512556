# SPDX-License-Identifier: Apache-2.0
"""Judges a batch of raw records by a contract: each gets its reasons, or becomes a typed row.

All is done by columns. Of several faults the first in the order of `Contract.faults` counts, and
all are told.
Nothing here looks at a clock: a record's own known time, or Kafka's time for it, decides, so that
replaying the past gives the same answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from headrace.data_contract import Stream
from headrace_ingest.domain.cleansing import REASON
from headrace_ingest.domain.cloud_events import structured_events
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.decoding import Decode, decoded
from headrace_ingest.domain.envelope import RawBatch, envelope_reasons
from headrace_ingest.domain.faults import all_reasons, told_once
from headrace_ingest.domain.row_steps import PUBLISHED, VALUE
from headrace_kit.expressions import DTYPE_BY_TYPE
from headrace_kit.frames import computed

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
INDEX = "_index"


@dataclass(frozen=True, slots=True)
class Judged:
    """`refused`: why, by index of the record; every other record is a row, `_index` tells which.

    Why: `REASON:column,REASON:column`, without the column when it is about the whole record.

    `rows`: ARCHIVE_COLUMNS, the contract's columns, `_index`, `_value` (the cleansed JSON, Binary)
    and `_published_ms`, in the order of the records.
    """

    refused: Mapping[int, str]
    rows: pl.DataFrame


def judge(records: RawBatch, contract: Contract, *, decode: Decode) -> Judged:
    """Judge records of one stream; `decode` raises Invalid with the reason of a bad value."""
    refused, rows = _read(records, contract, decode)
    if rows["_reason"].null_count() < len(rows):
        refused |= _told(rows.filter(pl.col("_reason").is_not_null()), contract)
        rows = rows.filter(pl.col("_reason").is_null())
    wanted = [*ARCHIVE_COLUMNS, *contract.stream.columns, INDEX, VALUE, PUBLISHED]
    return Judged(refused, rows[wanted])


def readable_columns(records: RawBatch, contract: Contract, *, decode: Decode) -> pl.DataFrame:
    """What can be read of each record, good or not, as it would be stored.

    The contract's columns, `_index` and `_event_time_us`. Of a value that says nothing of its key
    the record's own key stands in, and Kafka's time for an event time.
    """
    _, rows = _read(records, contract, decode)
    stream = contract.stream
    if stream.columns[stream.key].type == "string":
        rows = rows.with_columns(pl.coalesce(stream.key, "_key").alias(stream.key))
    unprotected = pl.col("_reason").is_not_null()
    rows = rows.with_columns(
        pl.when(unprotected).then(each).otherwise(pl.col(each.meta.output_name()))
        for each in contract.protection
    )
    moments = pl.coalesce("_event_time_us", "_kafka_time_us").alias("_event_time_us")
    return rows.select(*stream.columns, INDEX, moments)


def _read(
    records: RawBatch, contract: Contract, decode: Decode
) -> tuple[dict[int, str], pl.DataFrame]:
    """Those that are refused unread, and the others with the reason why they are, or null."""
    refused = envelope_reasons(records, contract)
    events = structured_events(records, refused, contract, decode)
    refused |= events.refused
    places = [index for index in range(len(records)) if index not in refused]
    readable = records.where(i not in refused for i in range(len(records))) if refused else records
    values = [value or b"" for value in readable.values()]
    origin = _origin(readable, values, places, events.ids)
    if events.values:
        pairs = zip(places, values, strict=True)
        values = [events.values.get(index, value) for index, value in pairs]
    rows = decoded(values, contract.sent, decode=decode).hstack(origin)
    for step in contract.row_steps:
        rows = computed(rows, step)
    return refused, rows


def _told(refused: pl.DataFrame, contract: Contract) -> dict[int, str]:
    """All reasons of each refused row; a value that could not be read says nothing of columns."""
    every = all_reasons(contract.faults)
    read = pl.col(REASON).fill_null("")
    whole = (read != "") & ~read.str.contains(":", literal=True)
    told = pl.when(whole).then(read).otherwise(pl.concat_str(read, every, separator=","))
    reasons = refused.select(INDEX, "_reason", told.alias("told"))
    return {index: told_once(told) or reason for index, reason, told in reasons.iter_rows()}


def _origin(
    records: RawBatch, values: Sequence[bytes], places: Sequence[int], ids: Mapping[int, str]
) -> list[pl.Series]:
    """What Kafka says about the records; what is not UTF-8 holds U+FFFD, which no id may.

    `ids`: of events in structured mode.
    """
    ce_ids = [dict(given).get("ce_id") if given else None for given in records.headers()]
    if ids:
        pairs = zip(places, ce_ids, strict=True)
        ce_ids = [ids[place].encode() if place in ids else ce_id for place, ce_id in pairs]
    published = pl.Series(PUBLISHED, records.timestamps_ms(), dtype=pl.Int64)
    sha256 = hashlib.sha256
    digests = [sha256(value).digest() for value in values]
    return [
        pl.Series(INDEX, places, dtype=pl.Int64),
        _texts("_ce_id", ce_ids),
        _texts("_key", records.keys()),
        pl.Series("_partition", records.partitions, dtype=pl.Int32),
        pl.Series("_offset", records.offsets, dtype=pl.Int64),
        published,
        (published * 1000).alias("_kafka_time_us"),
        pl.Series("_payload_sha256", digests, dtype=pl.Binary),
    ]


def _texts(name: str, given: Sequence[bytes | None]) -> pl.Series:
    try:
        return pl.Series(name, given, dtype=pl.Binary).cast(pl.String)
    except pl.exceptions.ComputeError:  # some of it is not UTF-8
        texts = [None if each is None else each.decode("utf-8", "replace") for each in given]
        return pl.Series(name, texts, dtype=pl.String)


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
