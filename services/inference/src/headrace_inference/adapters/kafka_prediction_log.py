# SPDX-License-Identifier: Apache-2.0
"""PredictionLog on Kafka, behind the answers: what was answered is written in the next moment.

No answer waits for it, and what Kafka does not take now is tried again: its rows may come twice,
with the same ids. No endpoint waits for another's topic. What is in memory is bounded in bytes;
what does not fit is lost, and counted: here by its reason, and for every reader by `rows_answered`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from headrace import topics
from headrace.errors import TOPIC_MISSING, HeadraceError, Invalid, Unavailable
from headrace_inference.adapters import conversions
from headrace_inference.adapters.answered_counts import AnsweredCounts
from headrace_inference.adapters.prediction_backlogs import Appended, Backlog, Backlogs, rows
from headrace_inference.domain.logged_columns import logged_parts, prediction_bytes, records
from headrace_inference.domain.prediction import Prediction
from headrace_kit import tracing
from headrace_kit.kafka import (
    DELIVERY_TIMEOUT_S,
    MESSAGE_BYTES_MAX,
    Message,
    PipelinedPublisher,
    Sending,
)
from headrace_kit.part_thread import TICK_INTERVAL_S, ThreadPart
from headrace_kit.telemetry import counter, gauge, histogram

if TYPE_CHECKING:
    from headrace_kit.spans import Span

FLUSH_INTERVAL_S = 0.01
FLUSH_BYTES = 1 << 20
PENDING_BYTES_MAX = 64 << 20
# Far below the megabyte that a topic takes; a row of more goes without its inputs.
RECORD_BYTES_MAX = 512 << 10
# What a topic takes, less the headers and what the broker counts besides.
VALUE_BYTES_MAX = MESSAGE_BYTES_MAX - (4 << 10)
# Longer than the publisher tries: what it has given up cannot arrive behind the next try.
DELIVERY_WAIT_S = DELIVERY_TIMEOUT_S + 1.0
PARTITIONS_AGE_S_MAX = 60.0
CE_TYPE = b"headrace.inference.v1.PredictionsMade"

log = structlog.get_logger(__name__)
seconds = histogram("inference", "log_seconds", "Writing what waited of an endpoint.")
pending = gauge("inference", "log_pending_bytes", "Answered and not yet confirmed by Kafka.")
lost = counter("inference", "log_lost_rows_total", "Rows answered and not logged.", "reason")
bare = counter("inference", "log_bare_rows_total", "Rows logged without their large inputs.")


@dataclass(slots=True, eq=False)
class Flight:
    """A slice of an endpoint's rows on its way, or the refusal to take it."""

    backlog: Backlog
    span: Span | None = None
    begun_s: float = field(default_factory=time.monotonic)
    sending: Sending | None = None
    refusal: HeadraceError | None = None
    rows_too_large: int = 0

    def over(self, timeout_s: float) -> bool:
        """Whether it is known what became of it, or no longer waited for, after that time."""
        late = time.monotonic() >= self.begun_s + DELIVERY_WAIT_S
        return late or self.sending is None or self.sending.over(timeout_s)

    def outcome(self) -> HeadraceError | None:
        """Why the rows were not delivered; those that no record takes are lost, if others were."""
        error = self.refusal
        try:
            if self.sending is not None:
                self.sending.wait(0.0)
        except HeadraceError as err:
            error = err
        if self.rows_too_large and error is None:
            too_large = Invalid("TOO_LARGE", bytes_max=VALUE_BYTES_MAX)
            _lose(self.backlog.endpoint, self.rows_too_large, too_large)
        tracing.end(self.span, error)
        seconds.observe(time.monotonic() - self.begun_s)
        return error


class PartitionCounts(Protocol):
    """How many partitions topics have, or had lately."""

    def __call__(self, topic: str) -> int:
        """Raises Unavailable TOPIC_MISSING or BROKER_UNAVAILABLE."""

    def forget(self, topic: str) -> None:
        """Something is wrong with it: ask anew when it is needed next."""


