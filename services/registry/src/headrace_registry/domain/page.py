# SPDX-License-Identifier: Apache-2.0
"""Pages of versions, newest first: the token names where the next page begins, and for which list.

A token carries a check over its content, so that a changed one is refused, not misread.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from headrace.errors import Invalid
from headrace_registry.domain.version import ModelVersion

PAGE_SIZE_MAX = 100


@dataclass(frozen=True, slots=True)
class ListVersions:
    """The versions of a model, from where the token says; a page size of 0 means the largest."""

    model: str
    page_size: int
    page_token: str

    @property
    def limit(self) -> int:
        """Raises Invalid BAD_REQUEST for a negative size; a larger one is clamped."""
        if self.page_size < 0:
            raise Invalid("BAD_REQUEST", field="page_size", problem="is negative")
        return min(self.page_size or PAGE_SIZE_MAX, PAGE_SIZE_MAX)

    @property
    def below(self) -> int | None:
        """The page holds versions below this one; None from the newest. Invalid BAD_REQUEST."""
        if not self.page_token:
            return None
        number = self.page_token.partition(".")[0]
        plain = number.isascii() and number.isdecimal() and len(number) < 10
        if not plain or _token(self.model, int(number)) != self.page_token:
            raise Invalid("BAD_REQUEST", field="page_token", problem="is not one of this list")
        return int(number)


@dataclass(frozen=True, slots=True)
class VersionPage:
    """One page and the token of the next, empty when there is none."""

    versions: tuple[ModelVersion, ...]
    next_page_token: str


def page_of(query: ListVersions, found: list[ModelVersion]) -> VersionPage:
    """`found` holds up to one version more than the page, to tell whether there is another."""
    page = tuple(found[: query.limit])
    more = len(found) > query.limit
    return VersionPage(page, _token(query.model, page[-1].version) if more else "")


def _token(model: str, below: int) -> str:
    check = hashlib.sha256(f"{model} {below}".encode()).hexdigest()[:16]
    return f"{below}.{check}"
