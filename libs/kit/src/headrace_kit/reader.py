# SPDX-License-Identifier: Apache-2.0
"""A member of a consumer group: its partitions, where each stands, and what is wrong with them.

A partition that is assigned stays paused until it is told where to start (`place`); it is never
started from the group's offset, and an offset that Kafka has no longer is a trouble, not a jump.
Not for several threads: the loop alone calls it, and the callbacks run inside its calls.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.errors import Unavailable
from headrace_kit.backoff import Backoff
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Partition, Record, await_broker, client_settings, to_record

FETCH_KIB_MAX = 16_384
REQUEST_TIMEOUT_S = 5.0
SESSION_TIMEOUT_MS = 6_000
TOPIC_MISSING_S_MAX = 60.0

log = structlog.get_logger(__name__)


class Owner(Protocol):
    """Who works on what the reader reads."""

    def finish(self, partitions: Sequence[Partition]) -> None:
        """Finish or forget what was begun: another member gets these partitions next."""

    def forget(self, partitions: Collection[Partition]) -> None:
        """These partitions are another member's now."""


class GroupReader:
    """Reads the partitions that the group gives it; see the module."""

    def __init__(self, bootstrap: str, group: str, owner: Owner) -> None:
        self._bootstrap, self._group, self._owner = bootstrap, group, owner
        self._consumer: Any = None
        self._subscribed: frozenset[str] = frozenset()
        self._joined = self._paused = False
        self._next: dict[Partition, int] = {}  # placed partitions and what they give next
        self._unplaced: set[Partition] = set()
        self._uncommitted: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}
        self._commit_retry, self._missing_retry = Backoff(), Backoff()
        self._missing_since_s: dict[str, float] = {}  # by topic
        self._lost: set[Partition] = set()

    def open(self) -> None:
        """Make the client; raises Unavailable BROKER_UNAVAILABLE after 30 s without an answer."""
        self._consumer = Consumer(
            client_settings(self._bootstrap, self._group)
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
                "partition.assignment.strategy": "cooperative-sticky",
                "queued.max.messages.kbytes": FETCH_KIB_MAX,
                "session.timeout.ms": SESSION_TIMEOUT_MS,
            }
        )
        await_broker(self._consumer, self._bootstrap)

    def close(self) -> None:
        """Leave the group, so that the others need not wait for a session to end."""
        if self._consumer is not None:
            self._consumer.close()

    def settled(self, topics: frozenset[str]) -> bool:
        """Subscribed to these, assigned, placed."""
        joined = self._joined or not topics
        return topics == self._subscribed and joined and not self._unplaced

    def troubles(self) -> list[str]:
        """What does not mend itself, e.g. `TOPIC_MISSING raw.flights.departed.v1`."""
        missing = [f"TOPIC_MISSING {topic}" for topic in sorted(self._missing_since_s)]
        return missing + [f"OFFSET_LOST {each.topic}[{each.number}]" for each in sorted(self._lost)]

    def subscribe(self, topics: frozenset[str]) -> None:
        """Read exactly these topics; nothing happens when they are the same as before."""
        if topics == self._subscribed:
            return
        self._subscribed, self._joined = topics, False
        since_s = self._missing_since_s.items()
        self._missing_since_s = {topic: since for topic, since in since_s if topic in topics}
        if topics:
            self._consumer.subscribe(
                sorted(topics),
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
        else:
            self._consumer.unsubscribe()

    def read(self, records_max: int, wait_s: float) -> list[Record]:
        """The records that come within the time; polls the group even when all is paused."""
        records = []
        for message in self._consumer.consume(records_max, wait_s):
            if message.error() is not None:
                self._note_error(message)
                continue
            record = to_record(message)
            partition, following = Partition(record.topic, record.partition), record.offset + 1
            # What was fetched before a seek or a revoke may still arrive: it is not ours to handle.
            if record.offset >= self._next.get(partition, following):
                self._next[partition] = following
                records.append(record)
        return records

    def placed(self) -> list[Partition]:
        """The partitions that are read."""
        return sorted(self._next)

    def unplaced(self) -> list[Partition]:
        """The partitions that wait to be told where to start."""
        return sorted(self._unplaced)

    def place(self, partitions: Sequence[Partition], positions: Mapping[Partition, int]) -> None:
        """Start each of the partitions at its position, or at its beginning when it has none.

        One whose beginning has passed its position is lost, and is not read.
        """
        for partition in partitions:
            beginning = self._beginning(partition)
            position = positions.get(partition, beginning)
            if position < beginning:
                self._note_lost(partition, position)
            else:
                self._next[partition] = position
            if position and partition in positions:
                self._uncommitted[partition] = position
            self._unplaced.discard(partition)
        self._paused = True

    def unplace(self) -> None:
        """Take every partition as if it were assigned now, with nothing done yet."""
        self.pause()
        self._unplaced.update(self._next)
        self._uncommitted.update(dict.fromkeys(self._next, 0))
        self._committed.clear()
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
        self._consumer.resume([TopicPartition(*partition) for partition in self._next])
        try:
            for partition, offset in self._next.items():
                self._consumer.seek(TopicPartition(*partition, offset))
        except KafkaException as err:
            if err.args[0].code() != KafkaError._STATE:
                raise
            return  # the fetcher of a fresh assignment is not up yet: again at the next call
        self._paused = False
        for partition in self._next:
            with suppress(Unavailable):
                self._beginning(partition)

    def done(self, offsets: Mapping[Partition, int]) -> None:
        """Note next offsets behind durable effects, for the next commit."""
        for partition, offset in offsets.items():
            if partition in self._next and offset != self._committed.get(partition):
                self._uncommitted[partition] = offset

    def commit(self) -> None:
        """Tell the group how far the effects reach; a refusal is tried again, it loses nothing."""
        if not self._uncommitted or self._commit_retry.left_s():
            return
        offsets = [TopicPartition(*each, offset) for each, offset in self._uncommitted.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as err:
            delay_s = self._commit_retry.failed()
            log.warning("commit_put_off", error=err.args[0].name(), delay_s=delay_s)
        else:
            self._committed.update(self._uncommitted)
            self._uncommitted.clear()
            self._commit_retry.succeeded()

    def look_for_missing(self) -> None:
        """See whether a topic that was missing is there; Unavailable TOPIC_MISSING after 60 s."""
        if not self._missing_since_s or self._missing_retry.left_s():
            return
        self._missing_retry.failed()
        for topic, since_s in list(self._missing_since_s.items()):
            if self._exists(topic):
                del self._missing_since_s[topic]
                self._missing_retry.succeeded()
            elif time.monotonic() - since_s > TOPIC_MISSING_S_MAX:
                raise Unavailable("TOPIC_MISSING", topic=topic)

    def _exists(self, topic: str) -> bool:
        try:
            return self._consumer.list_topics(topic, timeout=1.0).topics[topic].error is None
        except KafkaException:
            return False

    def _beginning(self, partition: Partition) -> int:
        """The first offset that the partition still has, as a number: see `_on_assign`."""
        asked = TopicPartition(*partition)
        try:
            low, _ = self._consumer.get_watermark_offsets(asked, timeout=REQUEST_TIMEOUT_S)
        except KafkaException as err:
            raise Unavailable("BROKER_UNAVAILABLE", bootstrap=self._bootstrap) from err
        return int(low)

    def _first_target(self, partition: Partition) -> TopicPartition:
        try:
            return TopicPartition(*partition, self._beginning(partition))
        except Unavailable:
            return TopicPartition(*partition, 0)  # no broker, no fetch that could fail

    def _note_error(self, message: Any) -> None:
        error, topic = message.error(), message.topic()
        code = error.code()
        if code == KafkaError._MAX_POLL_EXCEEDED:
            log.error("assignment_lost", group=self._group)
            self._forget([*self._next, *self._unplaced])
        elif code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            log.error("topic_missing", topic=topic, next="Run headrace apply.")
            self._missing_since_s.setdefault(topic, time.monotonic())
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
        targets = [self._first_target(each) for each in _named(partitions)]
        consumer.incremental_assign(targets)
        consumer.pause(targets)
        self._unplaced.update(_named(partitions))
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
            for known in (self._next, self._uncommitted, self._committed):
                known.pop(partition, None)
        self._unplaced -= gone
        self._lost -= gone
        self._owner.forget(gone)


def _named(partitions: Iterable[TopicPartition]) -> list[Partition]:
    return [Partition(each.topic, each.partition) for each in partitions]
