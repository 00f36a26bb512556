# SPDX-License-Identifier: Apache-2.0
"""Claims in the object store, by endpoint and digest; what is read is verified.

An object lies there longer than a request lies in its topic. Once the store is away nobody asks it
for a moment, so that many who want something of it wait for one time-out, not for many.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import structlog

from headrace import topics
from headrace.errors import Corrupt, Invalid, NotFound, Unavailable
from headrace_inference.domain.claim import (
    FOLDER,
    Claim,
    Kept,
    Room,
    day_of,
    kept_objects,
    may_lie_in,
)
from headrace_inference.ports import Clock
from headrace_kit.objects import ObjectStore
from headrace_kit.part_thread import LookingPart
from headrace_kit.telemetry import counter, gauge

# Brokers remove a record some time after its retention; then nobody can claim its object any more.
DAYS_MAX = (topics.INFERENCE_REQUESTS.retention_h or 0) // 24 + 1
AWAY_S = 1.0
SWEEP_INTERVAL_S = 600.0
# Of one sweep: it must not hold up the end of the process.
SWEPT_MAX = 1_000

log = structlog.get_logger(__name__)
used = gauge("inference", "claims_bytes", "Kept for requests and answers that fit no record.")
swept = counter("inference", "claims_swept_total", "Objects that nobody can claim any more.")


class ObjectClaims:
    """Any thread may use it. `bytes_max` of one object, `all_bytes_max` of all that lie there."""

    def __init__(
        self, store: ObjectStore, *, clock: Clock, bytes_max: int, all_bytes_max: int
    ) -> None:
        self._store, self._clock, self.bytes_max = store, clock, bytes_max
        self._room, self._counted = Room(all_bytes_max), False
        self._lock = threading.Lock()
        # One lists at a time; who wants to know waits for what it finds.
        self._listing = threading.Lock()
        self._away_until_s = 0.0

    def store(self, endpoint: str, data: bytes) -> Claim:
        """A caller's bytes; raises Invalid TOO_LARGE, Busy CLAIMS_FULL, Unavailable."""
        self._check_size(len(data))
        self._count_once()
        return self._put(endpoint, data, check=lambda: self._room.check_stored(endpoint, len(data)))

    def keep_answer(self, endpoint: str, data: bytes) -> Claim:
        """Raises as `store` does; there is more room for answers."""
        self._check_size(len(data))
        self._count_once()
        return self._put(endpoint, data, check=lambda: self._room.check_answer(len(data)))

    def read(self, endpoint: str, claim: Claim) -> bytes:
        """Raises NotFound CLAIM_UNKNOWN, Corrupt DIGEST_MISMATCH, Invalid TOO_LARGE, Unavailable
        OBJECT_STORE_UNAVAILABLE.
        """
        self._check_size(claim.size_bytes)
        data = self._found(endpoint, claim)
        claim.verify(data)
        return data

    def sweep(self) -> int:
        """Forgets what nobody can claim any more, and counts what is left; tells how many went."""
        with self._listing:
            kept, today = self._all(), day_of(self._clock.now_us())
            old = [each for each in kept if each.day < today - DAYS_MAX][:SWEPT_MAX]
            for each in old:
                with self._asking():
                    self._store.delete(each.key)
            self._count(set(kept) - set(old))
        return len(old)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self.bytes_max:
            raise Invalid("TOO_LARGE", bytes=size_bytes, bytes_max=self.bytes_max)

    def _count_once(self) -> None:
        if self._counted:
            return
        with self._listing:
            if not self._counted:
                self._count(self._all())

    def _all(self) -> list[Kept]:
        with self._lock:
            self._room.begin_list()
        with self._asking():
            return kept_objects(self._store.keys(FOLDER))

    def _count(self, kept: Iterable[Kept]) -> None:
        with self._lock:
            self._room.count(kept)
            self._counted = True
        used.set(self._room.used_bytes)

    def _put(self, endpoint: str, data: bytes, *, check: Callable[[], None]) -> Claim:
        kept = Kept(endpoint, Claim.of(data), day_of(self._clock.now_us()))
        with self._lock:
            check()
            self._room.add(kept)
        added = False
        try:
            with self._asking():
                added = self._store.put_if_absent(kept.key, data)
                if not added:
                    self._mend(kept, data)
        finally:
            with self._lock:
                (self._room.arrived if added else self._room.withdraw)(kept)
            used.set(self._room.used_bytes)
        return kept.claim

    def _mend(self, kept: Kept, data: bytes) -> None:
        """Puts the bytes in place of what lies there, where that was changed."""
        try:
            kept.claim.verify(self._store.get(kept.key))
        except Corrupt:
            log.error("stored_claim_replaced", endpoint=kept.endpoint, digest=kept.claim.digest)
            with tempfile.TemporaryFile() as file:
                file.write(data)
                self._store.put_file(kept.key, file)

    def _found(self, endpoint: str, claim: Claim) -> bytes:
        today = day_of(self._clock.now_us())
        for place in may_lie_in(endpoint, claim, today=today, days_max=DAYS_MAX):
            with self._asking(), suppress(NotFound):
                return self._store.get(place.key)
        raise NotFound("CLAIM_UNKNOWN", endpoint=endpoint, digest=claim.digest)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        if time.monotonic() < self._away_until_s:
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", waits_s=AWAY_S)
        try:
            yield
        except Unavailable:
            self._away_until_s = time.monotonic() + AWAY_S
            raise


class ClaimSweep(LookingPart):
    """Forgets old objects, now and then; any replica may."""

    def __init__(self, claims: ObjectClaims, *, interval_s: float = SWEEP_INTERVAL_S) -> None:
        super().__init__("claim-sweep", interval_s=interval_s, waits="claim_sweep_waits")
        self._claims = claims

    def look(self) -> None:
        gone = self._claims.sweep()
        swept.inc(gone)
        if gone:
            log.info("claims_swept", objects=gone)
