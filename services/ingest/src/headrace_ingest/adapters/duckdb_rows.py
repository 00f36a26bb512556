# SPDX-License-Identifier: Apache-2.0
"""RowStore by DuckDB over Delta tables: what does not fit into its memory goes to a folder.

A few works at once, each with its own memory and its own end in time. Rows are read from the table
each time they are needed, so that nothing of the size of a dataset is ever kept.
"""

from __future__ import annotations

import io
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from headrace.entity import text_of
from headrace.errors import Invalid, Unavailable
from headrace.expression import Expression, parse_expression
from headrace.expression_sql import to_sql
from headrace.pieces import pieces_of
from headrace_ingest.adapters.column_statistics import count_bins, describe_columns
from headrace_ingest.adapters.duckdb_work import Work, Works
from headrace_ingest.domain.content_digest import ContentDigest
from headrace_ingest.domain.datasets import (
    ColumnStatistics,
    Description,
    RowChanges,
    Selection,
)
from headrace_ingest.domain.erasures import ErasedEvents, Found, duckdb_predicate
from headrace_ingest.domain.passages import Passage, Place
from headrace_ingest.ports.erasures import TellEvents
from headrace_kit.erased_entities import Entity
from headrace_kit.failpoints import failpoint

MEMORY_BYTES = 192 << 20
# Only a commit of what may be the entity's own makes another try needed.
ERASE_TRIES_MAX = 5
IDS_SHOWN_MAX = 10
# What the platform says about a row, beside the contract's columns.
PLATFORM_TYPES = {
    "_event_id": "string",
    "_event_time_us": "int64",
    "_known_time_us": "int64",
    "_key": "string",
    "_late": "bool",
}


class Tables(Protocol):
    """The tables that rows are selected from."""

    def newest_version(self, stream: str, *, view: str = "") -> int:
        """As RowStore says."""

    def reached_us(self, selection: Selection) -> int | None:
        """As RowStore says."""

    def open(self, selection: Selection) -> Any:
        """The table at the selection's version, as pyarrow dataset or table."""

    def write_copy(self, copy: str, rows: Any) -> None:
        """A table of its own of these rows, which come as a RecordBatchReader."""

    def erase(self, selection: Selection, entity: Entity) -> int | None:
        """Take the rows out that the selection's version holds; how many there were.

        None, and nothing was taken out, when a commit since then may have changed which these are.
        """

    def forget(self, selection: Selection, keep: Collection[int]) -> None:
        """As RowStore says."""

    def copies(self) -> set[str]:
        """As RowStore says."""

    def drop(self, copy: str) -> None:
        """As RowStore says."""

    def retire(self, selection: Selection, first_day: date) -> int:
        """As RowStore says."""

    def removed_since(self, selection: Selection, version: int) -> bool:
        """As RowStore says."""

    def added(self, selection: Selection, since: int) -> Any:
        """The table at the selection's version, without what lies as it did at `since`.

        Rows that were only rewritten may be among them, and all are when that version is gone.
        """

    def clean(self, selection: Selection, keep: Collection[int], *, keep_h: int) -> None:
        """As RowStore says."""


