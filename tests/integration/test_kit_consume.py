# SPDX-License-Identifier: Apache-2.0
"""The consume loop and the follower on a real broker: nothing lost, twice, or blocked."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from types import SimpleNamespace

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client import REGISTRY

from headrace.errors import Busy, Invalid, Unavailable
from headrace_kit.consume import ConsumeLoop, TopicsAwaited
from headrace_kit.follow import TableFollower
from headrace_kit.kafka import KafkaPublisher, Message, Partition
from headrace_kit.offsets import (
    committed_offsets,
    group_assignments,
    partitions_by_topic,
    topic_end_offsets,
    topic_partitions,
    was_read,
)
from headrace_kit.reader import GroupReader
from headrace_kit.testing import MemoryPublisher, wait_until

pytestmark = pytest.mark.integration

MANY = 150  # partitions
STOP_S_MAX = 60.0  # a loop that is given up earlier works on beside its heir
SKIPPED = "headrace_follower_skipped_records_total"


class Store:
    """What outlives a loop: the effects by event id and the next offset, changed together."""

    def __init__(self):
        self.effects = Counter()
        self.positions, self.topic_ids = {}, {}
        self.lock = threading.Lock()

    def holds(self, *values):
        """Whether these have one effect each, and nothing else has any.

        Under the lock: counters are compared in Python, and a loop may add to one meanwhile.
        """
        with self.lock:
            return self.effects == each_once(values)


class StoringHandler:
    """A handler as services have it: offsets live with the data, a repeat of one is cut away."""

    def __init__(self, store):
        self.store = store
        self.error = None
        self.tries = 0
        self.poison = set()

    def positions(self, partitions):
        found = self.store.positions
        return {each: found[each] for each in partitions if each in found}

    def handle(self, records):
        self.tries += 1
        if self.error is not None:
            raise self.error
        if any(record.value in self.poison for record in records):
            raise Invalid("BAD_TYPE")
        with self.store.lock:
            for record in records:
                partition = Partition(record.topic, record.partition)
                if record.offset >= self.store.positions.get(partition, 0):
                    self.store.effects[record.value] += 1
                    self.store.positions[partition] = record.offset + 1

    def idle(self):
        pass


@pytest.fixture
def quiet_owner():
    return SimpleNamespace(finish=lambda partitions: None, forget=lambda partitions: None)


@pytest.fixture
def start_loop(kafka_server):
    loops = []

    def start(topics, handler, *, group=None, dead_letters=None, **options):
        loop = ConsumeLoop(
            bootstrap=kafka_server,
            group=group or f"group-{uuid.uuid4().hex}",
            handler=handler,
            dead_letters=dead_letters or MemoryPublisher(),
            service="test",
            **options,
        )
        loop.subscribe(topics)
        loops.append(loop)
        loop.start()
        return loop

    yield start
    for loop in loops:
        loop.stop(STOP_S_MAX)


def messages(topic, values):
    return [Message(topic, value, value) for value in values]


def numbers(first, last):
    return [b"%d" % number for number in range(first, last)]


def each_once(values):
    return Counter(dict.fromkeys(values, 1))


def test_records_are_handled_once_and_the_group_shows_no_lag(
    kafka_server, new_topic, publisher, start_loop
):
    topic, store, group = new_topic(4), Store(), f"group-{uuid.uuid4().hex}"
    publisher.publish(messages(topic, numbers(0, 1000)))

    start_loop([topic], StoringHandler(store), group=group)

    wait_until(lambda: store.holds(*numbers(0, 1000)))
    ends = topic_end_offsets(kafka_server, [topic])
    wait_until(lambda: committed_offsets(kafka_server, group, [topic]) == ends)


def test_stopped_loop_has_committed_what_it_did(kafka_server, new_topic, publisher, start_loop):
    topic, store, group = new_topic(2), Store(), f"group-{uuid.uuid4().hex}"
    loop = start_loop([topic], StoringHandler(store), group=group)
    publisher.publish(messages(topic, numbers(0, 100)))
    wait_until(lambda: len(store.effects) == 100)

    loop.stop(STOP_S_MAX)

    ends = topic_end_offsets(kafka_server, [topic])
    assert ends == committed_offsets(kafka_server, group, [topic])
    assert was_read(kafka_server, group, topic)
    assert not was_read(kafka_server, group, f"test.{uuid.uuid4().hex}.v1")


def test_restart_goes_on_where_the_store_stands_and_not_the_group(new_topic, publisher, start_loop):
    topic, store, group = new_topic(1), Store(), f"group-{uuid.uuid4().hex}"
    publisher.publish(messages(topic, numbers(0, 10)))
    loop = start_loop([topic], StoringHandler(store), group=group)
    wait_until(lambda: len(store.effects) == 10)
    loop.stop(STOP_S_MAX)
    for number in range(5, 10):  # the machine lost the last half of the store
        del store.effects[b"%d" % number]
    store.positions[Partition(topic, 0)] = 5

    start_loop([topic], StoringHandler(store), group=group)

    wait_until(lambda: store.holds(*numbers(0, 10)))


def test_position_that_the_group_never_committed_is_committed_on_assign(
    kafka_server, new_topic, publisher, start_loop
):
    topic, store, group = new_topic(1), Store(), f"group-{uuid.uuid4().hex}"
    publisher.publish(messages(topic, numbers(0, 3)))
    store.positions[Partition(topic, 0)] = 3  # crashed after the effect, before the commit

    start_loop([topic], StoringHandler(store), group=group)

    wait_until(lambda: committed_offsets(kafka_server, group, [topic]) == {(topic, 0): 3})
    assert not store.effects


def test_poison_record_is_set_aside_and_the_others_are_handled(new_topic, publisher, start_loop):
    topic, store, dead = new_topic(1), Store(), MemoryPublisher()
    handler = StoringHandler(store)
    handler.poison = {b"17", b"63"}
    publisher.publish(messages(topic, numbers(0, 100)))

    start_loop([topic], handler, dead_letters=dead)

    good = [value for value in numbers(0, 100) if value not in handler.poison]
    wait_until(lambda: store.holds(*good))
    wait_until(lambda: len(dead.published) == 2)
    assert [f"{topic}:0:17".encode(), f"{topic}:0:63".encode()] == [m.key for m in dead.published]
    assert {"test.dead-letters.v1"} == {message.topic for message in dead.published}
    assert b"BAD_TYPE" == dict(dead.published[0].headers)["dl-reason"]
    assert b"17" == dead.published[0].value


def test_dead_letter_that_cannot_be_delivered_stops_the_partition_until_it_can(
    new_topic, publisher, start_loop
):
    topic, store, dead = new_topic(1), Store(), MemoryPublisher()
    handler = StoringHandler(store)
    handler.poison = {b"0"}
    dead.errors = [Unavailable("TOPIC_MISSING"), Busy("QUEUE_FULL")]
    publisher.publish(messages(topic, numbers(0, 3)))

    start_loop([topic], handler, dead_letters=dead)

    wait_until(lambda: store.holds(b"1", b"2"))
    assert [b"0"] == [message.value for message in dead.published]


def test_unavailable_dependency_loses_nothing_and_makes_unready(new_topic, publisher, start_loop):
    topic, store = new_topic(2), Store()
    handler = StoringHandler(store)
    handler.error = Unavailable("OBJECT_STORE_UNAVAILABLE")
    loop = start_loop([topic], handler)
    wait_until(loop.ready)
    publisher.publish(messages(topic, numbers(0, 50)))
    wait_until(lambda: handler.tries >= 3)
    wait_until(lambda: not loop.ready())
    publisher.publish(messages(topic, numbers(50, 100)))
    assert not store.effects

    handler.error = None

    wait_until(lambda: store.holds(*numbers(0, 100)))
    wait_until(loop.ready)


def test_group_keeps_its_member_while_a_dependency_is_down(new_topic, publisher, start_loop):
    topic, store, group = new_topic(2), Store(), f"group-{uuid.uuid4().hex}"
    stuck = StoringHandler(store)
    stuck.error = Unavailable("OBJECT_STORE_UNAVAILABLE")
    publisher.publish(messages(topic, numbers(0, 20)))
    start_loop([topic], stuck, group=group)
    wait_until(lambda: stuck.tries >= 1)

    other = start_loop([topic], StoringHandler(store), group=group)  # the stuck one must take part

    wait_until(other.ready)
    stuck.error = None
    wait_until(lambda: store.holds(*numbers(0, 20)))


def test_bug_stops_the_loop_without_a_commit(kafka_server, new_topic, publisher, start_loop):
    topic, group = new_topic(1), f"group-{uuid.uuid4().hex}"
    handler = StoringHandler(Store())
    handler.error = KeyError("bug")
    publisher.publish(messages(topic, numbers(0, 3)))

    loop = start_loop([topic], handler, group=group)

    assert isinstance(wait_until(loop.failed), KeyError)
    assert not loop.ready()
    assert not any(committed_offsets(kafka_server, group, [topic]).values())


def test_group_shows_the_lag_of_a_handler_that_has_lost_its_effects(
    kafka_server, new_topic, publisher, start_loop
):
    topic, group = new_topic(1), f"group-{uuid.uuid4().hex}"
    publisher.publish(messages(topic, numbers(0, 3)))
    first = start_loop([topic], StoringHandler(Store()), group=group)
    wait_until(lambda: sum(committed_offsets(kafka_server, group, [topic]).values()) == 3)
    first.stop(STOP_S_MAX)

    handler = StoringHandler(Store())
    handler.error = Unavailable("SERVICE_UNAVAILABLE")
    start_loop([topic], handler, group=group)

    wait_until(lambda: not any(committed_offsets(kafka_server, group, [topic]).values()))


def test_topic_can_be_added_to_and_taken_from_a_running_loop(new_topic, publisher, start_loop):
    first, second, store = new_topic(1), new_topic(2), Store()
    loop = start_loop([first], StoringHandler(store))
    publisher.publish([*messages(first, [b"a"]), *messages(second, [b"b"])])
    wait_until(lambda: store.holds(b"a"))

    loop.subscribe([first, second])
    wait_until(lambda: store.holds(b"a", b"b"))
    loop.subscribe([second])
    wait_until(loop.ready)
    publisher.publish([*messages(first, [b"unread"]), *messages(second, [b"c"])])

    wait_until(lambda: store.holds(b"a", b"b", b"c"))


def test_loop_without_topics_is_ready_and_idle(start_loop):
    idle = threading.Event()
    handler = StoringHandler(Store())
    handler.idle = idle.set

    loop = start_loop([], handler)

    wait_until(loop.ready)
    assert idle.wait(5.0)


def test_missing_topic_makes_unready_until_it_is_created(new_topic, publisher, start_loop):
    name, store = f"test.{uuid.uuid4().hex}.v1", Store()
    loop = start_loop([name], StoringHandler(store))
    wait_until(lambda: loop.troubles() == [f"TOPIC_MISSING {name}"])
    assert not loop.ready()

    new_topic(1, name=name)
    publisher.publish(messages(name, [b"a"]))

    wait_until(lambda: store.holds(b"a"))
    wait_until(loop.ready)


def delete(kafka_server, topic):
    """Returns when the broker knows the topic no more."""
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})
    admin.delete_topics([topic])[topic].result(30.0)
    wait_until(lambda: not partitions_by_topic(kafka_server, [topic]))


def test_topics_that_are_missing_take_nothing_from_the_others(
    kafka_server, new_topic, publisher, start_loop
):
    kept, deleted, never = new_topic(2), new_topic(2), f"test.{uuid.uuid4().hex}.v1"
    store, group = Store(), f"group-{uuid.uuid4().hex}"
    handler, told = StoringHandler(store), sorted([deleted, never])
    publisher.publish([*messages(kept, [b"0"]), *messages(deleted, [b"once"])])
    loop = start_loop([kept, deleted, never], handler, group=group)
    wait_until(lambda: store.holds(b"0", b"once"))
    assert [f"TOPIC_MISSING {never}"] == loop.troubles()

    delete(kafka_server, deleted)
    loop.reposition()
    publisher.publish(messages(kept, numbers(1, 10)))
    wait_until(lambda: store.holds(b"once", *numbers(0, 10)))
    wait_until(lambda: loop.troubles() == [f"TOPIC_MISSING {topic}" for topic in told])

    loop.stop(STOP_S_MAX)
    publisher.publish(messages(kept, numbers(10, 20)))
    loop = start_loop([kept, deleted, never], handler, group=group)
    wait_until(lambda: store.holds(b"once", *numbers(0, 20)))
    wait_until(lambda: loop.troubles() == [f"TOPIC_MISSING {topic}" for topic in told])
    assert not loop.ready()

    new_topic(1, name=never)
    publisher.publish(messages(never, [b"made"]))
    wait_until(lambda: store.holds(b"once", b"made", *numbers(0, 20)))


def test_partitions_are_placed_beside_one_whose_topic_was_deleted_meanwhile(
    kafka_server, new_topic, publisher, quiet_owner
):
    kept, deleted = new_topic(1), new_topic(1)
    reader = GroupReader(kafka_server, f"group-{uuid.uuid4().hex}", quiet_owner)
    reader.open()
    reader.subscribe(frozenset({kept, deleted}))
    wait_until(lambda: reader.read(1, 0.1) or len(reader.unplaced()) == 2)
    delete(kafka_server, deleted)

    wait_until(lambda: reader.place(reader.unplaced(), {}) or reader.placed())

    assert [Partition(kept, 0)] == reader.placed()
    assert [] == reader.unplaced()
    publisher.publish(messages(kept, [b"a"]))
    wait_until(lambda: reader.resume() or [b"a"] == reader.read(1, 0.5).values())
    reader.close()


def test_topic_made_again_with_fewer_partitions_is_read_on(
    kafka_server, new_topic, publisher, start_loop
):
    kept, shrunk, store = new_topic(2), new_topic(6), Store()
    publisher.publish([*messages(kept, [b"0"]), *messages(shrunk, numbers(100, 200))])
    loop = start_loop([kept, shrunk], StoringHandler(store))
    wait_until(lambda: len(store.effects) == 101)

    delete(kafka_server, shrunk)
    new_topic(2, name=shrunk)
    with store.lock:
        store.positions = {each: at for each, at in store.positions.items() if each.topic == kept}
    loop.reposition()
    publisher.publish(messages(kept, numbers(1, 10)))
    wait_until(lambda: set(numbers(0, 10)) <= store.effects.keys())
    others = KafkaPublisher(kafka_server, client_id="others")  # who knows the new partitions
    others.publish(messages(shrunk, numbers(200, 300)))
    others.close(5.0)

    wait_until(lambda: store.holds(*numbers(0, 10), *numbers(100, 300)))
    wait_until(loop.ready)
    assert [] == loop.troubles()


class FollowingStore(StoringHandler):
    """Stores the topics' ids with its positions."""

    def follow_topics(self, topic_ids):
        with self.store.lock:
            for topic, topic_id in topic_ids.items():
                if self.store.topic_ids.setdefault(topic, topic_id) != topic_id:
                    self.store.topic_ids[topic] = topic_id
                    held = self.store.positions.items()
                    self.store.positions = {e: at for e, at in held if e.topic != topic}


