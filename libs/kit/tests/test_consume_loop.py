# SPDX-License-Identifier: Apache-2.0
"""The consume loop under a seeded schedule of faults, with a reader that stands for Kafka.

What a real broker does to the loop is in tests/integration/test_kit_consume.py; here revokes, stale
positions and failures come at any point, thousands of times.
"""

import random
import threading
from collections import Counter

import pytest

from headrace.errors import Busy, Invalid, Unavailable
from headrace_kit import consume
from headrace_kit.backoff import Backoff
from headrace_kit.consume import ConsumeLoop, Unfinished
from headrace_kit.kafka import Partition
from headrace_kit.part_thread import PartThread
from headrace_kit.testing import MemoryPublisher, a_batch, a_record, wait_until

TOPIC, PARTITIONS, RECORDS = "raw.sim.v1", 3, 40
SEEDS = range(300)
FREE, WAITING, ANSWERS = Partition("raw.free.v1", 0), Partition("raw.waits.v1", 0), "answers.v1"


class SimulatedReader:
    """Kafka as the loop sees it: logs, an assignment that changes inside `read`, a seek."""

    def __init__(self, random_, owner):
        self.random, self.owner = random_, owner
        self.next, self.waiting = {}, {Partition(TOPIC, n) for n in range(PARTITIONS)}
        self.paused, self.committed, self.kept = False, {}, set()
        self.missing, self.joined, self.shared = [], True, True

    def open(self):
        pass

    def subscribe(self, topics):
        pass

    def look_for_missing(self):
        pass

    def look_for_made_again(self):
        pass

    def troubles(self):
        return self.missing

    def settled(self, topics, besides=()):
        return self.joined and self.waiting <= set(besides)

    def shared_out(self, topics):
        return self.shared

    def unplaced(self):
        return sorted(self.waiting)

    def placed(self):
        return sorted(self.next)

    def place(self, partitions, positions):
        self.next.update({each: positions.get(each, 0) for each in partitions})
        self.waiting -= set(partitions)

    def held(self):
        return self.kept

    def hold(self, topics):
        free = {each for each in self.kept if each.topic not in topics}
        held = [each for each in [*self.next, *self.waiting] if each.topic in topics]
        self.next = {each: at for each, at in self.next.items() if each not in held}
        self.waiting = (self.waiting | free) - set(held)
        self.kept = (self.kept - free) | set(held)
        return held

    def pause(self):
        self.paused = True

    def resume(self):
        self.paused = False

    def done(self, offsets):
        self.committed.update({each: at for each, at in offsets.items() if each in self.next})

    def commit(self):
        pass

    def close(self):
        pass

    def read(self, records_max, wait_s):
        if self.random.random() < 0.2 and self.next:
            self.revoke(self.random.choice(self.placed()))
        if self.paused:
            return a_batch([])
        records = []
        for partition in self.placed():
            first = self.next[partition]
            last = min(RECORDS, first + self.random.randrange(0, 8))
            records += [a_sim_record(partition.number, offset) for offset in range(first, last)]
            self.next[partition] = last
        return a_batch(records)

    def revoke(self, partition):
        self.owner.finish([partition])
        del self.next[partition]
        self.owner.forget({partition})
        self.waiting.add(partition)  # and it comes back at once


def a_sim_record(number, offset):
    value = b"%d:%d" % (number, offset)
    return a_record(value, topic=TOPIC, partition=number, offset=offset)


class SimulatedStore:
    """A handler that fails at random, before or after its effect is durable."""

    def __init__(self, random_, poison):
        self.random, self.poison = random_, poison
        self.effects, self.at = Counter(), {}

    def positions(self, partitions):
        self.maybe_fail()
        return {each: self.at[each] for each in partitions if each in self.at}

    def handle(self, records):
        self.maybe_fail()
        if any(record.value in self.poison for record in records):
            raise Invalid("BAD_TYPE")
        for record in records:
            partition = Partition(record.topic, record.partition)
            if record.offset >= self.at.get(partition, 0):
                self.effects[record.value] += 1
                self.at[partition] = record.offset + 1
        self.maybe_fail()  # durable, but the answer is lost

    def set_aside(self, record):
        self.maybe_fail()
        self.at[Partition(record.topic, record.partition)] = record.offset + 1

    def idle(self):
        self.maybe_fail()

    def maybe_fail(self):
        if self.random.random() < 0.15:
            raise self.random.choice([Busy("QUEUE_FULL"), Unavailable("RESTORING")])


