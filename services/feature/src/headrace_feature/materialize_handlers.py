# SPDX-License-Identifier: Apache-2.0
"""The offline feature table of a view: a row for each of its records, as of when that was known.

What was known at a moment never changes, so a row is final once the archive has passed its moment.
A table grows moment by moment, in rounds of bounded size, each whole or not at all; whoever is
asked goes on where it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from headrace.errors import Invalid, NotFound, Unavailable
from headrace.feature_view import StreamView, feature_names
from headrace_feature.domain.completeness import check_not_to_come
from headrace_feature.domain.plans import WindowPart, plan_of
from headrace_feature.domain.views import Catalogue
from headrace_feature.offline_handlers import Asker, answered, definitions_of, streams_of
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
class Source:
    """What a table is made from: `snapshots` that hold all that was known at `until_us`, and what
    keeps that moment before the newest record, for people; empty: nothing does."""

    until_us: int
    snapshots: Mapping[str, Snapshot]
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class Materialized:
    """All rows up to `reached_us` are in the table's `version`, `rows` of them by this call."""

    rows: int
    reached_us: int
    until_us: int
    definition: str
    version: int
    waits_for: str


def view_source(
    command: MaterializeView, asker: Asker, *, catalogue: Catalogue, archive: Archive
) -> Source:
    """What there is to make rows from, waited for where a moment is named.

    Raises Invalid BAD_REQUEST for a moment to come or before 1970, NotFound VIEW_UNKNOWN, and what
    Archive.snapshots raises.
    """
    _check_moments(command)
    plan = plan_of(catalogue, _features(command.view, catalogue))
    [part], streams = plan.windows, streams_of(plan)
    if command.until_us is not None:
        check_not_to_come("until_us", command.until_us, asker.now_us)
        snapshots = archive.snapshots(streams, command.until_us, gone=asker.gone)
        return Source(command.until_us, snapshots)
    reaches = archive.reaches(streams)
    last = min(reaches.values(), key=lambda each: each.known_to_us)
    newest_us = reaches[part.layout.stream].newest_us
    # Beyond its newest record there is no row to make, and what comes may be of any moment there.
    until_us = min(last.known_to_us, newest_us)
    if until_us < 0:
        return Source(-1, {}, last.waits_for)
    snapshots = archive.snapshots(streams, until_us, gone=asker.gone)
    return Source(until_us, snapshots, last.waits_for if until_us < newest_us else "")


def _check_moments(command: MaterializeView) -> None:
    for field, moment_us in (("from_us", command.from_us), ("until_us", command.until_us)):
        if moment_us is not None and moment_us < 0:
            raise Invalid("BAD_REQUEST", field=field, problem="must not be negative")
    if command.until_us is not None and command.from_us > command.until_us:
        raise Invalid("BAD_REQUEST", field="until_us", problem="is before from_us")


def materialize_view(
    command: MaterializeView,
    source: Source,
    *,
    catalogue: Catalogue,
    bench: Bench,
    tables: FeatureTables,
) -> Iterator[Materialized]:
    """How far it came, before the first round and behind each; `source`: see `view_source`.

    Raises NotFound VIEW_UNKNOWN, Invalid BAD_REQUEST, Unavailable OBJECT_STORE_UNAVAILABLE, and
    TABLE_CONTENDED when others changed the table in every round.
    """
    features = _features(command.view, catalogue)
    plan = plan_of(catalogue, features)
    [part] = plan.windows
    definition = definitions_of(features, catalogue)
    until_us, snapshots = source.until_us, source.snapshots
    rows = lost = 0
    for number in range(ROUNDS_MAX + 1):
        table = tables.open(command.view, definition)
        since_us = command.from_us - 1 if table.until_us is None else table.until_us
        reached_us, version = since_us, table.version
        yield Materialized(rows, reached_us, until_us, definition, version, source.waits_for)
        if since_us >= until_us:
            return
        if lost == ROUNDS_MAX:
            raise Unavailable("TABLE_CONTENDED", view=command.view)
        if number == ROUNDS_MAX:
            return
        chosen = bench.view_rows(
            part.layout, snapshots[part.layout.stream], since_us, until_us, rows_max=ROUND_ROWS_MAX
        )
        seen = _seen(part, snapshots, since_us, chosen.until_us)
        made = answered(plan, chosen.rows, seen, chosen.until_us, bench)
        names = [name.partition(":")[2] for name in features]
        if table.append(made, names, chosen.rows, chosen.until_us):
            rows += chosen.rows.count
        else:
            lost += 1


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
