# SPDX-License-Identifier: Apache-2.0
"""What ingest counts for Prometheus, for watching: the truth is in the archive's accounts."""

from __future__ import annotations

from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.quality import StreamQuality
from headrace_kit.telemetry import counter, gauge, histogram

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


_RATE = gauge("ingest", "quality_records_per_second", "Records of the last told minute.", "stream")
_REJECTED = gauge("ingest", "quality_rejected_ratio", "Share of them set aside.", "stream")
_LATENESS = gauge("ingest", "quality_lateness_seconds", "Mean of known - event time.", "stream")
_NULLS = gauge("ingest", "quality_null_ratio", "Share of nulls.", "stream", "column")
_DISTINCT = gauge("ingest", "quality_distinct_values", "About how many.", "stream", "column")


def show_quality(quality: StreamQuality) -> None:
    """The last told minute of a stream; nulls and distinct values are of the stored records."""
    stream, refused = quality.stream, sum(quality.refused_by_reason.values())
    _RATE.labels(stream).set(quality.received / 60)
    _REJECTED.labels(stream).set(refused / max(quality.received, 1))
    _LATENESS.labels(stream).set(quality.lateness_us_mean / 1e6)
    for name, column in quality.columns.items():
        _NULLS.labels(stream, name).set(column.nulls / max(quality.stored, 1))
        _DISTINCT.labels(stream, name).set(column.distinct)