class StoppingStore(SimulatedStore):
    """A handler that stops its topic at random, before it took a batch, and lets it go on later."""

    def __init__(self, random_):
        super().__init__(random_, set())
        self.why = {}

    def handle(self, records):
        if not self.why and self.random.random() < 0.3:
            self.why = {TOPIC: Invalid("BAD_DEFINITION", stream="sim")}
            return
        assert not self.why, "a stopped topic was read"
        super().handle(records)

    def idle(self):
        if self.random.random() < 0.3:
            self.why = {}
        super().idle()

    def durable(self):
        return self.at

    def drain(self, partitions):
        pass

    def stopped(self):
        return self.why


class FetchingStore(SimulatedStore):
    """A handler whose state of partition 0 is elsewhere, until it is fetched."""

    def __init__(self):
        super().__init__(random.Random(4), set())
        self.fetched, self.asked = False, []

    def maybe_fail(self):
        pass

    def positions(self, partitions):
        self.asked = partitions
        return super().positions(partitions)

    def restoring(self):
        return [each for each in self.asked if each.number == 0 and not self.fetched]

    def forget(self, partitions):
        pass


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(Backoff, "left_s", lambda self: 0.0)


def a_loop(monkeypatch, seed, handler, publisher):
    monkeypatch.setattr(
        consume,
        "GroupReader",
        lambda bootstrap, group, owner, client_id: SimulatedReader(
            random.Random(f"reader {seed}"), owner
        ),
    )
    return ConsumeLoop(
        bootstrap="", group="sim", handler=handler, dead_letters=publisher, service="sim"
    )


def ticks(loop, count):
    for _ in range(count):
        loop._tick()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_record_has_its_effect_once_or_is_set_aside(monkeypatch, seed):
    chance = random.Random(seed)
    everything = [b"%d:%d" % (n, at) for n in range(PARTITIONS) for at in range(RECORDS)]
    poison = set(chance.sample(everything, chance.randrange(0, 4)))
    store, dead = SimulatedStore(chance, poison), MemoryPublisher()
    loop = a_loop(monkeypatch, seed, store, dead)

    good = Counter(dict.fromkeys([each for each in everything if each not in poison], 1))
    for _ in range(5_000):
        loop._tick()
        if store.effects == good and poison == {message.value for message in dead.published}:
            break

    assert good == store.effects
    assert poison == {message.value for message in dead.published}


@pytest.mark.parametrize("seed", SEEDS)
def test_topic_that_was_stopped_goes_on_where_it_was(monkeypatch, seed):
    store = StoppingStore(random.Random(seed))
    loop = a_loop(monkeypatch, seed, store, MemoryPublisher())
    everything = {b"%d:%d" % (n, at): 1 for n in range(PARTITIONS) for at in range(RECORDS)}
    for _ in range(5_000):
        loop._tick()
        assert bool(store.why) == any("BAD_DEFINITION" in each for each in loop.troubles())
        if store.effects == everything:
            break

    assert everything == store.effects


def test_nothing_is_committed_before_its_effect(monkeypatch):
    chance = random.Random(1)
    store = SimulatedStore(chance, set())
    loop = a_loop(monkeypatch, 1, store, MemoryPublisher())
    for _ in range(300):
        loop._tick()
        committed = loop._reader.committed
        assert all(at <= store.at.get(each, 0) for each, at in committed.items())


@pytest.mark.parametrize("seed", SEEDS[:30])
def test_position_is_stored_behind_a_dead_letter(monkeypatch, seed):
    """The last record of each partition is bad: no later one would carry the position past it."""
    last = {b"%d:%d" % (number, RECORDS - 1) for number in range(PARTITIONS)}
    store = SimulatedStore(random.Random(seed), last)
    loop = a_loop(monkeypatch, seed, store, MemoryPublisher())

    ticks(loop, 1_000)

    assert {Partition(TOPIC, n): RECORDS for n in range(PARTITIONS)} == store.at


def test_partition_that_is_restored_waits_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(consume, "RESTORING_INTERVAL_S", 60.0)
    store = FetchingStore()
    loop = a_loop(monkeypatch, 5, store, MemoryPublisher())
    others = {Partition(TOPIC, n): RECORDS for n in (1, 2)}
    ticks(loop, 500)
    assert others == store.at
    store.fetched = True
    monkeypatch.setattr(consume, "RESTORING_INTERVAL_S", 0.0)

    ticks(loop, 500)
    assert {Partition(TOPIC, 0): RECORDS, **others} == store.at


class TwoTopicsReader(SimulatedReader):
    """Nothing moves by itself: a topic that waits for another one, and one that need not."""

    def __init__(self, random_, owner):
        super().__init__(random_, owner)
        self.waiting, self.awaited = {WAITING, FREE}, {}

    def unplaced(self):
        return sorted(each for each in self.waiting if each.topic not in self.awaited)

    def put_off(self, topic, missing):
        self.awaited[topic] = missing

    def read(self, records_max, wait_s):
        return a_batch([])