class DuckDbRows:
    """RowStore; `spill` is a folder of its own for what exceeds the memory, `in_turn` as Works."""

    def __init__(
        self,
        tables: Tables,
        spill: Path,
        *,
        memory_bytes: int = MEMORY_BYTES,
        in_turn: bool = False,
    ) -> None:
        self._tables, self._works = tables, Works(spill, memory_bytes, in_turn=in_turn)

    def newest_version(self, stream: str, *, view: str = "") -> int:
        return self._tables.newest_version(stream, view=view)

    def reached_us(self, selection: Selection) -> int | None:
        return self._tables.reached_us(selection)

    def check(self, selection: Selection) -> None:
        _condition(selection)
        self._tables.open(selection)

    def filled(self, selection: Selection, *, timeout_s: float) -> bool:
        with self._work(timeout_s, rows=selection) as work:
            return bool(work.all("select 1 from rows limit 1"))

    def describe(
        self, selection: Selection, *, private: Collection[str], timeout_s: float
    ) -> Description:
        with self._work(timeout_s, rows=selection) as work:
            columns = dict(selection.columns)
            count, statistics = describe_columns(work, columns, private=private)
            types = PLATFORM_TYPES | dict(sorted(columns.items()))
            digest = ContentDigest(types)
            named = ", ".join(map(_quoted, types))
            query = f"select {named} from rows order by all"  # noqa: S608 - see `_quoted`
            for batch in work.batches(work.reader(query)):
                digest.add(batch)
            return Description(count, digest.hexdigest(), statistics)

    def compare(self, base: Selection, other: Selection, *, timeout_s: float) -> RowChanges:
        shared = [name for name, _ in base.columns if name in dict(other.columns)]
        differs = " or ".join(f"b.{_quoted(n)} is distinct from o.{_quoted(n)}" for n in shared)
        kinds = f"""
            select coalesce(o._event_id, b._event_id) as id,
                   case when b._event_id is null then 'added'
                        when o._event_id is null then 'removed'
                        when {differs or "false"} then 'changed' end as kind
            from base b full join other o on b._event_id = o._event_id"""  # noqa: S608
        counted = f"""select kind, count(*), min(id, {IDS_SHOWN_MAX})
                      from ({kinds}) where kind is not null group by kind"""  # noqa: S608
        with self._work(timeout_s, base=base, other=other) as work:
            found = {kind: (count, tuple(ids)) for kind, count, ids in work.all(counted)}
        [added, removed, changed] = [
            found.get(kind, (0, ())) for kind in ("added", "removed", "changed")
        ]
        return RowChanges(added[0], removed[0], changed[0], added[1], removed[1], changed[1])

    def count(
        self, selection: Selection, bins: Sequence[ColumnStatistics], *, timeout_s: float
    ) -> Mapping[str, Sequence[int]]:
        types = dict(selection.columns)
        known = [each for each in bins if types.get(each.column) == each.type]
        with self._work(timeout_s, rows=selection) as work:
            return count_bins(work, known)

    def read(
        self, selection: Selection, columns: Sequence[str], *, timeout_s: float
    ) -> Iterator[bytes]:
        types = PLATFORM_TYPES | dict(selection.columns)
        _check_columns(columns, types)
        _condition(selection)
        named = ", ".join(map(_quoted, columns or types))
        return self._pieces(selection, f"select {named} from rows", timeout_s)  # noqa: S608

    def find(self, selection: Selection, entity: Entity, *, timeout_s: float) -> Found:
        if entity.column not in dict(selection.columns):
            return Found(0)
        asked = f"""select count(*), coalesce(min(_known_time_us), 0) from rows
                    where {_own(entity, selection)}"""  # noqa: S608 - a hash and a number
        with self._work(timeout_s, rows=selection) as work:
            return Found(*work.all(asked)[0])

    def copy(
        self, selection: Selection, copy: str, *, without: Entity | None = None, timeout_s: float
    ) -> None:
        others = "true" if without is None else f"({_own(without, selection)}) is not true"
        with self._work(timeout_s, rows=selection) as work:
            reader = work.reader(f"select * from rows where {others}")  # noqa: S608 - as above
            self._tables.write_copy(copy, reader)

    def retire(self, selection: Selection, first_day: date) -> int:
        return self._tables.retire(selection, first_day)

    def clean(self, selection: Selection, keep: Collection[int], *, keep_h: int) -> None:
        self._tables.clean(selection, keep, keep_h=keep_h)

    def removed_since(self, selection: Selection, version: int) -> bool:
        return self._tables.removed_since(selection, version)

    def passages(
        self,
        selection: Selection,
        column: str,
        since: int,
        after: Place | None,
        limit: int,
        *,
        timeout_s: float,
    ) -> tuple[list[Passage], Place | None]:
        name = _quoted(column)
        query = f"""select _partition, _offset, _event_id, {name} from added
                    where length(trim({name})) > 0 and {_behind(after)}
                    order by _partition, _offset, _event_id limit {int(limit)}"""  # noqa: S608
        with self._works.begin(timeout_s) as work:
            work.register("added", self._tables.added(selection, since))
            known = {row[0] for row in work.all("describe added")}
            rows = work.all(query) if column in known else []
        last = Place(*rows[-1][:3]) if rows else after
        return [Passage(event_id, text) for _, _, event_id, text in rows], last

    def erase(
        self,
        selection: Selection,
        entity: Entity,
        tell: TellEvents,
        *,
        keys: Collection[str] = (),
        timeout_s: float,
    ) -> int:
        named = [name for name, _ in selection.columns if name in keys]
        end_s = time.monotonic() + timeout_s
        for _ in range(ERASE_TRIES_MAX):
            if not selection.copy:
                version = self._tables.newest_version(selection.stream)
                selection = replace(selection, delta_version=version)
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise Unavailable("SERVICE_UNAVAILABLE", timeout_s=timeout_s)
            for events in self._events(selection, entity, named, left_s):
                tell(events)
            failpoint("ingest.erase.events_told")
            taken = self._tables.erase(selection, entity)
            if taken is not None:
                return taken
        raise Unavailable("TABLE_CONTENDED", stream=selection.stream)

    def _events(
        self, selection: Selection, entity: Entity, keys: Sequence[str], timeout_s: float
    ) -> Iterator[ErasedEvents]:
        asked = ", ".join(("_event_id", "_event_time_us", *map(_quoted, keys)))
        query = f"select {asked} from rows where {_own(entity, selection)}"  # noqa: S608 - as above
        whole = replace(selection, filter="", known_until_us=0)
        with self._work(timeout_s, rows=whole) as work:
            for batch in work.batches(work.reader(query)):
                ids, times_us, *named = (column.to_pylist() for column in batch.columns)
                if ids:
                    texts = frozenset(filter(None, map(text_of, chain.from_iterable(named))))
                    yield ErasedEvents(selection.stream, entity, ids, times_us, texts)

    def forget(self, selection: Selection, keep: Collection[int]) -> None:
        self._tables.forget(selection, keep)

    def copies(self) -> set[str]:
        return self._tables.copies()

    def drop(self, copy: str) -> None:
        self._tables.drop(copy)

    def _pieces(self, selection: Selection, query: str, timeout_s: float) -> Iterator[bytes]:
        with self._work(timeout_s, rows=selection) as work:
            reader = work.reader(query)
            sink = io.BytesIO()
            with pa.ipc.new_stream(sink, reader.schema) as writer:
                for batch in work.batches(reader):
                    writer.write_batch(batch)
                    yield from pieces_of(sink)
            yield from pieces_of(sink)

    @contextmanager
    def _work(self, timeout_s: float, **selections: Selection) -> Iterator[Work]:
        """A work with a view for each selection."""
        with self._works.begin(timeout_s) as work:
            for name, selection in selections.items():
                self._select(work, name, selection)
            yield work

    def _select(self, work: Work, name: str, selection: Selection) -> None:
        work.register(f"table_{name}", self._tables.open(selection))
        # The archive may lack a column that no record had yet.
        type_by_name = {row[0]: row[1] for row in work.all(f"describe table_{name}")}
        columns = [
            f"{_typed(each, kind) if each in type_by_name else _absent(kind)} as {_quoted(each)}"
            for each, kind in (PLATFORM_TYPES | dict(selection.columns)).items()
        ]
        work.all(
            f"create view {name} as select {', '.join(columns)} "  # noqa: S608
            f"from ({_comparable(f'table_{name}', type_by_name)}) where {_condition(selection)}"
        )


