# SPDX-License-Identifier: Apache-2.0
"""Many messages of one caller, and one answer for all of them.

A report in Python for each message costs a third of what sending it costs, so only those of failed
ones get there. The client is the caller's own, so all is delivered when its queue is empty, and
the thread that waits for that runs the reports: no other one takes the interpreter from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException

from headrace.errors import Busy, Unavailable
from headrace_kit.kafka import (
    DELIVERY_TIMEOUT_S,
    ReplaceableProducer,
    await_broker,
    delivery_error,
    producer_settings,
)

QUEUE_RECORDS_MAX = 200_000

log = structlog.get_logger(__name__)


class BulkPublisher(Protocol):
    """Takes messages of one thread; what was not settled may be queued again."""

    def queue(self, topic: str, messages: Iterable[tuple[bytes, bytes]]) -> None:
        """Take (key, value) of each; they travel while the caller does something else.

        Raises as Publisher does; then none of what was sent since `settle` counts as delivered.
        """

    def settle(self, *, timeout_s: float = DELIVERY_TIMEOUT_S) -> None:
        """Return when all that was sent is delivered; raises as Publisher does."""


class KafkaBulkPublisher:
    """BulkPublisher on librdkafka: idempotent, acknowledged by all replicas; also a Part."""

    def __init__(self, bootstrap: str, *, client_id: str, linger_ms: float = 5) -> None:
        self._bootstrap = bootstrap
        self._producer = ReplaceableProducer(
            producer_settings(
                bootstrap, client_id, linger_ms=linger_ms, queue_records_max=QUEUE_RECORDS_MAX
            )
            | {"delivery.report.only.error": True}
        )
        self._failed: tuple[KafkaError, str] | None = None

    def start(self) -> None:
        """Wait for the broker; raises Unavailable BROKER_UNAVAILABLE after 30 s."""
        await_broker(self._producer.client, self._bootstrap)

    def queue(self, topic: str, messages: Iterable[tuple[bytes, bytes]]) -> None:
        producer, report = self._producer.client, self._report
        try:
            for key, value in messages:
                try:
                    producer.produce(topic, value, key, on_delivery=report)
                except BufferError:
                    producer.flush(DELIVERY_TIMEOUT_S)
                    producer.produce(topic, value, key, on_delivery=report)
        except BufferError as err:
            raise Busy("QUEUE_FULL", topic=topic) from err
        except KafkaException as err:
            if err.args[0].code() == KafkaError._FATAL:
                self._producer.replace(producer)
            raise delivery_error(err.args[0], topic) from err

    def settle(self, *, timeout_s: float = DELIVERY_TIMEOUT_S) -> None:
        # While it is flushed, a producer lingers for nothing.
        left = self._producer.client.flush(timeout_s)
        failed, self._failed = self._failed, None
        if failed is not None:
            raise delivery_error(*failed)
        if left:
            raise Unavailable("DELIVERY_UNKNOWN", left=left)

    def _report(self, error: KafkaError, message: object) -> None:
        self._failed = error, message.topic()  # type: ignore[attr-defined]

    def failed(self) -> BaseException | None:
        return self._producer.failure

    def stop(self, timeout_s: float) -> None:
        """Deliver what is queued; raises Unavailable DELIVERY_UNKNOWN if some is left."""
        self.settle(timeout_s=timeout_s)
