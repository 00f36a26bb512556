# SPDX-License-Identifier: Apache-2.0
"""Erasing an entity: what names it, what was found, and which records may come no more.

The entity's value is never kept: a hash of it, with the column's name, tells its rows from others.
What happened up to the erasure stays erased in any copy; what happens later is a new story.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

ENTITY_ERASED = "ENTITY_ERASED"


@dataclass(frozen=True, slots=True)
class Entity:
    """The rows whose `column` has this hash and whose event time is not after `erased_at_us`."""

    column: str
    sha256: str
    erased_at_us: int


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
class TrainedVersion:
    """A model version that read these streams when rows of the entity were known."""

    model: str
    version: int
    streams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an erasure found before it took anything out."""

    id: str
    entity: Entity
    rows_by_stream: Mapping[str, int]
    datasets: tuple[ErasedDataset, ...]
    trained_versions: tuple[TrainedVersion, ...]
    settled: bool = False


def erasure_id(request_id: str) -> str:
    """Names the erasure of a request."""
    return hashlib.sha256(request_id.encode()).hexdigest()[:32]


def entity_sha256(column: str, value: str) -> str:
    """sha256 of the column, a zero byte and the value, in hex."""
    return hashlib.sha256(f"{column}\0{value}".encode()).hexdigest()


def predicate(entity: Entity) -> str:
    """SQL for Delta Lake: the entity's rows."""
    hashed = f"encode(sha256({_named(entity.column)}), 'hex') = '{entity.sha256}'"
    return f"{hashed} and _event_time_us <= {entity.erased_at_us}"


def duckdb_predicate(entity: Entity) -> str:
    """The same for DuckDB, whose sha256 answers hex."""
    hashed = f"sha256({_named(entity.column)}) = '{entity.sha256}'"
    return f"{hashed} and _event_time_us <= {entity.erased_at_us}"


def _named(column: str) -> str:
    """The bytes that are hashed; a column's name is letters, digits and _ by the contract."""
    return f"concat('{column}', chr(0), cast(\"{column}\" as varchar))"


@dataclass(slots=True)
class Erased:
    """Every erased entity, by column: the sink asks about each batch, another thread tells."""

    _moments: dict[str, dict[bytes, int]] = field(default_factory=dict)

    def take(self, entity: Entity) -> None:
        """From now on; of two erasures of an entity the later one counts."""
        of_column = dict(self._moments.get(entity.column, {}))
        digest = bytes.fromhex(entity.sha256)
        of_column[digest] = max(entity.erased_at_us, of_column.get(digest, 0))
        # Replaced, never changed: a reader in another thread sees the one or the other.
        self._moments = {**self._moments, entity.column: of_column}

    def places(self, rows: pl.DataFrame) -> list[int]:
        """The numbers of the rows that speak of an erased entity."""
        asked = [name for name in self._moments if name in rows.columns]
        return sorted({place for name in asked for place in self._places(rows, name)})

    def _places(self, rows: pl.DataFrame, column: str) -> Iterable[int]:
        moments, prefix = self._moments[column], f"{column}\0".encode()
        # A batch has few distinct values: each is hashed once.
        values = rows[column].cast(pl.String)
        found = {
            value: moments[digest]
            for value in values.unique().drop_nulls().to_list()
            if (digest := hashlib.sha256(prefix + value.encode()).digest()) in moments
        }
        if not found:
            return ()
        until = values.replace_strict(found, default=-1, return_dtype=pl.Int64)
        return (rows["_event_time_us"] <= until).arg_true().to_list()