def _comparable(table: str, type_by_name: Mapping[str, str]) -> str:
    """The table with its texts as DuckDB holds them.

    DuckDB lets pyarrow compare a bare column, and pyarrow compares no text of a file that says it
    holds views, as those are that a deletion wrote. This keeps texts from being bare.
    """
    texts = [_quoted(name) for name, kind in type_by_name.items() if kind == "VARCHAR"]
    held = ", ".join(f"coalesce({each}, null) as {each}" for each in texts)
    return f"select * replace ({held}) from {table}" if texts else f"from {table}"  # noqa: S608


def _check_columns(columns: Sequence[str], known: Collection[str]) -> None:
    """Raises Invalid BAD_REQUEST. Each once: that bounds the memory."""
    named = set[str]()
    for name in columns:
        if name not in known:
            raise Invalid("BAD_REQUEST", field="columns", problem=f"there is no {name}")
        if name in named:
            raise Invalid("BAD_REQUEST", field="columns", problem=f"names {name} twice")
        named.add(name)


def _behind(place: Place | None) -> str:
    """The rows behind a place in the order of places."""
    if place is None:
        return "true"
    event_id = place.event_id.replace("'", "''")
    bound = f"({int(place.partition)}, {int(place.offset)}, '{event_id}')"
    return f"(_partition, _offset, _event_id) > {bound}"


SQL_TYPES = {
    "string": "varchar",
    "int64": "bigint",
    "timestamp": "bigint",
    "float64": "double",
    "bool": "boolean",
}


def _own(entity: Entity, selection: Selection) -> str:
    """The entity's rows of a selection that has its column."""
    kind = dict(selection.columns)[entity.column]
    return duckdb_predicate(entity, float64=kind == "float64")


def _typed(name: str, kind: str) -> str:
    return f"cast({_quoted(name)} as {SQL_TYPES[kind]})"


def _absent(kind: str) -> str:
    return f"cast(null as {SQL_TYPES[kind]})"


def _quoted(name: str) -> str:
    """A column's name: letters, digits and _ only, by the contract."""
    return f'"{name}"'


def _condition(selection: Selection) -> str:
    """What a row must be; raises Invalid BAD_REQUEST for a filter that cannot be read."""
    conditions = ["true"]
    if selection.definition and not selection.copy:  # a copy holds those rows alone
        conditions.append(f"_definition = '{selection.definition}'")
    if selection.known_until_us:
        conditions.append(f"_known_time_us <= {int(selection.known_until_us)}")
    if selection.filter:
        conditions.append(f"({to_sql(_filter(selection), 'duckdb')})")
    return " and ".join(conditions)


def _filter(selection: Selection) -> Expression:
    try:
        wanted = parse_expression(selection.filter, dict(selection.columns))
    except Invalid as err:
        raise Invalid("BAD_REQUEST", field="filter", **err.metadata) from err
    if wanted.type != "bool":
        raise Invalid("BAD_REQUEST", field="filter", problem=f"is {wanted.type}, not bool")
    return wanted