def make_again(kafka_server, new_topic, topic, values):
    """Under the old name, with these records, by who knows nothing of the old one."""
    delete(kafka_server, topic)
    new_topic(1, name=topic)
    others = KafkaPublisher(kafka_server, client_id="others")
    others.publish(messages(topic, values))
    others.close(5.0)


@pytest.mark.parametrize("records", [3, 30], ids=["shorter", "longer"])
@pytest.mark.parametrize("away", [False, True], ids=["running", "restarted"])
def test_topic_that_is_made_again_is_read_from_its_beginning(
    kafka_server, new_topic, publisher, start_loop, records, away
):
    topic, kept, store = new_topic(1), new_topic(1), Store()
    group, new = f"group-{uuid.uuid4().hex}", numbers(100, 100 + records)
    publisher.publish([*messages(topic, numbers(0, 10)), *messages(kept, [b"once"])])
    loop = start_loop([topic, kept], FollowingStore(store), group=group)
    wait_until(lambda: store.holds(*numbers(0, 10), b"once"))

    if away:
        loop.stop(STOP_S_MAX)
    make_again(kafka_server, new_topic, topic, new)
    if away:
        loop = start_loop([topic, kept], FollowingStore(store), group=group)

    wait_until(lambda: {*new} <= store.effects.keys())
    wait_until(loop.ready)
    assert [] == loop.troubles()
    before = {each: count for each, count in store.effects.items() if each not in new}
    assert each_once([*numbers(0, 10), b"once"]) == before
    wait_until(lambda: committed_offsets(kafka_server, group, [topic]) == {(topic, 0): records})


