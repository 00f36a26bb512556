# SPDX-License-Identifier: Apache-2.0
"""Parts of uploads that are not whole yet: which bytes, of which digest, and since when.

All of that stands in the key, so that a replica that has never heard of the upload goes on with it,
and no bookkeeping can say other than what is stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

FOLDER = "uploads"
PART_BYTES = 4 << 20
# Less is not worth an object: a caller that is cut sends it again.
PART_BYTES_MIN = 256 << 10
# Of all uploads together: what comes beyond is not kept, and would be sent again after a cut.
PARTS_BYTES_MAX = 1 << 30
PART_AGE_S_MAX = 24 * 3600
# The store's own keys, so everything else is left alone.
KEY = re.compile(rf"{FOLDER}/([0-9a-f]{{64}})/(\d+)-(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from `first` to before `end` of what shall hash to `digest`."""

    digest: str
    first: int
    end: int
    put_at_us: int

    @property
    def key(self) -> str:
        return f"{FOLDER}/{self.digest}/{self.first}-{self.end}-{self.put_at_us}"

    @property
    def size_bytes(self) -> int:
        return self.end - self.first

    def outlived(self, now_us: int) -> bool:
        """Whether nobody will go on with it."""
        return now_us - self.put_at_us > PART_AGE_S_MAX * 1_000_000


@dataclass(frozen=True, slots=True)
class BegunUpload:
    """Whether the artifact is there, and else how many bytes of it are."""

    stored: bool
    offset_bytes: int


def parts_of(keys: Iterable[str]) -> list[Part]:
    """What the keys name; a key of another form is none of ours."""
    found = (KEY.fullmatch(key) for key in keys)
    return [Part(each[1], int(each[2]), int(each[3]), int(each[4])) for each in found if each]


def without_gap(parts: Iterable[Part], *, end: int) -> list[Part]:
    """Those that make up the bytes from the first on, as far as they go before `end`.

    Where uploads at the same time left several, the one that reaches furthest.
    """
    furthest: dict[int, Part] = {}
    for part in parts:
        known = furthest.get(part.first)
        if part.first < part.end <= end and (known is None or known.end < part.end):
            furthest[part.first] = part
    chain: list[Part] = []
    following = furthest.get(0)
    while following is not None:
        chain.append(following)
        following = furthest.get(following.end)
    return chain
