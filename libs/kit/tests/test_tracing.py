# SPDX-License-Identifier: Apache-2.0
"""Who is traced has spans; nobody else has any. Both halves: what calls and what is called."""

import threading

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from prometheus_client import REGISTRY

from headrace.errors import Busy, HeadraceError, Invalid, NotFound, Unavailable
from headrace.raw_producer import RawProducer
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from headrace.rpc import call
from headrace.tracing import TRACEPARENT, headers
from headrace_kit import spans, tracing
from headrace_kit.testing import (
    RefusingChannel,
    a_batch,
    a_record,
    a_traceparent,
    recorded_spans,
    wait_until,
)

METHOD = "/headrace.registry.v1.RegistryService/ResolveModel"


@pytest.fixture
def finished():
    with recorded_spans() as found:
        yield found


def served(*metadata):
    return tracing.call_span(METHOD, metadata)


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "Bearer x")],
        [(TRACEPARENT, a_traceparent(sampled=False))],
        [(TRACEPARENT, "")],
        [(TRACEPARENT, "0" * 54 + "1")],
        [(TRACEPARENT, a_traceparent(trace=0))],
    ],
)
def test_call_that_nobody_samples_has_no_span(finished, metadata):
    assert served(*metadata) is None


def test_sampled_call_has_no_span_where_tracing_is_off():
    assert served((TRACEPARENT, a_traceparent())) is None
    assert tracing.current() is None


def test_span_of_a_call_is_a_part_of_its_callers(finished):
    served(("x", "y"), (TRACEPARENT, a_traceparent(5, span=6))).end(b"answer")

    (span,) = finished()
    assert (5, 6) == (span.context.trace_id, span.parent.span_id)
    assert (trace.SpanKind.SERVER, METHOD[1:]) == (span.kind, span.name)
    told = {"rpc.system.name": "grpc", "rpc.method": METHOD[1:], "rpc.response.status_code": "OK"}
    assert told == dict(span.attributes)


@pytest.mark.parametrize(
    ("error", "code", "reason", "status"),
    [
        (NotFound("MODEL_UNKNOWN"), "NOT_FOUND", "MODEL_UNKNOWN", trace.StatusCode.UNSET),
        (Busy("QUEUE_FULL"), "RESOURCE_EXHAUSTED", "QUEUE_FULL", trace.StatusCode.UNSET),
        (
            Unavailable("DEADLINE_UNMET"),
            "DEADLINE_EXCEEDED",
            "DEADLINE_UNMET",
            trace.StatusCode.ERROR,
        ),
        (KeyError("/secret"), "INTERNAL", "INTERNAL", trace.StatusCode.ERROR),
    ],
)
def test_span_of_a_refused_call_says_why(finished, error, code, reason, status):
    served((TRACEPARENT, a_traceparent())).end(error)

    (span,) = finished()
    assert code == span.attributes["rpc.response.status_code"]
    assert (reason, status) == (span.attributes["error.type"], span.status.status_code)
    assert "secret" not in span.to_json()


def test_span_ends_once(finished):
    span = served((TRACEPARENT, a_traceparent()))
    span.end(b"answer")
    span.end(Unavailable("DEADLINE_UNMET"))

    (ended,) = finished()
    assert "OK" == ended.attributes["rpc.response.status_code"]


def test_program_without_a_span_sends_nothing(finished):
    assert [] == headers()
    assert () == tracing.record_headers() == tracing.traces()


def test_call_of_a_traced_call_is_a_span_that_the_called_one_is_told_of(finished):
    seen = {}

    def resolve_model(request, timeout, metadata):
        seen.update(metadata)
        return pb.ResolveModelResponse()

    outer = served((TRACEPARENT, a_traceparent(5)))
    with tracing.working(outer):
        call(resolve_model, pb.ResolveModelRequest(), timeout_s=1.0)
    outer.end()

    inner, ended = finished()
    assert ended.context.span_id == inner.parent.span_id
    assert (trace.SpanKind.CLIENT, METHOD[1:]) == (inner.kind, inner.name)
    assert a_traceparent(5, span=inner.context.span_id) == seen[TRACEPARENT]


def test_refused_call_says_why_in_the_callers_span(finished):
    method = RegistryServiceStub(RefusingChannel(NotFound("MODEL_UNKNOWN"))).ResolveModel
    with tracing.working(served((TRACEPARENT, a_traceparent()))), pytest.raises(NotFound):
        call(method, pb.ResolveModelRequest(), timeout_s=1.0)

    (span,) = finished()
    assert "MODEL_UNKNOWN" == span.attributes["error.type"]
    assert grpc.StatusCode.NOT_FOUND.name == span.attributes["rpc.response.status_code"]