def test_commit_that_comes_late_for_a_topic_of_before_counts_for_none(
    kafka_server, new_topic, publisher, start_loop
):
    topic, store, group = new_topic(1), Store(), f"group-{uuid.uuid4().hex}"
    publisher.publish(messages(topic, numbers(0, 3)))
    loop = start_loop([topic], FollowingStore(store), group=group)
    wait_until(lambda: committed_offsets(kafka_server, group, [topic]) == {(topic, 0): 3})
    loop.stop(STOP_S_MAX)
    make_again(kafka_server, new_topic, topic, numbers(0, 5))
    late = Consumer({"bootstrap.servers": kafka_server, "group.id": group, "log_level": 0})
    late.commit(offsets=[TopicPartition(topic, 0, 3, store.topic_ids[topic])], asynchronous=False)
    late.close()

    assert {} == committed_offsets(kafka_server, group, [topic])


def test_topic_whose_placing_needs_a_missing_one_takes_nothing_from_the_others(
    kafka_server, new_topic, publisher, start_loop
):
    free, waits, needed, store = new_topic(2), new_topic(2), f"test.{uuid.uuid4().hex}.v1", Store()

    class Needing(StoringHandler):
        def positions(self, partitions):
            if any(each.topic == waits for each in partitions):
                topic_partitions(kafka_server, [needed])
            return super().positions(partitions)

    publisher.publish([*messages(free, numbers(0, 10)), *messages(waits, [b"late"])])
    loop = start_loop([free, waits], Needing(store))
    wait_until(lambda: store.holds(*numbers(0, 10)))
    assert [f"TOPIC_MISSING {needed}"] == loop.troubles()

    new_topic(1, name=needed)
    wait_until(lambda: store.holds(b"late", *numbers(0, 10)))
    wait_until(loop.ready)


