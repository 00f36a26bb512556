# SPDX-License-Identifier: Apache-2.0
"""Publish: a record is answered as accepted when Kafka has it, and not before (P1).

What its value says is judged later, by the sink, as for every other producer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from headrace import topics
from headrace.errors import Busy, Invalid, error_by_reason
from headrace_ingest.domain.envelope import unread_reason
from headrace_ingest.domain.faults import BAD_ID, ID_CHARACTERS_MAX
from headrace_ingest.domain.recent_ids import RecentIds
from headrace_ingest.ports.definitions import ContractBook
from headrace_kit import tracing
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Message, PipelinedPublisher, Sending
from headrace_kit.pipelined import pipelined

ITEMS_MAX = 1_000
REQUEST_BYTES_MAX = 4 * 1024 * 1024
# So many batches of a caller may be on their way to Kafka.
BATCHES_AHEAD_MAX = 4
DELIVERY_S_MAX = 10.0
_BAD_ID = re.compile(BAD_ID)


class PublishItem(NamedTuple):
    """One record; an empty event id leaves it to the contract's id column."""

    event_id: str
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class PublishRecords:
    """Append these items to the raw topic of the stream."""

    stream: str
    items: Sequence[PublishItem]


@dataclass(frozen=True, slots=True)
class Published:
    """All `items` are durable but the refused ones; both by the item's index.

    `repeats` were made durable by an earlier call already.
    """

    items: int
    refused: Mapping[int, str]
    repeats: frozenset[int]


class PublishDoor:
    """What the two ways to publish share; any thread may use it."""

    def __init__(
        self, *, contracts: ContractBook, publisher: PipelinedPublisher, ids: RecentIds
    ) -> None:
        self._contracts, self._publisher, self._ids = contracts, publisher, ids

    def begin(self, command: PublishRecords) -> Begun:
        """Check the items and send the good ones.

        Raises NotFound STREAM_UNKNOWN, Invalid BAD_REQUEST, Busy BATCH_TOO_LARGE, MESSAGE_TOO_LARGE
        or QUEUE_FULL, and Unavailable TOPIC_MISSING.
        """
        _check_sizes(command)
        stream = self._contracts.get(command.stream).name
        sorted_out = _sort_out(command.items, lambda event_id: self._ids.digest(stream, event_id))
        failpoint("ingest.publish.validated")
        topic = topics.RAW.of(stream)
        trace = tracing.record_headers()
        messages = [_message(topic, command.items[index], trace) for index in sorted_out.fresh]
        sending = self._publisher.send(messages) if messages else None
        failpoint("ingest.publish.produced")
        published = Published(len(command.items), sorted_out.refused, frozenset(sorted_out.repeats))
        return Begun(stream, published, sorted_out.digests, sending)

    def finish(self, begun: Begun, *, timeout_s: float) -> Published:
        """Wait until the good items are durable; raises what `Sending.wait` raises."""
        if begun.sending is not None:
            begun.sending.wait(timeout_s)
            self._ids.remember(begun.stream, begun.digests)
        failpoint("ingest.publish.delivered")
        return begun.published


@dataclass(frozen=True, slots=True)
class Begun:
    """A batch on its way to Kafka; `digests` of its payloads by event id."""

    stream: str
    published: Published
    digests: Mapping[str, bytes]
    sending: Sending | None


def publish_records(command: PublishRecords, *, door: PublishDoor, timeout_s: float) -> Published:
    """Publish one batch.

    Raises what `PublishDoor` raises; when every item is refused, the error of the first one:
    Invalid, or Conflict DUPLICATE_CONFLICT. After Unavailable some may be stored, the same ids are
    safe.
    """
    published = door.finish(door.begin(command), timeout_s=timeout_s)
    if len(published.refused) == published.items:
        raise error_by_reason(published.refused[0], field="items[0]", items=published.items)
    return published


def publish_stream(
    commands: Iterable[PublishRecords], *, door: PublishDoor, check: Callable[[], None]
) -> Iterator[Published]:
    """Publish batch after batch, some ahead; answers come in order, each when its batch is durable.

    Raises what `PublishDoor` and `check` raise, behind the answers to the batches before.
    """
    for begun in pipelined(commands, door.begin, ahead_max=BATCHES_AHEAD_MAX, check=check):
        published = door.finish(begun, timeout_s=DELIVERY_S_MAX)
        yield published
        failpoint("ingest.publish.stream_half")


def _check_sizes(command: PublishRecords) -> None:
    if not command.items:
        raise Invalid("BAD_REQUEST", field="items", problem="is empty")
    if len(command.items) > ITEMS_MAX:
        raise Busy("BATCH_TOO_LARGE", items=len(command.items), items_max=ITEMS_MAX)
    size = sum(map(_size, command.items))
    if size > REQUEST_BYTES_MAX:
        raise Busy("MESSAGE_TOO_LARGE", bytes=size, bytes_max=REQUEST_BYTES_MAX)


def _size(item: PublishItem) -> int:
    return len(item.value) + len(item.key) + len(item.event_id)


@dataclass(slots=True)
class _SortedOut:
    """Items by index: to be sent, refused with a reason, or durable already."""

    fresh: list[int]
    refused: dict[int, str]
    repeats: list[int]
    digests: dict[str, bytes]


def _sort_out(items: Sequence[PublishItem], known: Callable[[str], bytes | None]) -> _SortedOut:
    found = _SortedOut([], {}, [], {})
    for index, item in enumerate(items):
        if reason := _refusal(item):
            found.refused[index] = reason
            continue
        if event_id := item.event_id:
            digest = hashlib.sha256(item.value).digest()
            before = found.digests.get(event_id) or known(event_id)
            if before == digest:
                found.repeats.append(index)
                continue
            if before is not None:
                found.refused[index] = "DUPLICATE_CONFLICT"
                continue
            found.digests[event_id] = digest
        found.fresh.append(index)
    return found


def _refusal(item: PublishItem) -> str:
    """What the sink would say of it, as far as that needs no contract."""
    if reason := unread_reason(item.key, item.value, _headers(item)):
        return reason
    ids = (item.event_id, item.key.decode("utf-8", "replace"))
    return "BAD_ID" if any(each and _bad_id(each) for each in ids) else ""


def _bad_id(text: str) -> bool:
    return len(text) > ID_CHARACTERS_MAX or _BAD_ID.search(text) is not None


Headers = tuple[tuple[str, bytes], ...]


def _headers(item: PublishItem) -> Headers:
    return (("ce_id", item.event_id.encode()),) if item.event_id else ()


def _message(topic: str, item: PublishItem, trace: Headers) -> Message:
    return Message(topic, item.key, item.value, _headers(item) + trace)
