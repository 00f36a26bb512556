# SPDX-License-Identifier: Apache-2.0
"""Bounds on streams of messages: whoever sends or takes nothing must not hold what is scarce.

A servicer waits inside gRPC for the next request, and in `yield` until a response has left; in
neither place can it look at a clock. So requests are read by a thread of their own, one ahead, and
a timer ends the call whose caller takes nothing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc

from headrace.errors import Unavailable

STREAM_IDLE_S_MAX = 60.0
STREAM_S_MAX = 300.0  # as old as a connection gets, see GrpcServer
HANDOVER_INTERVAL_S = 0.5


class IncomingStream:
    """The requests of a call, as an iterator that raises Unavailable STREAM_STALLED in time."""

    def __init__(
        self, requests: Iterator[Any], context: grpc.ServicerContext, *, deadline_s: float
    ) -> None:
        self._deadline_s = deadline_s
        self._read: queue.Queue[Any] = queue.Queue(maxsize=1)
        self._ended = threading.Event()
        context.add_callback(self._ended.set)
        threading.Thread(
            target=self._run, args=(requests,), name="grpc-requests", daemon=True
        ).start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        request, error = self._next(_wait_s(self._deadline_s))
        if error is not None:
            self._read.put((None, error))  # the end stays the end
            raise error
        return request

    def _next(self, wait_s: float) -> Any:
        """Looks up now and then, so that nobody waits for a call that is over."""
        until_s = time.monotonic() + wait_s
        while (left_s := until_s - time.monotonic()) > 0 and not self._ended.is_set():
            try:
                return self._read.get(timeout=min(left_s, HANDOVER_INTERVAL_S))
            except queue.Empty:
                continue
        raise Unavailable("STREAM_STALLED")

    def _run(self, requests: Iterator[Any]) -> None:
        try:
            for request in requests:
                self._hand_over((request, None))
        except grpc.RpcError:  # the caller is gone, which gRPC may tell before `_ended` does
            self._hand_over((None, Unavailable("STREAM_STALLED")))
        else:
            self._hand_over((None, StopIteration()))

    def _hand_over(self, read: tuple[Any, Exception | None]) -> None:
        while not self._ended.is_set():
            try:
                return self._read.put(read, timeout=HANDOVER_INTERVAL_S)
            except queue.Full:
                continue
        return None


def outgoing_stream(
    responses: Iterator[Any], context: grpc.ServicerContext, *, deadline_s: float
) -> Iterator[Any]:
    """The responses of a call; a caller that is slow gets Unavailable STREAM_STALLED.

    One that takes nothing at all is cut off: no status would get through to it.
    """
    for response in responses:
        timer = threading.Timer(_wait_s(deadline_s), context.cancel)
        timer.daemon = True
        timer.start()
        try:
            yield response
        finally:
            timer.cancel()


def _wait_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise Unavailable("STREAM_STALLED")
    return min(left_s, STREAM_IDLE_S_MAX)
