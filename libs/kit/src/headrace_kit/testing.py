# SPDX-License-Identifier: Apache-2.0
"""Fakes and builders for tests, shipped so that services and replacements share them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn, TypeVar

import grpc
from confluent_kafka import KafkaException
from grpc_status import rpc_status
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from headrace.errors import HeadraceError, Unavailable
from headrace.topics import RAW
from headrace_kit import tracing
from headrace_kit.error_status import to_status
from headrace_kit.kafka import Message, Partition, Record, RecordBatch
from headrace_kit.offsets import topic_end_offsets
from headrace_kit.spans import Spans
from headrace_kit.suspects import Attempt, Place

T = TypeVar("T")
TIME_MS = 1_357_000_000_000


class FixedClock:
    """Clock that stands until it is told to advance."""

    def __init__(self, now_us: int = 1_357_000_000_000_000) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us

    def advance(self, by_us: int) -> None:
        self._now_us += by_us


class MemoryPublisher:
    """Publisher that keeps what it is given, and raises the errors that a test puts in `errors`."""

    def __init__(self) -> None:
        self.published: list[Message] = []
        self.errors: list[HeadraceError] = []
        self._lock = threading.Lock()

    def publish(self, messages: Sequence[Message], *, timeout_s: float = 10.0) -> None:
        with self._lock:
            if self.errors:
                raise self.errors.pop(0)
            self.published.extend(messages)

    def send(self, messages: Sequence[Message]) -> MemorySending:
        return MemorySending(self, messages)

    def queue(self, topic: str, messages: Iterable[tuple[bytes, bytes]]) -> None:
        """As a BulkPublisher that delivers at once."""
        self.publish([Message(topic, key, value) for key, value in messages])

    def settle(self, *, timeout_s: float = 10.0) -> None:
        """All is delivered."""


class MemorySending:
    """Delivered when it is waited for."""

    def __init__(self, publisher: MemoryPublisher, messages: Sequence[Message]) -> None:
        self._publisher, self._messages = publisher, messages

    def wait(self, timeout_s: float) -> None:
        self._publisher.publish(self._messages, timeout_s=timeout_s)

    def over(self, timeout_s: float) -> bool:
        return True


class MemoryAttemptLog:
    """AttemptLog that outlives those who are made on it."""

    def __init__(self) -> None:
        self._attempts: dict[Place, Attempt] = {}

    def read(self) -> dict[Place, Attempt]:
        return dict(self._attempts)

    def write(self, attempts: Mapping[Place, Attempt]) -> None:
        self._attempts = dict(attempts)


class MemoryTopicLog:
    """TopicLog of what a MemoryPublisher was given: one partition a topic, a second a record."""

    def __init__(self, publisher: MemoryPublisher) -> None:
        self._publisher = publisher

    def partitions(self, topic: str) -> list[int]:
        return [0]

    def read(self, partition: Partition, begin: int = 0, *, since_ms: int = 0) -> Iterator[Record]:
        found = [each for each in self._publisher.published if each.topic == partition.topic]
        for offset, each in enumerate(found):
            headers, time_ms = dict(each.headers), TIME_MS + 1_000 * offset
            if offset >= begin and time_ms >= since_ms:
                yield Record(each.topic, 0, offset, each.key, each.value, headers, time_ms)

    def at(self, partition: Partition, offset: int) -> Record | None:
        return next((each for each in self.read(partition) if each.offset == offset), None)


class RefusingChannel:
    """As much of a `grpc.Channel` as stubs need; every call ends with the error."""

    def __init__(self, error: HeadraceError) -> None:
        self._refusal = _Refusal(error)

    def unary_unary(self, *_: object, **__: object) -> _Refusal:
        return self._refusal

    unary_stream = stream_unary = stream_stream = unary_unary


class _Refusal(grpc.RpcError):
    """A method of a stub, its call under way, and the error that this ends with."""

    def __init__(self, error: HeadraceError) -> None:
        self._status = rpc_status.to_status(to_status(error))

    def __call__(self, request: Any, *, timeout: float, metadata: Any = ()) -> NoReturn:
        raise self

    def future(self, request: Any, *, timeout: float) -> _Refusal:
        return self

    def result(self) -> NoReturn:
        raise self

    def cancel(self) -> None: ...

    def code(self) -> grpc.StatusCode:
        return self._status.code

    def details(self) -> str:
        return str(self._status.details)

    def trailing_metadata(self) -> Any:
        return self._status.trailing_metadata


def a_record(
    value: bytes | None = b"{}",
    *,
    topic: str = RAW.of("flights.departed"),
    partition: int = 0,
    offset: int = 0,
    key: bytes | None = b"key",
    headers: Mapping[str, bytes] | None = None,
    timestamp_ms: int = TIME_MS,
) -> Record:
    """A record with defaults for what a test does not care about."""
    return Record(topic, partition, offset, key, value, headers or {}, timestamp_ms)


def a_batch(records: Sequence[Record]) -> RecordBatch:
    """The records as the consume loop hands them over."""
    return RecordBatch.of(records)


def has_leaders(bootstrap: str, topics: Collection[str]) -> bool:
    """Whether new topics answer already."""
    try:
        return bool(topic_end_offsets(bootstrap, topics))
    except (Unavailable, KafkaException):
        return False


def wait_until(condition: Callable[[], T], *, timeout_s: float = 60.0) -> T:
    """Poll until the condition is true and return what it gave; AssertionError when time is up.

    What cannot be asked yet, because a part is away, is not true yet.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        away = None
        try:
            if found := condition():
                return found
        except Unavailable as err:
            away = err
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not true within {timeout_s} s") from away
        time.sleep(0.01)


def a_traceparent(trace: int = 1, *, span: int = 7, sampled: bool = True) -> str:
    return f"00-{trace:032x}-{span:016x}-{sampled:02x}"


@contextmanager
def recorded_spans() -> Iterator[Callable[[], Sequence[Any]]]:
    """Traces are on; gives the spans that have ended, the oldest first."""
    spans, exporter = _recorder()
    exporter.clear()
    tracing.use(spans)
    try:
        yield exporter.get_finished_spans
    finally:
        tracing.use(None)


@cache
def _recorder() -> tuple[Spans, InMemorySpanExporter]:
    """Once: a process has one provider of spans, for good."""
    exporter = InMemorySpanExporter()
    return Spans("test", SimpleSpanProcessor(exporter)), exporter
