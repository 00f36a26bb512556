# SPDX-License-Identifier: Apache-2.0
"""How far a view has come that is filled from the archive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FillProgress:
    """`rows`: made of the files that are done; `files_per_s`: 0 while this process did none.

    Files differ in size: a share of them is an estimate of the share of the work.
    """

    files: int
    files_done: int
    rows: int
    files_per_s: float


def together(found: Iterable[FillProgress]) -> FillProgress | None:
    """Of several that are worked on one after the other; None of none."""
    parts = list(found)
    if not parts:
        return None
    return FillProgress(
        files=sum(each.files for each in parts),
        files_done=sum(each.files_done for each in parts),
        rows=sum(each.rows for each in parts),
        files_per_s=max(each.files_per_s for each in parts),
    )