class LookingUpStore(SimulatedStore):
    """A handler as inference has one: it looks up what was answered, in a topic beside each.

    The look-up takes one call; the next one tells what came of it, once.
    """

    def __init__(self):
        super().__init__(random.Random(7), set())
        self.missing, self.looked_up, self.under_way = {ANSWERS}, set(), []

    def maybe_fail(self):
        pass

    def positions(self, partitions):
        self.under_way = [each for each in partitions if each not in self.looked_up]
        self.looked_up = (self.looked_up | {*partitions}) - ({*partitions} & self.looked_up)
        if WAITING in partitions and WAITING not in self.under_way and self.missing:
            raise Unavailable("TOPIC_MISSING", topic=ANSWERS)
        return {}

    def restoring(self):
        return self.under_way

    def forget(self, partitions):
        pass


def test_topic_that_waits_for_a_missing_one_takes_nothing_from_the_others(monkeypatch):
    monkeypatch.setattr(consume, "RESTORING_INTERVAL_S", 0.0)
    monkeypatch.setattr(f"{__name__}.SimulatedReader", TwoTopicsReader)
    store = LookingUpStore()
    loop = a_loop(monkeypatch, 7, store, MemoryPublisher())
    ticks(loop, 10)

    assert [FREE] == loop._reader.placed()
    assert {WAITING.topic: ANSWERS} == loop._reader.awaited
    assert not loop._reader.paused

    store.missing.clear()
    loop._reader.awaited.clear()  # it is there
    ticks(loop, 10)
    assert [FREE, WAITING] == loop._reader.placed()


class SteppingStore(SimulatedStore):
    """A handler that comes one record further each time."""

    def __init__(self):
        super().__init__(random.Random(6), set())

    def maybe_fail(self):
        pass

    def handle(self, records):
        for place in range(len(records)):
            before = sum(self.effects.values())
            super().handle(records[place : place + 1])
            if sum(self.effects.values()) > before and place + 1 < len(records):
                raise Unfinished


def test_what_is_unfinished_comes_again_at_once_and_is_committed_when_it_is_done(monkeypatch):
    store = SteppingStore()
    loop = a_loop(monkeypatch, 6, store, MemoryPublisher())
    for _ in range(1_000):
        loop._tick()
        assert 0 == loop._retry.tries
        assert all(at <= store.at[each] for each, at in loop._reader.committed.items())

    assert {Partition(TOPIC, n): RECORDS for n in range(PARTITIONS)} == store.at
    assert {1} == {*store.effects.values()}


class CalmReader(SimulatedReader):
    """Nothing moves by itself: partition 1 is ours, the topic of partition 0 is missing."""

    def __init__(self, random_, owner):
        super().__init__(random_, owner)
        self.waiting, self.missing = {Partition(TOPIC, 1)}, ["TOPIC_MISSING"]

    def read(self, records_max, wait_s):
        return a_batch([])


@pytest.fixture
def calm_loop(monkeypatch):
    """At work, but for its thread: the test ticks."""
    monkeypatch.setattr(PartThread, "running", True)
    monkeypatch.setattr(consume, "RESTORING_INTERVAL_S", 0.0)
    monkeypatch.setattr(f"{__name__}.SimulatedReader", CalmReader)
    monkeypatch.setattr(consume, "SHARED_OUT_INTERVAL_S", 0.0)
    loop = a_loop(monkeypatch, 5, FetchingStore(), MemoryPublisher())
    loop.subscribe([TOPIC])
    return loop


def come(loop, number):
    loop._reader.missing = []
    loop._reader.waiting.add(Partition(TOPIC, number))
    ticks(loop, 2)


def test_topic_that_was_missing_at_the_start_is_restored_before_the_loop_is_ready(calm_loop):
    ticks(calm_loop, 2)
    come(calm_loop, 0)
    assert not calm_loop.ready()
    calm_loop._handler.fetched = True

    ticks(calm_loop, 2)
    assert calm_loop.ready()


def test_topic_that_is_assigned_after_another_is_restored_before_the_loop_is_ready(calm_loop):
    calm_loop._reader.missing, calm_loop._reader.joined = [], False
    ticks(calm_loop, 2)
    calm_loop._reader.joined = True
    come(calm_loop, 0)
    assert not calm_loop.ready()
    calm_loop._handler.fetched = True

    ticks(calm_loop, 2)
    assert calm_loop.ready()


def test_topic_that_the_leader_hears_of_later_is_restored_before_the_loop_is_ready(calm_loop):
    calm_loop._reader.missing, calm_loop._reader.shared = [], False
    ticks(calm_loop, 2)
    assert not calm_loop.ready()  # all that came is placed, and something is still to come
    come(calm_loop, 0)
    calm_loop._reader.shared = True
    ticks(calm_loop, 2)
    assert not calm_loop.ready()
    calm_loop._handler.fetched = True

    ticks(calm_loop, 2)
    assert calm_loop.ready()


