# SPDX-License-Identifier: Apache-2.0
"""Rows of erased entities: taken out of a feature table, and never appended again.

A row is an entity's when one of the table's entity columns is what it was erased by, up to the
moment of the erasure by event time, as in the archive. Features of others that were made with its
events stay as they were.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import structlog

from headrace.errors import Unavailable
from headrace_feature.adapters.arrow_archive import EVENT_TIME
from headrace_feature.domain.log_place import BEGINNING, LogPlace
from headrace_kit.entity_texts import entity_text_sql
from headrace_kit.erased_entities import Entity, ErasedEntities
from headrace_kit.failpoints import failpoint

# Of each commit that erases or appends, so that Delta refuses one that another came before.
ERASED = "feature|erased"
ENTITIES_MAX = 100  # of one commit
TRIES_MAX = 20

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Knowledge:
    """All erasures before the place `known` in their log are in `erased`."""

    erased: ErasedEntities
    known: LogPlace = BEGINNING

    def others(self, rows: Any, entity: Collection[str]) -> Any:
        """The rows of a record batch that are of no erased entity."""
        asked = [name for name in entity if name in self.erased.columns()]
        if not asked:
            return rows
        frame = pl.DataFrame({name: pl.Series(rows.column(name)) for name in asked})
        moments = pl.Series(rows.column(EVENT_TIME))
        gone = self.erased.found(frame, moments)
        return rows.take([n for n in range(rows.num_rows) if n not in gone]) if gone else rows


def take_out(
    uri: str, options: Mapping[str, str], told: Sequence[tuple[int, Entity]], known: LogPlace
) -> Generator[None, None, int]:
    """How many rows; the table's place is `known` then, if any of the erasures concerns it.

    Each step is one commit, or one that was refused. Raises Unavailable TABLE_CONTENDED
    when others write to it again and again.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import CommitFailedError, TableNotFoundError

    taken = tries = 0
    while tries < TRIES_MAX:
        try:
            table = DeltaTable(uri, storage_options=dict(options))
        except TableNotFoundError:
            return taken
        due = _due(table, told, known.log_id)
        if not due:
            return taken
        some = due[:ENTITIES_MAX]
        place = known if len(some) == len(due) else replace(known, offset=some[-1][0] + 1)
        try:
            taken += _delete(table, [entity for _, entity in some], place)
        except CommitFailedError as err:
            log.warning("erasure_meets_a_commit", uri=uri, error=str(err))
            tries += 1
        else:
            failpoint("feature.erase.table_cleaned")
        yield
    raise Unavailable("TABLE_CONTENDED", uri=uri)


def erased_until(table: Any, log_id: str) -> int:
    """The place in this log before which none is left; that in another log counts for nothing."""
    return table.transaction_version(_app_id(log_id)) or 0


def _app_id(log_id: str) -> str:
    return f"{ERASED}|{log_id}"


def _due(table: Any, told: Sequence[tuple[int, Entity]], log_id: str) -> list[tuple[int, Entity]]:
    """Those that the table is not followed to, and that name its entities."""
    place = erased_until(table, log_id)
    columns = _entity_types(table)
    return [(at, each) for at, each in told if at >= place and each.column in columns]


def _entity_types(table: Any) -> dict[str, str]:
    """By column, as Delta names it. Features are float32, and no column of a contract is."""
    fields = [each for each in table.schema().fields if not each.name.startswith("_")]
    return {each.name: each.type.type for each in fields if each.type.type != "float"}


def _delete(table: Any, entities: Sequence[Entity], place: LogPlace) -> int:
    from deltalake import CommitProperties, Transaction

    app_ids = ERASED, _app_id(place.log_id)
    noted = CommitProperties(app_transactions=[Transaction(each, place.offset) for each in app_ids])
    by_column = {each.column: [e for e in entities if e.column == each.column] for each in entities}
    types = _entity_types(table)
    rows = " or ".join(_predicate(name, types[name], some) for name, some in by_column.items())
    found = int(table.delete(rows, commit_properties=noted)["num_deleted_rows"] or 0)
    if not found:  # then nothing was committed
        table.create_write_transaction(
            [],
            mode="append",
            schema=table.schema(),
            partition_by=table.metadata().partition_columns,
            commit_properties=noted,
        )
    return found


def _predicate(column: str, delta_type: str, entities: Sequence[Entity]) -> str:
    """SQL for Delta Lake; a column's name is letters, digits and _ by the contract.

    Rows are compared with each entity only where one is of the entities: the hash is what costs.
    """
    text = entity_text_sql(column, float64=delta_type == "double")
    hashed = f"encode(sha256(concat('{column}', chr(0), {text})), 'hex')"
    named = ", ".join(f"'{each.sha256}'" for each in entities)
    gone = " or ".join(
        f"({hashed} = '{each.sha256}' and {EVENT_TIME} <= {each.erased_at_us})" for each in entities
    )
    return f"({hashed} in ({named}) and ({gone}))"


@contextmanager
def store_errors(view: str) -> Iterator[None]:
    """What Delta Lake and files say as Unavailable TABLE_CONTENDED or OBJECT_STORE_UNAVAILABLE."""
    from deltalake.exceptions import CommitFailedError, DeltaError

    try:
        yield
    except CommitFailedError as err:
        log.warning("commit_lost", view=view, error=str(err))
        raise Unavailable("TABLE_CONTENDED", view=view) from err
    except (DeltaError, OSError) as err:
        log.warning("object_store_failed", view=view, error=str(err))
        raise Unavailable("OBJECT_STORE_UNAVAILABLE", view=view) from err
