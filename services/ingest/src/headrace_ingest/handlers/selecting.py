# SPDX-License-Identifier: Apache-2.0
"""Which rows are meant: of a stream, or of the offline feature table of a view.

The rows of a view are those that its present definition made, and they are complete up to the
moment that the feature service has reached.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from headrace.errors import Invalid, NotFound
from headrace.feature_tables import features_digest
from headrace.feature_view import StreamView, feature_names
from headrace_ingest.domain.datasets import Origin, Selection
from headrace_ingest.ports.datasets import RowStore
from headrace_ingest.ports.definitions import ContractBook


@dataclass(frozen=True, slots=True)
class ReadStream:
    """Rows of a stream as they were at a version, or as known at a time."""

    stream: str
    delta_version: int | None
    known_until_us: int
    filter: str


def view_origin(
    name: str, query: ReadStream, *, contracts: ContractBook, rows: RowStore
) -> tuple[Origin, tuple[str, ...]]:
    """Raises NotFound VIEW_UNKNOWN, and VIEW_EMPTY where nothing of the definition is there."""
    view, version = contracts.view(name)
    if not isinstance(view, StreamView):
        raise Invalid("BAD_REQUEST", field="view", problem="reads no stream")
    contract = contracts.get(view.stream)
    read = {view.stream, *(each.stream for each in view.lookups.values())}
    digest = features_digest([view], {each: contracts.get(each).stream for each in read})
    entity = {column: contract.stream.columns[column].type for column in view.entity}
    features = {each.partition(":")[2]: "float64" for each in feature_names(view)}
    columns = tuple((entity | features).items())
    table = Selection(view.stream, 0, columns, view=name, definition=digest)
    selection = chosen(table, query, rows)
    reached_us = rows.reached_us(selection)
    if reached_us is None:
        raise NotFound("VIEW_EMPTY", view=name)
    if query.known_until_us > reached_us:
        problem = f"the view is materialized up to {reached_us}"
        raise Invalid("BAD_REQUEST", field="known_until_us", problem=problem)
    private = tuple(sorted({*view.entity, *contract.private_columns}))
    return Origin(selection, contract.version, name, version), private


def chosen(table: Selection, query: ReadStream, rows: RowStore) -> Selection:
    """What is asked for of a table; raises Invalid BAD_REQUEST, Conflict VERSION_EXPIRED."""
    if query.known_until_us < 0:
        raise Invalid("BAD_REQUEST", field="known_until_us", problem="is negative")
    newest = rows.newest_version(table.stream, view=table.view)
    version = newest if query.delta_version is None else query.delta_version
    if not 0 <= version <= newest:
        raise Invalid("BAD_REQUEST", field="delta_version", problem=f"the newest is {newest}")
    selection = replace(
        table,
        delta_version=version,
        known_until_us=query.known_until_us,
        filter=query.filter,
    )
    rows.check(selection)
    return selection