def test_member_that_came_late_restores_its_first_share_before_it_is_ready_again(calm_loop):
    calm_loop._reader.missing = []
    calm_loop._reader.waiting.clear()
    ticks(calm_loop, 2)
    assert calm_loop.ready()  # the others have everything
    come(calm_loop, 0)
    assert not calm_loop.ready()
    calm_loop._handler.fetched = True

    ticks(calm_loop, 2)
    assert calm_loop.ready()


def test_partition_that_another_member_gave_up_takes_nothing_from_the_rest(calm_loop):
    calm_loop._reader.missing = []
    ticks(calm_loop, 2)
    come(calm_loop, 0)

    assert [Partition(TOPIC, 0)] == calm_loop._reader.unplaced()
    assert calm_loop.ready()


class AskedStore(StoppingStore):
    """A handler that stops its topic when it is told so."""

    def __init__(self):
        super().__init__(random.Random(7))

    def maybe_fail(self):
        pass

    def idle(self):
        pass


@pytest.mark.parametrize(
    ("why", "ready"),
    [
        (Unavailable("TOPIC_MISSING", topic=TOPIC), False),
        (Unavailable("DEFINITION_AWAITED", dataschema="sim/2"), True),
        (Invalid("BAD_DEFINITION", stream="sim"), True),
    ],
)
def test_loop_stays_ready_while_a_topic_is_stopped_for_a_moment_or_until_it_is_mended(
    calm_loop, monkeypatch, why, ready
):
    loop = a_loop(monkeypatch, 7, AskedStore(), MemoryPublisher())
    loop.subscribe([TOPIC])
    loop._reader.missing = []
    ticks(loop, 2)
    assert loop.ready()
    loop._handler.why = {TOPIC: why}
    ticks(loop, 1)
    assert ready == loop.ready()
    loop._handler.why = {}
    ticks(loop, 1)

    assert [Partition(TOPIC, 1)] == loop._reader.unplaced()
    assert loop.ready()
    ticks(loop, 1)
    assert [Partition(TOPIC, 1)] == loop._reader.placed()
    loop._reader.revoke(Partition(TOPIC, 1))
    assert not loop.ready()


class StuckStore(SimulatedStore):
    """A handler that cannot go on for what `error` says."""

    error = None

    def __init__(self):
        super().__init__(random.Random(8), set())

    def maybe_fail(self):
        if self.error is not None:
            raise self.error


def test_loop_tells_what_it_waits_for_once_it_is_unready_for_that(calm_loop, monkeypatch):
    loop = a_loop(monkeypatch, 8, StuckStore(), MemoryPublisher())
    loop._reader.missing = []
    ticks(loop, 2)
    loop._handler.error = Busy("DISK_FULL")
    ticks(loop, consume.TRIES_BEFORE_UNREADY - 1)
    assert (None, True) == (loop.waits(), loop.ready())
    ticks(loop, 1)
    assert (loop._handler.error, False) == (loop.waits(), loop.ready())
    assert [str(loop._handler.error)] == loop.troubles()
    loop._handler.error = None
    ticks(loop, 1)

    assert (None, True) == (loop.waits(), loop.ready())
    assert [] == loop.troubles()


def test_stream_of_nothing_but_dead_letters_stops_the_loop(monkeypatch):
    monkeypatch.setattr(consume, "DEAD_LETTERS_IN_A_ROW_MAX", 30)
    chance = random.Random(2)
    store = SimulatedStore(chance, {b"0:%d" % at for at in range(RECORDS)})
    loop = a_loop(monkeypatch, 2, store, MemoryPublisher())
    store.poison |= {b"%d:%d" % (n, at) for n in range(PARTITIONS) for at in range(RECORDS)}

    with pytest.raises(RuntimeError, match="dead letters in a row"):
        ticks(loop, 5_000)


class HangingStore(SimulatedStore):
    """Hangs in its first batch until it is let go."""

    def __init__(self):
        super().__init__(random.Random(3), set())
        self.hangs, self.free = threading.Event(), threading.Event()

    def maybe_fail(self):
        pass

    def handle(self, records):
        self.hangs.set()
        self.free.wait(10.0)
        super().handle(records)


def test_tick_grows_old_while_a_handler_hangs_and_is_young_again_afterwards(monkeypatch):
    store = HangingStore()
    loop = a_loop(monkeypatch, 3, store, MemoryPublisher())
    loop.start()
    try:
        assert store.hangs.wait(5.0)
        wait_until(lambda: loop.tick_age_s() > 0.3)
        store.free.set()
        wait_until(lambda: loop.tick_age_s() < 0.1)
    finally:
        loop.stop(5.0)
