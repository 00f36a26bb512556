# SPDX-License-Identifier: Apache-2.0
"""How ingest knows a record that it sent again: by a seal that nobody else can make.

Whoever publishes to a raw topic writes any headers there, those of a dead letter too. Only a sealed
record may take the place of the letter that its headers name, and count as redriven. The seal is an
HMAC over the whole record, so that it proves no other payload, key, place or topic.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence

from headrace_ingest.domain.envelope import RawBatch

SEAL = "dl-seal"
KEY_BYTES = 32

Headers = Sequence[tuple[str, bytes | None]]


class RedriveSeal:
    """`key` gives KEY_BYTES that all processes of ingest share."""

    def __init__(self, key: Callable[[], bytes]) -> None:
        self._key = key

    def header(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers
    ) -> tuple[str, bytes]:
        """The header that goes behind the others of this record."""
        told = repr((topic, key, value, [(name, content) for name, content in headers]))
        return SEAL, hmac.digest(self._key(), told.encode(), "sha256").hex().encode()

    def among(self, topic: str, records: RawBatch) -> frozenset[int]:
        """Which of these records of the topic ingest has sent."""
        headers = records.headers()
        claiming = [index for index, given in enumerate(headers) if given and given[-1][0] == SEAL]
        if not claiming:
            return frozenset()
        keys, values = records.keys(), records.values()
        return frozenset(
            index
            for index in claiming
            if self._proves(topic, keys[index], values[index], headers[index] or ())
        )

    def _proves(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> bool:
        *others, (_, shown) = headers
        _, made = self.header(topic, key, value, others)
        return hmac.compare_digest(made, shown or b"")
