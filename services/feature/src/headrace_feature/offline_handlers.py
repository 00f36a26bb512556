# SPDX-License-Identifier: Apache-2.0
"""What the service answers from the archive: training sets, and features for rows of a caller.

The observations of the views are loaded once and kept sorted, the rows go by in batches. Where the
observations are more than memory is meant to hold, each view is answered share after share of its
entities, and the answers wait on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.application import Recipe
from headrace.errors import Conflict, NotFound
from headrace.feature_tables import features_digest
from headrace_feature.domain.completeness import check_not_to_come
from headrace_feature.domain.exact import as_float32
from headrace_feature.domain.offline_view import OfflineView
from headrace_feature.domain.plans import Plan, WindowPart, plan_of
from headrace_feature.domain.point_in_time import COUNTING
from headrace_feature.domain.records import Numbers, Records, Share, Texts, texts_of
from headrace_feature.domain.request_features import Column, transform
from headrace_feature.domain.rules import apply_rules
from headrace_feature.domain.training_set import Batch, Historical, Rows
from headrace_feature.domain.views import Catalogue, LookedUp
from headrace_feature.ports import Archive, Bench, Snapshot, never_gone

FOREVER_US = 2**62
# With fewer, somebody will ask why; to tell it is to join spine and labels once more.
FEW_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class CreateTrainingSet:
    """The rows of a recipe, as known at `known_until_us`, which with `published` is a moment of the
    clock: what had been published by then is all that is waited for."""

    recipe: str
    known_until_us: int
    published: bool = False


@dataclass(frozen=True, slots=True)
class GetHistoricalFeatures:
    """Features of a caller's rows, by what was known at each row's moment.

    `known_as_of_us`: nothing that became known later counts, whatever the row. With
    `version_by_stream` and `definitions` of a manifest the answer is that one again.
    """

    features: tuple[str, ...]
    known_as_of_us: int | None = None
    version_by_stream: Mapping[str, int] | None = None
    definitions: str | None = None


@dataclass(frozen=True, slots=True)
class _Load:
    """What is in memory at a time: a view's observations, or a share of them, and what they can
    look up; of each, and of a piece of what is read for it, at most `held_max`."""

    part: WindowPart
    share: Share | None
    held_max: int


@dataclass(frozen=True, slots=True)
class Asker:
    """When the archive is asked, and whether who asks is still there."""

    now_us: int
    gone: Callable[[], bool] = never_gone


def training_snapshots(
    command: CreateTrainingSet, asker: Asker, *, catalogue: Catalogue, archive: Archive
) -> Mapping[str, Snapshot]:
    """What a training set is made from, waited for.

    Raises Invalid BAD_REQUEST for a moment to come, NotFound DEFINITION_UNKNOWN or FEATURE_UNKNOWN,
    and what Archive.snapshots raises.
    """
    check_not_to_come("known_until_us", command.known_until_us, asker.now_us)
    recipe, plan = _recipe_of(command, catalogue)
    streams = {recipe.spine.stream, recipe.label.stream, *streams_of(plan)}
    return archive.snapshots(
        streams, command.known_until_us, published=command.published, gone=asker.gone
    )


def create_training_set(
    command: CreateTrainingSet,
    *,
    catalogue: Catalogue,
    snapshots: Mapping[str, Snapshot],
    bench: Bench,
) -> Historical:
    """`snapshots`: see `training_snapshots`. Raises Busy BATCH_TOO_LARGE."""
    (recipe, plan), until_us = _recipe_of(command, catalogue), command.known_until_us
    columns = {feature.column for feature in plan.request.features}
    columns |= {column for part in plan.windows for column in part.layout.entity}
    weak = catalogue.weak_labels_of(recipe.label.stream)
    rows = bench.training_rows(recipe, columns, snapshots, until_us, weak=weak)
    few = rows.count < FEW_ROWS
    return Historical(
        features=recipe.features,
        rows=rows.count,
        known_until_us=until_us,
        version_by_stream={stream: each.version for stream, each in snapshots.items()},
        definitions=definitions_of(recipe.features, catalogue),
        answered=answered(plan, rows, snapshots, until_us, bench),
        spine=bench.spine_tally(recipe, snapshots, until_us, weak=weak) if few else None,
        raw_offsets=bench.raw_offsets(snapshots, until_us),
    )


def _recipe_of(command: CreateTrainingSet, catalogue: Catalogue) -> tuple[Recipe, Plan]:
    recipe = catalogue.recipes.get(command.recipe)
    if recipe is None:
        raise NotFound("DEFINITION_UNKNOWN", recipe=command.recipe)
    return recipe, plan_of(catalogue, recipe.features)


def historical_snapshots(
    query: GetHistoricalFeatures, asker: Asker, *, catalogue: Catalogue, archive: Archive
) -> Mapping[str, Snapshot]:
    """What is answered from, waited for where a moment is named.

    Raises Invalid BAD_REQUEST for a moment to come, NotFound FEATURE_UNKNOWN or
    ARCHIVE_VERSION_UNKNOWN, Conflict DEFINITIONS_CHANGED, and what Archive.snapshots raises.
    """
    if query.known_as_of_us is not None:
        check_not_to_come("known_as_of_us", query.known_as_of_us, asker.now_us)
    streams = streams_of(plan_of(catalogue, query.features))
    definitions = definitions_of(query.features, catalogue)
    if query.definitions is not None and query.definitions != definitions:
        raise Conflict("DEFINITIONS_CHANGED", asked=query.definitions, applied=definitions)
    if query.version_by_stream is not None:
        if missing := sorted(streams - query.version_by_stream.keys()):
            raise NotFound("ARCHIVE_VERSION_UNKNOWN", stream=missing[0])
        return archive.at({stream: query.version_by_stream[stream] for stream in streams})
    if query.known_as_of_us is None:
        return archive.newest(streams)
    return archive.snapshots(streams, query.known_as_of_us, gone=asker.gone)


def get_historical_features(
    query: GetHistoricalFeatures,
    rows: Rows,
    *,
    catalogue: Catalogue,
    snapshots: Mapping[str, Snapshot],
    bench: Bench,
) -> Historical:
    """`snapshots`: see `historical_snapshots`. Raises Busy BATCH_TOO_LARGE."""
    plan, until_us = plan_of(catalogue, query.features), query.known_as_of_us
    return Historical(
        features=query.features,
        rows=rows.count,
        known_until_us=until_us,
        version_by_stream={stream: each.version for stream, each in snapshots.items()},
        definitions=definitions_of(query.features, catalogue),
        answered=answered(plan, rows, snapshots, until_us or FOREVER_US, bench),
    )


def streams_of(plan: Plan) -> set[str]:
    return {layout.stream for part in plan.windows for layout in part.layouts}


def definitions_of(features: Sequence[str], catalogue: Catalogue) -> str:
    """The digest of what says what the features are."""
    views = {feature.partition(":")[0] for feature in features}
    return features_digest([catalogue.views[name] for name in views], catalogue.streams)


def answered(
    plan: Plan, rows: Rows, snapshots: Mapping[str, Snapshot], until_us: int, bench: Bench
) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
    """The rows' batches with [rows, features] of each."""

    def loaded(load: _Load) -> OfflineView:
        part = load.part

        def others(looked_up: LookedUp) -> Iterator[Records]:
            snapshot = snapshots[looked_up.layout.stream]
            for share in _shares(snapshot.observations, load.held_max):
                yield snapshot.records(looked_up.layout, until_us, share=share)

        records = snapshots[part.layout.stream].records(part.layout, until_us, share=load.share)
        return OfflineView(part, records, others, candidates_max=load.held_max)

    together = [each.stream for part in plan.windows for each in part.layouts]
    if sum(snapshots[stream].observations for stream in together) <= bench.observations_max:
        whole = [_Load(part, None, bench.observations_max) for part in plan.windows]
        views = list(bench.each(loaded, whole))
        yield from bench.each(lambda batch: (batch, _all_of(plan, views, batch)), rows.batches())
    else:
        loads = _in_shares(plan, snapshots, bench.observations_max)
        yield from _by_shares(plan, rows, loads, loaded, bench)