def test_topic_whose_records_need_a_missing_one_takes_nothing_from_the_others(
    kafka_server, new_topic, publisher, start_loop
):
    free, waits, needed, store = new_topic(2), new_topic(2), f"test.{uuid.uuid4().hex}.v1", Store()

    class Needing(StoringHandler):
        def handle(self, records):
            if waits in records.by_topic() and not partitions_by_topic(kafka_server, [needed]):
                raise TopicsAwaited({waits: needed})
            super().handle(records)

    publisher.publish([*messages(free, numbers(0, 10)), *messages(waits, [b"late"])])
    loop = start_loop([free, waits], Needing(store))
    wait_until(lambda: store.holds(*numbers(0, 10)))
    wait_until(lambda: [f"TOPIC_MISSING {needed}"] == loop.troubles())
    publisher.publish([*messages(free, numbers(10, 20)), *messages(waits, [b"later"])])
    wait_until(lambda: store.holds(*numbers(0, 20)))
    assert not loop.ready()

    new_topic(1, name=needed)
    wait_until(lambda: store.holds(b"late", b"later", *numbers(0, 20)))
    wait_until(loop.ready)


def test_many_partitions_are_placed_while_others_are_fetched(
    kafka_server, new_topic, publisher, quiet_owner
):
    """A broker holds the fetch of a quiet partition back, and all that is asked behind it."""
    quiet, many, group = new_topic(1), new_topic(MANY), f"group-{uuid.uuid4().hex}"
    publisher.publish([Message(many, None, b"%d" % n, partition=n) for n in range(MANY)])
    reader = GroupReader(kafka_server, group, quiet_owner)
    reader.open()
    reader.subscribe(frozenset({quiet, many}))
    wait_until(lambda: reader.read(1, 0.1) or len(reader.unplaced()) == MANY + 1)
    reader.place([Partition(quiet, 0)], {})
    wait_until(lambda: reader.resume() or reader.read(1, 0.5) or reader.placed())

    wait_until(lambda: reader.place(reader.unplaced(), {}) or not reader.unplaced())

    values = Counter()
    wait_until(lambda: reader.resume() or values.update(_read(reader)) or len(values) == MANY)
    reader.close()
    assert values == each_once(numbers(0, MANY))


