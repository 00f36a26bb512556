# SPDX-License-Identifier: Apache-2.0
"""Messages, records, and a publisher whose answer is the delivery report and nothing less.

librdkafka runs delivery reports only inside `poll`, so a thread of our own polls all the time and
a caller waits for its own messages only. Keys go to partitions by murmur2, as Java's clients do.
A client does not survive a fork: the process id is checked at each publish.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, compress, islice, pairwise
from operator import ne, or_
from typing import Any, NamedTuple, Protocol, overload

import structlog
from confluent_kafka import TIMESTAMP_CREATE_TIME, KafkaError, KafkaException, Producer
from confluent_kafka import Message as Received

from headrace.errors import Busy, HeadraceError, Invalid, Unavailable
from headrace.missing_topics import MISSING_TOPIC
from headrace_kit.failpoints import failpoint

BROKER_WAIT_S = 30.0
DELIVERY_TIMEOUT_S = 10.0
MESSAGE_BYTES_MAX = 1_048_576  # Kafka's default cap of a topic
SLICE_RECORDS = 10_000  # a longer sequence is sent slice by slice, so that it fits the queue
QUEUE_KIB_MAX = 65_536
PARTITION_BY_KEY = -1  # librdkafka's RD_KAFKA_PARTITION_UA

log = structlog.get_logger(__name__)


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be published; the key decides the partition, None means any; or one is named."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int = PARTITION_BY_KEY


@dataclass(frozen=True, slots=True)
class Record:
    """What was read from a partition; of a header given twice the last one counts."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]
    timestamp_ms: int


class Publisher(Protocol):
    """Sends messages and answers when all of them are delivered."""

    def publish(self, messages: Sequence[Message], *, timeout_s: float = 10.0) -> None:
        """Return when every message is delivered; callers do not wait for each other.

        Raises Busy QUEUE_FULL, Invalid TOO_LARGE, Unavailable TOPIC_MISSING, and Unavailable
        DELIVERY_UNKNOWN: some messages may be stored; send them again with the same ids.
        """


class Sending(Protocol):
    """Messages on their way."""

    def wait(self, timeout_s: float) -> None:
        """Return when every one is delivered; raises what `Publisher.publish` raises."""

    def over(self, timeout_s: float) -> bool:
        """Whether it is known of every one what became of it, after so many seconds at most."""


class PipelinedPublisher(Publisher, Protocol):
    """A publisher that takes the next messages while others are on their way."""

    def send(self, messages: Sequence[Message]) -> Sending:
        """Queue at most `SLICE_RECORDS` messages.

        Raises what `publish` raises where it can queue none; where it can queue some, `wait` does,
        and not before those arrived or were given up: nothing arrives behind the next try.
        """


def client_settings(bootstrap: str, client_id: str) -> dict[str, Any]:
    """What every client of ours tells librdkafka."""
    return {
        "bootstrap.servers": bootstrap,
        "client.id": client_id,
        "error_cb": _log_client_error,
        "log.connection.close": False,
        "log_level": 2,  # what matters arrives through error_cb
        "reconnect.backoff.max.ms": 2_000,
        "socket.nagle.disable": True,
        "socket.timeout.ms": 10_000,
        "topic.metadata.refresh.interval.ms": 5_000,
    }


def _log_client_error(error: KafkaError) -> None:
    if error.code() == KafkaError._ALL_BROKERS_DOWN:
        log.warning("kafka_unreachable", error=error.name())


