# SPDX-License-Identifier: Apache-2.0
"""The offline feature table of a view: a row for each of its records, as of when that was known.

What was known at a moment never changes, so a row is final once the archive has passed its moment.
A table grows moment by moment, in rounds of bounded size, each whole or not at all; whoever is
asked goes on where it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from headrace.errors import Invalid, NotFound
from headrace.feature_view import StreamView, feature_names
from headrace_feature.domain.views import Catalogue, WindowPart, plan_of
from headrace_feature.offline_handlers import answered, definitions_of, streams_of
from headrace_feature.ports import Archive, Bench, FeatureTables, Snapshot

ROUND_ROWS_MAX = 1 << 20
ROUNDS_MAX = 8  # of one call


@dataclass(frozen=True, slots=True)
class MaterializeView:
    """`from_us`: where the table begins if nothing of the definition is there yet, 0 for the first
    record. `until_us`: how far it is to reach; None: as far as the archive holds all."""

    view: str
    from_us: int = 0
    until_us: int | None = None


@dataclass(frozen=True, slots=True)
class Materialized:
    """All rows up to `reached_us` are in the table's `version`, `rows` of them by this call."""

    rows: int
    reached_us: int
    until_us: int
    definition: str
    version: int


def materialize_view(
    command: MaterializeView,
    *,
    catalogue: Catalogue,
    archive: Archive,
    bench: Bench,
    tables: FeatureTables,
) -> Iterator[Materialized]:
    """How far it came, before the first round and behind each.

    Raises NotFound VIEW_UNKNOWN, Invalid BAD_REQUEST, Unavailable RECORDS_BEHIND or
    OBJECT_STORE_UNAVAILABLE.
    """
    features = _features(command.view, catalogue)
    plan = plan_of(catalogue, features)
    [part] = plan.windows
    definition = definitions_of(features, catalogue)
    streams = streams_of(plan)
    until_us = archive.known_to(streams) if command.until_us is None else command.until_us
    snapshots = archive.snapshots(streams, until_us)
    tables.open(command.view, definition).clean()
    rows = 0
    for number in range(ROUNDS_MAX + 1):
        table = tables.open(command.view, definition)
        since_us = command.from_us - 1 if table.until_us is None else table.until_us
        yield Materialized(rows, since_us, until_us, definition, table.version)
        if since_us >= until_us or number == ROUNDS_MAX:
            return
        chosen = bench.view_rows(
            part.layout, snapshots[part.layout.stream], since_us, until_us, rows_max=ROUND_ROWS_MAX
        )
        seen = _seen(part, snapshots, since_us, chosen.until_us)
        made = answered(plan, chosen.rows, seen, chosen.until_us, bench)
        names = [name.partition(":")[2] for name in features]
        table.append(made, names, chosen.rows, chosen.until_us)
        rows += chosen.rows.count


def _features(name: str, catalogue: Catalogue) -> tuple[str, ...]:
    view = catalogue.views.get(name)
    if not isinstance(view, StreamView) or name not in catalogue.layout_by_view:
        raise NotFound("VIEW_UNKNOWN", view=name)
    features = feature_names(view)
    if both := sorted({each.partition(":")[2] for each in features} & {*view.entity}):
        problem = f"feature {both[0]} has the name of an entity's column"
        raise Invalid("BAD_REQUEST", field="view", problem=problem)
    return tuple(features)


def _seen(
    part: WindowPart, snapshots: Mapping[str, Snapshot], since_us: int, until_us: int
) -> Mapping[str, Snapshot]:
    """What rows after one moment and up to another can see."""
    after_us = since_us - part.longest_us
    oldest_us = {part.layout.stream: after_us}
    for each in part.lookups:
        stream, looked_up_us = each.layout.stream, after_us - each.max_age_us
        oldest_us[stream] = min(looked_up_us, oldest_us.get(stream, looked_up_us))
    return {
        stream: snapshots[stream].between(oldest, until_us) for stream, oldest in oldest_us.items()
    }
