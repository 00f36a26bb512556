# SPDX-License-Identifier: Apache-2.0
"""What the service does: fold records into tiles, answer reads, make training sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from headrace.application import Recipe
from headrace.errors import Busy, Invalid, NotFound, Unavailable
from headrace_feature.domain import point_in_time, windows
from headrace_feature.domain.entities import entity_id, text_of
from headrace_feature.domain.exact import as_float32
from headrace_feature.domain.records import Records, numbered
from headrace_feature.domain.request_features import Column, transform
from headrace_feature.domain.tiles import (
    Numbers,
    Observations,
    fold,
    key_ranges,
    row_bytes,
    rows_of,
)
from headrace_feature.domain.training_set import Rows, TrainingSet, build_rows
from headrace_feature.domain.views import (
    DAY_US,
    HOUR_US,
    Catalogue,
    Layout,
    Plan,
    WindowPart,
    plan_of,
)
from headrace_feature.ports import Archive, Folded, Snapshot, TileStore
from headrace_kit.clock import Clock

ROWS_MAX = 10_000
TILES_MAX = 200_000  # that one read holds in memory
SECOND_US = 1_000_000
# Next offset by layout id and partition: what the fold may take on, without a hole before it.
Placed = Mapping[tuple[bytes, int], int]
# Of one entity: the rows that ask for it, and the ranges of its tiles.
Wanted = tuple[list[int] | slice, list[tuple[bytes, bytes]]]


@dataclass(frozen=True, slots=True)
class GetOnlineFeatures:
    """`columns`: entity keys and request columns, one entry per row; `as_of_us` empty means now."""

    features: tuple[str, ...]
    columns: Mapping[str, Column]
    as_of_us: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CreateTrainingSet:
    """The rows of a recipe, as known at `known_until_us`."""

    recipe: str
    known_until_us: int


def fold_observations(
    observations: Observations,
    layouts: Iterable[Layout],
    *,
    placed: Placed,
    keep_us: int,
    tiles: TileStore,
) -> list[Folded]:
    """What the records of one stream do to each of its layouts; nothing is stored yet."""
    return [
        _fold(layout, observations, chosen, keep_us=keep_us, tiles=tiles)
        for layout in layouts
        if (chosen := _not_yet_folded(layout, observations, placed))
    ]


def _not_yet_folded(layout: Layout, observations: Observations, placed: Placed) -> list[int]:
    never = 2**63
    next_by_partition = {
        partition: placed.get((layout.id, partition), never)
        for partition in set(observations.partitions)
    }
    read = zip(observations.partitions, observations.offsets, strict=True)
    return [
        number
        for number, (partition, offset) in enumerate(read)
        if offset >= next_by_partition[partition]
    ]


def _fold(
    layout: Layout,
    observations: Observations,
    chosen: Sequence[int],
    *,
    keep_us: int,
    tiles: TileStore,
) -> Folded:
    newest_us = max(observations.known_us[number] for number in chosen)
    floor_us = max(tiles.floor_us(layout), newest_us - keep_us - layout.span_us)
    next_by_partition: dict[int, int] = {}
    for number in chosen:
        partition, after = observations.partitions[number], observations.offsets[number] + 1
        next_by_partition[partition] = max(next_by_partition.get(partition, 0), after)
    changed = fold(layout, observations, chosen, first_day=floor_us // DAY_US, load=tiles.load)
    return Folded(layout, changed, next_by_partition, floor_us)


def get_online_features(
    query: GetOnlineFeatures, *, catalogue: Catalogue, tiles: TileStore, clock: Clock
) -> NDArray[np.float32]:
    """[rows, features] as known at each row's moment; NaN where absent.

    Raises Invalid BAD_REQUEST, Busy BATCH_TOO_LARGE, NotFound FEATURE_UNKNOWN, and Unavailable
    RESTORING while a view is still being filled.
    """
    plan = plan_of(catalogue, query.features)
    rows = _row_count(query)
    as_of_us = query.as_of_us
    if not len(as_of_us):
        as_of_us = np.full(rows, clock.now_us(), dtype=np.int64)
    answers = np.empty((rows, plan.width))
    _answer_windows(plan, query.columns, as_of_us, tiles, answers)
    for slot, feature in zip(plan.request.slots, plan.request.features, strict=True):
        answers[:, slot] = transform(feature, _column(query.columns, feature.column))
    return as_float32(answers)


def _row_count(query: GetOnlineFeatures) -> int:
    lengths = {len(column) for column in query.columns.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise Invalid("BAD_REQUEST", field="columns", problem="must have one length, 1 or more")
    (rows,) = lengths
    if rows > ROWS_MAX:
        raise Busy("BATCH_TOO_LARGE", rows=rows, rows_max=ROWS_MAX)
    if len(query.as_of_us) not in (0, rows) or (query.as_of_us < 0).any():
        raise Invalid("BAD_REQUEST", field="as_of_us", problem="one for each row, or none")
    return rows


def _column(columns: Mapping[str, Column], name: str) -> Column:
    if name not in columns:
        raise Invalid("BAD_REQUEST", field="columns", problem=f"column {name} is missing")
    return columns[name]


def _answer_windows(
    plan: Plan,
    columns: Mapping[str, Column],
    as_of_us: NDArray[np.int64],
    tiles: TileStore,
    answers: NDArray[np.float64],
) -> None:
    """Fill the windows' slots, some rows at a time, so that the tiles in memory are bounded."""
    families = windows.families(plan)
    longest_us = {part: part.longest_us for part in plan.windows}
    entities = {part: _entities(part.layout, columns) for part in plan.windows}
    hours = sum(longest // HOUR_US + 2 for longest in longest_us.values())
    step = max(1, TILES_MAX // max(hours, 1))
    for first in range(0, len(as_of_us), step):
        rows = slice(first, first + step)
        wanted = [
            _wanted(part, entities[part][rows], as_of_us[rows] - longest_us[part], as_of_us[rows])
            for family in families
            for part in family.parts
        ]
        found = iter(
            tiles.scan([each for part in wanted for *_, ranges in part for each in ranges])
        )
        parts = iter(wanted)
        for family in families:
            block = _block(family, list(islice(parts, len(family.parts))), found)
            windows.answer(family, block, as_of_us[rows], answers[rows])
    # After reading: a floor is told before the tiles behind it go.
    for part, longest in longest_us.items():
        _check_readable(part.layout, int(as_of_us.min()) - longest, tiles)


def _wanted(
    part: WindowPart,
    entities: Sequence[bytes | None],
    since_us: NDArray[np.int64],
    until_us: NDArray[np.int64],
) -> list[Wanted]:
    rows_by_entity: dict[bytes, list[int]] = {}
    for row, entity in enumerate(entities):
        if entity is not None:
            rows_by_entity.setdefault(entity, []).append(row)
    first = (np.maximum(since_us, 0) // HOUR_US).tolist()
    stop = (until_us // HOUR_US + 1).tolist()
    return [
        (
            rows if len(rows) < len(entities) else slice(None),
            [
                each
                for hours in _merged([range(first[row], stop[row]) for row in rows])
                for each in key_ranges(part.layout, entity, hours)
            ],
        )
        for entity, rows in rows_by_entity.items()
    ]


def _block(
    family: windows.Family, wanted: Sequence[Sequence[Wanted]], found: Iterator[list[bytes]]
) -> windows.Block:
    """The observations of the entities that are asked for, from tiles put together."""
    parts, entities, count = list[bytes](), [], 0
    size = row_bytes(family.parts[0].layout)
    for part in wanted:
        entities.append(asked := list[windows.EntityRows]())
        for rows, ranges in part:
            own = [rows_of(tile, size) for held in islice(found, len(ranges)) for tile in held]
            parts += own
            before, count = count, count + sum(map(len, own)) // size
            asked.append(windows.EntityRows(rows, before, count))
    matrix = np.frombuffer(b"".join(parts), dtype="<i8").reshape(-1, size // 8)
    return windows.Block(matrix, entities)


def _merged(spans: Sequence[range]) -> list[range]:
    """The same hours, in order and each once."""
    merged: list[range] = []
    for span in sorted(spans, key=lambda span: span.start):
        if merged and span.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, span.stop))
        else:
            merged.append(span)
    return merged


def _entities(layout: Layout, columns: Mapping[str, Column]) -> list[bytes | None]:
    """None for a row without entity: it sees nothing."""
    texts = [map(text_of, _listed(_column(columns, name))) for name in layout.entity]
    return [entity_id(spelled) for spelled in zip(*texts, strict=True)]


def _listed(column: Column) -> Sequence[object]:
    return column.tolist() if isinstance(column, np.ndarray) else column


def _check_readable(layout: Layout, since_us: int, tiles: TileStore) -> None:
    floor_us, own = tiles.floor_us(layout), tiles.next_by_partition(layout)
    if since_us < floor_us:
        raise Invalid("BAD_REQUEST", field="as_of_us", problem=f"history begins at {floor_us}")
    for partition, offset in tiles.furthest_by_partition(layout.stream).items():
        if own.get(partition, 0) < offset:
            raise Unavailable("RESTORING", stream=layout.stream)


def create_training_set(
    command: CreateTrainingSet, *, catalogue: Catalogue, archive: Archive
) -> TrainingSet:
    """Raises NotFound DEFINITION_UNKNOWN or FEATURE_UNKNOWN, Unavailable RECORDS_BEHIND."""
    recipe = catalogue.recipes.get(command.recipe)
    if recipe is None:
        raise NotFound("DEFINITION_UNKNOWN", recipe=command.recipe)
    plan, until_us = plan_of(catalogue, recipe.features), command.known_until_us
    streams = {recipe.spine.stream, recipe.label.stream}
    streams |= {part.layout.stream for part in plan.windows}
    snapshots = archive.snapshots(streams, until_us)
    rows = _build_rows(recipe, plan, snapshots, until_us)
    return TrainingSet(
        features=recipe.features,
        entity_keys=_entity_keys(rows.spine, recipe.spine.entity_key),
        as_of_us=rows.as_of_us,
        label=rows.label,
        values=as_float32(_offline_features(plan, rows, snapshots, until_us)),
        known_until_us=until_us,
        version_by_stream={stream: each.version for stream, each in snapshots.items()},
    )


def _build_rows(
    recipe: Recipe, plan: Plan, snapshots: Mapping[str, Snapshot], until_us: int
) -> Rows:
    needed = {recipe.spine.entity_key, recipe.spine.time}
    needed |= {feature.column for feature in plan.request.features}
    needed |= {column for part in plan.windows for column in part.layout.entity}
    spine = snapshots[recipe.spine.stream].records(needed, until_us)
    labels = snapshots[recipe.label.stream].records(
        {recipe.label.key, recipe.label.column}, until_us
    )
    return build_rows(recipe, spine, labels, until_us)


def _entity_keys(spine: Records, column: str) -> list[str]:
    texts = spine.texts(column)
    return [texts.values[code] for code in texts.codes.tolist()]


def _offline_features(
    plan: Plan, rows: Rows, snapshots: Mapping[str, Snapshot], until_us: int
) -> NDArray[np.float64]:
    answers = np.empty((len(rows.as_of_us), plan.width))
    for stream in sorted({part.layout.stream for part in plan.windows}):
        parts = [part for part in plan.windows if part.layout.stream == stream]
        columns = {name for p in parts for name in (*p.layout.entity, *p.layout.columns)}
        records = snapshots[stream].records(columns, until_us)
        for part in parts:
            answers[:, part.slots] = _joined(part, rows, records)
    for slot, feature in zip(plan.request.slots, plan.request.features, strict=True):
        answers[:, slot] = transform(feature, _request_column(rows.spine, feature.column))
    return answers


def _joined(part: WindowPart, rows: Rows, records: Records) -> NDArray[np.float64]:
    layout = part.layout
    asked, entity = numbered(
        [rows.spine.texts(column) for column in layout.entity],
        [records.texts(column) for column in layout.entity],
    )
    history = point_in_time.build_history(
        entity,
        records.event_us,
        records.known_us,
        records.id_rank,
        {column: records.numbers(column) for column in layout.columns},
    )
    questions = point_in_time.Questions(asked, rows.as_of_us)
    return point_in_time.window_features(history, questions, part.features)


def _request_column(spine: Records, name: str) -> Column:
    """As a caller would send it: texts, or numbers with NaN for absent."""
    column = spine.columns[name]
    if not isinstance(column, Numbers):
        return [column.values[code] if code >= 0 else None for code in column.codes.tolist()]
    if column.present.all():
        return column.values
    return np.where(column.present, column.values.astype(np.float64), np.nan)
