# SPDX-License-Identifier: Apache-2.0
"""The catalogue: kept as the definitions and manifests are, and searched by words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from headrace.errors import Invalid
from headrace_ingest.domain import catalogue as domain
from headrace_ingest.domain.catalogue import KINDS, Entry
from headrace_ingest.domain.datasets import page_limit
from headrace_ingest.ports.datasets import DatasetBook
from headrace_ingest.ports.definitions import ContractBook
from headrace_ingest.ports.search import CatalogueIndex


@dataclass(frozen=True, slots=True)
class SearchCatalogue:
    """Entries of these kinds, or of all, in which each word begins a word."""

    query: str
    kinds: tuple[str, ...]
    page_size: int
    page_token: str


class CatalogueKeeper:
    """Fills the index again when something changed; it can be lost at any time."""

    def __init__(
        self, contracts: ContractBook, datasets: DatasetBook, index: CatalogueIndex
    ) -> None:
        self._contracts, self._datasets, self._index = contracts, datasets, index
        self._filled_with: object = None

    def refresh(self, timeout_s: float) -> Iterator[None]:
        """By steps. Raises Unavailable OBJECT_STORE_UNAVAILABLE or DATABASE_UNAVAILABLE."""
        contracts = self._contracts.all()
        views = self._contracts.views()
        state = (contracts, views, self._datasets.written())
        if state != self._filled_with:
            entries = [each for one in contracts for each in domain.stream_entries(one)]
            entries += [each for one in views for each in domain.view_entries(*one)]
            for place in self._datasets.places():
                entries += self._dataset_entries(*place)
                yield
            self._index.replace(entries)
            self._filled_with = state

    def _dataset_entries(self, name: str, number: int) -> Iterable[Entry]:
        tags = [tag for tag in self._datasets.tags(name) if tag.number == number]
        return domain.dataset_entries(self._datasets.get(name, number), tags)


def search_catalogue(query: SearchCatalogue, *, index: CatalogueIndex) -> tuple[list[Entry], str]:
    """A page, the best match first, and the token of the next one.

    Raises Invalid BAD_REQUEST, Unavailable DATABASE_UNAVAILABLE.
    """
    unknown = [kind for kind in query.kinds if kind not in KINDS]
    if unknown:
        raise Invalid("BAD_REQUEST", field="kinds", problem=f"there is no {unknown[0][:64]}")
    words, limit = domain.query_words(query.query), page_limit(query.page_size)
    offset = domain.page_offset(query.query, query.kinds, query.page_token)
    found = index.search(words, query.kinds or KINDS, offset=offset, limit=limit + 1)
    more = len(found) > limit
    token = domain.page_token(query.query, query.kinds, offset + limit) if more else ""
    return found[:limit], token
