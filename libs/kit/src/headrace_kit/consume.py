# SPDX-License-Identifier: Apache-2.0
"""The consume loop: at least once, effects first, and no record can block a partition.

Where to start is what the handler's own store says, never the group's offset; that one is committed
after the effect and tells outsiders the lag. While a dependency is down the partitions are paused,
the same records are tried again with back-off, and polling goes on, so that the group stays whole.
An unknown error is a bug: the loop stops, and a restart begins at the same offset.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.errors import Busy, HeadraceError, Unavailable
from headrace_kit.backoff import Backoff
from headrace_kit.dead_letters import dead_letter
from headrace_kit.failpoints import failpoint
from headrace_kit.follow import TableFollower
from headrace_kit.kafka import (
    Partition,
    Publisher,
    Record,
    await_broker,
    client_settings,
    to_record,
)
from headrace_kit.offsets import committed_offsets, topic_end_offsets
from headrace_kit.telemetry import counter

__all__ = [
    "BatchHandler",
    "ConsumeLoop",
    "TableFollower",
    "committed_offsets",
    "topic_end_offsets",
]
DEAD_LETTERS_IN_A_ROW_MAX = 1_000
FETCH_KIB_MAX = 16_384
REQUEST_TIMEOUT_S = 5.0
SESSION_TIMEOUT_MS = 6_000
TOPIC_MISSING_S_MAX = 60.0
TRIES_BEFORE_UNREADY = 3

log = structlog.get_logger(__name__)


class BatchHandler(Protocol):
    """What a service does with records; every method is called from the loop's thread."""

    def positions(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Next offset by partition, from where the effects are stored; absent = beginning."""

    def handle(self, records: Sequence[Record]) -> None:
        """Make the effects of the records durable; order holds within a partition."""

    def idle(self) -> None:
        """Called when a poll brought nothing."""


@runtime_checkable
class GatheringHandler(BatchHandler, Protocol):
    """A handler that gathers several parts into one effect, durable after `handle` returned."""

    def durable(self) -> Mapping[Partition, int]:
        """Next offset by partition behind durable effects: what may be committed by now."""

    def drain(self, partitions: Sequence[Partition]) -> None:
        """Make durable what was gathered of these partitions, or forget it: they are given up."""


class ConsumeLoop:
    """A consumer group member with its own thread; a Part."""

    def __init__(
        self,
        *,
        bootstrap: str,
        group: str,
        handler: BatchHandler,
        dead_letters: Publisher,
        service: str,
        batch_records_max: int = 10_000,
        batch_wait_s: float = 0.05,
    ) -> None:
        self._bootstrap, self._group, self._service = bootstrap, group, service
        self._handler, self._dead_letters = handler, dead_letters
        self._gathering = handler if isinstance(handler, GatheringHandler) else None
        self._records_max, self._wait_s = batch_records_max, batch_wait_s
        self._wanted: frozenset[str] = frozenset()
        self._subscribed: frozenset[str] = frozenset()
        self._next: dict[Partition, int] = {}  # placed partitions and what they give next
        self._unplaced: set[Partition] = set()
        self._pending: deque[Sequence[Record]] = deque()
        self._uncommitted: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}
        self._lost: set[Partition] = set()
        self._missing_since_s: dict[str, float] = {}  # by topic
        self._retry, self._commit_retry, self._missing_retry = Backoff(), Backoff(), Backoff()
        self._paused = self._joined = False
        self._dead_in_a_row = 0
        self._stopping, self._repositioning = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"consume-{group}", daemon=True)
        self._consumer: Any = None
        self._handled = counter(service, "consumed_records_total", "Records handled.", "topic")
        self._dead = counter(service, "dead_letters_total", "Records set aside.", "reason")
        self._lost_total = counter(service, "lost_offsets_total", "OFFSET_LOST seen.", "topic")

    def subscribe(self, topics: Collection[str]) -> None:
        """Read exactly these topics from now on; may be called at any time, by any thread."""
        self._wanted = frozenset(topics)

    def reposition(self) -> None:
        """Ask the handler for its positions again and read on from there; at any time, any thread.

        Until the effects have come as far as before, the group's offsets show the lag.
        """
        self._repositioning.set()

    def start(self) -> None:
        """Join the group; raises Unavailable BROKER_UNAVAILABLE after 30 s without an answer."""
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
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop polling, finish the batch in work, commit, leave the group."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        elif self._consumer is not None:
            self._consumer.close()

    def failed(self) -> BaseException | None:
        return self._failure

    def ready(self) -> bool:
        """Assigned, placed, and no trouble: no missing topic, lost offset, or long back-off."""
        settled = self._subscribed == self._wanted and (self._joined or not self._wanted)
        settled = settled and not self._unplaced and not self._repositioning.is_set()
        trouble = self.troubles() or self._failure
        running = self._thread.is_alive() and not self._stopping.is_set()
        return running and settled and not trouble and self._retry.tries < TRIES_BEFORE_UNREADY

    def troubles(self) -> list[str]:
        """Why the loop cannot go on by itself, e.g. `TOPIC_MISSING raw.flights.departed.v1`."""
        missing = [f"TOPIC_MISSING {topic}" for topic in sorted(self._missing_since_s)]
        return missing + [f"OFFSET_LOST {each.topic}[{each.number}]" for each in sorted(self._lost)]

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._tick()
            self._drain([*self._next])
            self._commit()
        except Exception as err:
            log.exception("consume_failed", group=self._group)
            self._failure = err
        finally:
            self._consumer.close()

    def _tick(self) -> None:
        self._resubscribe()
        self._look_for_missing()
        if self._repositioning.is_set():
            self._unplace()
        if self._pending or self._unplaced or self._retry.left_s():
            self._pause()
            self._poll(min(self._wait_s, self._retry.left_s()))
        else:
            self._resume()
            self._poll(self._wait_s)
        if not self._retry.left_s():
            self._work()
        self._commit()

    def _work(self) -> None:
        """One step: place what was assigned, handle one part, or let the handler be idle."""
        try:
            if self._unplaced:
                self._place()
            elif self._pending:
                self._handle(self._pending[0])
            else:
                self._handler.idle()
        except (Busy, Unavailable) as err:
            delay_s = self._retry.failed(err.retry_delay_s)
            log.warning("consume_waits", group=self._group, error=str(err), delay_s=delay_s)
        else:
            self._retry.succeeded()

    def _handle(self, records: Sequence[Record]) -> None:
        """Handle the first part that is pending; a refused part is halved until one is left."""
        try:
            self._handler.handle(records)
        except (Busy, Unavailable):
            raise
        except HeadraceError as err:
            if len(records) > 1:
                middle = len(records) // 2
                self._pending[0] = records[middle:]
                self._pending.appendleft(records[:middle])
                return
            self._set_aside(records[0], err)
        else:
            self._dead_in_a_row = 0
        self._pending.popleft()
        self._done(records)

    def _set_aside(self, record: Record, error: HeadraceError) -> None:
        letter = dead_letter(record, reason=error.reason, service=self._service)
        self._dead_letters.publish([letter])
        self._dead.labels(error.reason).inc()
        self._dead_in_a_row += 1
        if self._dead_in_a_row >= DEAD_LETTERS_IN_A_ROW_MAX:
            raise RuntimeError(f"{self._dead_in_a_row} dead letters in a row: a bad deploy?")

    def _done(self, records: Sequence[Record]) -> None:
        for topic, count in Counter(record.topic for record in records).items():
            self._handled.labels(topic).inc(count)
        if self._gathering is None:
            for record in records:
                self._uncommitted[Partition(record.topic, record.partition)] = record.offset + 1

    def _unplace(self) -> None:
        """Take every partition as if it were assigned now; a drained effect counts as made."""
        self._repositioning.clear()
        self._drain([*self._next])
        self._pause()
        self._pending.clear()
        self._unplaced.update(self._next)
        self._uncommitted.update(dict.fromkeys(self._next, 0))
        self._committed.clear()
        self._next.clear()

    def _place(self) -> None:
        """Ask the handler's store where the partitions that were assigned go on."""
        wanted = sorted(self._unplaced)
        positions = self._handler.positions(wanted)
        for partition in wanted:
            position = positions.get(partition)
            self._next[partition] = self._beginning(partition) if position is None else position
            if position:
                self._uncommitted[partition] = position
            self._unplaced.discard(partition)
        self._paused = True

    def _beginning(self, partition: Partition) -> int:
        """The first offset that the partition still has, as a number: see `_on_assign`."""
        asked = TopicPartition(*partition)
        try:
            low, _ = self._consumer.get_watermark_offsets(asked, timeout=REQUEST_TIMEOUT_S)
        except KafkaException as err:
            raise Unavailable("BROKER_UNAVAILABLE", bootstrap=self._bootstrap) from err
        return int(low)

    def _poll(self, wait_s: float) -> None:
        """Append the records that came to what is pending, as one part."""
        records = []
        for message in self._consumer.consume(self._records_max, wait_s):
            if message.error() is not None:
                self._note_error(message)
                continue
            record = to_record(message)
            partition, following = Partition(record.topic, record.partition), record.offset + 1
            # What was fetched before a seek or a revoke may still arrive: it is not ours to handle.
            if record.offset >= self._next.get(partition, following):
                self._next[partition] = following
                records.append(record)
        if records:
            self._pending.append(records)

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
            partition = Partition(topic, message.partition())
            self._lost.add(partition)
            self._lost_total.labels(topic).inc()
            lost = Unavailable("OFFSET_LOST", **partition._asdict(), offset=message.offset())
            log.error("offset_lost", error=str(lost))
        elif error.fatal():
            raise KafkaException(error)
        else:
            log.warning("consume_error", topic=topic, error=error.name())

    def _resubscribe(self) -> None:
        wanted = self._wanted
        if wanted == self._subscribed:
            return
        self._subscribed, self._joined = wanted, False
        self._missing_since_s = {
            topic: since for topic, since in self._missing_since_s.items() if topic in wanted
        }
        if wanted:
            self._consumer.subscribe(
                sorted(wanted),
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
        else:
            self._consumer.unsubscribe()

    def _look_for_missing(self) -> None:
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

    def _on_assign(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._joined = True
        if not partitions:
            return
        # Paused until the handler has said where to start. A number, not OFFSET_BEGINNING: that one
        # is looked up behind our back, and again half a second after we have sought elsewhere.
        targets = [TopicPartition(each.topic, each.partition, 0) for each in partitions]
        consumer.incremental_assign(targets)
        consumer.pause(targets)
        self._unplaced.update(_named(partitions))
        failpoint("kit.consume.assigned")

    def _on_revoke(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        failpoint("kit.consume.revoked")
        self._drain(_named(partitions))
        self._commit()
        self._on_lost(consumer, partitions)

    def _on_lost(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._forget(_named(partitions))
        if partitions:
            consumer.incremental_unassign(partitions)

    def _forget(self, partitions: Iterable[Partition]) -> None:
        gone = set(partitions)
        for partition in gone:
            self._next.pop(partition, None)
            self._uncommitted.pop(partition, None)
            self._committed.pop(partition, None)
        self._unplaced -= gone
        self._lost -= gone
        kept = (
            [record for record in part if (record.topic, record.partition) not in gone]
            for part in self._pending
        )
        self._pending = deque(part for part in kept if part)

    def _pause(self) -> None:
        self._consumer.pause([TopicPartition(*partition) for partition in self._next])
        self._paused = True

    def _resume(self) -> None:
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
            return  # the fetcher of a fresh assignment is not up yet: again at the next tick
        self._paused = False
        for partition in self._next:
            with suppress(Unavailable):
                self._beginning(partition)

    def _drain(self, partitions: Sequence[Partition]) -> None:
        if self._gathering is not None and partitions:
            self._gathering.drain(partitions)

    def _note_durable(self) -> None:
        for partition, offset in self._gathering.durable().items() if self._gathering else ():
            if partition in self._next and offset != self._committed.get(partition):
                self._uncommitted[partition] = offset

    def _commit(self) -> None:
        """Tell the group how far the effects reach; a refusal is tried again, it loses nothing."""
        self._note_durable()
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


def _named(partitions: Iterable[TopicPartition]) -> list[Partition]:
    return [Partition(each.topic, each.partition) for each in partitions]
