# SPDX-License-Identifier: Apache-2.0
"""A lane: at once when idle, together when not, the urgent first, and never more than in time."""

import weakref
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import Busy
from headrace_inference.adapters.lanes import QUEUE_S_MAX, Lane
from headrace_kit.auth import EVERYBODY
from headrace_kit.hot_calls import HotCall


def a_call():
    return HotCall(b"", caller=EVERYBODY, arrived_s=0.0, deadline_s=60.0, reply=lambda *_: None)


@dataclass(frozen=True)
class Item:
    name: object
    rows: int = 1
    priority: int = 2
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
        self.batch_s, self.row_s = batch_s, row_s
        self.on_run = lambda: None
        self.lane = Lane(
            self._run,
            self.hand,
            rows_max=rows_max,
            least_s=lambda rows: tried * (batch_s + row_s * rows),
            now_s=lambda: self.now_s,
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
    bench.add(*(Item(number) for number in range(60)))
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


def test_lane_of_two_batches_begins_two_and_no_third():
    hand, ran = ByHand(), []
    lane = Lane(
        ran.append,
        hand,
        rows_max=1,
        least_s=lambda rows: 0.001 * rows,
        now_s=lambda: 0.0,
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

    lane = Lane(run, hand, rows_max=1, least_s=lambda rows: 0.001 * rows, now_s=lambda: 0.0)
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