def _read(reader):
    return reader.read(MANY, 0.1).values()


def test_lost_offset_makes_unready_and_skips_nothing_silently(
    kafka_server, new_topic, publisher, start_loop
):
    topic, store = new_topic(1), Store()
    publisher.publish(messages(topic, numbers(0, 10)))
    store.positions[Partition(topic, 0)] = 2
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})
    cut = TopicPartition(topic, 0, 5)
    admin.delete_records([cut])[cut].result(10.0)

    loop = start_loop([topic], StoringHandler(store))

    wait_until(lambda: loop.troubles() == [f"OFFSET_LOST {topic}[0]"])
    assert not loop.ready()
    assert not store.effects


def test_topic_whose_beginning_was_removed_is_read_from_where_it_begins_now(
    kafka_server, new_topic, publisher, start_loop
):
    topic, store = new_topic(1), Store()
    publisher.publish(messages(topic, numbers(0, 10)))
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})
    cut = TopicPartition(topic, 0, 5)
    admin.delete_records([cut])[cut].result(10.0)

    for again in range(5):  # what an assignment asks for and its placing race
        loop = start_loop([topic], StoringHandler(store))
        wait_until(loop.ready)
        wait_until(lambda: store.holds(*numbers(5, 10)))
        loop.stop(STOP_S_MAX)
        assert not loop.troubles(), again


