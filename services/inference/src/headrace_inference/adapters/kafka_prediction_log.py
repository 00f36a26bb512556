# SPDX-License-Identifier: Apache-2.0
"""PredictionLog on Kafka, behind the answers: what was answered is written in the next moment.

No answer waits for it, and what Kafka does not take now is tried again: its rows may come twice,
with the same ids. What is in memory is bounded in bytes; what does not fit is lost, and counted:
here by its reason, and for every reader by `rows_answered`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, takewhile
from typing import NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from headrace import topics
from headrace.errors import HeadraceError, Invalid, Unavailable
from headrace_inference.adapters import conversions
from headrace_inference.adapters.answered_counts import AnsweredCounts
from headrace_inference.domain.logged_columns import LoggedRows, cuts, logged_rows, prediction_bytes
from headrace_inference.domain.prediction import Prediction
from headrace_kit import tracing
from headrace_kit.backoff import Backoff
from headrace_kit.kafka import (
    DELIVERY_TIMEOUT_S,
    MESSAGE_BYTES_MAX,
    Message,
    PipelinedPublisher,
)
from headrace_kit.part_thread import ThreadPart
from headrace_kit.telemetry import counter, gauge, histogram

FLUSH_INTERVAL_S = 0.01
FLUSH_BYTES = 1 << 20
PENDING_BYTES_MAX = 64 << 20
# Of what waited while Kafka was away, handed over at a time: its client has a bound too.
SLICE_BYTES_MAX = 8 << 20
# Far below the megabyte that a topic takes; a row of more goes without its inputs.
RECORD_BYTES_MAX = 512 << 10
# What a topic takes, less the headers and what the broker counts besides.
VALUE_BYTES_MAX = MESSAGE_BYTES_MAX - (4 << 10)
# Longer than the publisher tries: what it has given up cannot arrive behind the next try.
DELIVERY_WAIT_S = DELIVERY_TIMEOUT_S + 1.0
# Of an endpoint whose topic is in trouble while others are not, since rows of it were delivered.
OWN_FAILURES_MAX = 3
PARTITIONS_AGE_S_MAX = 60.0
CE_TYPE = b"headrace.inference.v1.PredictionsMade"
# Why rows were not delivered, after so many seconds at most.
Wait = Callable[[float], HeadraceError | None]

log = structlog.get_logger(__name__)
seconds = histogram("inference", "log_seconds", "Writing what waited for the log.")
pending = gauge("inference", "log_pending_bytes", "Answered and not yet confirmed by Kafka.")
lost = counter("inference", "log_lost_rows_total", "Rows answered and not logged.", "reason")
bare = counter("inference", "log_bare_rows_total", "Rows logged without their large inputs.")


class Appended(NamedTuple):
    """What one run answered, with the traces of its requests."""

    prediction: Prediction
    traces: Sequence[str]
    bytes: int


class KafkaPredictionLog(ThreadPart):
    """PredictionLog on a Publisher; `partitions` tells how many a topic has."""

    def __init__(
        self,
        publisher: PipelinedPublisher,
        *,
        partitions: Callable[[str], int],
        counts: AnsweredCounts,
        pending_bytes_max: int = PENDING_BYTES_MAX,
    ) -> None:
        super().__init__("prediction-log")
        self._publisher, self._counts = publisher, counts
        self._partitions = partitions
        self._bytes_max = pending_bytes_max
        self._lock = threading.Lock()
        self._pending: dict[str, list[Appended]] = {}
        # Of these and of what is being written.
        self._bytes = 0
        self._due = threading.Event()
        self._backoff = Backoff()
        # While others got through, by endpoint.
        self._failures: Counter[str] = Counter()
        self._ended = False
        pending.set_function(lambda: self._bytes)

    def append(self, prediction: Prediction, *, traces: Sequence[str] = ()) -> None:
        size = prediction_bytes(prediction) + sum(map(len, traces))
        endpoint = prediction.endpoint
        with self._lock:
            self._counts.add(endpoint, prediction.rows)
            fits = self._bytes + size <= self._bytes_max
            if fits:
                self._pending.setdefault(endpoint, []).append(Appended(prediction, traces, size))
                self._bytes += size
        if not fits:
            lost.labels("QUEUE_FULL").inc(prediction.rows)
        if self._bytes >= FLUSH_BYTES:
            self._due.set()

    def flush(self, *, wait_s: float = DELIVERY_WAIT_S) -> bool:
        """Writes what waits, of each endpoint a slice; returns when that is delivered or lost, or
        is to be written again, as what is not confirmed after `wait_s` is.

        Whether more waits that can be written now.
        """
        taken, until_s = self._taken(), time.monotonic() + wait_s
        if not taken:
            return False
        with seconds.time():
            waits = {endpoint: self._sent(endpoint, those) for endpoint, those in taken.items()}
            errors = {each: wait(until_s - time.monotonic()) for each, wait in waits.items()}
        reached = None in errors.values()
        kept = {
            endpoint: those
            for endpoint, those in taken.items()
            if self._comes_again(endpoint, those, errors[endpoint], reached=reached)
        }
        self._put_back(taken, kept)
        if kept:
            self._backoff.failed()
            return False
        self._backoff.succeeded()
        return bool(self._pending)

    def stop(self, timeout_s: float) -> None:
        """What is not delivered in that time is lost, and counted."""
        deadline_s = time.monotonic() + timeout_s
        super().stop(timeout_s)
        # A thread that is still writing is not written beside.
        while not self._thread.running and (left_s := deadline_s - time.monotonic()) > 0:
            if not self.flush(wait_s=left_s):
                break
        with self._lock:
            self._ended, left, self._pending = True, self._pending, {}
        for endpoint, appended in left.items():
            _lose(endpoint, _rows(appended), Unavailable("BROKER_UNAVAILABLE"))

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._thread.tick()
            self._due.wait(FLUSH_INTERVAL_S)
            self._due.clear()
            self.flush()
            self._rested(self._backoff.left_s())

    def _taken(self) -> dict[str, list[Appended]]:
        with self._lock:
            waiting, self._pending = self._pending, {}
            taken = {}
            for endpoint, appended in waiting.items():
                ends = accumulate(each.bytes for each in appended)
                count = 1 + sum(1 for _ in takewhile(lambda end: end < SLICE_BYTES_MAX, ends))
                taken[endpoint] = appended[:count]
                if appended[count:]:
                    self._pending[endpoint] = appended[count:]
        return taken

    def _put_back(
        self, taken: Mapping[str, list[Appended]], kept: Mapping[str, list[Appended]]
    ) -> None:
        """In front of what came meanwhile; the others are over with."""
        with self._lock:
            for endpoint, appended in taken.items():
                if endpoint in kept and self._ended:
                    _lose(endpoint, _rows(appended), Unavailable("BROKER_UNAVAILABLE"))
                elif endpoint in kept:
                    self._pending[endpoint] = appended + self._pending.get(endpoint, [])
                else:
                    self._bytes -= sum(each.bytes for each in appended)

    def _comes_again(
        self,
        endpoint: str,
        appended: Sequence[Appended],
        error: HeadraceError | None,
        *,
        reached: bool,
    ) -> bool:
        """Rows of a topic in trouble while others take theirs are given up: what waits for it would
        take the place of theirs. An outage is nobody's own trouble.
        """
        if error is None:
            self._failures.pop(endpoint, None)
            return False
        self._failures[endpoint] += reached
        own = reached and self._failures[endpoint] >= OWN_FAILURES_MAX
        if own or error.retry_delay_s is None or error.reason == "TOPIC_MISSING":
            _lose(endpoint, _rows(appended), error)
            return False
        log.warning("predictions_wait", endpoint=endpoint, rows=_rows(appended), error=str(error))
        return True

    def _sent(self, endpoint: str, appended: Sequence[Appended]) -> Wait:
        """Hands the rows to the publisher; what comes back waits for what becomes of them."""
        topic = topics.INFERENCE_PREDICTIONS.of(endpoint)
        span = tracing.write_span(topic, [trace for each in appended for trace in each.traces])
        try:
            with tracing.working(span):
                messages, rows_too_large = self._messages(endpoint, appended)
                sending = self._publisher.send(messages) if messages else None
        except HeadraceError as err:
            refused = err
            tracing.end(span, refused)
            return lambda _: refused

        def wait(timeout_s: float) -> HeadraceError | None:
            error = None
            try:
                if sending is not None:
                    sending.wait(timeout_s)
                if rows_too_large:
                    _lose(endpoint, rows_too_large, Invalid("TOO_LARGE", bytes_max=VALUE_BYTES_MAX))
            except HeadraceError as err:
                error = err
            tracing.end(span, error)
            return error

        return wait

    def _messages(self, endpoint: str, appended: Sequence[Appended]) -> tuple[list[Message], int]:
        """And how many rows are in none of them, as no record takes them."""
        topic = topics.INFERENCE_PREDICTIONS.of(endpoint)
        count = self._partitions(topic)
        rows_answered, trace = self._counts.read(endpoint), tracing.record_headers()
        messages, rows_too_large = [], 0
        for rows in logged_rows([each.prediction for each in appended]):
            for partition, record in records(rows, rows.partitions(count)):
                event = conversions.predictions_event(
                    record, writer=self._counts.writer, rows_answered=rows_answered
                )
                value = event.SerializeToString()
                if len(value) > VALUE_BYTES_MAX:
                    rows_too_large += len(record)
                    continue
                headers = ce_headers(event.first_prediction_ids[0]) + trace
                messages.append(Message(topic, None, value, headers, partition))
        return messages, rows_too_large


class RememberedCounts:
    """How many partitions a topic has, asked again after a while: a topic may be widened."""

    def __init__(self, ask: Callable[[str], int]) -> None:
        self._ask = ask
        self._known: dict[str, tuple[int, float]] = {}

    def __call__(self, topic: str) -> int:
        count, until_s = self._known.get(topic, (0, 0.0))
        if time.monotonic() >= until_s:
            count = self._ask(topic)
            self._known[topic] = count, time.monotonic() + PARTITIONS_AGE_S_MAX
        return count


def ce_headers(id_: str) -> tuple[tuple[str, bytes], ...]:
    return (
        ("ce_specversion", b"1.0"),
        ("ce_type", CE_TYPE),
        ("ce_source", b"inference"),
        ("ce_id", id_.encode()),
    )


def records(rows: LoggedRows, places: NDArray[np.int64]) -> Iterator[tuple[int, LoggedRows]]:
    """The rows by place, in pieces that fit a record; a row that alone does not has no inputs."""
    sizes = rows.bytes_by_row()
    for place in np.unique(places).tolist():
        chosen = np.flatnonzero(places == place)
        for first, end in cuts(sizes[chosen], RECORD_BYTES_MAX):
            record = rows.taken(chosen[first:end])
            if sizes[chosen[first]] > RECORD_BYTES_MAX:
                bare.inc()
                record = record.without_inputs()
            yield place, record


def _lose(endpoint: str, rows: int, error: HeadraceError) -> None:
    lost.labels(error.reason).inc(rows)
    log.error("predictions_not_logged", endpoint=endpoint, rows=rows, error=str(error))


def _rows(appended: Iterable[Appended]) -> int:
    return sum(each.prediction.rows for each in appended)
