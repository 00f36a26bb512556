# SPDX-License-Identifier: Apache-2.0
"""Spans by OpenTelemetry's SDK, in the names of its semantic conventions, and their way to OTLP.

Imported by `tracing.start` alone: whoever does not trace loads nothing of it. What waits for the
collector is bounded; what does not fit, or is not taken, is lost and counted, and nobody waits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version

from google.rpc import code_pb2
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from headrace.errors import HeadraceError
from headrace.tracing import TRACEPARENT, headers_of
from headrace_kit.error_status import to_status
from headrace_kit.kafka import RecordBatch
from headrace_kit.telemetry import counter

# Of gRPC's codes those that are the server's failure; the others are the caller's.
FAULTS = (
    code_pb2.UNKNOWN,
    code_pb2.DEADLINE_EXCEEDED,
    code_pb2.UNIMPLEMENTED,
    code_pb2.INTERNAL,
    code_pb2.UNAVAILABLE,
    code_pb2.DATA_LOSS,
)
HTTP_FAULT = 500

_propagator = TraceContextTextMapPropagator()


class Span:
    """A span that is recorded; any thread may use it."""

    __slots__ = ("_span",)

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        return headers_of(self._span.get_span_context())[0][1]

    def note(self, told: Mapping[str, str | int]) -> None:
        self._span.set_attributes(told)

    def lasted(self, name: str, *, end_us: int, ns: int) -> None:
        """A part of it that is over, as a span of its own."""
        end_ns = end_us * 1_000
        context = trace.set_span_in_context(self._span)
        part = _tracer().start_span(name, context=context, start_time=end_ns - ns)
        part.end(end_ns)

    @contextmanager
    def working(self) -> Iterator[None]:
        with trace.use_span(self._span, record_exception=False, set_status_on_exception=False):
            yield

    def end(self, outcome: object = None) -> None:
        """Once; what comes later is not heard."""
        if not self._span.is_recording():
            return
        if isinstance(outcome, BaseException):
            self._fail(outcome)
        self._span.end()

    def _fail(self, error: BaseException) -> None:
        status = to_status(error)
        reason = error.reason if isinstance(error, HeadraceError) else "INTERNAL"
        self._span.set_attribute("error.type", reason)
        if status.code in FAULTS:
            self._span.set_status(trace.StatusCode.ERROR, status.message)


class _RpcSpan(Span):
    __slots__ = ()

    def end(self, outcome: object = None) -> None:
        if not self._span.is_recording():
            return
        code = to_status(outcome).code if isinstance(outcome, BaseException) else code_pb2.OK
        self._span.set_attribute("rpc.response.status_code", code_pb2.Code.Name(code))
        super().end(outcome)


class Spans:
    """Makes them. `processor` takes those that have ended."""

    def __init__(self, service: str, processor: SpanProcessor) -> None:
        name = f"headrace-{service}"
        ours = Resource.create({"service.name": name, "service.version": version("headrace-kit")})
        self._provider = TracerProvider(
            resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        trace.set_tracer_provider(self._provider)

    def close(self, timeout_s: float) -> None:
        """The SDK would wait for its collector as long as that takes."""
        closing = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
        closing.start()
        closing.join(timeout_s)

    def current(self) -> Span | None:
        span = trace.get_current_span()
        return Span(span) if span.is_recording() else None

    def of_rpc(self, path: str, metadata: Mapping[str, str | bytes]) -> Span | None:
        method = path.removeprefix("/")
        span = self._serving(method, metadata, {"rpc.system.name": "grpc", "rpc.method": method})
        return None if span is None else _RpcSpan(span)

    def of_http(self, method: str, path: str, headers: Mapping[str, str]) -> Span | None:
        told = {"http.request.method": method, "url.path": path, "url.scheme": "http"}
        span = self._serving(method, headers, told)
        return None if span is None else Span(span)

    def _serving(
        self, name: str, carrier: Mapping[str, str | bytes], told: Mapping[str, str]
    ) -> trace.Span | None:
        context = _propagator.extract(carrier)
        if not trace.get_current_span(context).get_span_context().is_valid:
            return None
        kind = trace.SpanKind.SERVER
        span = _tracer().start_span(name, context=context, kind=kind, attributes=told)
        return span if span.is_recording() else None

    def of_records(
        self, operation: str, traces: Sequence[str], topic: str, **told: str | int
    ) -> Span | None:
        """In the trace of the first one, and linked to each: a batch has several causes, of which
        one may have left several records. Those of several topics have no destination.

        https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
        """
        contexts = [_propagator.extract({TRACEPARENT: text}) for text in dict.fromkeys(traces)]
        causes = [trace.get_current_span(each).get_span_context() for each in contexts]
        attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            **({"messaging.destination.name": topic} if topic else {}),
            **told,
        }
        span = _tracer().start_span(
            f"{operation} {topic}".strip(),
            context=contexts[0],
            kind=trace.SpanKind.PRODUCER if operation == "send" else trace.SpanKind.CONSUMER,
            attributes=attributes,
            links=[trace.Link(cause) for cause in causes if cause.is_valid],
        )
        return Span(span) if span.is_recording() else None

    @contextmanager
    def reading(self, records: RecordBatch, group: str, traces: Sequence[str]) -> Iterator[None]:
        topics = {run.partition.topic for run in records.runs}
        topic = topics.pop() if len(topics) == 1 else ""
        told: dict[str, str | int] = {
            "messaging.consumer.group.name": group,
            "messaging.batch.message_count": len(records),
        }
        span = self.of_records("process", traces, topic, **told)
        if span is None:
            yield
            return
        try:
            with span.working():
                yield
        except HeadraceError as err:
            span.end(err)
            raise
        finally:
            span.end()


@cache
def _tracer() -> trace.Tracer:
    return trace.get_tracer("headrace")


def exporting(service: str, *, queue_spans_max: int) -> SpanProcessor:
    """Sends batches by OTLP over HTTP; the SDK and its exporter read their own settings."""
    return _Queue(service, OTLPSpanExporter(), spans_max=queue_spans_max)


class _Queue(BatchSpanProcessor):
    """The SDK's queue, which drops without counting and so is never let run full."""

    def __init__(self, service: str, exporter: SpanExporter, *, spans_max: int) -> None:
        self._places = threading.BoundedSemaphore(spans_max)
        self._lost = counter(service, "trace_lost_spans_total", "Spans not exported.", "reason")
        self._counted = _Counted(service, exporter, self._places)
        super().__init__(self._counted, max_queue_size=spans_max)

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if self._places.acquire(blocking=False):
            super().on_end(span)
        else:
            self._lost.labels("QUEUE_FULL").inc()


class _Counted(SpanExporter):
    """Frees the places of what it takes."""

    def __init__(
        self, service: str, exporter: SpanExporter, places: threading.BoundedSemaphore
    ) -> None:
        self._exporter, self._places = exporter, places
        self._sent = counter(service, "trace_exported_spans_total", "Spans exported.")
        self._lost = counter(service, "trace_lost_spans_total", "Spans not exported.", "reason")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._places.release(len(spans))
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._sent.inc(len(spans))
        else:
            self._lost.labels("SERVICE_UNAVAILABLE").inc(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
