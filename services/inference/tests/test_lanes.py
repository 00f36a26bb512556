# SPDX-License-Identifier: Apache-2.0
"""A lane: at once when idle, together when not, the urgent first, and never more than in time."""

import math
import weakref
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import Busy
from headrace_inference.adapters.lanes import LAST_BATCHES, LEARNED_S_MAX, QUEUE_S_MAX, Lane
from headrace_kit.auth import EVERYBODY
from headrace_kit.hot_calls import HotCall


def a_call():
    return HotCall(b"", caller=EVERYBODY, arrived_s=0.0, deadline_s=60.0, reply=lambda *_: None)


@dataclass(frozen=True)
class Item:
    name: object
    rows: int = 1
    priority: int = 2
    deadline_s: float = math.inf
    call: HotCall = field(default_factory=a_call)


class ByHand:
    """An executor whose tasks run when the test says so."""

    def __init__(self):
        self.tasks = []

    def submit(self, task):
        self.tasks.append(task)

    def run(self, tasks_max=1_000):
        while self.tasks and tasks_max:
            self.tasks.pop(0)()
            tasks_max -= 1


class Bench:
    """A lane whose batches take `batch_s` and `row_s` a row by its own clock, and are thought to.

    Not `tried`: nothing is known of how long they take.
    """

    def __init__(self, *, rows_max=10, row_s=0.001, batch_s=0.0, tried=True):
        self.hand, self.batches, self.now_s = ByHand(), [], 0.0
        self.refused = {}
        self.batch_s, self.row_s = batch_s, row_s
        self.on_run = lambda: None
        self.lane = Lane(
            self._run,
            self.hand,
            rows_max=rows_max,
            least_s=lambda rows: tried * (batch_s + row_s * rows),
            now_s=lambda: self.now_s,
            refuse=lambda item, err: self.refused.setdefault(item.name, err.reason),
        )

    def _run(self, batch):
        self.on_run()
        self.batches.append([item.name for item in batch])
        self.now_s += self.batch_s + self.row_s * sum(item.rows for item in batch)

    def add(self, *items):
        for item in items:
            self.lane.add(item)


def test_idle_lane_begins_at_once():
    bench = Bench()
    bench.add(Item("a"))

    assert 1 == len(bench.hand.tasks)


def test_what_waits_runs_together():
    bench = Bench()
    bench.add(Item("a"))
    bench.hand.run(1)
    bench.add(Item("b"), Item("c"), Item("d"))
    bench.hand.run()

    assert [["a"], ["b", "c", "d"]] == bench.batches


def test_urgent_goes_first_then_who_came_first():
    bench = Bench(rows_max=1)
    bench.add(Item("late", priority=3), Item("a"), Item("b"), Item("urgent", priority=1))
    bench.hand.run()

    assert [["urgent"], ["a"], ["b"], ["late"]] == bench.batches


def test_batch_is_bounded_by_rows_and_one_that_is_larger_runs_alone():
    bench = Bench(rows_max=10)
    bench.add(Item("a", 6), Item("b", 5), Item("c", 5), Item("d", 99), Item("e", 1))
    bench.hand.run()

    assert [["a"], ["b", "c"], ["d"], ["e"]] == bench.batches


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 3)), max_size=40))
def test_everything_runs_once(items):
    bench = Bench()
    bench.add(*(Item(number, *each) for number, each in enumerate(items)))
    bench.hand.run()

    assert list(range(len(items))) == sorted(name for batch in bench.batches for name in batch)


def test_lane_takes_no_more_than_it_ends_in_time():
    bench = Bench(row_s=QUEUE_S_MAX / 10)
    bench.add(*(Item(number) for number in range(10)))

    with pytest.raises(Busy, match="QUEUE_FULL"):
        bench.add(Item("too many"))
    bench.hand.run()
    bench.add(Item("again"))


@pytest.mark.parametrize("tried", [True, False])
def test_lane_learns_what_a_row_takes(tried):
    bench = Bench(row_s=0.001, tried=tried)
    bench.row_s = 0.1
    for number in range(50):
        bench.add(Item(number))
        bench.hand.run()
    bench.add(Item("x", rows=9))

    assert 0.8 < bench.lane.wait_s() < 1.0


def test_cost_of_a_batch_is_not_taken_for_that_of_a_row():
    bench = Bench(rows_max=1_000, batch_s=0.03, row_s=0.00001)
    bench.batch_s = 0.06
    for number in range(15):
        bench.add(Item(number))
        bench.hand.run()
    bench.add(*(Item(number) for number in range(1_000)))

    assert 0.05 < bench.lane.wait_s() < 0.1


