# SPDX-License-Identifier: Apache-2.0
"""Spans of the calls and records that somebody traces: whose `traceparent` says that it is sampled.

No trace begins here, so that whoever calls decides what is seen and what it costs. Until `start`
nothing of OpenTelemetry is imported, and a call pays one look at a global; after it, a call that is
not sampled pays a look at its metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING

from headrace.tracing import TRACEPARENT, headers

if TYPE_CHECKING:
    from headrace_kit.kafka import RecordBatch
    from headrace_kit.spans import Span, Spans

# As many as OpenTelemetry keeps of a span, unless it is told.
LINKS_MAX = 128
# The last digit of the flags, where the bit "sampled" is set.
FLAGS_AT = 54
SAMPLED = frozenset("13579bdf")

_spans: Spans | None = None
_nothing: AbstractContextManager[None] = nullcontext()


def start(service: str, *, queue_spans_max: int) -> None:
    """Sends spans to where OTEL_EXPORTER_OTLP_ENDPOINT says, by the SDK's own settings.

    Raises ValueError for those that contradict each other.
    """
    from headrace_kit.spans import Spans, exporting

    use(Spans(service, exporting(service, queue_spans_max=queue_spans_max)))


def use(spans: Spans | None) -> None:
    """What makes the spans from now on; None for none."""
    global _spans
    _spans = spans


def stop(timeout_s: float) -> None:
    """Sends what waits, as far as the time allows: a collector that is away holds up no exit."""
    if _spans is not None:
        _spans.close(timeout_s)


def call_span(method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Span | None:
    """Of a gRPC call at `/package.Service/Method`; None when it is not traced."""
    if _spans is None:
        return None
    for name, value in metadata:
        if name == TRACEPARENT:
            return _spans.of_rpc(method, dict(metadata)) if _sampled(value) else None
    return None


def request_span(method: str, path: str, headers: Mapping[str, str]) -> Span | None:
    """Of an HTTP request; None when it is not traced."""
    if _spans is None or not _sampled(headers.get(TRACEPARENT, "")):
        return None
    return _spans.of_http(method, path, headers)


def write_span(topic: str, traces: Sequence[str]) -> Span | None:
    """Of sending to the topic what came of these requests, and of others."""
    if _spans is None or not traces:
        return None
    return _spans.of_records("send", traces[:LINKS_MAX], topic)


def reading(records: RecordBatch, group: str) -> AbstractContextManager[None]:
    """Around what a consumer does with the records; only a batch with a traced one has a span."""
    if _spans is None:
        return _nothing
    traces = list(islice(_traces(records.headers()), LINKS_MAX))
    return _spans.reading(records, group, traces) if traces else _nothing


def working(span: Span | None) -> AbstractContextManager[None]:
    """Calls and records that the thread sends meanwhile are the span's."""
    return _nothing if span is None else span.working()


def current() -> Span | None:
    """That of the call which this thread works on."""
    return None if _spans is None else _spans.current()


def traces() -> tuple[str, ...]:
    """The `traceparent` of the current span, if there is one."""
    return tuple(value for name, value in headers() if name == TRACEPARENT)


def record_headers() -> tuple[tuple[str, bytes], ...]:
    """What a record that is sent now has beside its own headers."""
    return tuple((name, value.encode()) for name, value in headers())


def end(span: Span | None, outcome: object = None) -> None:
    """`outcome`: what was answered; an exception where it is the answer."""
    if span is not None:
        span.end(outcome)


def _sampled(traceparent: str | bytes) -> bool:
    return isinstance(traceparent, str) and traceparent[FLAGS_AT : FLAGS_AT + 1] in SAMPLED


def _traces(given: Iterable[Sequence[tuple[str, bytes | None]] | None]) -> Iterator[str]:
    for pairs in given:
        for name, value in pairs or ():
            if name == TRACEPARENT and value and _sampled(text := value.decode("latin-1")):
                yield text
