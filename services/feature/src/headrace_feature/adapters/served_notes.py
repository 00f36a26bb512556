# SPDX-License-Identifier: Apache-2.0
"""Notes what is about to be served, here and at every worker that may fold a late record of it."""

from __future__ import annotations

from collections.abc import Callable

from headrace_feature.adapters.routed_reader import Owners, Peers
from headrace_feature.correction_handlers import note_served
from headrace_feature.domain.online_query import GetOnlineFeatures
from headrace_feature.domain.reach import reaches_of
from headrace_feature.domain.served_rows import ServedRows
from headrace_feature.domain.views import Catalogue
from headrace_feature.ports import ObservationReader
from headrace_kit.clock import Clock


class ServedNotes:
    """Any thread notes."""

    def __init__(
        self,
        *,
        catalogue: Callable[[], Catalogue],
        served: ServedRows,
        store: ObservationReader,
        owners: Owners,
        peers: Peers,
        clock: Clock,
    ) -> None:
        self._catalogue, self._served, self._clock = catalogue, served, clock
        self._store, self._owners, self._peers = store, owners, peers

    def noted(self, query: GetOnlineFeatures) -> GetOnlineFeatures:
        """The query with its moments named, once it is noted wherever it must be.

        Raises what the read would, Unavailable SERVICE_UNAVAILABLE where a worker is away among it.
        """
        query = query.named(self._clock.now_us())
        self.note_here(query)
        if others := self._others(query):
            self._peers.note(others, query)
        return query

    def note_here(self, query: GetOnlineFeatures) -> None:
        """Raises what the read would."""
        note_served(
            query,
            catalogue=self._catalogue(),
            served=self._served,
            now_us=self._clock.now_us(),
        )

    def _others(self, query: GetOnlineFeatures) -> set[str]:
        catalogue, found = self._catalogue(), set[str]()
        layouts = catalogue.layouts()
        for reach in reaches_of(catalogue, query.features):
            layout = layouts[reach.layout_id]
            ours = frozenset(self._store.owned(layout) or ())
            addresses = self._owners.address_by_partition(layout.stream)
            found |= {a for n, a in addresses.items() if n not in ours and a is not None}
        return found