@pytest.mark.parametrize("round", range(3))
def test_position_after_deleted_records_is_no_trouble(
    kafka_server, new_topic, publisher, start_loop, round
):
    topic, store = new_topic(1), Store()
    publisher.publish(messages(topic, numbers(0, 10)))
    store.positions[Partition(topic, 0)] = 7
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})
    cut = TopicPartition(topic, 0, 5)
    admin.delete_records([cut])[cut].result(10.0)

    loop = start_loop([topic], StoringHandler(store))

    wait_until(lambda: store.holds(*numbers(7, 10)))
    wait_until(loop.ready)


def test_handler_without_a_position_starts_where_the_topic_starts(
    kafka_server, new_topic, publisher, start_loop
):
    topic, store = new_topic(1), Store()
    publisher.publish(messages(topic, numbers(0, 10)))
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})
    cut = TopicPartition(topic, 0, 5)
    admin.delete_records([cut])[cut].result(10.0)

    start_loop([topic], StoringHandler(store))

    wait_until(lambda: store.holds(*numbers(5, 10)))


def test_loop_that_is_repositioned_reads_again_from_what_its_handler_says(
    new_topic, publisher, start_loop
):
    topic, store = new_topic(2), Store()
    publisher.publish(messages(topic, numbers(0, 10)))
    loop = start_loop([topic], StoringHandler(store))
    wait_until(lambda: store.holds(*numbers(0, 10)))

    store.positions.clear()
    loop.reposition()

    wait_until(lambda: sum(store.effects.values()) == 20)


def test_rebalance_between_two_loops_loses_nothing_and_doubles_nothing(
    new_topic, publisher, start_loop
):
    topic, store, group = new_topic(4), Store(), f"group-{uuid.uuid4().hex}"
    sent = 0
    start_loop([topic], StoringHandler(store), group=group, batch_records_max=50)
    for _ in range(3):
        publisher.publish(messages(topic, numbers(sent, sent + 500)))
        other = start_loop([topic], StoringHandler(store), group=group, batch_records_max=50)
        wait_until(other.ready)
        publisher.publish(messages(topic, numbers(sent + 500, sent + 1000)))
        other.stop(STOP_S_MAX)
        sent += 1000

    wait_until(lambda: sum(store.effects.values()) >= sent)
    assert store.effects == each_once(numbers(0, sent))


def test_stopped_loop_hands_its_partitions_over_at_once(
    new_topic, publisher, start_loop, monkeypatch
):
    monkeypatch.setattr("headrace_kit.reader.SESSION_TIMEOUT_MS", 120_000)  # longer than we wait
    topic, store, group = new_topic(2), Store(), f"group-{uuid.uuid4().hex}"
    first = start_loop([topic], StoringHandler(store), group=group)
    wait_until(first.ready)
    first.stop(STOP_S_MAX)

    second = start_loop([topic], StoringHandler(store), group=group)

    wait_until(second.ready)