def test_batch_that_stood_still_sheds_nobody_and_those_that_are_slow_do():
    bench = Bench(rows_max=1_000, batch_s=0.002, row_s=0.0005)
    bench.batch_s = 12.0
    bench.add(Item("while it stood still"))
    bench.hand.run()
    bench.add(*(Item(number) for number in range(60)))
    assert bench.lane.wait_s() < QUEUE_S_MAX / 2

    bench.hand.run()
    bench.add(Item("waits for the next"))
    with pytest.raises(Busy, match="QUEUE_FULL"):
        bench.add(Item("too many", rows=200))


@pytest.mark.parametrize(("took_s", "learned"), [(0.001, False), (1.0, True)])
def test_run_that_nobody_waits_for_teaches_that_it_takes_long_and_no_less(took_s, learned):
    bench = Bench(row_s=0.1)
    bench.row_s = took_s
    leaving = Item("leaving")
    bench.on_run = leaving.call.cancel
    bench.add(leaving)
    bench.hand.run()
    bench.add(Item("next", rows=10))

    assert (bench.lane.wait_s() > 1.01) == learned
    assert bench.lane.wait_s() >= 1.0


def a_surprised_bench(*, run_s=0.1, tried=True):
    """One row a run, thought to take 8 us until the first runs take longer."""
    bench = Bench(rows_max=1, row_s=8e-6, tried=tried)
    bench.row_s = run_s
    return bench


@pytest.mark.parametrize("tried", [True, False])
def test_newest_that_wait_are_told_when_runs_take_longer_than_was_thought(tried):
    bench = a_surprised_bench(run_s=0.1, tried=tried)
    bench.add(*(Item(number) for number in range(1_000)))
    bench.hand.run()

    # The runs by which it is learned, and then what ends in 2 s.
    assert [[number] for number in range(22)] == bench.batches
    assert dict.fromkeys(range(22, 1_000), "QUEUE_FULL") == bench.refused
    assert (0, 0) == (len(bench.lane._queue), bench.lane._rows)


def test_least_urgent_are_told_first_when_runs_take_longer_than_was_thought():
    bench = a_surprised_bench(run_s=QUEUE_S_MAX / 4)
    bench.add(*(Item(number, priority=3 - number % 3) for number in range(12)))
    bench.hand.run()

    assert [[2], [5], [8], [11], [1], [4]] == bench.batches
    assert {7, 10, 0, 3, 6, 9} == set(bench.refused)


def test_one_waits_however_long_runs_take():
    bench = a_surprised_bench(run_s=2 * QUEUE_S_MAX)
    bench.add(*(Item(number) for number in range(5)))
    bench.hand.run()

    assert ([[0], [1], [2]], {3, 4}) == (bench.batches, set(bench.refused))


def test_batch_that_stood_still_sends_nobody_away_who_waits():
    bench = Bench(rows_max=1, row_s=0.01)
    bench.add(*(Item(number) for number in range(190)))
    bench.row_s = 12.0
    bench.hand.run(1)
    bench.row_s = 0.01
    bench.hand.run()

    assert ({}, 190) == (bench.refused, len(bench.batches))


def test_who_would_be_late_is_told_as_soon_as_that_is_known():
    bench = a_surprised_bench(run_s=0.1)
    # Of those that wait behind two runs, the third ends at 0.5 s.
    late = Item("late", deadline_s=0.45), Item("in time", deadline_s=0.55)
    bench.add(*(Item(number) for number in range(4)), *late)
    bench.hand.run(2)
    assert {"late": "DEADLINE_UNMET"} == bench.refused

    bench.hand.run()
    assert [[0], [1], [2], [3], ["in time"]] == bench.batches


def test_who_has_less_time_than_runs_take_is_not_run():
    bench = a_surprised_bench(run_s=0.1)
    bench.add(Item(0), Item(1))
    bench.hand.run()
    bench.add(Item("hurried", deadline_s=bench.now_s + 0.05), Item("next"))
    bench.hand.run()

    assert ([[0], [1], ["next"]], {"hurried": "DEADLINE_UNMET"}) == (bench.batches, bench.refused)


def test_many_rows_are_not_thought_to_take_what_as_many_runs_of_one_did():
    """What a run costs besides its rows, and the model is not to blame for."""
    bench = Bench(rows_max=1_000, row_s=0.0005)
    bench.batch_s = 0.03
    for number in range(3):
        bench.add(Item(number))
        bench.hand.run()
    bench.batches.clear()
    bench.add(*(Item(number, deadline_s=bench.now_s + 0.1) for number in range(100)))
    bench.hand.run()

    assert ([list(range(100))], {}) == (bench.batches, bench.refused)


