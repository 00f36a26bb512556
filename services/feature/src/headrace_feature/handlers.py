# SPDX-License-Identifier: Apache-2.0
"""What the service does with the stream: fold records into runs, answer reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from headrace.errors import Busy, Conflict, HeadraceError, Invalid, Unavailable
from headrace_feature.domain import long_windows, windows
from headrace_feature.domain.entities import digests
from headrace_feature.domain.exact import as_float32
from headrace_feature.domain.gathering import Block, Extract, Ranges, Wanted, block_of, ranges_of
from headrace_feature.domain.kept_answers import KEPT_US_MAX, KeptAnswers, valid_until
from headrace_feature.domain.known_until import KnownUntil, lowest
from headrace_feature.domain.log_place import LogPlace
from headrace_feature.domain.long_windows import LongEntity
from headrace_feature.domain.lookups import Matches, keys_of, matches_of
from headrace_feature.domain.observations import COLUMNS, EVENT, Ints, Observations, run_of
from headrace_feature.domain.online_query import (
    FeatureRows,
    GetOnlineFeatures,
    joinable,
    joined,
)
from headrace_feature.domain.plans import Plan, WindowPart, newest_of, plan_of
from headrace_feature.domain.request_features import Column, spelled, transform
from headrace_feature.domain.rules import apply_rules
from headrace_feature.domain.views import Catalogue, Layout, LookedUp
from headrace_feature.ports import Folded, ObservationReader, ObservationStore
from headrace_feature.readable import check_filled, check_layout_filled, check_readable
from headrace_kit.clock import Clock

# What a read may need of all other workers: half of their 0.8 s, for as much as 800,000 of them.
OBSERVATIONS_BYTES_MAX = 64 << 20
ROWS_AT_ONCE = 256  # whose observations are in memory at a time
LINE_US_MAX = 2**61  # entities x (span of their times + what a coarse scale adds)
SECOND_US = 1_000_000
# Which of several observations of one moment comes first shows in these.
BY_ID = ("first", "last", "last_n")
NOBODY: tuple[str, ...] = ()  # the entity of a row that has none
Reply = FeatureRows | HeadraceError
# Next offset by layout id and partition: what the fold may take on, without a hole before it.
Placed = Mapping[tuple[bytes, int], int]


@dataclass(frozen=True, slots=True, eq=False)
class GetObservations:
    """What one worker asks another: entities of a layout, whose partitions the other owns."""

    layout_id: bytes
    partitions: tuple[int, ...]
    wanted: Wanted


@dataclass(frozen=True, slots=True, eq=False)
class HeldObservations:
    """What it is told: the observations, and how far at least each partition had been read."""

    extract: Extract
    places: Mapping[int, LogPlace]


def fold_observations(
    observations: Observations,
    layouts: Iterable[Layout],
    *,
    placed: Placed,
    keep_us: int,
    store: ObservationStore,
) -> list[Folded]:
    """What the records of one stream add to each of its layouts; nothing is stored yet."""
    return [
        _fold(layout, observations, rows, keep_us=keep_us, store=store)
        for layout in layouts
        if len(rows := _not_yet_folded(layout, observations, placed))
    ]


def _not_yet_folded(layout: Layout, observations: Observations, placed: Placed) -> Ints:
    never, partitions = 2**62, observations.partitions
    first = np.array([placed.get((layout.id, each), never) for each in range(partitions.max() + 1)])
    return np.flatnonzero(observations.offsets >= first[partitions])


def _fold(
    layout: Layout,
    observations: Observations,
    rows: Ints,
    *,
    keep_us: int,
    store: ObservationStore,
) -> Folded:
    newest_us = int(observations.known_us[rows].max())
    floor_us = max(store.floor_us(layout), newest_us - keep_us - layout.span_us)
    partitions, offsets = observations.partitions[rows], observations.offsets[rows]
    next_by_partition = {
        number: int(offsets[partitions == number].max()) + 1
        for number in np.unique(partitions).tolist()
    }
    kept = rows[(observations.event_us[rows] >= floor_us) & ~observations.erased[rows]]
    if layout.filter is not None:
        kept = kept[observations.counted[layout.filter.text][kept]]
    run = run_of(observations, layout, kept)
    return Folded(layout, run, next_by_partition, floor_us, observations)


@dataclass(frozen=True, slots=True, eq=False)
class OnlineState:
    """What a read is answered from."""

    catalogue: Callable[[], Catalogue]
    store: ObservationReader
    kept: KeptAnswers
    known: KnownUntil
    clock: Clock


def get_online_features(query: GetOnlineFeatures, state: OnlineState) -> FeatureRows:
    """As known at each row's moment.

    Raises Invalid BAD_REQUEST, Busy BATCH_TOO_LARGE or QUEUE_FULL, NotFound FEATURE_UNKNOWN,
    Unavailable RESTORING while a view is still being filled, and Conflict FEATURES_STALE.
    """
    rows, now_us = query.rows, state.clock.now_us()
    # A feature that is named again, as a recipe may do, is answered from the same read.
    places = {name: place for place, name in enumerate(dict.fromkeys(query.features))}
    plan = plan_of(state.catalogue(), tuple(places))
    places_before = _places_of(plan, state.store)
    check_filled(plan, state.store)
    as_of_us = query.as_of_us
    if not len(as_of_us):
        as_of_us = np.full(rows, now_us, dtype=np.int64)
    times = None
    with state.store.reading() as store:
        answers = _answers(plan, query, as_of_us, store, state.kept)
        if query.include_times:
            moments = _answers(newest_of(plan), query, as_of_us, store, state.kept)
    known_us = state.known.of(
        (layout, lowest(places, store.elsewhere(layout))) for layout, places in places_before
    )
    # Others may have been asked later, when there was more than rows as of now see.
    known_us = min(known_us, now_us)
    bound_ms = query.staleness_max_ms
    if 0 < bound_ms < (now_us - known_us) / 1_000:
        told = {"known_until_us": known_us, "now_us": now_us, "staleness_max_ms": bound_ms}
        raise Conflict("FEATURES_STALE", **told)
    if query.include_times:
        times = np.where(np.isnan(moments), -1.0, moments).astype(np.int64)
    found = FeatureRows(as_float32(answers), times, known_us)
    if len(places) == len(query.features):
        return found
    return found.in_order([places[name] for name in query.features])


def _places_of(plan: Plan, store: ObservationReader) -> list[tuple[Layout, Mapping[int, LogPlace]]]:
    layouts = [layout for part in plan.windows for layout in part.layouts]
    return [(each, _places(each, store.owned(each) or (), store)) for each in layouts]


def _places(
    layout: Layout, partitions: Iterable[int], store: ObservationReader
) -> Mapping[int, LogPlace]:
    """How far each is read; the id first, for a topic that is made again is read from 0."""
    topic_id, positions = store.topic_id(layout), store.next_by_partition(layout)
    return {number: LogPlace(positions.get(number, 0), topic_id) for number in partitions}


def _answers(
    plan: Plan,
    query: GetOnlineFeatures,
    as_of_us: Ints,
    store: ObservationReader,
    kept: KeptAnswers,
) -> NDArray[np.float64]:
    answers = np.full((len(as_of_us), plan.slots), np.nan)
    _answer_windows(plan, query.columns, as_of_us, store, kept, answers)
    for slot, feature in zip(plan.request.slots, plan.request.features, strict=True):
        answers[:, slot] = transform(feature, _column(query.columns, feature.column))
    apply_rules(plan.rules, answers)
    return answers[:, : plan.width]


def answer_together(queries: Sequence[GetOnlineFeatures], state: OnlineState) -> list[Reply]:
    """`get_online_features` of each query; those that are alike are read as one."""
    replies, rows = dict[int, Reply](), dict[int, int]()
    for number, query in enumerate(queries):
        try:
            rows[number] = query.rows
        except HeadraceError as err:
            replies[number] = err
    for numbers in joinable({number: queries[number] for number in rows}, rows):
        some = [queries[number] for number in numbers]
        replies |= zip(numbers, _read_as_one(some, [rows[n] for n in numbers], state), strict=True)
    return [replies[number] for number in range(len(queries))]


def _read_as_one(
    queries: Sequence[GetOnlineFeatures], rows: Sequence[int], state: OnlineState
) -> Sequence[Reply]:
    try:
        return get_online_features(joined(queries), state).split(rows)
    except HeadraceError as err:
        full = err.reason == "QUEUE_FULL"
        if len(queries) == 1 or full or isinstance(err, Unavailable):  # that is so for all of them
            return [err] * len(queries)
        # One of them cannot be answered: each hears what is its own.
        return [_read_as_one([q], [r], state)[0] for q, r in zip(queries, rows, strict=True)]


def _column(columns: Mapping[str, Column], name: str) -> Column:
    if name not in columns:
        raise Invalid("BAD_REQUEST", field="columns", problem=f"column {name} is missing")
    return columns[name]


def _answer_windows(
    plan: Plan,
    columns: Mapping[str, Column],
    as_of_us: NDArray[np.int64],
    store: ObservationReader,
    kept: KeptAnswers,
    answers: NDArray[np.float64],
) -> None:
    """Fill the windows' slots, few rows at a time, whose time lines fit int64."""
    longest_us = max((part.longest_us for part in plan.windows), default=0)
    longest_us = min(longest_us, int(as_of_us.max()) + 1)  # nothing was before 1970
    span_us = int(as_of_us.max() - as_of_us.min()) + longest_us + KEPT_US_MAX
    step = max(1, min(ROWS_AT_ONCE, LINE_US_MAX // max(span_us, 1)))
    for first in range(0, len(as_of_us), step):
        rows = slice(first, first + step)
        some = {name: column[rows] for name, column in columns.items()}
        for family in windows.families(plan):
            _answer_family(family, some, as_of_us[rows], store, kept, answers[rows])
    for part in plan.windows:
        since_us = int(as_of_us.min()) - part.longest_us
        check_readable(part.layout, max(0, since_us), store)
        for each in part.lookups:
            check_readable(each.layout, max(0, since_us - each.max_age_us), store)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """What the rows ask one part for: `entities`: [2, entities], `slots`: per row its entity's.

    `positions`: what the layout held, or less, when the answers were looked for.
    """

    part: WindowPart
    positions: Mapping[int, int]
    entities: NDArray[np.uint64]
    slots: Ints

    def taken(self, rows: Ints) -> _Rows:
        """Some of the rows, and their entities alone."""
        if len(rows) == len(self.slots):
            return self
        asked, slots = np.unique(self.slots[rows], return_inverse=True)
        return _Rows(self.part, self.positions, self.entities[:, asked], slots)

    def per_row(self) -> NDArray[np.uint64]:
        return self.entities[:, self.slots]


def _answer_family(
    family: windows.Family,
    columns: Mapping[str, Column],
    as_of_us: Ints,
    store: ObservationReader,
    kept: KeptAnswers,
    answers: NDArray[np.float64],
) -> None:
    """Fill the family's slots from kept answers; what misses one is computed, and kept."""
    missed = np.zeros(len(as_of_us), dtype=np.bool_)
    asked = [_asked(part, columns, store) for part in family.parts]
    for each in asked:
        found = None
        if not each.part.lookups:  # those change with another stream, which the positions leave out
            found = kept.find(each.part, each.positions, each.per_row(), as_of_us)
        if found is None:
            missed[:] = True
        else:
            answers[:, each.part.slots], hit = found
            missed |= ~hit
    rows = np.flatnonzero(missed)
    if len(rows):
        computed = np.empty((len(rows), answers.shape[1]))
        _compute(family, [e.taken(rows) for e in asked], as_of_us[rows], store, kept, computed)
        for each in asked:
            answers[rows[:, None], each.part.slots] = computed[:, each.part.slots]


def _compute(
    family: windows.Family,
    asked: Sequence[_Rows],
    as_of_us: Ints,
    store: ObservationReader,
    kept: KeptAnswers,
    answers: NDArray[np.float64],
) -> None:
    found = [_seen(each, as_of_us, store) for each in asked]
    windows.answer(family, [seen for seen, _ in found], as_of_us, answers)
    for entity in (each for _, long in found for each in long):
        entity.answer(as_of_us, answers)
    for each, (seen, _), of_part in zip(asked, found, family.windows, strict=True):
        rows = np.flatnonzero(seen.slots >= 0)  # what very busy entities are told soon changes
        if not len(rows) or each.part.lookups:
            continue
        moments_us, values = as_of_us[rows], answers[rows[:, None], each.part.slots]
        until_us = valid_until(seen.block, seen.slots[rows], moments_us, of_part)
        entities = each.per_row()[:, rows]
        kept.keep(each.part, each.positions, entities, moments_us, until_us, values)


def _seen(
    asked: _Rows, as_of_us: Ints, store: ObservationReader
) -> tuple[windows.Seen, list[LongEntity]]:
    """The observations of the entities that are asked for, each entity once; and those with very
    many, which are not among them.
    """
    part, slots = asked.part, asked.slots
    since_us, until_us = _times(slots, asked.entities.shape[1], as_of_us, part.longest_us)
    wanted = Wanted(asked.entities, since_us, until_us + KEPT_US_MAX)
    ranges = ranges_of(store.runs_of(part.layout, wanted), wanted)
    long = _long(part, ranges, slots)
    if long:
        ranges = [each.without(np.array(list(long))) for each in ranges]
        slots = np.where(np.isin(slots, list(long)), -1, slots)
    block = block_of(
        [each.found() for each in ranges],
        entities=asked.entities.shape[1],
        width=COLUMNS + part.layout.width,
        by_id=any(each.feature.aggregate in BY_ID for each in part.asked),
    )
    matches = [_matches(block, each, store) for each in part.lookups]
    return windows.Seen(block, slots, matches), list(long.values())


def _matches(block: Block, looked_up: LookedUp, store: ObservationReader) -> Matches:
    """What the observations of a block can find in the other stream."""
    keys = keys_of(block, looked_up)
    event_us = block.matrix[:, EVENT]
    since_us = int(event_us.min(initial=2**62)) - looked_up.max_age_us
    edges = (np.full(len(keys.digests.T), edge) for edge in (since_us, event_us.max(initial=0)))
    wanted = Wanted(keys.digests, *edges)
    found = [each.found() for each in ranges_of(store.runs_of(looked_up.layout, wanted), wanted)]
    width = COLUMNS + looked_up.layout.width
    other = block_of(found, entities=len(keys.digests.T), width=width, by_id=True)
    return matches_of(block, keys, other, looked_up)


def _long(
    part: WindowPart, ranges: Sequence[Ranges], slots: NDArray[np.int64]
) -> dict[int, LongEntity]:
    """By slot, the entities that have very many rows for what is asked of them."""
    if sum(int(each.counts.sum()) for each in ranges) < long_windows.ROWS_MIN:
        return {}
    counts = np.zeros(int(slots.max()) + 1, dtype=np.int64)
    for each in ranges:
        counts[each.slots] += each.counts
    long = {}
    for slot in np.flatnonzero(counts >= long_windows.ROWS_MIN).tolist():
        rows = np.flatnonzero(slots == slot)
        if long_windows.is_long(part, int(counts[slot]), len(rows)):
            held = [(each, np.flatnonzero(each.slots == slot)) for each in ranges]
            places = [(each.run, int(each.places[at[0]])) for each, at in held if len(at)]
            runs, numbers = zip(*places, strict=True)
            long[slot] = LongEntity(part, runs, numbers, rows)
    return long


def _times(slots: Ints, entities: int, as_of_us: Ints, longest_us: int) -> tuple[Ints, Ints]:
    """Of each entity, the time that all its rows together look at."""
    if entities == len(slots):  # each row has an entity of its own, in whatever order
        until_us = np.empty_like(as_of_us)
        until_us[slots] = as_of_us
        return until_us - longest_us, until_us
    since_us = np.full(entities, 2**62, dtype=np.int64)
    until_us = -since_us
    np.minimum.at(since_us, slots, as_of_us - longest_us)
    np.maximum.at(until_us, slots, as_of_us)
    return since_us, until_us


def _asked(part: WindowPart, columns: Mapping[str, Column], store: ObservationReader) -> _Rows:
    """The entities, each once. A row without entity asks for one that no record has."""
    positions = store.next_by_partition(part.layout)
    texts = [spelled(_column(columns, name)) for name in part.layout.entity]
    places: dict[tuple[str, ...], int] = {}
    slots = [
        places.setdefault(NOBODY if None in entity else cast(tuple[str, ...], entity), len(places))
        for entity in zip(*texts, strict=True)
    ]
    return _Rows(part, positions, digests(list(places)), np.array(slots, dtype=np.int64))


def get_observations(
    query: GetObservations, *, catalogue: Catalogue, store: ObservationReader
) -> HeldObservations:
    """What this worker holds of entities, for another one that merges it with the rest.

    Raises Unavailable RESTORING unless it owns the partitions and has all of them, Invalid
    BAD_REQUEST where its history begins later than is asked, Busy BATCH_TOO_LARGE.
    """
    # One that is not known here yet may be known to who asks: definitions come to each by itself.
    layout = catalogue.layouts().get(query.layout_id)
    if layout is None or not set(query.partitions) <= set(store.owned(layout) or ()):
        raise Unavailable("RESTORING", layout=query.layout_id.hex())
    check_layout_filled(layout, store)
    places = _places(layout, query.partitions, store)
    wanted, width = query.wanted, COLUMNS + layout.width
    extract = Extract.of(store.runs_of(layout, wanted), wanted, width=width)
    check_readable(layout, int(wanted.since_us.min(initial=2**62)), store)
    check_answerable(extract.bytes)
    return HeldObservations(extract, places)


def check_answerable(observations_bytes: int) -> None:
    """Raises Busy BATCH_TOO_LARGE where a read needs too much of other workers."""
    if observations_bytes > OBSERVATIONS_BYTES_MAX:
        raise Busy(
            "BATCH_TOO_LARGE",
            observations_bytes=observations_bytes,
            observations_bytes_max=OBSERVATIONS_BYTES_MAX,
        )