def _in_shares(
    plan: Plan, snapshots: Mapping[str, Snapshot], observations_max: int
) -> Iterator[_Load]:
    """Each view in shares that fit by themselves: of its own observations as many as of what each
    of its lookups can find, and as of a piece of the stream that is looked into."""
    for part in plan.windows:
        held_max = observations_max // (2 + len(part.lookups)) if part.lookups else observations_max
        for share in _shares(snapshots[part.layout.stream].observations, max(1, held_max)):
            yield _Load(part, share, max(1, held_max))


def _shares(observations: int, held_max: int) -> list[Share | None]:
    of = -(-observations // held_max)
    return [Share(number, of) for number in range(of)] if of > 1 else [None]


def _all_of(plan: Plan, views: Sequence[OfflineView], batch: Batch) -> NDArray[np.float32]:
    answers = _nothing_seen(plan, batch)
    for view in views:
        answers[:, view.part.slots] = view.answers(batch)[1]
    return _finished(plan, answers)


def _by_shares(
    plan: Plan,
    rows: Rows,
    loads: Iterable[_Load],
    loaded: Callable[[_Load], OfflineView],
    bench: Bench,
) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
    scratch = bench.scratch(rows.count, plan.slots)
    for first, batch in _placed(rows):
        scratch.write(first, _nothing_seen(plan, batch))
    for load in loads:
        view = loaded(load)
        answers_of = bench.each(view.answers, rows.batches())
        for (first, batch), (named, answers) in zip(_placed(rows), answers_of, strict=True):
            so_far = scratch.read(first, len(batch.as_of_us))
            so_far[np.ix_(named, np.array(view.part.slots))] = answers[named]
            scratch.write(first, so_far)
    for first, batch in _placed(rows):
        yield batch, _finished(plan, scratch.read(first, len(batch.as_of_us)))


def _placed(rows: Rows) -> Iterator[tuple[int, Batch]]:
    """Each batch behind the number of rows before it."""
    first = 0
    for batch in rows.batches():
        yield first, batch
        first += len(batch.as_of_us)


def _nothing_seen(plan: Plan, batch: Batch) -> NDArray[np.float64]:
    """[rows, slots] of entities without a record, and the features of the request."""
    answers = np.full((len(batch.as_of_us), plan.slots), np.nan)
    for part in plan.windows:
        counting = [each.slot for each in part.asked if each.feature.aggregate in COUNTING]
        answers[:, counting] = 0.0
    for slot, asked in zip(plan.request.slots, plan.request.features, strict=True):
        column = batch.column(asked.column)
        named = texts_of(column) if asked.transform == "category" else column
        answers[:, slot] = transform(asked, _request_column(named))
    return answers


def _finished(plan: Plan, answers: NDArray[np.float64]) -> NDArray[np.float32]:
    apply_rules(plan.rules, answers)
    return as_float32(answers[:, : plan.width])


def _request_column(column: Texts | Numbers) -> Column:
    """As a caller would send it: texts, or numbers with NaN for absent."""
    if not isinstance(column, Numbers):
        return [column.values[code] if code >= 0 else None for code in column.codes.tolist()]
    if column.present.all():
        return column.values
    return np.where(column.present, column.values.astype(np.float64), np.nan)