def test_few_rows_are_not_thought_to_take_what_many_did():
    bench = Bench(rows_max=1_000, row_s=0.0005)
    bench.row_s = 0.001
    for number in range(3):
        bench.add(Item(number, rows=900))
        bench.hand.run()
    bench.add(Item("few", deadline_s=bench.now_s + 0.01))
    bench.hand.run()

    assert ["few"] == bench.batches[-1]


def test_what_runs_take_is_learned_anew_behind_a_rest():
    bench = a_surprised_bench(run_s=0.1)
    bench.add(Item(0), Item(1))
    bench.hand.run()
    assert pytest.approx(0.1) == bench.lane.run_s(1)

    bench.now_s += LEARNED_S_MAX
    bench.add(Item("hurried", deadline_s=bench.now_s + 0.05))
    bench.hand.run()
    assert [[0], [1], ["hurried"]] == bench.batches
    assert pytest.approx(0.1) == bench.lane.run_s(1)


def test_what_runs_take_is_not_forgotten_amid_a_long_one():
    bench, told = a_surprised_bench(run_s=2 * LEARNED_S_MAX), []

    def amid():
        bench.now_s += LEARNED_S_MAX
        told.append(bench.lane.run_s(1))

    bench.add(Item(0), Item(1))
    bench.hand.run()
    before_s = bench.lane.run_s(1)
    bench.on_run = amid
    bench.add(Item(2))
    bench.hand.run()

    assert 0.0 < before_s
    assert [before_s] == told


def test_all_that_wait_are_looked_at_only_when_runs_take_longer_than_before(monkeypatch):
    bench, looks = Bench(rows_max=1, row_s=0.001), []
    monkeypatch.setattr(
        "headrace_inference.adapters.lanes.sorted",
        lambda items: looks.append(len(items)) or sorted(items),
        raising=False,
    )
    bench.add(*(Item(number) for number in range(1_000)))
    bench.hand.run()

    assert 1_000 == len(bench.batches)
    assert [998] == [count for count in looks if count > LAST_BATCHES]


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.floats(0.0, 9.0)),
        max_size=30,
    ),
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=9),
)
def test_each_is_run_or_told_once_whatever_runs_take(items, rows_s):
    bench = Bench(rows_max=4, row_s=0.001)
    told = [Item(number, *each) for number, each in enumerate(items)]
    bench.add(*told)
    while bench.hand.tasks:
        bench.row_s = rows_s[len(bench.batches) % len(rows_s)]
        bench.hand.run(1)

    ran = [name for batch in bench.batches for name in batch]
    assert list(range(len(items))) == sorted([*ran, *bench.refused])
    assert (0, 0) == (len(bench.lane._queue), bench.lane._rows)
    assert all(item.call.free is None for item in told)


def test_lane_of_two_batches_begins_two_and_no_third():
    hand, ran = ByHand(), []
    lane = Lane(
        ran.append,
        hand,
        rows_max=1,
        least_s=lambda rows: 0.001 * rows,
        now_s=lambda: 0.0,
        refuse=None,
        batches_max=2,
    )
    for name in "abc":
        lane.add(Item(name))
    begun = len(hand.tasks)
    hand.run()

    assert (2, ["a", "b", "c"]) == (begun, [item.name for batch in ran for item in batch])


def test_batch_that_finds_nothing_left_does_not_run():
    hand, ran = ByHand(), []
    lane = Lane(
        ran.append,
        hand,
        rows_max=10,
        least_s=lambda rows: 0.001 * rows,
        now_s=lambda: 0.0,
        refuse=None,
        batches_max=2,
    )
    for names in ("ab", "cd"):
        for name in names:
            lane.add(Item(name))
        hand.run()

    assert [["a", "b"], ["c", "d"]] == [[item.name for item in batch] for batch in ran]


def test_lane_goes_on_after_a_bug():
    hand, ran = ByHand(), []

    def run(batch):
        ran.append(batch[0].name)
        if batch[0].name == "bug":
            raise KeyError

    lane = Lane(
        run,
        hand,
        rows_max=1,
        least_s=lambda rows: 0.001 * rows,
        now_s=lambda: 0.0,
        refuse=None,
    )
    lane.add(Item("bug"))
    lane.add(Item("next"))
    with pytest.raises(KeyError):
        hand.run()
    hand.run()

    assert ["bug", "next"] == ran


