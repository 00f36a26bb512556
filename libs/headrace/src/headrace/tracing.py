# SPDX-License-Identifier: Apache-2.0
"""A program's trace goes on in the calls it makes and the records it publishes (W3C traceparent).

Only a span that the program itself has begun and sampled is followed: no trace begins here, and
OpenTelemetry is used where the program has imported it, never imported. Names are those of
OpenTelemetry's semantic conventions for RPC and messaging.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import grpc

from headrace.errors import HeadraceError

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
Headers = list[tuple[str, str]]
# By the name under which the library's method takes them.
Options = dict[str, Headers]
_nothing: AbstractContextManager[Options] = nullcontext({})


def headers() -> Headers:
    """What tells another program of the current span; empty where none is sampled."""
    span = _sampled()
    return [] if span is None else headers_of(span.get_span_context())


def headers_of(context: Any) -> Headers:
    """Of a SpanContext, as https://www.w3.org/TR/trace-context/ writes it."""
    ids = f"{context.trace_id:032x}-{context.span_id:016x}"
    told = [(TRACEPARENT, f"00-{ids}-{context.trace_flags:02x}")]
    if context.trace_state:
        told.append((TRACESTATE, context.trace_state.to_header()))
    return told


def calling(request: Any) -> AbstractContextManager[Options]:
    """A span of the unary call that this message asks for; gives what else to call it with."""
    return _nothing if _sampled() is None else _calling(_rpc(request.DESCRIPTOR))


def publishing(topic: str) -> AbstractContextManager[Options]:
    """A span of sending records to the topic; gives what else to produce each with."""
    return _nothing if _sampled() is None else _publishing(topic)


def _sampled() -> Any:
    """The current span, where the program has one and wants to see it."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    span = trace.get_current_span()
    return span if span.get_span_context().trace_flags.sampled else None


@contextmanager
def _calling(method: str) -> Iterator[Options]:
    told = {"rpc.system.name": "grpc", "rpc.method": method}
    with _span(method, "CLIENT", told) as span:
        try:
            yield {"metadata": headers()}
        except HeadraceError as err:
            if isinstance(err.__cause__, grpc.RpcError):
                span.set_attribute("rpc.response.status_code", err.__cause__.code().name)
            raise
        span.set_attribute("rpc.response.status_code", "OK")


@contextmanager
def _publishing(topic: str) -> Iterator[Options]:
    told = {
        "messaging.system": "kafka",
        "messaging.destination.name": topic,
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
    }
    with _span(f"send {topic}", "PRODUCER", told):
        yield {"headers": headers()}


@contextmanager
def _span(name: str, kind: str, told: dict[str, str]) -> Iterator[Any]:
    trace = sys.modules["opentelemetry.trace"]
    tracer, kind = trace.get_tracer("headrace"), getattr(trace.SpanKind, kind)
    with tracer.start_as_current_span(
        name, kind=kind, attributes=told, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except HeadraceError as err:
            span.set_attribute("error.type", err.reason)
            span.set_status(trace.Status(trace.StatusCode.ERROR, str(err)))
            raise


@cache
def _rpc(asked: Any) -> str:
    """`package.Service/Method` that takes messages of this descriptor."""
    for service in asked.file.services_by_name.values():
        for method in service.methods:
            if method.input_type is asked:
                return f"{service.full_name}/{method.name}"
    return str(asked.full_name)