def await_broker(client: Any, bootstrap: str, *, timeout_s: float = BROKER_WAIT_S) -> None:
    """Return when the broker answers a metadata request.

    Raises Unavailable BROKER_UNAVAILABLE, with `bootstrap`, when none came within the time.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            client.list_topics("__consumer_offsets", timeout=1.0)
            return
        except KafkaException as err:
            if time.monotonic() >= deadline_s:
                raise Unavailable("BROKER_UNAVAILABLE", bootstrap=bootstrap) from err
            time.sleep(0.1)  # a refused connection fails at once


def to_record(message: Any) -> Record:
    """A message of confluent-kafka, without error, as a record."""
    return Record(
        message.topic(),
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        {name: value or b"" for name, value in message.headers() or ()},
        message.timestamp()[1],
    )


class Run(NamedTuple):
    """Records of one partition that lie together in a batch, at the places [first, end)."""

    partition: Partition
    first: int
    end: int


class RecordBatch(Sequence[Record]):
    """Records as the client gave them, to be asked for a column at a time.

    A record is made when it is asked for: one costs as much as folding several. What is the same
    for a whole run is asked of the run.
    """

    def __init__(self, messages: Sequence[Any]) -> None:
        self._messages = messages
        self.topics: list[str] = list(map(Received.topic, messages))
        self.partitions: list[int] = list(map(Received.partition, messages))
        self.offsets: list[int] = list(map(Received.offset, messages))

    @classmethod
    def of(cls, records: Iterable[Record]) -> RecordBatch:
        """The same records, as the client would have given them."""
        return cls(
            [
                Received(
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers.items()) or None,
                    timestamp=(TIMESTAMP_CREATE_TIME, record.timestamp_ms),
                )
                for record in records
            ]
        )

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> RecordBatch: ...
    def __getitem__(self, place: int | slice) -> Record | RecordBatch:
        if isinstance(place, slice):
            return RecordBatch(self._messages[place])
        return to_record(self._messages[place])

    def values(self) -> list[bytes | None]:
        return list(map(Received.value, self._messages))

    def keys(self) -> list[bytes | None]:
        return list(map(Received.key, self._messages))

    def timestamps_ms(self) -> list[int]:
        return [moment_ms for _, moment_ms in map(Received.timestamp, self._messages)]

    def headers(self) -> list[list[tuple[str, bytes]] | None]:
        """None for a record without headers."""
        return list(map(Received.headers, self._messages))

    @cached_property
    def runs(self) -> list[Run]:
        """The whole batch, cut where the partition changes."""
        changes = map(or_, _changes(self.topics), _changes(self.partitions))
        cuts = [*compress(range(len(self)), changes), len(self)]
        return [
            Run(Partition(self.topics[first], self.partitions[first]), first, end)
            for first, end in pairwise(cuts)
        ]

    def next_by_partition(self) -> dict[Partition, int]:
        """The offset that follows the last record of each partition."""
        return {run.partition: self.offsets[run.end - 1] + 1 for run in self.runs}

    def by_topic(self) -> dict[str, RecordBatch]:
        """The same, topic by topic; the order stays."""
        if len(names := dict.fromkeys(run.partition.topic for run in self.runs)) == 1:
            return dict.fromkeys(names, self)
        return {name: self.where([name == topic for topic in self.topics]) for name in names}

    def without(self, partitions: Collection[Partition]) -> RecordBatch:
        """Those of other partitions."""
        kept = [run for run in self.runs if run.partition not in partitions]
        return RecordBatch([each for run in kept for each in self._messages[run.first : run.end]])

    def where(self, wanted: Iterable[bool]) -> RecordBatch:
        """Those that are wanted."""
        return RecordBatch(list(compress(self._messages, wanted)))


def _changes(column: Sequence[Any]) -> Iterator[bool]:
    """For each place whether it differs from the one before; the first one does."""
    return chain([True], map(ne, column, islice(column, 1, None)))


class _Delivery:
    """Counts down the reports of one publish, in the poll thread, and what was not queued."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._left, self._topic = len(messages), messages[0].topic
        self._counting = threading.Lock()
        self._lock = threading.Lock()
        self._lock.acquire()
        self.error: KafkaError | None = None
        self._refusal: HeadraceError | None = None

    def report(self, error: KafkaError | None, _: object) -> None:
        self.error = error or self.error
        self._count_down(1)

    def refuse(self, messages: int, refusal: HeadraceError) -> None:
        """So many of them have not been queued and bring no report."""
        self._refusal = refusal
        self._count_down(messages)

    def _count_down(self, messages: int) -> None:
        with self._counting:
            self._left -= messages
            if self._left == 0:
                self._lock.release()

    def over(self, timeout_s: float) -> bool:
        if over := self._lock.acquire(timeout=max(0.0, timeout_s)):
            self._lock.release()
        return over

    def wait(self, timeout_s: float) -> None:
        if not self.over(timeout_s):
            raise Unavailable("DELIVERY_UNKNOWN", topic=self._topic)
        if self._refusal is not None:
            raise self._refusal
        if self.error is not None:
            raise delivery_error(self.error, self._topic)


def producer_settings(
    bootstrap: str,
    client_id: str,
    *,
    linger_ms: float,
    queue_records_max: int,
    message_bytes_max: int = MESSAGE_BYTES_MAX,
) -> dict[str, Any]:
    """What every producer of ours tells librdkafka."""
    return client_settings(bootstrap, client_id) | {
        "acks": "all",
        # Records repeat each other's names: a broker that stores and sends a quarter of the bytes
        # saves more than this costs here, measured.
        "compression.type": "lz4",
        "enable.idempotence": True,
        "linger.ms": linger_ms,
        "message.max.bytes": message_bytes_max + 65_536,  # room for key, headers, framing
        "message.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),
        "partitioner": "murmur2_random",
        "queue.buffering.max.kbytes": QUEUE_KIB_MAX,
        "queue.buffering.max.messages": queue_records_max,
        "topic.metadata.propagation.max.ms": 2_000,
    }


