# SPDX-License-Identifier: Apache-2.0
"""P4: tiles and answers are a function of the set of events."""

from dataclasses import replace

from feature_world import HOUR, START, Event, World, bits, event_lists
from hypothesis import given
from hypothesis import strategies as st


@given(data=st.data(), events=event_lists())
def test_any_order_repeats_and_batches_give_the_same_state(data, events):
    once = World()
    once.fold(*events)
    repeats = data.draw(st.lists(st.sampled_from(events), max_size=10)) if events else []
    # A repeat that Kafka stamped later adds nothing: what was known first stays known.
    later = [replace(event, known=event.known + HOUR) for event in repeats[::2]]
    shuffled = data.draw(st.permutations([*events, *repeats, *later]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(shuffled)), max_size=5)))

    again = World()
    for number, (first, last) in enumerate(zip([0, *cuts], [*cuts, len(shuffled)], strict=True)):
        again.fold(*shuffled[first:last], partition=number % 2)

    assert once.state() == again.state()
    rows = [(zone, 1, START + half * HOUR // 2) for zone in "ab" for half in range(16)]
    if events:
        assert bits(once.read(rows)) == bits(again.read(rows))


@given(data=st.data(), events=event_lists())
def test_state_is_the_same_when_old_tiles_go(data, events):
    keep = 2 * HOUR
    once, again = World(keep=keep), World(keep=keep)
    once.fold(*events)
    for event in data.draw(st.permutations(events)):
        again.fold(event)

    assert once.state() == again.state()


def test_late_event_folds_into_its_own_tile():
    world = World()
    world.fold(Event("on-time", START, START), Event("next", START + HOUR, START + HOUR))
    before = world.state()
    world.fold(Event("late", START + 1, START + 5 * HOUR, riders=7))

    changed = {key for key, value in world.state().items() if before.get(key) != value}
    assert changed <= before.keys()
    assert 2 == len(changed)  # one tile for each view
    feature = ["zone:sum_riders_1h"]
    assert 1 == world.read([("a", 1, START + 2)], feature)[0, 0]
    assert 8 == world.read([("a", 1, START + HOUR - 1)], feature)[0, 0] + 7
