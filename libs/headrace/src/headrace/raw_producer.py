# SPDX-License-Identifier: Apache-2.0
"""Records to the raw topics of streams: how they are encoded, and sent until they are durable."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from headrace import admin
from headrace.data_contract import Stream
from headrace.errors import TOPIC_MISSING, HeadraceError, Invalid, Unavailable
from headrace.json_lines import json_problem
from headrace.missing_topics import MISSING_TOPIC
from headrace.protobuf_values import encoded, message_class
from headrace.publishing import counted
from headrace.tracing import Options, publishing

DELIVERY_TIMEOUT_S = 30.0
# As long as brokers may take to tell each other of a new topic; beyond, it is missing.
TOPIC_WAIT_S = 2.0
REPORT_POLL_S = 0.05
QUEUE_RECORDS_MAX = 200_000
# What is under way to a partition when the client learns that it is no more is told as destroyed.
PARTITION_GONE = (*MISSING_TOPIC, KafkaError._DESTROY)


def raw_producer(bootstrap: str) -> Producer:
    """A client that keeps the order, and repeats nothing."""
    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "compression.type": "lz4",
            "message.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),
            "message.max.bytes": admin.MESSAGE_BYTES_MAX,
            "queue.buffering.max.messages": QUEUE_RECORDS_MAX,
            "topic.metadata.propagation.max.ms": int(TOPIC_WAIT_S * 1000),
            "log_level": 0,
        }
    )


def await_reports(producer: Producer, all_told: Callable[[], bool]) -> None:
    """Until the caller's have come, DELIVERY_TIMEOUT_S at most.

    A flush does not say so where threads share a producer: it counts the records of others, and
    does not count a report that another thread has taken and is yet to run.
    """
    deadline_s = time.monotonic() + DELIVERY_TIMEOUT_S
    producer.flush(DELIVERY_TIMEOUT_S)
    while not all_told() and time.monotonic() < deadline_s:
        producer.poll(REPORT_POLL_S)


@dataclass(slots=True)
class _Reports:
    """How many records were queued, and what Kafka said of them.

    `absent`: key and value of those whose topic, or partition of it, is not there.
    """

    queued: int = 0
    delivered: int = 0
    failed: int = 0
    absent: list[tuple[bytes, bytes]] = field(default_factory=list)

    def take(self, error: KafkaError | None, message: Any) -> None:
        if error is None:
            self.delivered += 1
        elif error.code() in PARTITION_GONE:
            self.absent.append((message.key() or b"", message.value() or b""))
        else:
            self.failed += 1

    def all_told(self) -> bool:
        return self.delivered + self.failed + len(self.absent) >= self.queued


class RawProducer:
    """Appends to topics as the caller says; safe to use from several threads."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def append(self, topic: str, rows: Iterable[tuple[bytes, bytes]]) -> int:
        """How many (key, value) pairs, once all are durable; raises as `Client.publish_raw`."""
        with publishing(topic) as told:
            return self._append(topic, rows, told)

    def _append(self, topic: str, rows: Iterable[tuple[bytes, bytes]], told: Options) -> int:
        reports = _Reports()
        for key, value in rows:
            if reports.absent:
                self._deliver(topic, told, reports)
            try:
                self._enqueue(topic, key, value, told, reports)
            except KafkaException as err:
                self._deliver(topic, told, reports)
                row = {"row": reports.queued + 1, "row_bytes": len(key) + len(value)}
                raise counted(_refused(err, topic, **row), reports.delivered) from err
        self._deliver(topic, told, reports)
        return reports.queued

    def _enqueue(
        self, topic: str, key: bytes, value: bytes, told: Options, reports: _Reports
    ) -> None:
        """Into the producer's queue, once it has room: what is stuck in it expires."""
        deadline_s = time.monotonic() + DELIVERY_TIMEOUT_S
        looked = False
        while True:
            try:
                self._producer.produce(
                    topic, value=value, key=key, on_delivery=reports.take, **told
                )
            except BufferError as err:
                if time.monotonic() > deadline_s:
                    raise _undelivered(topic, reports) from err
                self._producer.poll(0.1)
            except KafkaException as err:
                if looked or err.args[0].code() not in MISSING_TOPIC or not self._there(topic):
                    raise
                looked = True
            else:
                reports.queued += 1
                return

    def _deliver(self, topic: str, told: Options, reports: _Reports) -> None:
        """All that is queued. The client remembers the partitions of a topic for minutes: what met
        one that is no more, since the topic was made again with fewer, is sent again, behind the
        rest.
        """
        deadline_s = time.monotonic() + TOPIC_WAIT_S
        self._flush(topic, reports)
        while reports.absent and time.monotonic() < deadline_s and self._there(topic):
            self._send_again(topic, told, reports)
            self._flush(topic, reports)
            if reports.absent:  # not every broker knows of the new one yet
                self._producer.poll(REPORT_POLL_S)
        if reports.delivered < reports.queued:
            raise _undelivered(topic, reports)

    def _send_again(self, topic: str, told: Options, reports: _Reports) -> None:
        """What was absent, as far as it is not again."""
        rows, reports.absent = reports.absent, []
        for place, row in enumerate(rows):
            reports.queued -= 1
            try:
                self._enqueue(topic, *row, told, reports)
            except KafkaException as err:
                reports.queued += 1
                reports.absent.extend(rows[place:])
                if err.args[0].code() not in MISSING_TOPIC:
                    raise counted(_refused(err, topic), reports.delivered) from err
                return

    def _there(self, topic: str) -> bool:
        """Asks Kafka, which also tells the client what the topic is now."""
        try:
            return (
                self._producer.list_topics(topic, timeout=TOPIC_WAIT_S).topics[topic].error is None
            )
        except KafkaException:
            return False

    def _flush(self, topic: str, reports: _Reports) -> None:
        """Until Kafka has said something of all."""
        try:
            await_reports(self._producer, reports.all_told)
        except KafkaException as err:
            raise _undelivered(topic, reports) from err


def encoder(contract: Stream) -> Callable[[Mapping[str, Any]], bytes]:
    if contract.format == "json":
        return lambda record: json.dumps(record, allow_nan=False).encode()
    return partial(encoded, of=message_class(contract))


def raw_row(
    number: int, record: Mapping[str, Any], key: str, encode: Callable[[Mapping[str, Any]], bytes]
) -> tuple[bytes, bytes]:
    if not isinstance(record, Mapping):
        raise Invalid("BAD_REQUEST", row=number, problem="not a JSON object")
    try:
        return key_text(record.get(key)).encode(), encode(record)
    except (TypeError, ValueError, RecursionError) as err:
        raise Invalid("BAD_REQUEST", row=number, problem=json_problem(err)) from err


def key_text(value: object) -> str:
    """As ingest reads the column: no key for null, a truth value as JSON has it."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _undelivered(topic: str, reports: _Reports) -> HeadraceError:
    reason = TOPIC_MISSING if reports.absent else "DELIVERY_UNKNOWN"
    records = reports.queued - reports.delivered
    return counted(Unavailable(reason, topic=topic, records=records), reports.delivered)


def _refused(error: KafkaException, topic: str, **row: int) -> HeadraceError:
    """What the producer says at once about one record."""
    code = error.args[0].code()
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return Invalid("TOO_LARGE", topic=topic, **row)
    if code in MISSING_TOPIC:
        return Unavailable("TOPIC_MISSING", topic=topic, **row)
    return Unavailable("DELIVERY_UNKNOWN", topic=topic, problem=error.args[0].name(), **row)