def test_place_of_who_hangs_up_is_free_at_once():
    bench = Bench(row_s=QUEUE_S_MAX / 10)
    items = [Item(number) for number in range(10)]
    bench.add(*items)
    with pytest.raises(Busy, match="QUEUE_FULL"):
        bench.add(Item("too many"))

    items[4].call.cancel()

    bench.add(Item("again"))
    bench.hand.run()
    assert [0, 1, 2, 3, 5, 6, 7, 8, 9, "again"] == bench.batches[0]


def test_batch_that_nobody_waited_for_teaches_nothing():
    bench = Bench(row_s=1.0)
    gone, heard = Item("gone"), Item("heard")
    run = bench.lane._run

    def hang_up(batch):
        gone.call.cancel()  # which ends a run early
        run(batch)

    bench.lane._run = hang_up
    bench.row_s = 0.0
    bench.add(gone)
    bench.hand.run()
    bench.add(Item("next"))
    assert 1.0 == bench.lane.wait_s()

    bench.hand.run()
    bench.add(heard)
    assert bench.lane.wait_s() < 1.0


@given(st.lists(st.integers(0, 19), max_size=20), st.integers(0, 3))
def test_what_was_not_cancelled_runs_once_in_its_order(cancelled, runs):
    bench = Bench(rows_max=4)
    items = [Item(number, priority=number % 3) for number in range(20)]
    bench.add(*items)
    bench.hand.run(runs)
    for number in cancelled:
        items[number].call.cancel()
    bench.hand.run()

    ran = [name for batch in bench.batches for name in batch]
    order = sorted(range(20), key=lambda number: (number % 3, number))
    assert ran == [name for name in order if name in ran]
    assert set(range(20)) - set(cancelled) <= set(ran)
    assert 0.0 == bench.lane.wait_s()


class Expected:
    """A lane as a list that is sorted each time, to compare with."""

    def __init__(self, rows_max):
        self.waiting, self.batches, self.rows_max = [], [], rows_max

    def run(self):
        batch = []
        for item in sorted(self.waiting, key=lambda each: each.priority):
            if batch and sum(each.rows for each in batch) + item.rows > self.rows_max:
                break
            batch.append(item)
        self.waiting = [item for item in self.waiting if item not in batch]
        if batch:
            self.batches.append([item.name for item in batch])


STEPS = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 5), st.integers(1, 3)),
    st.tuples(st.just("cancel"), st.integers(0, 60), st.none()),
    st.tuples(st.just("run"), st.none(), st.none()),
)


@given(st.lists(STEPS, max_size=80))
def test_order_and_counts_are_those_of_a_sorted_list(steps):
    bench, expected, items = Bench(rows_max=6, row_s=0.0), Expected(6), []
    for step, number, priority in steps:
        if step == "add":
            items.append(Item(len(items), number, priority))
            bench.add(items[-1])
            expected.waiting.append(items[-1])
        elif step == "cancel" and number < len(items):
            items[number].call.cancel()
            expected.waiting = [each for each in expected.waiting if each is not items[number]]
        elif step == "run" and bench.hand.tasks:
            bench.hand.run(1)
            expected.run()
        assert sum(each.rows for each in expected.waiting) == bench.lane._rows
        assert len(bench.lane._queue) <= 2 * len(expected.waiting)
    bench.hand.run()
    while expected.waiting:
        expected.run()

    assert expected.batches == bench.batches


class Counted(int):
    """A priority that counts how often it is compared."""

    compared = 0

    def __eq__(self, other):
        Counted.compared += 1
        return int(self) == int(other)

    __hash__ = int.__hash__


def test_crowd_that_hangs_up_costs_each_the_same(monkeypatch):
    monkeypatch.setattr(Counted, "compared", 0)
    bench = Bench(rows_max=1, row_s=0.0)
    items = [Item(number, priority=Counted(2)) for number in range(4_000)]
    bench.add(*items)
    for item in items:
        item.call.cancel()

    assert (0, 0) == (len(bench.lane._queue), bench.lane._rows)
    assert Counted.compared < 40 * len(items)


def test_call_that_was_cancelled_before_it_came_takes_no_place():
    bench = Bench()
    item = Item("gone")
    item.call.cancel()
    bench.add(item)
    bench.hand.run()

    assert ([], 0.0) == (bench.batches, bench.lane.wait_s())


def test_nothing_keeps_a_call_that_has_left_the_queue():
    bench, cancelled = Bench(), Item("a")
    bench.add(cancelled)
    cancelled.call.cancel()
    ran = Item("b")
    bench.add(ran)
    bench.hand.run()
    left = [weakref.ref(each) for each in (cancelled, ran)]
    del cancelled, ran

    assert [None, None] == [each() for each in left]
