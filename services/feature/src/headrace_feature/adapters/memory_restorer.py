# SPDX-License-Identifier: Apache-2.0
"""Restorer of a test: there is no snapshot."""

from __future__ import annotations

from collections.abc import Collection

from headrace_feature.domain.views import Layout


class NothingToRestore:
    """Says so at once."""

    def restore(self, layout: Layout, partitions: Collection[int]) -> bool:
        return True

    def put_off(self, layout: Layout) -> bool:
        return False

    def tend(self) -> None:
        """Nothing comes."""

    def forget(self, stream: str, partitions: Collection[int]) -> None:
        """There is nothing to fetch again."""
