# SPDX-License-Identifier: Apache-2.0
"""Several that follow the fold, as one: each has its part of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace_feature.ports import Folded, FoldFollower


class FoldFollowers:
    """FoldFollower; their keys differ."""

    def __init__(self, *followers: FoldFollower) -> None:
        self._followers = followers

    def beside(self, batch: Sequence[Folded]) -> Mapping[bytes, bytes | None]:
        changes: dict[bytes, bytes | None] = {}
        for each in self._followers:
            changes |= each.beside(batch)
        return changes

    def stored(self) -> None:
        for each in self._followers:
            each.stored()

    def send(self) -> None:
        for each in self._followers:
            each.send()

    def idle(self) -> None:
        for each in self._followers:
            each.idle()
