# SPDX-License-Identifier: Apache-2.0
"""A compacted topic read as a table: without a group, from the beginning, then for ever.

`start` returns when the end that it saw at the start is reached, so that a service is ready only
with a whole table. Compaction leaves gaps, so the end of a partition is what Kafka says it is.
A topic that is made again is another table, for which the follower of the first one is no use.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from headrace.errors import Busy, HeadraceError, Unavailable
from headrace_kit.backoff import Backoff
from headrace_kit.kafka import Record, await_broker, client_settings, to_record
from headrace_kit.part_thread import PartThread
from headrace_kit.telemetry import counter
from headrace_kit.topic_ids import TopicIds

POLL_RECORDS_MAX = 500
REQUEST_TIMEOUT_S = 5.0

log = structlog.get_logger(__name__)


class TableFollower:
    """Calls `on_record` from its thread for every record of a topic; a Part.

    Busy and Unavailable: the same record again, later. Any other HeadraceError: logged and counted,
    next record; it is not set aside, for it comes again at each start. Anything else is a bug: the
    follower stops and `failed` tells, as it does when the topic is missing, or was made again.
    """

    def __init__(
        self, *, bootstrap: str, topic: str, on_record: Callable[[Record], None], service: str
    ) -> None:
        self._bootstrap, self._topic, self._on_record = bootstrap, topic, on_record
        self._ids = TopicIds(bootstrap)
        self._ends: dict[int, int] = {}  # partitions that are not caught up, and their ends
        self._caught_up = threading.Event()
        self._stopping = threading.Event()
        self._thread = PartThread(f"follow-{topic}", self._run)
        self._consumer: Any = None
        self._skipped = counter(
            service, "skipped_records_total", "Records of followed topics not taken.", "reason"
        )

    def start(self, timeout_s: float = 60.0) -> None:
        """Return when caught up with the end seen now.

        Raises Unavailable BROKER_UNAVAILABLE, TOPIC_MISSING, or RESTORING when time is up.
        """
        deadline_s = time.monotonic() + timeout_s
        self._consumer = Consumer(
            client_settings(self._bootstrap, f"follow-{self._topic}")
            | {
                "auto.offset.reset": "error",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "group.id": "headrace-follower",  # asked for by the client, never joined
                "isolation.level": "read_committed",
                "queued.max.messages.kbytes": 4_096,
            }
        )
        await_broker(self._consumer, self._bootstrap)
        self._ends = self._end_offsets(deadline_s)
        self._consumer.assign(
            [TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in self._ends]
        )
        self._thread.start()
        while not self._caught_up.wait(0.1):
            if self._thread.failure is not None:
                raise self._thread.failure
            if time.monotonic() > deadline_s:
                raise Unavailable("RESTORING", topic=self._topic)

    @property
    def topic_id(self) -> str:
        """Of the topic that is followed: what was read of another one is none of it."""
        return self._ids.get(self._topic)

    def stop(self, timeout_s: float) -> None:
        self._stopping.set()
        if self._thread.started:
            self._thread.join(timeout_s)
        elif self._consumer is not None:
            self._consumer.close()

    def failed(self) -> BaseException | None:
        return self._thread.failure

    def tick_age_s(self) -> float:
        return self._thread.tick_age_s()

    def _end_offsets(self, deadline_s: float) -> dict[int, int]:
        while True:
            try:
                # Of one answer, and first: made again since, the topic has another id than ours.
                told = self._ids.identify([self._topic])[self._topic]
                return {number: self._end_offset(number) for number in told.partitions}
            except KafkaException as err:
                if time.monotonic() > deadline_s:
                    raise Unavailable("BROKER_UNAVAILABLE", bootstrap=self._bootstrap) from err
            except Unavailable:
                if time.monotonic() > deadline_s:
                    raise
            self._stopping.wait(0.2)

    def _end_offset(self, number: int) -> int:
        partition = TopicPartition(self._topic, number)
        _, high = self._consumer.get_watermark_offsets(partition, timeout=REQUEST_TIMEOUT_S)
        return int(high)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._thread.tick()
                if self._ids.made_again([self._topic]):
                    raise Unavailable("TOPIC_MADE_AGAIN", topic=self._topic)
                for message in self._consumer.consume(POLL_RECORDS_MAX, 0.1):
                    self._take(message)
        finally:
            self._consumer.close()

    def _take(self, message: Any) -> None:
        error = message.error()
        if error is None:
            self._apply(to_record(message))
            self._reached(message.partition(), message.offset() + 1)
        elif error.code() == KafkaError._PARTITION_EOF:
            self._reached(message.partition(), message.offset())
        elif error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise Unavailable("TOPIC_MISSING", topic=self._topic)
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise Unavailable("OFFSET_LOST", topic=self._topic, partition=message.partition())
        elif not error.retriable():
            log.warning("follower_error", topic=self._topic, error=error.name())

    def _apply(self, record: Record) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            self._thread.tick()
            try:
                return self._on_record(record)
            except (Busy, Unavailable) as err:
                log.warning("follower_waits", topic=self._topic, error=str(err))
                self._stopping.wait(backoff.failed(err.retry_delay_s))
            except HeadraceError as err:
                self._skipped.labels(err.reason).inc()
                log.error("record_skipped", topic=self._topic, offset=record.offset, error=str(err))
                return None
        return None

    def _reached(self, number: int, position: int) -> None:
        if position >= self._ends.get(number, position + 1):
            del self._ends[number]
        if not self._ends:
            self._caught_up.set()