class ReplaceableProducer:
    """An idempotent producer that is made anew after a fatal error, once; a second one ends us."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings, self._client = settings, Producer(settings)
        self._pid, self._replaced = os.getpid(), False
        self._replacing = threading.Lock()
        self.failure: BaseException | None = None

    @property
    def client(self) -> Producer:
        if os.getpid() != self._pid:
            raise RuntimeError("a Kafka client does not survive a fork: make it in the child")
        return self._client

    def replace(self, dead: Producer) -> None:
        with self._replacing:
            if self._client is not dead:
                return
            if self._replaced:
                self.failure = RuntimeError("the idempotent producer failed twice")
                return
            self._replaced = True
            log.error("kafka_producer_replaced")
            self._client = Producer(self._settings)


class KafkaPublisher:
    """Publisher on librdkafka: idempotent, acknowledged by all replicas; also a Part."""

    def __init__(
        self,
        bootstrap: str,
        *,
        client_id: str,
        queue_records_max: int = 100_000,
        linger_ms: float = 1,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        self._bootstrap, self._client_id = bootstrap, client_id
        self._bytes_max = message_bytes_max
        self._producer = ReplaceableProducer(
            producer_settings(
                bootstrap,
                client_id,
                linger_ms=linger_ms,
                queue_records_max=queue_records_max,
                message_bytes_max=message_bytes_max,
            )
        )
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="kafka-publisher", daemon=True)
        self._poller.start()

    def start(self) -> None:
        """Wait for the broker; raises Unavailable BROKER_UNAVAILABLE after 30 s."""
        await_broker(self._producer.client, self._bootstrap)

    def publish(
        self, messages: Sequence[Message], *, timeout_s: float = DELIVERY_TIMEOUT_S
    ) -> None:
        deadline_s = time.monotonic() + timeout_s
        for first in range(0, len(messages), SLICE_RECORDS):
            sending = self.send(messages[first : first + SLICE_RECORDS])
            sending.wait(deadline_s - time.monotonic())

    def send(self, messages: Sequence[Message]) -> Sending:
        producer, delivery = self._producer.client, _Delivery(messages)
        for queued, message in enumerate(messages):
            try:
                self._produce(producer, message, delivery)
            except HeadraceError as err:
                if not queued:
                    raise
                delivery.refuse(len(messages) - queued, err)
                break
        return delivery

    def _produce(self, producer: Producer, message: Message, delivery: _Delivery) -> None:
        if len(message.value or b"") > self._bytes_max:
            raise Invalid("TOO_LARGE", topic=message.topic, bytes_max=self._bytes_max)
        try:
            producer.produce(
                message.topic,
                message.value,
                message.key,
                message.partition,
                headers=list(message.headers),
                on_delivery=delivery.report,
            )
        except BufferError as err:
            raise Busy("QUEUE_FULL", topic=message.topic) from err
        except KafkaException as err:
            error = err.args[0]
            if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                raise Invalid("TOO_LARGE", topic=message.topic) from err
            if error.code() == KafkaError._FATAL:
                self._producer.replace(producer)
            raise delivery_error(error, message.topic) from err

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._producer.client.poll(0.1)

    def failed(self) -> BaseException | None:
        return self._producer.failure

    def close(self, timeout_s: float) -> None:
        """Deliver what is queued, then end; raises Unavailable DELIVERY_UNKNOWN if some is left."""
        failpoint(f"{self._client_id}.flush")
        left = self._producer.client.flush(timeout_s)
        self._closing.set()
        self._poller.join(1.0)
        if left:
            raise Unavailable("DELIVERY_UNKNOWN", left=left)

    def stop(self, timeout_s: float) -> None:
        self.close(timeout_s)


def delivery_error(error: KafkaError, topic: str) -> HeadraceError:
    """What became of messages of the topic."""
    if error.code() in MISSING_TOPIC:
        return Unavailable("TOPIC_MISSING", topic=topic)
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return Invalid("TOO_LARGE", topic=topic)
    return Unavailable("DELIVERY_UNKNOWN", topic=topic, error=error.name())
