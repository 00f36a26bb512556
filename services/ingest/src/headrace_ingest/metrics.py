# SPDX-License-Identifier: Apache-2.0
"""What ingest counts for Prometheus, for watching: the truth is in the archive's accounts."""

from __future__ import annotations

from headrace_ingest.domain.accounts import Account
from headrace_kit.telemetry import counter, histogram

COMMIT_SECONDS = histogram("ingest", "commit_seconds", "Duration of Delta commits.", "stream")
_STORED = counter("ingest", "stored_records_total", "Records archived.", "stream")
_LATE = counter("ingest", "late_records_total", "Archived records that came late.", "stream")
_REPEATS = counter("ingest", "repeated_records_total", "Records dropped as repeats.", "stream")
# The kit's loop counts its own dead letters under this name too.
_DEAD = counter("ingest", "dead_letters_total", "Records set aside.", "reason")


def count_stored(stream: str, before: Account, after: Account) -> None:
    """Count what a commit added to the account of a partition."""
    _STORED.labels(stream).inc(after.stored - before.stored)
    _LATE.labels(stream).inc(after.late - before.late)
    _REPEATS.labels(stream).inc(after.repeats - before.repeats)
    for reason, count in after.dead_by_reason.items():
        _DEAD.labels(reason).inc(count - before.dead_by_reason.get(reason, 0))
