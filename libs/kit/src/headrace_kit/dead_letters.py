# SPDX-License-Identifier: Apache-2.0
"""A record set aside: payload and headers untouched, coordinates and reason in dl-* headers.

The key is `topic:partition:offset`, so that a replay repeats a dead letter and adds none. A record
that was sent again keeps where it stood first: if it fails again, its letter has the same key and
counts one attempt more. Headers of a record that begin with `dl-` are not its own: anybody could
write them, and they are not kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from headrace_kit.kafka import MESSAGE_BYTES_MAX, Message, Record

RECORD_BYTES_MAX = MESSAGE_BYTES_MAX - 65_536  # a larger record is left where it is
HEADER_BYTES = 10  # of framing, at most
KEY_BYTES_MAX = 1_024
INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1
DIGITS_MAX = 19  # of an int64
POISON_CRASH = "POISON_CRASH"
OUR_HEADERS = "dl-"
ORIGIN_HEADERS = ("dl-topic", "dl-partition", "dl-offset", "dl-attempt")
# What a letter says beside its origin, always.
CONTENT_HEADERS = ("dl-key", "dl-reason", "dl-sha256")


class Origin(NamedTuple):
    """Where a record stood first, and how often it was set aside."""

    topic: str
    partition: int
    offset: int
    attempt: int

    def key(self) -> bytes:
        return f"{self.topic}:{self.partition}:{self.offset}".encode()


def dead_letter_topic(service: str) -> str:
    return f"{service}.dead-letters.v1"


def dead_letter(
    record: Record, *, reason: str, service: str, reasons: str = "", origin: Origin | None = None
) -> Message:
    """The dead letter of a record; a pointer with its sha256 of one that is too large or deadly.

    `reasons`: all of them as `REASON:column,REASON:column`, when more is known than `reason`.
    `origin`: of a record that was sent again for certain; else it is where the record stands.
    """
    payload = record.value or b""
    origin = origin or Origin(record.topic, record.partition, record.offset, 0)
    own = {
        "dl-topic": origin.topic.encode(),
        "dl-partition": b"%d" % origin.partition,
        "dl-offset": b"%d" % origin.offset,
        "dl-key": (record.key or b"")[:KEY_BYTES_MAX],
        "dl-reason": reason.encode(),
        "dl-attempt": b"%d" % (origin.attempt + 1),
        "dl-sha256": hashlib.sha256(payload).hexdigest().encode(),
        "dl-service": service.encode(),
    }
    if reasons:
        own["dl-reasons"] = reasons.encode()
    pointer_only = _size(record) > RECORD_BYTES_MAX or reason == POISON_CRASH
    return Message(
        topic=dead_letter_topic(service),
        key=origin.key(),
        value=None if pointer_only else record.value,
        headers=tuple((own if pointer_only else {**own_headers(record), **own}).items()),
    )


def own_headers(record: Record) -> dict[str, bytes]:
    """Those that its publisher gave it."""
    given = record.headers.items()
    return {name: each for name, each in given if not name.startswith(OUR_HEADERS)}


def origin_of(headers: Mapping[str, bytes]) -> Origin | None:
    """What the headers of a dead letter, or of a record sent again, say; None for any other."""
    texts = [headers.get(name, b"").decode("utf-8", "replace") for name in ORIGIN_HEADERS]
    topic, *numbers = texts
    if not topic or not all(_whole(text) for text in numbers):
        return None
    origin = Origin(topic, *map(int, numbers))
    fits = max(origin.partition, origin.attempt) < INT32_MAX and origin.offset <= INT64_MAX
    return origin if fits else None


def whole(record: Record, letter: Mapping[str, bytes]) -> bool:
    """Whether this is the record that a letter with these headers was made of, not a pointer."""
    digest = hashlib.sha256(record.value or b"").hexdigest().encode()
    return digest == letter.get("dl-sha256") and len(letter.get("dl-key", b"")) < KEY_BYTES_MAX


def _whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX


def _size(record: Record) -> int:
    headers = sum(len(name) + len(value) + HEADER_BYTES for name, value in record.headers.items())
    return len(record.key or b"") + len(record.value or b"") + headers
