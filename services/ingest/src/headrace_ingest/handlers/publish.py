# SPDX-License-Identifier: Apache-2.0
"""Publish: a record is answered as accepted when Kafka has it, and not before (P1).

What its value says is judged later, by the sink, as for every other producer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from headrace import topics
from headrace.errors import Busy, Invalid
from headrace_ingest.domain.envelope import RECORD_BYTES_MAX
from headrace_ingest.domain.judging import BAD_ID, ID_CHARACTERS_MAX
from headrace_ingest.ports import ContractBook
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Message, Publisher

ITEMS_MAX = 1_000
REQUEST_BYTES_MAX = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PublishItem:
    """One record; an empty event id leaves it to the contract's id column."""

    event_id: str
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class PublishRecords:
    """Append these items to the raw topic of the stream."""

    stream: str
    items: Sequence[PublishItem]


def publish_records(
    command: PublishRecords, *, contracts: ContractBook, publisher: Publisher, timeout_s: float
) -> list[str]:
    """The reason of each item, empty for those that are durable in Kafka now.

    Raises NotFound STREAM_UNKNOWN, Invalid BAD_REQUEST, Busy BATCH_TOO_LARGE or MESSAGE_TOO_LARGE,
    and what `publisher` raises: after Unavailable some may be stored, the same ids are safe.
    """
    _check_sizes(command)
    contract = contracts.get(command.stream)
    reasons = [_item_reason(item) for item in command.items]
    topic = topics.RAW.of(contract.name)
    accepted = [
        _message(topic, item)
        for item, reason in zip(command.items, reasons, strict=True)
        if not reason
    ]
    failpoint("ingest.publish.validated")
    if accepted:
        publisher.publish(accepted, timeout_s=timeout_s)
    failpoint("ingest.publish.delivered")
    return reasons


def _check_sizes(command: PublishRecords) -> None:
    if not command.items:
        raise Invalid("BAD_REQUEST", field="items", problem="is empty")
    if len(command.items) > ITEMS_MAX:
        raise Busy("BATCH_TOO_LARGE", items=len(command.items), items_max=ITEMS_MAX)
    size = sum(_size(item) for item in command.items)
    if size > REQUEST_BYTES_MAX:
        raise Busy("MESSAGE_TOO_LARGE", bytes=size, bytes_max=REQUEST_BYTES_MAX)


def _size(item: PublishItem) -> int:
    return len(item.value) + len(item.key) + len(item.event_id)


def _item_reason(item: PublishItem) -> str:
    if _size(item) > RECORD_BYTES_MAX:
        return "TOO_LARGE"
    if not item.value:
        return "EMPTY"
    if not item.key:
        return "KEY_MISSING"
    return "BAD_ID" if item.event_id and _bad_id(item.event_id) else ""


def _bad_id(event_id: str) -> bool:
    return len(event_id) > ID_CHARACTERS_MAX or re.search(BAD_ID, event_id) is not None


def _message(topic: str, item: PublishItem) -> Message:
    headers = (("ce_id", item.event_id.encode()),) if item.event_id else ()
    return Message(topic, item.key, item.value, headers)
