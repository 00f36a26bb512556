# SPDX-License-Identifier: Apache-2.0
"""Records to the raw topics of streams: how they are encoded, and sent until they are durable."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from headrace import admin
from headrace.data_contract import Stream
from headrace.errors import HeadraceError, Invalid, Unavailable
from headrace.protobuf_values import encoded, message_class

DELIVERY_TIMEOUT_S = 30.0
QUEUE_RECORDS_MAX = 200_000
_Report = Callable[[object, object], None]


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
            "log_level": 0,
        }
    )


class RawProducer:
    """Appends to topics as the caller says; safe to use from several threads."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def append(self, topic: str, rows: Iterable[tuple[bytes, bytes]]) -> int:
        """How many (key, value) pairs, once all are durable; raises as `Client.publish_raw`."""
        failed: list[object] = []
        count = 0

        def delivered(err: object, _: object) -> None:
            if err is not None:
                failed.append(err)

        for key, value in rows:
            try:
                self._enqueue(topic, key, value, delivered)
            except KafkaException as err:
                self._flush(topic, failed)
                raise _refused(err, topic, row=count + 1, row_bytes=len(key) + len(value)) from err
            count += 1
        self._flush(topic, failed)
        return count

    def _enqueue(self, topic: str, key: bytes, value: bytes, delivered: _Report) -> None:
        """Into the producer's queue, once it has room: what is stuck in it expires."""
        deadline_s = time.monotonic() + DELIVERY_TIMEOUT_S
        while True:
            try:
                return self._producer.produce(topic, value=value, key=key, on_delivery=delivered)
            except BufferError as err:
                if time.monotonic() > deadline_s:
                    raise Unavailable("DELIVERY_UNKNOWN", topic=topic) from err
                self._producer.poll(0.1)

    def _flush(self, topic: str, failed: Sequence[object]) -> None:
        try:
            left = self._producer.flush(DELIVERY_TIMEOUT_S)
        except KafkaException as err:
            raise Unavailable("DELIVERY_UNKNOWN", topic=topic) from err
        if left or failed:
            raise Unavailable("DELIVERY_UNKNOWN", topic=topic, records=left + len(failed))


def encoder(contract: Stream) -> Callable[[Mapping[str, Any]], bytes]:
    if contract.format == "json":
        return lambda record: json.dumps(record).encode()
    return partial(encoded, of=message_class(contract))


def raw_row(
    number: int, record: Mapping[str, Any], key: str, encode: Callable[[Mapping[str, Any]], bytes]
) -> tuple[bytes, bytes]:
    if not isinstance(record, Mapping):
        raise Invalid("BAD_REQUEST", row=number, problem="not a JSON object")
    try:
        return str(record.get(key, "")).encode(), encode(record)
    except (TypeError, ValueError, RecursionError) as err:
        raise Invalid("BAD_REQUEST", row=number, problem=str(err)) from err


def _refused(error: KafkaException, topic: str, **row: int) -> HeadraceError:
    """What the producer says at once about one record."""
    if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return Invalid("TOO_LARGE", topic=topic, **row)
    return Unavailable("DELIVERY_UNKNOWN", topic=topic, problem=error.args[0].name(), **row)
