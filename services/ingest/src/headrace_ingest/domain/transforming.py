# SPDX-License-Identifier: Apache-2.0
"""What a contract makes of typed columns: unit, default, clip, derive; and hash or drop at the end.

Each step is a list of polars expressions over whole columns, compiled once by contract. A contract
that asks for nothing has no step.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from functools import partial

import polars as pl

from headrace.data_contract import Column, Stream
from headrace_kit.expressions import DTYPE_BY_TYPE, to_polars

Step = list[pl.Expr]


def steps_of(stream: Stream) -> list[Step]:
    """Steps whose columns are computed together; a derived column sees those before it."""
    names = [n for n, column in stream.columns.items() if column.derive is None]
    sent = [_mended(name, stream.columns[name]) for name in names]
    changed = [mended for mended in sent if mended is not None]
    return [step for step in (changed, *_derivations(stream)) if step]


def _mended(name: str, column: Column) -> pl.Expr | None:
    """Unit, default, clip, in this order; None when none of them is asked for."""
    value = pl.col(name)
    if column.conversion is not None:
        factor, offset = column.conversion
        value = value * factor + offset if offset else value * factor
    value = _bounded(value, column)
    return None if value.meta.is_column() else value.alias(name)


def _bounded(value: pl.Expr, column: Column) -> pl.Expr:
    if column.default is not None:
        value = value.fill_null(pl.lit(column.default, dtype=DTYPE_BY_TYPE[column.type]))
    if column.clip:
        value = value.clip(*(_bound(column, bound) for bound in (column.min, column.max)))
    return value


def _bound(column: Column, bound: float | None) -> pl.Expr | None:
    return None if bound is None else pl.lit(bound, dtype=DTYPE_BY_TYPE[column.type])


def _derivations(stream: Stream) -> Iterator[Step]:
    for name, expression in stream.derived.items():
        column = stream.columns[name]
        value = to_polars(expression).cast(DTYPE_BY_TYPE[column.type])
        yield [_bounded(value, column).alias(name)]


def protection_of(stream: Stream, key: bytes) -> Step:
    """Replaces personal data: by a keyed hash, or by null."""
    hashed = [n for n, column in stream.columns.items() if column.treatment == "hash"]
    dropped = {n: c for n, c in stream.columns.items() if c.treatment == "drop"}
    return [
        *(pl.col(n).map_batches(partial(_hashed, key), return_dtype=pl.String()) for n in hashed),
        *(pl.lit(None, dtype=DTYPE_BY_TYPE[c.type]).alias(n) for n, c in dropped.items()),
    ]


def _hashed(key: bytes, texts: pl.Series) -> pl.Series:
    """HMAC-SHA256 of each text, once by distinct text."""
    distinct = texts.drop_nulls().unique()
    digests = [hmac.digest(key, text.encode(), "sha256").hex() for text in distinct]
    return texts.replace_strict(distinct, digests, default=None, return_dtype=pl.String)