class Producer:
    """Delivers at once."""

    def __init__(self):
        self.headers = []

    def produce(self, topic, *, value, key, on_delivery, headers=()):
        self.headers.append(list(headers))
        on_delivery(None, None)

    def flush(self, timeout_s):
        return 0


def test_published_records_tell_of_the_span_that_sent_them(finished):
    producer = Producer()
    with tracing.working(served((TRACEPARENT, a_traceparent(5)))):
        RawProducer(producer).append("raw.x.v1", [(b"k", b"1"), (b"k", b"2")])

    (span,) = finished()
    assert (trace.SpanKind.PRODUCER, "send raw.x.v1") == (span.kind, span.name)
    told = [(TRACEPARENT, a_traceparent(5, span=span.context.span_id))]
    assert [told, told] == producer.headers


def test_records_of_a_program_without_a_trace_have_no_headers(finished):
    producer = Producer()
    RawProducer(producer).append("raw.x.v1", [(b"k", b"1")])

    assert [[]] == producer.headers


def records(*traceparents):
    found = [{} if text is None else {TRACEPARENT: text.encode()} for text in traceparents]
    return a_batch([a_record(offset=place, headers=each) for place, each in enumerate(found)])


def test_batch_is_worked_on_in_a_span_linked_to_all_who_sent_it(finished):
    batch = records(None, a_traceparent(1), a_traceparent(2, sampled=False), a_traceparent(3))
    with tracing.reading(batch, "g"):
        (own,) = tracing.traces()

    (span,) = finished()
    assert trace.SpanKind.CONSUMER == span.kind
    assert f"process {batch.topics[0]}" == span.name
    assert [1, 3] == [link.context.trace_id for link in span.links]
    assert a_traceparent(1, span=span.context.span_id) == own
    assert ("g", 4) == (
        span.attributes["messaging.consumer.group.name"],
        span.attributes["messaging.batch.message_count"],
    )


def test_batch_is_linked_once_to_who_sent_several_of_its_records(finished):
    with tracing.reading(records(a_traceparent(1), a_traceparent(1), a_traceparent(3)), "g"):
        """Nothing is done with them."""

    (span,) = finished()
    assert [1, 3] == [link.context.trace_id for link in span.links]


def test_batch_of_untraced_records_has_no_span(finished):
    with tracing.reading(records(None, a_traceparent(sampled=False)), "g"):
        assert () == tracing.traces()

    assert () == finished()


def test_refused_batch_says_why(finished):
    with (
        pytest.raises(HeadraceError),
        tracing.reading(records(a_traceparent()), "g"),
    ):
        raise Invalid("DECODE_ERROR")

    (span,) = finished()
    assert "DECODE_ERROR" == span.attributes["error.type"]


class Collector(SpanExporter):
    """Holds what it gets while `gate` is closed."""

    def __init__(self, result=SpanExportResult.SUCCESS):
        self.gate, self.called, self.result = threading.Event(), threading.Event(), result

    def export(self, spans):
        self.called.set()
        self.gate.wait(20.0)
        return self.result


SPANS_MAX = 512  # the SDK's smallest: that of a batch


def lost(reason):
    labels = {"reason": reason}
    return REGISTRY.get_sample_value("headrace_queue_trace_lost_spans_total", labels) or 0.0


@pytest.fixture
def queue():
    """Spans that go to a collector, and how to end so many."""
    found = []

    def make(collector):
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(spans._Queue("queue", collector, spans_max=SPANS_MAX))
        found.append((provider, collector))

        def end(count):
            for _ in range(count):
                provider.get_tracer("x").start_span("x").end()

        return provider, end

    yield make
    for provider, collector in found:
        collector.gate.set()
        provider.shutdown()


def test_spans_that_find_no_room_are_lost_and_counted(queue):
    before, collector = lost("QUEUE_FULL"), Collector()
    _, end = queue(collector)
    end(SPANS_MAX)
    assert collector.called.wait(20.0)  # it holds these, the queue has room again

    end(SPANS_MAX + 3)

    assert 3.0 == lost("QUEUE_FULL") - before


def test_spans_that_the_collector_does_not_take_are_counted(queue):
    before, collector = lost("SERVICE_UNAVAILABLE"), Collector(SpanExportResult.FAILURE)
    collector.gate.set()
    _, end = queue(collector)
    end(SPANS_MAX)

    wait_until(lambda: lost("SERVICE_UNAVAILABLE") - before == SPANS_MAX)


def test_collector_that_hangs_holds_up_no_exit(queue):
    collector = Collector()
    provider, end = queue(collector)
    end(1)
    made = object.__new__(spans.Spans)
    made._provider = provider

    made.close(0.1)

    assert not collector.gate.is_set()
