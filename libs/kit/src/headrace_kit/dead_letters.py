# SPDX-License-Identifier: Apache-2.0
"""A record set aside: payload and headers untouched, coordinates and reason in dl-* headers.

The key is `topic:partition:offset`, so that a replay repeats a dead letter and adds none.
"""

from __future__ import annotations

import hashlib

from headrace_kit.kafka import MESSAGE_BYTES_MAX, Message, Record

RECORD_BYTES_MAX = MESSAGE_BYTES_MAX - 65_536  # a larger record is left where it is
HEADER_BYTES = 10  # of framing, at most
KEY_BYTES_MAX = 1_024


def dead_letter_topic(service: str) -> str:
    return f"{service}.dead-letters.v1"


def dead_letter(record: Record, *, reason: str, service: str, attempt: int = 1) -> Message:
    """The dead letter of a record; an oversize record becomes a pointer with its sha256."""
    payload = record.value or b""
    own = {
        "dl-topic": record.topic.encode(),
        "dl-partition": b"%d" % record.partition,
        "dl-offset": b"%d" % record.offset,
        "dl-key": (record.key or b"")[:KEY_BYTES_MAX],
        "dl-reason": reason.encode(),
        "dl-attempt": b"%d" % attempt,
        "dl-sha256": hashlib.sha256(payload).hexdigest().encode(),
        "dl-service": service.encode(),
    }
    pointer_only = _size(record) > RECORD_BYTES_MAX
    return Message(
        topic=dead_letter_topic(service),
        key=f"{record.topic}:{record.partition}:{record.offset}".encode(),
        value=None if pointer_only else record.value,
        headers=tuple((own if pointer_only else {**record.headers, **own}).items()),
    )


def _size(record: Record) -> int:
    headers = sum(len(name) + len(value) + HEADER_BYTES for name, value in record.headers.items())
    return len(record.key or b"") + len(record.value or b"") + headers
