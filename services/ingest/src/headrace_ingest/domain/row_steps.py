# SPDX-License-Identifier: Apache-2.0
"""From decoded columns to a row with all that the platform says, or the reason why it is none.

Each step is a list of polars expressions over whole columns, compiled once by contract. What is
checked is what was sent; what is stored has its personal data hashed or dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from headrace.data_contract import Stream
from headrace_ingest.domain.cleansing import REASON
from headrace_ingest.domain.envelope import RECORD_BYTES_MAX
from headrace_ingest.domain.faults import Fault, first_reason, text_of
from headrace_ingest.domain.transforming import Step

VALUE, PUBLISHED = "_value", "_published_ms"


def row_steps_of(
    stream: Stream, version: int, *, made: Sequence[Step], faults: Sequence[Fault], protection: Step
) -> list[Step]:
    """Steps whose columns are computed together; `_reason` is null for the good rows.

    `made`, `protection`: as the contract has them.
    """
    steps = [*made, _told(stream), _judged(stream, faults)]
    if protection:
        steps.append([*_protected(protection)])
    return [*steps, [_value(stream, version)], [_reason_of_size()]]


def _told(stream: Stream) -> Step:
    return [
        pl.coalesce("_ce_id", text_of(stream, stream.id)).alias("_event_id"),
        pl.col(stream.event_time).alias("_event_time_us"),
        pl.col(stream.known_time or "_kafka_time_us").alias("_known_time_us"),
    ]


def _judged(stream: Stream, faults: Sequence[Fault]) -> Step:
    late = pl.col("_event_time_us") < pl.col("_known_time_us") - stream.lateness_allowed_s * 10**6
    return [
        late.alias("_late"),
        pl.from_epoch("_event_time_us", time_unit="us").dt.date().alias("_event_date"),
        pl.coalesce(REASON, *first_reason(faults)).alias("_reason"),
    ]


def _protected(protection: Step) -> Iterator[pl.Expr]:
    """A refused row stays as it was sent, for those who mend it."""
    for each in protection:
        sent = pl.col(each.meta.output_name())
        yield pl.when(pl.col("_reason").is_null()).then(each).otherwise(sent)


def _value(stream: Stream, version: int) -> pl.Expr:
    """What is published of a row: what the platform says, for no column's name begins so, and it.

    Absent columns become nulls.
    """
    named = {
        "_id": "_event_id",
        "_event_us": "_event_time_us",
        "_known_us": "_known_time_us",
        "_published_ms": PUBLISHED,
        "_late": "_late",
    }
    told = [pl.col(column).alias(name) for name, column in named.items()]
    fields = pl.struct(*told, pl.lit(version).alias("_contract"), *stream.columns)
    return fields.struct.json_encode().cast(pl.Binary).alias(VALUE)


def _reason_of_size() -> pl.Expr:
    """The cleansed value may be longer than what was sent."""
    large = pl.when(pl.col(VALUE).bin.size() > RECORD_BYTES_MAX).then(pl.lit("TOO_LARGE"))
    return pl.coalesce("_reason", large).alias("_reason")
