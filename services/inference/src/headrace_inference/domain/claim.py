# SPDX-License-Identifier: Apache-2.0
"""Requests and answers that fit no record: objects beside the topics, claimed by their digest.

Whose object it is, on which day it came, what it hashes to and how large it is stand in its key. So
any replica finds, counts and forgets them, and no table could disagree with the bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from headrace.errors import Busy, Corrupt, Invalid

FOLDER = "claims"
DAY_US = 24 * 3600 * 1_000_000
DIGEST = re.compile(r"[0-9a-f]{64}")
SIZE_DIGITS_MAX = 12
# The store holds more than claims, so a key of another form is none of ours.
KEY = re.compile(rf"{FOLDER}/(\d{{1,7}})/([A-Za-z0-9._=-]+)/({DIGEST.pattern})-(\d{{1,12}})")
# What callers store leaves room for answers, and what they store for one endpoint room for others.
STORED_SHARE, ENDPOINT_SHARE = 1 / 2, 1 / 4
COUNTED_BYTES_MIN = 64 << 10


@dataclass(frozen=True, slots=True)
class Claim:
    """Names bytes by what they hash to, never by where they are."""

    digest: str
    size_bytes: int

    @classmethod
    def of(cls, data: bytes) -> Claim:
        return cls(sha256(data).hexdigest(), len(data))

    @classmethod
    def parsed(cls, digest: str, size: str) -> Claim:
        """Raises Invalid BAD_REQUEST for what names no bytes."""
        if not DIGEST.fullmatch(digest):
            raise Invalid("BAD_REQUEST", field="digest", problem="is no sha256 in lower hex")
        if not (size.isascii() and size.isdecimal() and len(size) <= SIZE_DIGITS_MAX):
            raise Invalid("BAD_REQUEST", field="size_bytes", problem="is no number of bytes")
        return cls(digest, int(size))

    def verify(self, data: bytes) -> None:
        """Raises Corrupt DIGEST_MISMATCH unless these are the bytes."""
        found = Claim.of(data)
        if found != self:
            raise Corrupt("DIGEST_MISMATCH", digest=self.digest, found=found.digest)


@dataclass(frozen=True, slots=True)
class Kept:
    """An object of an endpoint; the same bytes of another day are another one."""

    endpoint: str
    claim: Claim
    day: int

    @property
    def key(self) -> str:
        return f"{FOLDER}/{self.day}/{self.endpoint}/{self.claim.digest}-{self.claim.size_bytes}"


def day_of(now_us: int) -> int:
    """Whole days since the epoch."""
    return now_us // DAY_US


def kept_objects(keys: Iterable[str]) -> list[Kept]:
    """What the keys name."""
    found = (KEY.fullmatch(key) for key in keys)
    return [Kept(each[2], Claim(each[3], int(each[4])), int(each[1])) for each in found if each]


def may_lie_in(endpoint: str, claim: Claim, *, today: int, days_max: int) -> Iterator[Kept]:
    """Where to look, likeliest first; another's clock may be past midnight already."""
    for day in (today, today - 1, today + 1, *range(today - 2, today - days_max - 1, -1)):
        yield Kept(endpoint, claim, day)


class Room:
    """How many bytes lie there, as last counted and with what was added since.

    What is added counts before it is there, so that two do not take the same room, and comes off
    where it did not get there. A list may lack what was added since it was begun: that is counted
    beside it. A small object counts for more than it holds: so there cannot be any number of them.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes_by_endpoint: Counter[str] = Counter()
        self._under_way: Counter[Kept] = Counter()
        # With those that got there since the last list was begun.
        self._unlisted: Counter[Kept] = Counter()

    @property
    def used_bytes(self) -> int:
        return self._bytes_by_endpoint.total()

    def begin_list(self) -> None:
        """What is there now will be in the list that `count` gets."""
        self._unlisted = Counter(self._under_way)

    def count(self, kept: Iterable[Kept]) -> None:
        counted: Counter[str] = Counter()
        for each in {*kept, *self._unlisted}:
            counted[each.endpoint] += _counting(each.claim.size_bytes)
        self._bytes_by_endpoint = counted

    def add(self, kept: Kept) -> None:
        """It is under way; `arrived` or `withdraw` follows."""
        self._bytes_by_endpoint[kept.endpoint] += _counting(kept.claim.size_bytes)
        self._under_way[kept] += 1
        self._unlisted[kept] += 1

    def arrived(self, kept: Kept) -> None:
        self._under_way = self._under_way - Counter([kept])

    def withdraw(self, kept: Kept) -> None:
        """It did not get there, or was there before."""
        self._bytes_by_endpoint[kept.endpoint] -= _counting(kept.claim.size_bytes)
        self._under_way = self._under_way - Counter([kept])
        self._unlisted = self._unlisted - Counter([kept])

    def check_answer(self, size_bytes: int) -> None:
        """Raises Busy CLAIMS_FULL."""
        self._check(self.used_bytes + _counting(size_bytes), self._bytes_max)

    def check_stored(self, endpoint: str, size_bytes: int) -> None:
        """Of what a caller stores; raises Busy CLAIMS_FULL."""
        added = _counting(size_bytes)
        endpoint_bytes = self._bytes_by_endpoint[endpoint] + added
        self._check(endpoint_bytes, int(self._bytes_max * ENDPOINT_SHARE))
        self._check(self.used_bytes + added, int(self._bytes_max * STORED_SHARE))

    def _check(self, wanted_bytes: int, bytes_max: int) -> None:
        if wanted_bytes > bytes_max:
            raise Busy("CLAIMS_FULL", bytes_max=bytes_max)


def _counting(size_bytes: int) -> int:
    return max(size_bytes, COUNTED_BYTES_MIN)
