# SPDX-License-Identifier: Apache-2.0
"""The gRPC door of IngestService."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from headrace.errors import Busy, Unavailable
from headrace.ingest.v1 import ingest_service_pb2_grpc
from headrace.tokens import PUBLISH, Caller
from headrace_ingest.adapters import conversions
from headrace_ingest.handlers.publish import (
    PublishDoor,
    PublishRecords,
    publish_records,
    publish_stream,
)
from headrace_kit.auth import calling
from headrace_kit.grpc_server import remaining_s

PUBLISH_S_MAX = 10.0
CALLS_MAX = 32
STREAMS_MAX = 8
# Enough for all of them, and for every other call meanwhile.
WORKERS = CALLS_MAX + STREAMS_MAX + 24


class IngestApi(ingest_service_pb2_grpc.IngestServiceServicer):
    """Publishes for programs without a Kafka client.

    Calls and streams wait for Kafka in a worker each, so they are bounded: while Kafka is away the
    next one is told at once, by a worker that is kept free for that.
    """

    def __init__(self, door: PublishDoor, *, draining: Callable[[], bool]) -> None:
        self._door, self._draining = door, draining
        self._calls = threading.BoundedSemaphore(CALLS_MAX)
        self._streams = threading.BoundedSemaphore(STREAMS_MAX)

    def Publish(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _place(self._calls, "publish calls"):
            published = publish_records(
                _permitted(request, calling()),
                door=self._door,
                timeout_s=remaining_s(context, cap_s=PUBLISH_S_MAX),
            )
        return conversions.to_publish_response(published)

    def PublishStream(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        with _place(self._streams, "publish streams"):
            caller = calling()  # another thread reads the requests
            commands = (_permitted(each, caller) for each in requests)
            for published in publish_stream(commands, door=self._door, check=self._check):
                yield conversions.to_publish_stream_response(published)

    def _check(self) -> None:
        if self._draining():
            raise Unavailable("SERVICE_UNAVAILABLE", state="draining")


def _permitted(request: Any, caller: Caller) -> PublishRecords:
    command = conversions.to_command(request)
    caller.require(PUBLISH, command.stream)
    return command


@contextmanager
def _place(places: threading.BoundedSemaphore, queue: str) -> Iterator[None]:
    if not places.acquire(blocking=False):
        raise Busy("QUEUE_FULL", queue=queue)
    try:
        yield
    finally:
        places.release()
