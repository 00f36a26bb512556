# SPDX-License-Identifier: Apache-2.0
"""A member of a consumer group: its partitions, where each stands, and what is wrong with them.

A partition that is assigned stays paused until it is told where to start (`place`); it is never
started from the group's offset, and an offset that Kafka has no longer is a trouble, not a jump.
Not for several threads: the loop alone calls it, and the callbacks run inside its calls.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from headrace.errors import Unavailable
from headrace.missing_topics import MISSING_TOPIC
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Partition, RecordBatch, await_broker, client_settings
from headrace_kit.missing_topics import MissingTopics
from headrace_kit.offset_commits import OffsetCommits
from headrace_kit.offsets import group_assignments, topic_partitions
from headrace_kit.topic_ids import TopicIds

FETCH_KIB_MAX = 16_384
GATHER_S = 0.002
GOODBYE_TIMEOUT_S = 1.0
REQUEST_TIMEOUT_S = 2.0
# Partitions whose brokers are woken when reading goes on: each question may take 0.1 s.
WOKEN_MAX = 8
SESSION_TIMEOUT_MS = 6_000

log = structlog.get_logger(__name__)


class Owner(Protocol):
    """Who works on what the reader reads."""

    def finish(self, partitions: Sequence[Partition]) -> None:
        """Finish or forget what was begun: another member gets these partitions next."""

    def forget(self, partitions: Collection[Partition]) -> None:
        """These partitions are another member's now."""