class KafkaPredictionLog(ThreadPart):
    """PredictionLog on a Publisher."""

    def __init__(
        self,
        publisher: PipelinedPublisher,
        *,
        partitions: PartitionCounts,
        counts: AnsweredCounts,
        pending_bytes_max: int = PENDING_BYTES_MAX,
    ) -> None:
        super().__init__("prediction-log")
        self._publisher, self._counts = publisher, counts
        self._partitions = partitions
        self._backlogs = Backlogs(pending_bytes_max)
        self._flights: list[Flight] = []
        self._counting = threading.Lock()
        # Since the last round.
        self._bytes_new = 0
        self._due = threading.Event()
        self._resting, self._came = False, threading.Event()
        pending.set_function(lambda: self._backlogs.bytes)

    def append(self, prediction: Prediction, *, traces: Sequence[str] = ()) -> None:
        size = prediction_bytes(prediction) + sum(map(len, traces))
        with self._counting:
            self._counts.add(prediction.endpoint, prediction.rows)
            self._bytes_new += size
        if rows_lost := self._backlogs.add(Appended(prediction, traces, size)):
            lost.labels("QUEUE_FULL").inc(rows_lost)
        if self._resting:
            self._came.set()
        if self._bytes_new >= FLUSH_BYTES:
            self._due.set()

    def flush(self, *, wait_s: float = DELIVERY_WAIT_S) -> bool:
        """Writes what waits, of each endpoint a slice; returns when that is delivered or lost, or
        is to be written again, as what is not confirmed after `wait_s` is.

        Whether more waits that can be written now.
        """
        until_s = time.monotonic() + wait_s
        self._send(self._backlogs.take(hurried=True))
        for flight in self._flights:
            flight.over(until_s - time.monotonic())
        flights, self._flights = self._flights, []
        self._settle(flights)
        return self._backlogs.more()

    def stop(self, timeout_s: float) -> None:
        """What is not delivered in that time is lost, and counted."""
        deadline_s = time.monotonic() + timeout_s
        self._stopping.set()
        self._came.set()
        super().stop(timeout_s)
        # A thread that is still writing is not written beside.
        while not self._thread.running and (left_s := deadline_s - time.monotonic()) > 0:
            if not self.flush(wait_s=left_s):
                break
        for endpoint, left in self._backlogs.end().items():
            _lose(endpoint, left, Unavailable("BROKER_UNAVAILABLE"))

    def _run(self) -> None:
        # To the end it goes on beside what is on its way, which must be counted.
        while self._flights or not self._stopping.is_set():
            self._thread.tick()
            if self._flights or self._woken():
                self._due.wait(FLUSH_INTERVAL_S)
                self._due.clear()
                self._round()

    def _woken(self) -> bool:
        """Whether there is something to write, or came in a rest: rounds in vain take 1 % of a
        core."""
        self._came.clear()
        self._resting = True  # from here on who appends wakes us, and what came before is seen
        came = self._backlogs.bytes > 0 or (
            not self._stopping.is_set() and self._came.wait(TICK_INTERVAL_S)
        )
        self._resting = False
        return came

    def _round(self) -> None:
        """Nobody is waited for: an endpoint whose last slice is on its way has its next later."""
        self._bytes_new = 0
        over = [each for each in self._flights if each.over(0.0)]
        self._flights = [each for each in self._flights if each not in over]
        self._settle(over)
        self._send(self._backlogs.take())

    def _send(self, backlogs: Iterable[Backlog]) -> None:
        for backlog in backlogs:
            self._thread.tick()  # to ask for a topic's partitions takes seconds in an outage
            self._flights.append(self._flight(backlog))

    def _settle(self, flights: Iterable[Flight]) -> None:
        outcomes = [(flight.backlog, flight.outcome()) for flight in flights]
        # First what got through: by that is known whose trouble the rest is.
        for backlog, error in sorted(outcomes, key=lambda each: each[1] is not None):
            if error is None:
                self._backlogs.delivered(backlog)
            else:
                self._refused(backlog, error)

    def _refused(self, backlog: Backlog, error: HeadraceError) -> None:
        """Rows of a topic in trouble while others take theirs are given up: what waits for it would
        take the place of theirs.
        """
        endpoint, count = backlog.endpoint, rows(backlog.taken)
        if error.reason == TOPIC_MISSING:  # or made again, with fewer partitions
            self._partitions.forget(topics.INFERENCE_PREDICTIONS.of(endpoint))
        hopeless = error.retry_delay_s is None
        if hopeless or self._backlogs.failed(backlog) or error.reason == TOPIC_MISSING:
            _lose(endpoint, count, error)
            self._backlogs.given_up(backlog)
        elif self._backlogs.put_back(backlog):
            log.warning("predictions_wait", endpoint=endpoint, rows=count, error=str(error))
        else:
            _lose(endpoint, count, Unavailable("BROKER_UNAVAILABLE"))

    def _flight(self, backlog: Backlog) -> Flight:
        """The rows, handed to the publisher."""
        topic = topics.INFERENCE_PREDICTIONS.of(backlog.endpoint)
        traces = [trace for each in backlog.taken for trace in each.traces]
        flight = Flight(backlog)
        try:
            flight.span = tracing.write_span(topic, traces)
            with tracing.working(flight.span):
                messages, flight.rows_too_large = self._messages(backlog.endpoint, backlog.taken)
                # Not since before: librdkafka gives up so long after this.
                flight.begun_s = time.monotonic()
                flight.sending = self._publisher.send(messages) if messages else None
        except HeadraceError as err:
            flight.refusal = err
        except OSError as err:  # the system lacks something now: file descriptors, for one
            flight.refusal = Unavailable("SERVICE_UNAVAILABLE", problem=err.strerror)
        return flight

    def _messages(self, endpoint: str, appended: Sequence[Appended]) -> tuple[list[Message], int]:
        """And how many rows are in none of them, as no record takes them."""
        topic = topics.INFERENCE_PREDICTIONS.of(endpoint)
        count = self._partitions(topic)
        rows_answered, trace = self._counts.read(endpoint), tracing.record_headers()
        messages, rows_too_large = [], 0
        for partition, parts in logged_parts([each.prediction for each in appended], count):
            for record in records(parts, RECORD_BYTES_MAX):
                event = conversions.predictions_event(
                    record, writer=self._counts.writer, rows_answered=rows_answered
                )
                too_large = record[0].first_row_bytes > RECORD_BYTES_MAX  # and alone
                value = conversions.predictions_record(event, record, inputs=not too_large)
                if len(value) > VALUE_BYTES_MAX:
                    rows_too_large += sum(event.run_rows)
                    continue
                if too_large:
                    bare.inc()
                headers = ce_headers(event.first_prediction_ids[0]) + trace
                messages.append(Message(topic, None, value, headers, partition))
        return messages, rows_too_large


