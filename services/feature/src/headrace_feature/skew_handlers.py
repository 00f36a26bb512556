# SPDX-License-Identifier: Apache-2.0
"""The skew proof: what was served online is computed again from the archive, bit for bit.

A row that differs is asked online once more. Where that equals the archive, it has settled: a
record was folded after the row was served, as the freshness allows, or the answer itself was wrong.
Where it does not, the online state is another than the archive: none is expected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from headrace.errors import NotFound
from headrace_feature.domain.online_query import GetOnlineFeatures, joined
from headrace_feature.domain.plans import plan_of
from headrace_feature.domain.served_sample import Served
from headrace_feature.domain.views import Catalogue
from headrace_feature.offline_handlers import (
    GetHistoricalFeatures,
    get_historical_features,
    streams_of,
)
from headrace_feature.ports import Archive, Bench, Snapshot

Answers = NDArray[np.float32]
Read = Callable[[GetOnlineFeatures], Answers]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A value that was served and is another in the archive; NaN is absent.

    `settled`: online, the row is answered as the archive has it now.
    """

    feature: str
    as_of_us: int
    served: float
    recomputed: float
    settled: bool


@dataclass(frozen=True, slots=True)
class Skew:
    """`checked`: rows; `mismatches`: values."""

    checked: int
    mismatches: Sequence[Mismatch]


NOTHING_CHECKED = Skew(0, ())


def skew_snapshots(
    sample: Sequence[Served], *, catalogue: Catalogue, archive: Archive, gone: Callable[[], bool]
) -> Mapping[str, Snapshot]:
    """What the sample is computed from again, waited for; see Archive.snapshots."""
    answerable = _answerable(sample, catalogue)
    if not answerable:
        return {}
    features = {each.query.features for each in answerable}
    streams = {s for each in features for s in streams_of(plan_of(catalogue, each))}
    newest_us = max(int(each.query.as_of_us.max()) for each in answerable)
    return archive.snapshots(streams, newest_us, gone=gone)


def check_skew(
    sample: Sequence[Served],
    *,
    catalogue: Catalogue,
    snapshots: Mapping[str, Snapshot],
    bench: Bench,
    read: Read,
) -> Skew:
    """`snapshots`: see `skew_snapshots`. Rows with a feature that is no more are left out."""
    ordered = sorted(_answerable(sample, catalogue), key=lambda served: repr(served.query.likeness))
    found = [
        _checked(list(alike), catalogue=catalogue, snapshots=snapshots, bench=bench, read=read)
        for _, alike in groupby(ordered, key=lambda served: served.query.likeness)
    ]
    return Skew(
        checked=sum(each.checked for each in found),
        mismatches=[mismatch for each in found for mismatch in each.mismatches],
    )


def _answerable(sample: Sequence[Served], catalogue: Catalogue) -> list[Served]:
    """Without the rows of which a feature is no more: they would stop every check."""
    known = {
        features
        for features in {each.query.features for each in sample}
        if _planned(features, catalogue)
    }
    return [each for each in sample if each.query.features in known]


def _planned(features: tuple[str, ...], catalogue: Catalogue) -> bool:
    try:
        plan_of(catalogue, features)
    except NotFound:
        return False
    return True


def _checked(
    sample: Sequence[Served],
    *,
    catalogue: Catalogue,
    snapshots: Mapping[str, Snapshot],
    bench: Bench,
    read: Read,
) -> Skew:
    query = joined([each.query for each in sample])
    rows = bench.given(query.columns, query.as_of_us)
    asked = GetHistoricalFeatures(query.features, int(query.as_of_us.max()))
    streams = streams_of(plan_of(catalogue, query.features))
    seen = {stream: snapshots[stream] for stream in streams}
    made = get_historical_features(asked, rows, catalogue=catalogue, snapshots=seen, bench=bench)
    recomputed = np.concatenate([answers for _, answers in made.answered])
    served = np.stack([each.answer for each in sample])
    differ = ~_same(served, recomputed)
    settled = np.zeros(len(sample), dtype=np.bool_)
    if differ.any():
        settled[:] = _same(read(query), recomputed).all(axis=1)
    mismatches = [
        Mismatch(
            query.features[place],
            int(query.as_of_us[row]),
            float(served[row, place]),
            float(recomputed[row, place]),
            bool(settled[row]),
        )
        for row, place in np.argwhere(differ).tolist()
    ]
    return Skew(len(sample), mismatches)


def _same(some: Answers, others: Answers) -> NDArray[np.bool_]:
    return (some == others) | (np.isnan(some) & np.isnan(others))
