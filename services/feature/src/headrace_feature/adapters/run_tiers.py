# SPDX-License-Identifier: Apache-2.0
"""Which runs of a layout are to become one, and how a long one is made a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headrace_feature.adapters.run_files import write_folder
from headrace_feature.adapters.stored_run import StoredRun, head_of
from headrace_feature.domain.observations import AnyRun, Run, merged

ROWS_SMALL_MAX = 1 << 17
# A tier's runs are four times as long as those of the one below; so many become one.
TIER_RUNS, TIER_ROWS = 4, 256
PIECE_ROWS = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class HeldRun:
    """A run and its number in the layout; a large one is stored in a folder."""

    number: int
    run: Run | StoredRun

    @property
    def large(self) -> bool:
        return isinstance(self.run, StoredRun)

    @property
    def folder_bytes(self) -> int:
        """What a large one takes on disk."""
        return self.run.bytes if isinstance(self.run, StoredRun) else 0

    @property
    def tier(self) -> int:
        return (len(self.run) // TIER_ROWS).bit_length() // 2


def too_many(held: Sequence[HeldRun], *, large: bool) -> list[tuple[HeldRun, ...]]:
    """By tier, the lowest first, runs that should be one, which would be large or not."""
    by_tier: dict[int, list[HeldRun]] = {}
    for each in held:
        by_tier.setdefault(each.tier, []).append(each)
    return [
        tuple(alike)
        for _, alike in sorted(by_tier.items())
        if len(alike) >= TIER_RUNS
        and large == (sum(len(each.run) for each in alike) > ROWS_SMALL_MAX)
    ]


def into_one(
    runs: Sequence[AnyRun],
    folder: Path,
    *,
    floor_us: int,
    partitions: Collection[int] | None = None,
    kept: Callable[[Run], Run] | None = None,
) -> tuple[bytes, Iterator[None]]:
    """What must be known of the one run to open it, and the steps that write its folder.

    `kept`: what is kept of each piece, all where nobody says.
    """
    pieces = in_pieces(runs, floor_us=floor_us, partitions=partitions)
    return head_of(runs), write_folder(folder, map(kept, pieces) if kept else pieces)


def in_pieces(
    runs: Sequence[AnyRun], *, floor_us: int, partitions: Collection[int] | None
) -> Iterator[Run]:
    """The merged run in pieces of about PIECE_ROWS, cut between entities."""
    longest = max(runs, key=len)
    share = min(1.0, PIECE_ROWS / max(sum(map(len, runs)), 1))
    every = max(1, int(longest.entities.shape[1] * share))
    # First halves that begin a piece; all entities with one first half stay together.
    cuts = np.unique(longest.entities[0, every::every])
    edges = [
        [0, *run.entities[0].searchsorted(cuts).tolist(), run.entities.shape[1]] for run in runs
    ]
    for place in range(len(cuts) + 1):
        slices = [
            run.sliced(own[place], own[place + 1]) for run, own in zip(runs, edges, strict=True)
        ]
        yield merged(slices, floor_us=floor_us, partitions=partitions)