class RememberedCounts:
    """PartitionCounts, asked again after a while: a topic may be widened.

    `ask`: how many those of the topics have that are there; raises Unavailable BROKER_UNAVAILABLE.
    """

    def __init__(self, ask: Callable[[Collection[str]], Mapping[str, int]]) -> None:
        self._ask = ask
        self._known: dict[str, tuple[int, float]] = {}

    def __call__(self, topic: str) -> int:
        count, until_s = self._known.get(topic, (0, 0.0))
        if time.monotonic() < until_s:
            return count
        if self.missing([topic]):
            raise Unavailable("TOPIC_MISSING", topic=topic)
        return self._known[topic][0]

    def forget(self, topic: str) -> None:
        self._known.pop(topic, None)

    def missing(self, wanted: Collection[str]) -> set[str]:
        """Which topics are not there by now; what the others have is remembered anew."""
        told, until_s = self._ask(wanted), time.monotonic() + PARTITIONS_AGE_S_MAX
        self._known |= {topic: (count, until_s) for topic, count in told.items()}
        return {*wanted} - told.keys()


def ce_headers(id_: str) -> tuple[tuple[str, bytes], ...]:
    return (
        ("ce_specversion", b"1.0"),
        ("ce_type", CE_TYPE),
        ("ce_source", b"inference"),
        ("ce_id", id_.encode()),
    )


def _lose(endpoint: str, rows: int, error: HeadraceError) -> None:
    lost.labels(error.reason).inc(rows)
    log.error("predictions_not_logged", endpoint=endpoint, rows=rows, error=str(error))
