# SPDX-License-Identifier: Apache-2.0
"""How far labellers agree beyond chance: Krippendorff's alpha for names.

K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: any number of
labellers, any of them may be missing on a task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


def krippendorff_alpha(tasks: Iterable[Sequence[str]]) -> float | None:
    """1 - observed / expected disagreement over the answers to each task.

    1 is full agreement, 0 what chance gives, below 0 less than chance. None when no task has two
    answers, or only one answer was ever given.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    for answers in tasks:
        if len(answers) > 1:
            pairs.update(_coincidences(answers))
    totals: Counter[str] = Counter()
    for (one, _), weight in pairs.items():
        totals[one] += weight
    whole = sum(totals.values())
    expected = whole * whole - sum(total * total for total in totals.values())
    if not expected:
        return None
    observed = sum(weight for (one, other), weight in pairs.items() if one != other)
    return float(1 - (whole - 1) * observed / expected)


def _coincidences(answers: Sequence[str]) -> dict[tuple[str, str], float]:
    """Each ordered pair of answers of two labellers, weighed so that every answer counts once."""
    counts, weight = Counter(answers), 1 / (len(answers) - 1)
    return {
        (one, other): counts[one] * (counts[other] - (one == other)) * weight
        for one in counts
        for other in counts
    }
