# SPDX-License-Identifier: Apache-2.0
"""Which entities were erased, and which records speak of one.

The entity's value is never kept: a hash of it, with the column's name, tells its records from
others. What happened up to the erasure stays erased in any copy; what happens later is a new story.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import polars as pl
from google.protobuf.message import DecodeError

from headrace.entity import entity_digest
from headrace.errors import Invalid
from headrace_kit.entity_texts import entity_texts


@dataclass(frozen=True, slots=True)
class Entity:
    """The records whose `column` has this hash and whose event time is not after `erased_at_us`.

    `key_digest`: its name where records are kept by entity alone, in hex; empty where nobody said.
    """

    column: str
    sha256: str
    erased_at_us: int
    key_digest: str = ""


class Said(Protocol):
    """A message that names an erased entity: ingest's EntityErased, or its EventsErased."""

    @property
    def column(self) -> str: ...

    @property
    def entity_sha256(self) -> str: ...

    @property
    def erased_at_us(self) -> int: ...


SaidT = TypeVar("SaidT", bound=Said)


def read_erased(value: bytes | None, parse: Callable[[bytes], SaidT]) -> tuple[SaidT, Entity]:
    """The message in a record's value, and its entity; raises Invalid DECODE_ERROR.

    `parse`: the stub's, such as `EntityErased.FromString`.
    """
    try:
        said = parse(value or b"")
        bytes.fromhex(said.entity_sha256)
    except (DecodeError, ValueError) as err:
        raise Invalid("DECODE_ERROR", message="erased entity") from err
    return said, Entity(said.column, said.entity_sha256, said.erased_at_us)


def entity_sha256(column: str, value: str) -> str:
    """sha256 of the column, a zero byte and the value, in hex."""
    return hashlib.sha256(f"{column}\0{value}".encode()).hexdigest()


def entity_key_digest(value: str) -> str:
    """How an entity of one column with this value is named, in hex."""
    return entity_digest((value,)).hex()


@dataclass(slots=True)
class ErasedEntities:
    """Every erased entity, by column: whoever has a batch asks, other threads tell.

    `revision` is another one when more is known.
    """

    revision: int = 0
    _moments: dict[str, dict[bytes, int]] = field(default_factory=dict)
    _taking: threading.Lock = field(default_factory=threading.Lock)

    def take(self, entity: Entity) -> None:
        """From now on; of two erasures of an entity the later one counts."""
        digest = bytes.fromhex(entity.sha256)
        with self._taking:
            if entity.column not in self._moments:
                # Replaced, never changed: readers in other threads go through the columns.
                self._moments = {**self._moments, entity.column: {}}
            # Of a column, which may have very many, readers ask for one at a time.
            of_column = self._moments[entity.column]
            of_column[digest] = max(entity.erased_at_us, of_column.get(digest, 0))
            self.revision += 1

    def knows(self, entity: Entity) -> bool:
        """Whether this erasure, or a later one of the same entity, was taken."""
        of_column = self._moments.get(entity.column, {})
        return entity.erased_at_us <= of_column.get(bytes.fromhex(entity.sha256), -1)

    def columns(self) -> frozenset[str]:
        """By which entities were erased."""
        return frozenset(self._moments)

    def holds(self, column: str, value: str, moment_us: int) -> bool:
        """Whether this is an erased entity, and the moment not after its erasure."""
        moments = self._moments.get(column, {})
        digest = bytes.fromhex(entity_sha256(column, value)) if moments else b""
        return moment_us <= moments.get(digest, -1)

    def found(self, rows: pl.DataFrame, event_us: pl.Series) -> dict[int, Entity]:
        """By their numbers the rows that speak of an erased entity, and of which."""
        asked = [name for name in self._moments if name in rows.columns]
        return dict(each for name in asked for each in self._found(rows[name], event_us))

    def _found(self, column: pl.Series, event_us: pl.Series) -> Iterable[tuple[int, Entity]]:
        moments, prefix = self._moments[column.name], f"{column.name}\0".encode()
        # A batch has few distinct values: each is hashed once.
        values = entity_texts(column)
        found = {
            value: Entity(column.name, digest.hex(), moments[digest])
            for value in values.unique().drop_nulls().to_list()
            if (digest := hashlib.sha256(prefix + value.encode()).digest()) in moments
        }
        if not found:
            return
        until = {value: entity.erased_at_us for value, entity in found.items()}
        until_us = values.replace_strict(until, default=-1, return_dtype=pl.Int64)
        for number in (event_us <= until_us).arg_true().to_list():
            yield number, found[values[number]]
