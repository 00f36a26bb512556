# SPDX-License-Identifier: Apache-2.0
"""Which runs of a layout are to become one, and how a long one is made a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headrace_feature.adapters.run_files import Maps, scale_to_bytes, write_folder
from headrace_feature.domain.observations import Run, Scale, merged

ROWS_SMALL_MAX = 1 << 17
# A tier's runs are four times as long as those of the one below; so many become one.
TIER_RUNS, TIER_ROWS = 4, 256
PIECE_ROWS = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class HeldRun:
    """A run and its number in the layout; of a large one the maps of its files."""

    number: int
    run: Run
    maps: Maps | None = None

    @property
    def large(self) -> bool:
        return self.maps is not None

    @property
    def tier(self) -> int:
        return (len(self.run) // TIER_ROWS).bit_length() // 2


def too_many(held: Sequence[HeldRun], *, large: bool) -> tuple[HeldRun, ...]:
    """Runs of one tier that should be one, which would be large or not."""
    by_tier: dict[int, list[HeldRun]] = {}
    for each in held:
        by_tier.setdefault(each.tier, []).append(each)
    for _, alike in sorted(by_tier.items()):
        rows = sum(len(each.run) for each in alike)
        if len(alike) >= TIER_RUNS and large == (rows > ROWS_SMALL_MAX):
            return tuple(alike)
    return ()


def scale_of(runs: Sequence[Run]) -> Scale:
    entities = sum(run.entities.shape[1] for run in runs)
    oldest_us = min(run.scale.base_us for run in runs)
    return Scale.of(entities, oldest_us, max(run.newest_us for run in runs))


def into_one(
    runs: Sequence[Run],
    folder: Path,
    *,
    floor_us: int,
    partitions: Collection[int] | None = None,
    kept: Callable[[Run], Run] | None = None,
) -> tuple[bytes, Iterator[None]]:
    """What must be known of the one run to map it, and the steps that write its folder.

    `kept`: what is kept of each piece, all where nobody says.
    """
    scale, newest_us = scale_of(runs), max(run.newest_us for run in runs)
    pieces = in_pieces(runs, floor_us=floor_us, partitions=partitions)
    steps = write_folder(folder, map(kept, pieces) if kept else pieces, scale)
    return scale_to_bytes(runs[0].matrix.shape[1], scale, newest_us), steps


def in_pieces(
    runs: Sequence[Run], *, floor_us: int, partitions: Collection[int] | None
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
