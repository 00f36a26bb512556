# SPDX-License-Identifier: Apache-2.0
"""Publishing through IngestService, for programs without Kafka: a stream of batches, some ahead.

What is not answered when a stream ends is sent again, with the same ids, on the next one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import NamedTuple

import grpc

from headrace.errors import TOPIC_MISSING, HeadraceError, Unavailable, error_by_reason
from headrace.ingest.v1 import ingest_service_pb2 as pb
from headrace.ingest.v1 import ingest_service_pb2_grpc
from headrace.rpc import RETRY_DELAY_S_MAX, error_of
from headrace.tracing import headers

BATCH_ITEMS_MAX = 500
BATCH_BYTES_MAX = 512 * 1024
BATCHES_AHEAD_MAX = 8
# A larger one no broker of ours takes, and it would not come through the door to be told so.
ITEM_BYTES_MAX = 2 << 20
# Without any answer for so long, the error is told.
PATIENCE_S = 30.0
# A broker that starts may not know of a topic yet; else none comes but by `headrace apply`.
TOPIC_PATIENCE_S = 3.0
STREAM_S_MAX = 300.0
AGAIN = (
    "publishing the same is safe: what is stored already counts as a repeat, by its id, while it is"
    " among the last INGEST_DEDUP_IDS_MAX rows of its partition (250,000)"
)


class Item(NamedTuple):
    """A record for its stream's raw topic; an empty id leaves it to the contract's id column."""

    event_id: str
    key: bytes
    value: bytes


@dataclass(slots=True)
class Published:
    """How many records are durable, how many of them were before, and the refused: row, reason."""

    accepted: int = 0
    repeats: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)


def publish_items(channel: grpc.Channel, stream: str, items: Iterable[Item]) -> Published:
    """Publish all items, and return when each is durable or refused. Rows are counted from 1.

    Raises what the service raises for good, such as NotFound STREAM_UNKNOWN or Unavailable
    TOPIC_MISSING; Unavailable or Busy after 30 s without an answer: publish the same again; and the
    error of an item that cannot be made, once those before it are durable. Each tells how many are.
    """
    publishing = _Publishing(ingest_service_pb2_grpc.IngestServiceStub(channel), stream, items)
    return publishing.run()


def counted(error: HeadraceError, accepted: int) -> HeadraceError:
    """The error, with how many records are durable all the same; what to do where some may be."""
    again = {"again": AGAIN} if accepted or isinstance(error, Unavailable) else {}
    return error_by_reason(error.reason, **error.metadata, accepted=accepted, **again)


class _Publishing:
    def __init__(
        self, stub: ingest_service_pb2_grpc.IngestServiceStub, stream: str, items: Iterable[Item]
    ) -> None:
        self._stub, self._batches = stub, _batches(stream, self._made(items))
        self._unanswered: deque[pb.PublishStreamRequest | None] = deque()  # None: never sent
        self._published, self._rows = Published(), 0
        self._unmade: HeadraceError | None = None
        self._call = _Call(stub)

    def run(self) -> Published:
        try:
            self._publish()
        except HeadraceError as err:
            raise counted(err, self._published.accepted) from err
        finally:
            self._call.end()
        if self._unmade is not None:
            raise counted(self._unmade, self._published.accepted) from self._unmade
        return self._published

    def _publish(self) -> None:
        for batch in self._batches:
            while len(self._unanswered) >= BATCHES_AHEAD_MAX:
                self._answer()
            self._unanswered.append(batch)
            self._send(batch)
        while self._unanswered:
            self._answer()

    def _made(self, items: Iterable[Item]) -> Iterator[Item]:
        """Up to one that cannot be made: that is told behind the answers to those before it."""
        try:
            yield from items
        except HeadraceError as err:
            self._unmade = err

    def _send(self, batch: pb.PublishStreamRequest | None) -> None:
        if batch is not None:
            self._call.send(batch)

    def _answer(self) -> None:
        """Wait for the answer to the oldest batch, over as many calls as it takes."""
        if self._unanswered[0] is None:
            self._unanswered.popleft()
            self._rows += 1
            self._published.refused.append((self._rows, "TOO_LARGE"))
            return
        begun_s, tries = time.monotonic(), 0
        while True:
            try:
                self._take(self._call.answer())
                return
            except grpc.RpcError as err:
                error = error_of(err)
                if time.monotonic() - begun_s >= _patience_s(error):
                    raise error from err
            tries += 1
            time.sleep(min(0.1 * 2**tries, RETRY_DELAY_S_MAX))
            self._call.end()
            self._call = _Call(self._stub)
            for batch in self._unanswered:
                self._send(batch)

    def _take(self, answer: pb.PublishStreamResponse) -> None:
        self._unanswered.popleft()
        published = self._published
        refused = [each for each in answer.exceptions if each.reason]
        published.accepted += answer.items - len(refused)
        published.repeats += len(answer.exceptions) - len(refused)
        published.refused += [(self._rows + each.index + 1, each.reason) for each in refused]
        self._rows += answer.items


class _Call:
    """One stream: what is sent waits in a queue of at most `BATCHES_AHEAD_MAX`."""

    def __init__(self, stub: ingest_service_pb2_grpc.IngestServiceStub) -> None:
        self._requests: SimpleQueue[pb.PublishStreamRequest | None] = SimpleQueue()
        self._answers = stub.PublishStream(
            iter(self._requests.get, None), timeout=STREAM_S_MAX, metadata=headers()
        )

    def send(self, batch: pb.PublishStreamRequest) -> None:
        self._requests.put(batch)

    def answer(self) -> pb.PublishStreamResponse:
        return next(self._answers)

    def end(self) -> None:
        self._requests.put(None)


def _patience_s(error: HeadraceError) -> float:
    """How long it may last before it is told."""
    if error.retry_delay_s is None:
        return 0.0
    return TOPIC_PATIENCE_S if error.reason == TOPIC_MISSING else PATIENCE_S


def _batches(stream: str, items: Iterable[Item]) -> Iterator[pb.PublishStreamRequest | None]:
    """In the order of the items; None for one that is too large to be sent."""
    batch, size = pb.PublishStreamRequest(stream=stream), 0
    for item in items:
        item_bytes = len(item.event_id) + len(item.key) + len(item.value)
        full = len(batch.items) >= BATCH_ITEMS_MAX or size + item_bytes > BATCH_BYTES_MAX
        if batch.items and full:
            yield batch
            batch, size = pb.PublishStreamRequest(stream=stream), 0
        if item_bytes > ITEM_BYTES_MAX:
            yield None
            continue
        batch.items.add(event_id=item.event_id, key=item.key, value=item.value)
        size += item_bytes
    if batch.items:
        yield batch
