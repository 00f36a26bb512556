# SPDX-License-Identifier: Apache-2.0
"""A kept answer is what a read without it would say, bit for bit; and so many are kept."""

import numpy as np
import pytest
from feature_definitions import views
from feature_world import (
    DAY,
    HOUR,
    MINUTE,
    MOMENTS,
    SECOND,
    START,
    Event,
    World,
    a_catalogue,
    bits,
    event_lists,
)
from hypothesis import given
from hypothesis import strategies as st

from headrace.feature_view import StreamView, feature_names
from headrace_feature.domain import kept_answers
from headrace_feature.domain.entities import digests
from headrace_feature.domain.kept_answers import (
    BATCHES_REMEMBERED,
    STRANGE_READS_MAX,
    KeptAnswers,
)
from headrace_feature.domain.plans import plan_of

AS_OF = st.one_of(MOMENTS, st.integers(0, 3 * DAY).map(lambda us: START + us))
ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from([1, 2]), AS_OF),
    min_size=1,
    max_size=4,
)
FEATURE = ["zone:count_1h"]


def read_anew(world, rows, names):
    kept, world.kept = world.kept, KeptAnswers()
    try:
        return bits(world.read(rows, names))
    finally:
        world.kept = kept


@given(data=st.data(), view=views(), events=event_lists())
def test_kept_answers_are_those_of_a_read_without_them(data, view, events):
    world, names = World(a_catalogue(view)), feature_names(view)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    for number, (first, last) in enumerate(zip([0, *cuts], [*cuts, len(events)], strict=True)):
        world.fold(*events[first:last], partition=number % 2)
        for rows in data.draw(st.lists(ROWS, max_size=4)):
            by = data.draw(st.sampled_from([1, 7 * MINUTE, HOUR // 2, HOUR - 1]))
            later = [(zone, kind, as_of + by) for zone, kind, as_of in rows]
            for some in (rows, later, rows):
                assert read_anew(world, some, names) == bits(world.read(some, names))


def test_rows_without_a_kept_answer_are_computed_in_whatever_order_their_entities_come():
    world = World()
    world.fold(Event("of-a", START, START), Event("of-b", START, START, zone="b"))
    world.read([("a", 1, START)], FEATURE)
    # The first row is kept; of the others, which are not, b comes before a.
    rows = [("a", 1, START), ("b", 1, START), ("a", 1, START + HOUR + HOUR // 2)]

    assert [[1.0], [1.0], [0.0]] == world.read(rows, FEATURE).tolist()


def counts_at(world, moments, feature="zone:count_1h"):
    return [world.read([("a", 1, moment)], [feature])[0, 0] for moment in moments]


@pytest.mark.parametrize(
    ("event", "moments"),
    [
        (Event("leaves", START, START), (START + HOUR - 1, START + HOUR)),
        (Event("comes", START + 10, START), (START + 10, START + 9)),
        (Event("is-known", START, START + 10), (START + 10, START + 9)),
    ],
    ids=lambda value: getattr(value, "id", None),
)
def test_answer_ends_when_an_observation(event, moments):
    seen, unseen = moments
    world = World()
    world.fold(event)

    in_order = counts_at(world, sorted(moments))
    assert ([1.0, 0.0] if seen < unseen else [0.0, 1.0]) == in_order


# 1,600 s into an hour; and the next midnight in Kathmandu, five hours and 45 minutes ahead.
HOUR_ENDS = START + 2_000 * SECOND
MIDNIGHT = START - START % DAY + DAY + 18 * HOUR + 15 * MINUTE


@pytest.mark.parametrize(
    ("window", "ends"),
    [
        ({"window": "1h", "tumbling": True}, HOUR_ENDS),
        ({"window": "1d", "tumbling": True, "timezone": "Asia/Kathmandu"}, MIDNIGHT),
    ],
    ids=["of an hour", "of a day"],
)
def test_answer_ends_with_its_tumbling_window(window, ends):
    features = {"count": {"aggregate": "count", **window}}
    view = StreamView.model_validate(
        {
            "kind": "view",
            "name": "zone",
            "description": "Counts.",
            "stream": "rides",
            "entity": ["zone"],
            "features": features,
        }
    )
    world = World(a_catalogue(view))
    world.fold(Event("e", ends - MINUTE, ends - MINUTE))

    assert [0.0, 1.0] == counts_at(world, (ends - 1, ends), "zone:count")


def test_second_read_is_answered_without_looking_at_the_runs(monkeypatch):
    world = World()
    world.fold(Event("e", START, START))
    rows = [("a", 1, START + 5), ("b", 1, START + 5)]
    first = world.read(rows, FEATURE)
    monkeypatch.setattr(world.store, "runs", None)
    later = [(zone, kind, as_of + HOUR - 6) for zone, kind, as_of in rows]

    assert [[1.0], [0.0]] == first.tolist() == world.read(later, FEATURE).tolist()


def test_new_observation_ends_the_answer_of_its_entity_alone(monkeypatch):
    world = World()
    world.fold(Event("e", START, START))
    world.read([("a", 1, START + 5), ("b", 1, START + 5)], FEATURE)
    world.fold(Event("f", START + 6, START + 6))

    assert 2.0 == world.read([("a", 1, START + 7)], FEATURE)[0, 0]
    monkeypatch.setattr(world.store, "runs", None)
    assert 0.0 == world.read([("b", 1, START + 7)], FEATURE)[0, 0]


def test_positions_that_no_batch_led_to_end_all_answers():
    """As after a restore: what the runs hold has changed, and nobody said of whom."""
    other, world = World(), World()
    other.fold(Event("e", START, START))
    layout = world.catalogue.layout_by_view["zone"]
    assert 0.0 == world.read([("a", 1, START + 5)], FEATURE)[0, 0]
    world.store = other.store

    for _ in range(STRANGE_READS_MAX + 2):
        assert 1.0 == world.read([("a", 1, START + 5)], FEATURE)[0, 0]
    positions = world.store.next_by_partition(layout)
    part = plan_of(world.catalogue, tuple(FEATURE)).windows[0]
    values, hit = world.kept.find(part, positions, digests([("a",)]), np.array([START + 5]))
    assert [[1.0]] == values[hit].tolist()


def a_part():
    return plan_of(a_catalogue(), tuple(FEATURE)).windows[0]


def entities(count):
    return digests([(f"e{number}",) for number in range(count)])


def kept_of(kept, part, positions, count):
    kept.keep(
        part,
        positions,
        entities(count),
        np.zeros(count, dtype=np.int64),
        np.full(count, 10),
        np.arange(float(count))[:, None],
    )


def hits(kept, part, positions, count):
    values, hit = kept.find(part, positions, entities(count), np.full(count, 5))
    assert (values[hit, 0] == np.flatnonzero(hit)).all()
    return int(hit.sum())


def test_answer_that_was_made_while_batches_came_is_kept_for_who_is_untouched():
    kept, part, begun, now = KeptAnswers(), a_part(), {0: 1}, {0: 3}
    assert kept.find(part, begun, entities(1), np.array([5])) is None
    between = {0: 2}
    kept.advance(part.layout, begun, entities(1), between)
    kept.advance(part.layout, between, entities(2)[:, 1:], now)
    kept_of(kept, part, begun, 4)

    _, hit = kept.find(part, now, entities(4), np.full(4, 5))
    assert [False, False, True, True] == hit.tolist()


def test_answer_that_was_made_too_long_ago_is_not_kept():
    kept, part, begun = KeptAnswers(), a_part(), {0: 0}
    kept.find(part, begun, entities(1), np.array([5]))
    before = begun
    for number in range(BATCHES_REMEMBERED + 1):
        after = {0: number + 1}
        kept.advance(part.layout, before, entities(1), after)
        before = after
    kept_of(kept, part, begun, 4)

    assert kept.find(part, before, entities(4), np.full(4, 5)) is None


def test_full_table_forgets_what_was_not_read(monkeypatch):
    monkeypatch.setattr(kept_answers, "TABLE_ANSWERS_MAX", 256)
    kept, part, positions = KeptAnswers(), a_part(), {0: 1}
    kept_of(kept, part, positions, 256)
    assert 100 == hits(kept, part, positions, 100)
    kept_of(kept, part, positions, 300)

    assert 256 == hits(kept, part, positions, 300)
    assert 100 == hits(kept, part, positions, 100)


def test_part_that_was_read_longest_ago_goes_first(monkeypatch):
    monkeypatch.setattr(kept_answers, "ANSWERS_MAX", 1_000)
    kept, parts, positions = KeptAnswers(), [a_part() for _ in range(3)], {0: 1}
    for part in parts[:2]:
        kept_of(kept, part, positions, 400)
    hits(kept, parts[0], positions, 400)
    kept_of(kept, parts[2], positions, 400)

    assert kept.find(parts[1], positions, entities(1), np.array([5])) is None
    assert 400 == hits(kept, parts[0], positions, 400) == hits(kept, parts[2], positions, 400)


@pytest.mark.parametrize(("moment", "expected"), [(0, 1), (9, 1), (10, 0)])
def test_answer_holds_until_its_moment(moment, expected):
    kept, part, positions = KeptAnswers(), a_part(), {0: 1}
    kept_of(kept, part, positions, 1)
    _, hit = kept.find(part, positions, entities(1), np.array([moment]))

    assert expected == hit.sum()