def test_follower_has_the_whole_table_when_it_has_started(kafka_server, new_topic, publisher):
    topic = new_topic(2, cleanup_policy="compact")
    publisher.publish([Message(topic, b"a", b"1"), Message(topic, b"b", b"1")])
    publisher.publish([Message(topic, b"a", b"2")])
    table = {}
    follower = TableFollower(
        bootstrap=kafka_server,
        topic=topic,
        on_record=lambda r: table.update({r.key: r.value}),
        service="follower",
    )
    follower.start(10.0)
    try:
        assert {b"a": b"2", b"b": b"1"} == table
        publisher.publish([Message(topic, b"b", None)])
        wait_until(lambda: table == {b"a": b"2", b"b": None})
    finally:
        follower.stop(STOP_S_MAX)


def test_follower_waits_for_its_dependency_and_skips_what_it_refuses(
    kafka_server, new_topic, publisher
):
    topic, seen = new_topic(1), []
    errors = {b"late": [Unavailable("SERVICE_UNAVAILABLE")], b"bad": [Invalid("BAD_TYPE")]}

    def on_record(record):
        if errors.get(record.value):
            raise errors[record.value].pop()
        seen.append(record.value)

    skipped_before = skipped()
    publisher.publish(messages(topic, [b"late", b"bad", b"good"]))
    follower = TableFollower(
        bootstrap=kafka_server, topic=topic, on_record=on_record, service="follower"
    )
    follower.start(10.0)
    try:
        assert [b"late", b"good"] == seen
        assert 1.0 == skipped() - skipped_before
    finally:
        follower.stop(STOP_S_MAX)


def skipped():
    """By all followers of this process so far."""
    return REGISTRY.get_sample_value(SKIPPED, {"reason": "BAD_TYPE"}) or 0.0


def test_tick_of_a_follower_grows_old_while_it_hangs(kafka_server, new_topic, publisher):
    topic, free = new_topic(1), threading.Event()
    follower = TableFollower(
        bootstrap=kafka_server,
        topic=topic,
        on_record=lambda record: free.wait(10.0),
        service="follower",
    )
    follower.start(10.0)
    publisher.publish(messages(topic, [b"x"]))
    try:
        wait_until(lambda: follower.tick_age_s() > 1.0)
        free.set()
        wait_until(lambda: follower.tick_age_s() < 0.5)
    finally:
        free.set()
        follower.stop(STOP_S_MAX)


def test_follower_of_a_missing_topic_names_it(kafka_server):
    follower = TableFollower(
        bootstrap=kafka_server,
        topic="test.absent.v1",
        on_record=lambda record: None,
        service="follower",
    )
    with pytest.raises(Unavailable, match=r"TOPIC_MISSING.*test\.absent\.v1"):
        follower.start(1.0)
    follower.stop(1.0)


def test_follower_of_a_topic_that_is_made_again_tells(kafka_server, new_topic):
    """It would go on at its place in the one before, and its table might lack rows."""
    topic = new_topic(1)
    follower = TableFollower(
        bootstrap=kafka_server, topic=topic, on_record=lambda record: None, service="follower"
    )
    follower.start(10.0)
    first = follower.topic_id
    make_again(kafka_server, new_topic, topic, numbers(0, 3))

    assert isinstance(wait_until(follower.failed), Unavailable)
    follower.stop(STOP_S_MAX)
    again = TableFollower(
        bootstrap=kafka_server, topic=topic, on_record=lambda record: None, service="follower"
    )
    again.start(10.0)
    assert first != again.topic_id
    again.stop(STOP_S_MAX)


def test_follower_that_meets_a_bug_tells(kafka_server, new_topic, publisher):
    topic = new_topic(1)
    follower = TableFollower(
        bootstrap=kafka_server, topic=topic, on_record=lambda record: 1 / 0, service="follower"
    )
    follower.start(10.0)
    publisher.publish(messages(topic, [b"x"]))

    assert isinstance(wait_until(follower.failed), ZeroDivisionError)
    follower.stop(STOP_S_MAX)


def test_group_is_asked_whether_it_has_given_out_all(kafka_server, new_topic, start_loop):
    topic, group = new_topic(4), f"group-{uuid.uuid4().hex}"
    loops = [start_loop([topic], StoringHandler(Store()), group=group) for _ in range(2)]
    wait_until(lambda: all(loop.ready() for loop in loops))

    wanted = {Partition(topic, number) for number in range(4)}
    wait_until(lambda: wanted == set().union(*group_assignments(kafka_server, group).values()))
    assert 2 == len(group_assignments(kafka_server, group))