class GroupReader:
    """Reads the partitions that the group gives it; see the module."""

    def __init__(
        self, bootstrap: str, group: str, owner: Owner, client_id: str | None = None
    ) -> None:
        self._bootstrap, self._group, self._owner = bootstrap, group, owner
        self._client_id = client_id or group
        self._consumer: Any = None
        self._subscribed: frozenset[str] = frozenset()
        self._joined = self._paused = False
        self._next: dict[Partition, int] = {}  # placed partitions and what they give next
        self._unplaced: set[Partition] = set()
        self._held: frozenset[Partition] = frozenset()
        self._commits, self._missing = OffsetCommits(), MissingTopics()
        self._gone: set[Partition] = set()  # of a topic that has fewer now; the group's still
        self._lost: set[Partition] = set()
        self._ids = TopicIds(bootstrap)

    def open(self) -> None:
        """Make the client; raises Unavailable BROKER_UNAVAILABLE after 30 s without an answer."""
        self._consumer = Consumer(
            client_settings(self._bootstrap, self._client_id)
            | {
                "auto.offset.reset": "error",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "fetch.queue.backoff.ms": 20,
                "fetch.wait.max.ms": 100,
                "group.id": self._group,
                "group.protocol": "classic",
                "heartbeat.interval.ms": SESSION_TIMEOUT_MS // 3,
                "isolation.level": "read_committed",
                "on_commit": self._on_commit,
                "partition.assignment.strategy": "cooperative-sticky",
                "queued.max.messages.kbytes": FETCH_KIB_MAX,
                "session.timeout.ms": SESSION_TIMEOUT_MS,
            }
        )
        await_broker(self._consumer, self._bootstrap)

    def close(self) -> None:
        """Finish and leave the group, so that the others need not wait for a session to end."""
        if self._consumer is None:
            return
        self.commit()
        try:
            self._consumer.list_topics("__consumer_offsets", timeout=GOODBYE_TIMEOUT_S)
        except KafkaException:  # leaving waits for the broker's answer; the process need not
            log.warning("left_without_goodbye", group=self._group)
            threading.Thread(target=self._consumer.close, daemon=True).start()
        else:
            self._consumer.close()

    def settled(self, topics: frozenset[str], besides: Collection[Partition] = ()) -> bool:
        """Subscribed to these, assigned, placed but for some."""
        joined = self._joined or not topics
        return topics == self._subscribed and joined and self._unplaced <= self._gone | {*besides}

    def shared_out(self, topics: Collection[str]) -> bool:
        """Whether the group has given out every partition of these topics, and ours came here.

        A leader that has not heard yet of a new topic gives none of it to anybody, and notices up
        to some seconds later. Asks Kafka.
        """
        try:
            wanted = set(topic_partitions(self._bootstrap, topics, timeout_s=REQUEST_TIMEOUT_S))
            given = group_assignments(self._bootstrap, self._group, timeout_s=REQUEST_TIMEOUT_S)
        except Unavailable:
            return False
        ours = given.get(self._consumer.memberid(), frozenset())
        here = {*self._next, *self._unplaced, *self._held}
        return wanted <= set().union(*given.values()) and ours <= here

    def troubles(self) -> list[str]:
        """What does not mend itself, e.g. `TOPIC_MISSING raw.flights.departed.v1`."""
        missing = [f"TOPIC_MISSING {topic}" for topic in self._missing.named()]
        return missing + [f"OFFSET_LOST {each.topic}[{each.number}]" for each in sorted(self._lost)]

    def subscribe(self, topics: frozenset[str]) -> None:
        """Read exactly these topics; nothing happens when they are the same as before."""
        if topics == self._subscribed:
            return
        self._subscribed, self._joined = topics, False
        self._missing.keep(topics)
        if topics:
            self._consumer.subscribe(
                sorted(topics),
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
        else:
            self._consumer.unsubscribe()

    def read(self, records_max: int, wait_s: float) -> RecordBatch:
        """The records that come within the time; polls the group even when all is paused.

        The first one is waited for; then only as long as pays for handling them together.
        """
        received = self._consumer.consume(1, wait_s)
        if received:
            received += self._consumer.consume(records_max - 1, min(GATHER_S, wait_s))
        messages = []
        for message in received:
            if message.error() is None:
                messages.append(message)
            else:
                self._note_error(message)
        return self._ours(RecordBatch(messages))

    def _ours(self, records: RecordBatch) -> RecordBatch:
        """Without what was fetched before a seek or a revoke: it is not ours to handle."""
        never, kept = 2**63, list[range]()
        for partition, first, end in records.runs:
            due = self._next.get(partition, never)
            place = first
            while place < end and records.offsets[place] < due:
                place += 1
            if place < end:
                kept.append(range(place, end))
                self._next[partition] = records.offsets[end - 1] + 1
        if sum(map(len, kept)) == len(records):
            return records
        wanted = {place for each in kept for place in each}
        return records.where(place in wanted for place in range(len(records)))

    def placed(self) -> list[Partition]:
        """The partitions that are read."""
        return sorted(self._next)

    def unplaced(self) -> list[Partition]:
        """The partitions that wait to be told where to start, and for nothing that is missing."""
        waiting = self._unplaced - self._gone
        return sorted(each for each in waiting if not self._missing.holds_up(each.topic))

    def put_off(self, topic: str, missing: str) -> None:
        """Place nothing of this topic until the missing one is there; both may be the same."""
        self._missing.hold_up(topic, missing)

    def put_back(self, topic: str) -> list[Partition]:
        """The partitions of this topic that are read: they wait to be placed again."""
        placed = [each for each in self._next if each.topic == topic]
        self._consumer.pause([TopicPartition(*each) for each in placed])
        for partition in placed:
            del self._next[partition]
        self._unplaced.update(placed)
        return placed

    def held(self) -> frozenset[Partition]:
        """The partitions of which nothing is read."""
        return self._held

    def hold(self, topics: Collection[str]) -> list[Partition]:
        """Read nothing of these topics; those held before and not now wait to be placed again.

        Answers the partitions that were not held before.
        """
        held = [each for each in (*self._next, *self._unplaced) if each.topic in topics]
        if held:
            self._consumer.pause([TopicPartition(*each) for each in held])
        for partition in held:
            self._next.pop(partition, None)
        free = {each for each in self._held if each.topic not in topics}
        self._unplaced = (self._unplaced | free) - {*held}
        self._held = (self._held - free) | {*held}
        return held

    def place(self, partitions: Sequence[Partition], positions: Mapping[Partition, int]) -> None:
        """Start each of the partitions at its position, or at its beginning when it has none.

        One whose beginning has passed its position is lost, and is not read; one whose topic is
        missing stays unplaced until that is there. Raises Unavailable for those whose beginning
        Kafka does not tell; the others are placed.
        """
        beginnings, found = self._beginnings(partitions), set[Partition]()
        for partition, beginning in beginnings.items():
            position = positions.get(partition, beginning)
            if position < beginning:
                self._note_lost(partition, position)
            else:
                self._next[partition] = position
                found |= {partition} & self._lost  # e.g. its topic was made again
                self._missing.placed(partition.topic)
            # Also at a beginning: the group may have come further than what the handler holds now.
            self._commits.want(partition, position)
            self._unplaced.discard(partition)
        self._fetch_anew(found)
        self._paused = True
        untold = {*partitions} - beginnings.keys() - self._gone
        if asked := [each for each in untold if each.topic not in self._missing]:
            raise self._untold(asked)

    def _fetch_anew(self, found: Collection[Partition]) -> None:
        """The client ended the fetching of what was lost: no seek begins it again."""
        if not found:
            return
        self._consumer.incremental_unassign([TopicPartition(*each) for each in found])
        targets = [TopicPartition(*each, self._next[each]) for each in found]
        self._consumer.incremental_assign(targets)
        self._consumer.pause(targets)
        self._lost -= {*found}

    def unplace(self) -> None:
        """Take every partition as if it were assigned now, with nothing done yet."""
        self.pause()
        self._unplaced.update(self._next)
        self._commits.want_anew(self._next)
        self._next.clear()

    def pause(self) -> None:
        self._consumer.pause([TopicPartition(*partition) for partition in self._next])
        self._paused = True

    def resume(self) -> None:
        """Go on where each partition stands.

        librdkafka's fetcher notices a resume, or a seek to where it is, up to a second later; a
        request to the partition's broker wakes it at once.
        """
        if not self._paused:
            return
        # A question for a missing topic would wait for its time, and wake nothing.
        there = {each: at for each, at in self._next.items() if each.topic not in self._missing}
        self._consumer.resume([TopicPartition(*partition) for partition in there])
        try:
            for partition, offset in there.items():
                self._consumer.seek(TopicPartition(*partition, offset))
        except KafkaException as err:
            if err.args[0].code() != KafkaError._STATE:
                raise
            return  # the fetcher of a fresh assignment is not up yet: again at the next call
        self._paused = False
        # One question for all of them comes behind what their broker holds back, and wakes nothing.
        with suppress(KafkaException):
            for partition in islice(there, WOKEN_MAX):
                self._consumer.get_watermark_offsets(TopicPartition(*partition), REQUEST_TIMEOUT_S)

    def done(self, offsets: Mapping[Partition, int]) -> None:
        """Note next offsets behind durable effects, for the next commit."""
        self._commits.want_changed({p: at for p, at in offsets.items() if p in self._next})

    def commit(self) -> None:
        """Tell the group how far the effects reach, without waiting for the answer."""
        offsets = [
            TopicPartition(*each, offset, self._ids.get(each.topic))
            for each, offset in self._commits.next().items()
        ]
        if not offsets:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as err:
            self._on_commit(err.args[0], offsets)

    def _on_commit(self, error: KafkaError | None, _: list[TopicPartition]) -> None:
        self._commits.settle(error, self._next.keys())

    def look_for_missing(self) -> None:
        """See whether what was missing is there, each with a back-off of its own; the others are
        read meanwhile.
        """
        due = self._missing.due({each.topic for each in self._gone})
        numbers = self._numbers_by_topic(due)
        if found := self._missing.found([topic for topic in numbers if numbers[topic]]):
            self._paused = True  # what is placed of them was not resumed
            self._place_anew({topic for topic in found if self._ids.get(topic)})
        self._gone -= {each for each in self._gone if each.number in numbers.get(each.topic, ())}

    def identify(self, topics: Collection[str]) -> dict[str, str]:
        """Their ids by now; what is read of them is placed anew once one has another.

        Raises Unavailable TOPIC_MISSING or BROKER_UNAVAILABLE.
        """
        return {topic: each.id for topic, each in self._ids.identify(topics).items()}

    def look_for_made_again(self) -> None:
        """See whether what was identified is still the same topic."""
        if topics := self._ids.made_again({each.topic for each in {*self._next} | self._lost}):
            log.warning("topics_made_again", topics=sorted(topics))
            self._place_anew(topics)

    def _place_anew(self, topics: Collection[str]) -> None:
        """Whatever was read of them counts no more."""
        again = {each for each in {*self._next} | self._lost if each.topic in topics}
        if again:
            lost = again & self._lost  # until they are placed
            self._consumer.pause([TopicPartition(*each) for each in again])
            self._forget(again)
            self._unplaced |= again
            self._lost |= lost

    def _numbers_by_topic(self, topics: Collection[str]) -> dict[str, Collection[int]]:
        """Of the partitions that each has, none where it is not there; what Kafka does not tell is
        left out.
        """
        numbers: dict[str, Collection[int]] = {}
        for topic in topics:
            with suppress(KafkaException):
                told = self._consumer.list_topics(topic, timeout=1.0).topics[topic]
                numbers[topic] = told.partitions.keys() if told.error is None else ()
        return numbers

    def _beginnings(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """The first offset that each partition still has, as a number: see `_on_assign`.

        Without those that Kafka does not know. One question for all: an answer comes behind the
        fetches that its broker holds back, so that some 20 asked one by one took 2 s.
        """
        if not partitions:
            return {}
        asked = [TopicPartition(*each, OFFSET_BEGINNING) for each in partitions]
        try:
            told = self._consumer.offsets_for_times(asked, timeout=REQUEST_TIMEOUT_S)
        except KafkaException as err:
            refused = err.args[0].code() in MISSING_TOPIC
            if not refused or not (absent := self._note_absent(partitions)):
                raise self._untold(partitions) from err
            return self._beginnings({*partitions} - absent)
        self._note_absent(_named(each for each in told if _code(each) in MISSING_TOPIC))
        return {
            Partition(each.topic, each.partition): each.offset
            for each in told
            if each.error is None
        }

    def _note_absent(self, asked: Collection[Partition]) -> set[Partition]:
        """Those that are not there: of a topic that is missing, or that was made again with fewer.

        The client may refuse a question as a whole for one of them, and does not say which.
        """
        numbers = self._numbers_by_topic({each.topic for each in asked})
        told = {each for each in asked if each.topic in numbers}
        absent = {each for each in told if each.number not in numbers[each.topic]}
        self._missing.note(each.topic for each in absent if not numbers[each.topic])
        if gone := {each for each in absent if numbers[each.topic]} - self._gone:
            log.warning("partitions_gone", partitions=[f"{e.topic}[{e.number}]" for e in gone])
            self._gone |= gone
        return absent

    def _untold(self, partitions: Collection[Partition]) -> Unavailable:
        asked = {"asked": "first offsets", "partitions": len(partitions)}
        return Unavailable("BROKER_UNAVAILABLE", bootstrap=self._bootstrap, **asked)

    def _note_error(self, message: Any) -> None:
        error, topic = message.error(), message.topic()
        code = error.code()
        if code == KafkaError._MAX_POLL_EXCEEDED:
            log.error("assignment_lost", group=self._group)
            self._forget([*self._next, *self._unplaced, *self._held])
        elif code in MISSING_TOPIC:
            self._missing.note([topic])
        elif code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            self._note_lost(Partition(topic, message.partition()), message.offset())
        elif error.fatal():
            raise KafkaException(error)
        else:
            log.warning("consume_error", topic=topic, error=error.name())

    def _note_lost(self, partition: Partition, offset: int) -> None:
        self._lost.add(partition)
        lost = Unavailable("OFFSET_LOST", **partition._asdict(), offset=offset)
        log.error("offset_lost", error=str(lost))

    def _on_assign(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._joined = True
        if not partitions:
            return
        # Paused until `place` says where to start. A number, not OFFSET_BEGINNING: that one is
        # looked up behind our back, and again half a second after we have sought elsewhere. Not 0
        # either: a fetch that beats the pause would find it gone once retention has been at work.
        named, beginnings = _named(partitions), {}
        with suppress(Unavailable):  # no broker, no fetch that could fail
            beginnings = self._beginnings(named)
        targets = [TopicPartition(*each, beginnings.get(each, 0)) for each in named]
        consumer.incremental_assign(targets)
        consumer.pause(targets)
        self._unplaced.update(named)
        failpoint("kit.consume.assigned")

    def _on_revoke(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        failpoint("kit.consume.revoked")
        self._owner.finish(_named(partitions))
        self.commit()
        self._on_lost(consumer, partitions)

    def _on_lost(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._forget(_named(partitions))
        if partitions:
            consumer.incremental_unassign(partitions)

    def _forget(self, partitions: Iterable[Partition]) -> None:
        gone = set(partitions)
        for partition in gone:
            self._next.pop(partition, None)
        self._commits.forget(gone)
        self._unplaced -= gone
        self._held -= gone
        self._gone -= gone
        self._lost -= gone
        self._owner.forget(gone)


def _named(partitions: Iterable[TopicPartition]) -> list[Partition]:
    return [Partition(each.topic, each.partition) for each in partitions]


def _code(partition: TopicPartition) -> int | None:
    return None if partition.error is None else partition.error.code()
