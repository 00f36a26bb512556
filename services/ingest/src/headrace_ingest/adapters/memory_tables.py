# SPDX-License-Identifier: Apache-2.0
"""Tables of a test: each version of a stream is all that was stored up to it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from typing import Any

import duckdb
import polars as pl

from headrace.errors import Conflict, NotFound, Unavailable
from headrace_ingest.domain.datasets import Selection
from headrace_ingest.domain.erasures import duckdb_predicate
from headrace_kit.erased_entities import Entity


class MemoryTables:
    """Versions begin at 0, as in Delta."""

    def __init__(self) -> None:
        self._versions: dict[str, list[pl.DataFrame]] = {}
        self._copies: dict[str, pl.DataFrame] = {}
        self._forgotten: dict[str, set[int]] = {}
        self._removals: dict[str, list[int]] = {}
        self._reached: dict[tuple[str, str], list[tuple[int, int]]] = {}

    def append(self, stream: str, rows: pl.DataFrame) -> None:
        versions = self._versions.setdefault(stream, [])
        versions.append(pl.concat([*versions[-1:], rows]))

    def take(self, stream: str) -> None:
        """It is lost: the next rows begin another table."""
        del self._versions[stream]
        self._forgotten.pop(stream, None)

    def newest_version(self, stream: str, *, view: str = "") -> int:
        named = _table(Selection(stream, 0, (), view=view))
        if named not in self._versions:
            empty = NotFound("VIEW_EMPTY", view=view)
            raise empty if view else NotFound("STREAM_EMPTY", stream=stream)
        return len(self._versions[named]) - 1

    def reach(self, view: str, definition: str, until_us: int) -> None:
        """As a commit of the view's table says."""
        self._reached.setdefault((view, definition), []).append(
            (self.newest_version("", view=view), until_us)
        )

    def reached_us(self, selection: Selection) -> int | None:
        told = self._reached.get((selection.view, selection.definition), [])
        there = [until_us for version, until_us in told if version <= selection.delta_version]
        return max(there, default=None)

    def open(self, selection: Selection) -> Any:
        if selection.copy:
            if selection.copy not in self._copies:
                raise Unavailable("ARCHIVE_MISSING", stream=selection.stream)
            return self._copies[selection.copy].to_arrow()
        self.newest_version(selection.stream, view=selection.view)
        versions = self._versions[_table(selection)]
        if selection.delta_version >= len(versions):
            raise Conflict("VERSION_EXPIRED", stream=selection.stream)
        if selection.delta_version in self._forgotten.get(_table(selection), ()):
            raise Conflict("VERSION_EXPIRED", stream=selection.stream)
        return versions[selection.delta_version].to_arrow()

    def write_copy(self, copy: str, rows: Any) -> None:
        self._copies[copy] = _frame(rows.read_all())

    def erase(self, selection: Selection, entity: Entity) -> int | None:
        if not selection.copy and selection.delta_version != self._newest(selection):
            return None
        before = _frame(self.open(selection))
        with duckdb.connect() as connection:
            connection.register("before", before.to_arrow())
            float64 = before.schema[entity.column] == pl.Float64
            others = f"({duckdb_predicate(entity, float64=float64)}) is not true"
            kept = connection.sql("select * from before").filter(others)
            after = _frame(kept.to_arrow_table()).select(before.columns)
        if after.height < before.height and selection.copy:
            self._copies[selection.copy] = after
        elif after.height < before.height:
            self._remove(_table(selection), after)
        return before.height - after.height

    def _remove(self, stream: str, after: pl.DataFrame) -> None:
        self._removals.setdefault(stream, []).append(len(self._versions[stream]))
        self._versions[stream].append(after)

    def removed_since(self, selection: Selection, version: int) -> bool:
        return any(each > version for each in self._removals.get(selection.stream, ()))

    def added(self, selection: Selection, since: int) -> Any:
        versions = self._versions[selection.stream]
        before = versions[since].height if since >= 0 else 0
        return versions[selection.delta_version].slice(before).to_arrow()

    def retire(self, selection: Selection, first_day: date) -> int:
        before = self._versions[selection.stream][-1]
        after = before.filter(pl.col("_event_date") >= first_day)
        if after.height < before.height:
            self._remove(selection.stream, after)
        return before.height - after.height

    def clean(self, selection: Selection, keep: Collection[int], *, keep_h: int) -> None:
        self.forget(selection, keep)

    def copies(self) -> set[str]:
        return set(self._copies)

    def drop(self, copy: str) -> None:
        self._copies.pop(copy, None)

    def forget(self, selection: Selection, keep: Collection[int]) -> None:
        if not selection.copy:
            old = set(range(self._newest(selection)))
            self._forgotten.setdefault(_table(selection), set()).update(old - set(keep))

    def _newest(self, selection: Selection) -> int:
        return self.newest_version(selection.stream, view=selection.view)


def _table(selection: Selection) -> str:
    return f"features/{selection.view}" if selection.view else selection.stream


def _frame(table: Any) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - for the type checker
    return frame
