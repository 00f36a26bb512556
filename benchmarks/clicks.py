# SPDX-License-Identifier: Apache-2.0
"""Clicks of many users, one after the other, as ingest would publish them; made fast."""

from __future__ import annotations

from collections.abc import Iterator

START_US = 1_700_000_000_000_000
HOUR_US = 3_600_000_000
# Keys of users are spread over the partitions of the topic, and over every batch.
STRIDE = 7_919


def clicks(users: int, rounds: int, *, step_us: int) -> Iterator[tuple[bytes, bytes]]:
    """Key and value; in each round every user clicks once, `step_us` after the round before."""
    for number in range(rounds):
        for place in range(users):
            user = place * STRIDE % users
            at = START_US + number * step_us + place * step_us // users
            yield b"user-%d" % user, _value(b"%d-%d" % (number, user), user, at)


def amount(user: int, at_us: int) -> float:
    """What a user's click at that time was worth."""
    return float((user * 31 + at_us // 1_000_000) % 1_000)


def moment(user: int, users: int, number: int, step_us: int) -> int:
    """When the user clicks in that round."""
    place = user * pow(STRIDE, -1, users) % users
    return START_US + number * step_us + place * step_us // users


def _value(name: bytes, user: int, at_us: int) -> bytes:
    return (
        b'{"_id":"%b","_event_us":%d,"_known_us":%d,"_published_ms":%d,"_late":false,'
        b'"click_id":"%b","user":"user-%d","kind":"k","amount":%d.0,"at":%d}'
    ) % (name, at_us, at_us, at_us // 1_000, name, user, amount(user, at_us), at_us)
