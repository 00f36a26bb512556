# SPDX-License-Identifier: Apache-2.0
"""Erasing an entity: what was found of it, which rows are its own, and which events these were."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation

from headrace_ingest.domain.datasets import ColumnStatistics
from headrace_ingest.domain.trained_versions import (
    Trace,
    TrainedVersion,
    Training,
    trained_later,
)
from headrace_kit.entity_texts import entity_text_sql, float64_text
from headrace_kit.erased_entities import Entity, entity_sha256

ENTITY_ERASED = "ENTITY_ERASED"


@dataclass(frozen=True, slots=True)
class ErasedEvents:
    """Events of a stream that spoke of an entity: `ids` and, of each, its event time.

    `keys`: what else they were about, as far as it was asked for; nobody is told outside.
    """

    stream: str
    entity: Entity
    ids: Sequence[str]
    event_times_us: Sequence[int]
    keys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Found:
    """An entity's rows in a selection; `known_since_us` is the least known time, 0 for none."""

    rows: int
    known_since_us: int = 0


@dataclass(frozen=True, slots=True)
class ErasedDataset:
    """A dataset that held rows of the entity."""

    name: str
    number: int
    rows: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an erasure found before it took anything out, and what is known of it since.

    `trace`: None of one that was begun before traces were noted. `clean_version_by_stream`: the
    first version of each table that is known to be without the entity; None before.
    """

    id: str
    entity: Entity
    rows_by_stream: Mapping[str, int]
    datasets: tuple[ErasedDataset, ...]
    trained_versions: tuple[TrainedVersion, ...]
    settled: bool = False
    rows_by_view: Mapping[str, int] = field(default_factory=dict)
    published_rows_by_view: Mapping[str, int] = field(default_factory=dict)
    trace: Trace | None = None
    clean_version_by_stream: Mapping[str, int] | None = None


def erasure_id(request_id: str) -> str:
    """Names the erasure of a request."""
    return hashlib.sha256(request_id.encode()).hexdigest()[:32]


def with_versions(erasure: Erasure, trainings: Sequence[Training]) -> Erasure:
    """With those that were registered since it began and read rows of the entity."""
    if erasure.trace is None:
        return erasure
    noted = erasure.trained_versions
    later = trained_later(trainings, erasure.trace, erasure.clean_version_by_stream, noted)
    return replace(erasure, trained_versions=(*noted, *later))


def without_entity(statistics: ColumnStatistics, entity: Entity) -> ColumnStatistics:
    """The statistics of the same rows, without the entity's value: it counts among the others.

    Of numbers nothing but how many is left: each bound may be the value.
    """
    if statistics.column != entity.column:
        return statistics
    if not statistics.values:
        return ColumnStatistics(
            statistics.column, statistics.type, statistics.nulls, statistics.distinct
        )
    *counts, others, nulls = statistics.counts
    kept, gone = dict[str, int](), 0
    for value, count in zip(statistics.values, counts, strict=True):
        if entity_sha256(entity.column, value) == entity.sha256:
            gone += count
        else:
            kept[value] = count
    return replace(statistics, values=tuple(kept), counts=(*kept.values(), others + gone, nulls))


def float64_problem(value: str) -> str:
    """Why no float64 is found by this value; empty where one may be."""
    try:
        spelled = float64_text(float(value))
    except ValueError:
        return "is no number, and the column is float64"
    if spelled is None:
        return (
            "names no entity of a float64 column: a whole number is below 2^63 in size, another one"
            " at least 0.0001 and below 10^16"
        )
    return "" if spelled == value else f"of a float64 column it is spelled {spelled}"


def int64_problem(value: str) -> str:
    """As `float64_problem`, of an int64."""
    try:
        number = Decimal(value)
    except InvalidOperation:
        return "is no number, and the column is int64"
    if not number.is_finite() or number != number.to_integral_value():
        return "is no whole number, and the column is int64"
    if not -(2**63) <= number < 2**63:
        return "names no entity of an int64 column: such a number is at least -2^63 and below 2^63"
    spelled = str(int(number))
    return "" if spelled == value else f"of an int64 column it is spelled {spelled}"


def predicate(entity: Entity, *, float64: bool) -> str:
    """SQL for Delta Lake: the entity's rows, where its column is of float64 or not."""
    named = _named(entity.column, float64=float64)
    hashed = f"encode(sha256({named}), 'hex') = '{entity.sha256}'"
    return f"{hashed} and _event_time_us <= {entity.erased_at_us}"


def duckdb_predicate(entity: Entity, *, float64: bool) -> str:
    """The same for DuckDB, whose sha256 answers hex."""
    hashed = f"sha256({_named(entity.column, float64=float64)}) = '{entity.sha256}'"
    return f"{hashed} and _event_time_us <= {entity.erased_at_us}"


def _named(column: str, *, float64: bool) -> str:
    """The bytes that are hashed: those of no entity's where the column names none."""
    return f"concat('{column}', chr(0), {entity_text_sql(column, float64=float64)})"
