# SPDX-License-Identifier: Apache-2.0
"""The bytes of requests over Kafka that claim them: as many at a time as memory may hold."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from headrace.claims import CLAIM_BYTES, CLAIM_DIGEST
from headrace.errors import HeadraceError
from headrace_inference.adapters.object_claims import ObjectClaims
from headrace_inference.adapters.record_calls import RecordCall
from headrace_inference.domain.claim import Claim


def claim_of(headers: Mapping[str, bytes]) -> Claim | None:
    """None for a record that claims nothing; raises Invalid BAD_REQUEST."""
    if CLAIM_DIGEST not in headers:
        return None
    digest, size = (
        headers.get(name, b"").decode(errors="replace") for name in (CLAIM_DIGEST, CLAIM_BYTES)
    )
    return Claim.parsed(digest, size)


class RequestClaims:
    """`memory_bytes_max` of what is fetched for one batch."""

    def __init__(self, claims: ObjectClaims, *, memory_bytes_max: int) -> None:
        self._claims, self._memory_bytes_max = claims, memory_bytes_max

    def fetch(self, calls: Sequence[RecordCall], *, until_s: float) -> list[RecordCall]:
        """Those that can be answered now: what claims nothing, and what was fetched, one at least.

        A call whose claim is wrong has its error. One that finds no room or time comes again; so
        does one that finds the store away, and then no other asks it.
        """
        left_bytes, ready, asked = self._memory_bytes_max, [], False
        for call in calls:
            if call.claim is None:
                ready += [] if call.answered else [call]
                continue
            size_bytes = min(call.claim.size_bytes, self._claims.bytes_max)
            if left_bytes < min(size_bytes, self._memory_bytes_max):
                continue
            if asked and time.monotonic() >= until_s:
                continue
            asked = True
            if self._fetch(call, call.claim):
                left_bytes -= size_bytes
                ready.append(call)
            elif call.comes_again:
                until_s = 0.0
        return ready

    def _fetch(self, call: RecordCall, claim: Claim) -> bool:
        try:
            call.payload = self._claims.read(call.endpoint, claim)
        except HeadraceError as err:
            call.answer(err)
            return False
        return True
