# SPDX-License-Identifier: Apache-2.0
"""Notes what is about to be served, here and at every worker that may fold a late record of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from headrace.errors import HeadraceError
from headrace_feature.adapters.routed_reader import Owners, Peers
from headrace_feature.correction_handlers import note_served
from headrace_feature.domain.online_query import GetOnlineFeatures, joinable, joined
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

    def noted(
        self, queries: Mapping[int, GetOnlineFeatures]
    ) -> dict[int, GetOnlineFeatures | HeadraceError]:
        """Each with its moments named, once it is noted wherever it must be, or why it is not.

        What would fail as a read fails here; SERVICE_UNAVAILABLE where a worker is away.
        Those that ask alike are one call to each of the others.
        """
        now_us = self._clock.now_us()
        done = {number: self._here(query.named(now_us)) for number, query in queries.items()}
        here = {n: each for n, each in done.items() if isinstance(each, GetOnlineFeatures)}
        for group in joinable(here, {number: query.rows for number, query in here.items()}):
            error = self._elsewhere([here[number] for number in group])
            if error is not None:
                done |= dict.fromkeys(group, error)
        return done

    def _here(self, query: GetOnlineFeatures) -> GetOnlineFeatures | HeadraceError:
        try:
            self.note_here(query)
        except HeadraceError as err:
            return err
        return query

    def _elsewhere(self, queries: Sequence[GetOnlineFeatures]) -> HeadraceError | None:
        ids = tuple(each for query in queries for each in query.prediction_ids)
        query = replace(joined(queries), prediction_ids=ids)
        try:
            if others := self._others(query):
                self._peers.note(others, query)
        except HeadraceError as err:
            return err
        return None

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
