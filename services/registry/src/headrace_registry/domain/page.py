# SPDX-License-Identifier: Apache-2.0
"""Pages of a list: the token names where the next page begins, and for which list.

A token carries a check over its content, so that a changed one is refused, not misread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from headrace.errors import Invalid
from headrace_registry.domain.alias import Alias
from headrace_registry.domain.version import ModelVersion

PAGE_SIZE_MAX = 100
NUMBER_LENGTH_MAX = 19
# No model has such a name, so their tokens are of no other list.
MODELS, DEFINITIONS, ROLLOUTS = "*", "* definitions", "* rollouts"
RETRACTED = "* retracted definitions"
Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class ListVersions:
    """The versions of a model, newest first, from where the token says."""

    model: str
    page_size: int
    page_token: str

    @property
    def limit(self) -> int:
        """Raises Invalid BAD_REQUEST for a negative size."""
        return page_limit(self.page_size)

    @property
    def below(self) -> int | None:
        """The page holds versions below this one; None from the newest. Invalid BAD_REQUEST."""
        return below_of(self.page_token, self.model)


@dataclass(frozen=True, slots=True)
class VersionPage:
    """One page and the token of the next, empty when there is none."""

    versions: tuple[ModelVersion, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class ListChanges:
    """The changes of a model, or all, newest first, from where the token says."""

    model: str
    page_size: int
    page_token: str

    @property
    def of_list(self) -> str:
        return f"changes {self.model}"


@dataclass(frozen=True, slots=True)
class ListAliasMoves:
    """The moves of an alias, newest first, from where the token says."""

    model: str
    alias: str
    page_size: int
    page_token: str

    @property
    def of_list(self) -> str:
        return f"moves {self.model}@{self.alias}"


@dataclass(frozen=True, slots=True)
class ListByName:
    """A list by name, from where the token says; `of_list` tells it from the others."""

    of_list: str
    page_size: int
    page_token: str

    @property
    def limit(self) -> int:
        """Raises Invalid BAD_REQUEST for a negative size."""
        return page_limit(self.page_size)

    @property
    def above(self) -> str:
        """The page holds names after this one. Raises Invalid BAD_REQUEST."""
        return after(self.page_token, self.of_list) or ""

    def cut(
        self, found: Iterable[Entry], name_of: Callable[[Entry], str]
    ) -> tuple[tuple[Entry, ...], str]:
        """One page of all that were found, and the token of the next."""
        above = self.above
        left = [each for each in found if name_of(each) > above]
        return cut(sorted(left, key=name_of), self.limit, self.of_list, name_of)


@dataclass(frozen=True, slots=True)
class GetLineage:
    """The versions that came of something; an empty kind means any."""

    kind: str
    name: str
    page_size: int
    page_token: str

    @property
    def list(self) -> ListByName:
        return ListByName(f"lineage {self.kind} {self.name}", self.page_size, self.page_token)


@dataclass(frozen=True, slots=True)
class Model:
    """A model, its newest version (0: none yet) and its aliases."""

    name: str
    newest_version: int
    aliases: tuple[Alias, ...]


@dataclass(frozen=True, slots=True)
class ModelPage:
    """One page and the token of the next, empty when there is none."""

    models: tuple[Model, ...]
    next_page_token: str


def aliases_of(model: str) -> str:
    """The list of a model's aliases."""
    return f"aliases {model}"


def page_limit(page_size: int) -> int:
    """0 means the largest, a larger one is clamped; Invalid BAD_REQUEST for a negative one."""
    if page_size < 0:
        raise Invalid("BAD_REQUEST", field="page_size", problem="is negative")
    return min(page_size or PAGE_SIZE_MAX, PAGE_SIZE_MAX)


def below_of(token: str, of_list: str) -> int | None:
    """The number below which the page lies; None from the newest. Raises Invalid BAD_REQUEST."""
    number = after(token, of_list)
    if number is None:
        return None
    if not (number.isascii() and number.isdecimal() and len(number) < NUMBER_LENGTH_MAX):
        raise Invalid("BAD_REQUEST", field="page_token", problem="is not one of this list")
    return int(number)


def page_of(query: ListVersions, found: list[ModelVersion]) -> VersionPage:
    """The page of `found`, which `cut` describes."""
    return VersionPage(*cut(found, query.limit, query.model, lambda each: each.version))


def cut(
    found: Sequence[Entry], limit: int, of_list: str, name_of: Callable[[Entry], object]
) -> tuple[tuple[Entry, ...], str]:
    """One page and the token of the next, empty when there is none.

    `found` holds up to one entry more than the page, to tell whether there is another.
    """
    page = tuple(found[:limit])
    return page, token_of(str(name_of(page[-1])), of_list) if len(found) > limit else ""


def token_of(last: str, of_list: str) -> str:
    """The token of the page after the entry named `last`."""
    # A token that is sent may hold half a surrogate pair, which JSON can name.
    listed = f"{of_list} {last}".encode(errors="surrogatepass")
    check = hashlib.sha256(listed).hexdigest()[:16]
    return f"{last}.{check}"


def after(token: str, of_list: str) -> str | None:
    """The entry after which the page begins; None for the first page. Invalid BAD_REQUEST."""
    if not token:
        return None
    last = token.rpartition(".")[0]
    if token_of(last, of_list) != token:
        raise Invalid("BAD_REQUEST", field="page_token", problem="is not one of this list")
    return last
