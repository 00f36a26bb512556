# SPDX-License-Identifier: Apache-2.0
"""ContractBook filled from `registry.definitions`, live: an applied stream is read at once."""

from __future__ import annotations

from collections.abc import Callable, Collection

from headrace.application import Graph, Recipe, Stream
from headrace.applied import read_applied
from headrace.errors import NotFound
from headrace.feature_view import RequestView, StreamView, View
from headrace_ingest.domain.contract import Contract
from headrace_kit.kafka import Record


class AppliedContracts:
    """The newest contract of each stream; `on_change` is told of each that comes or goes."""

    def __init__(
        self,
        on_change: Callable[[Collection[str]], None] = lambda streams: None,
        *,
        pii_key: bytes | None = None,
    ) -> None:
        self._contracts: dict[str, Contract] = {}
        self._models: frozenset[str] = frozenset()
        self._views: dict[str, tuple[View, int]] = {}
        self._pii_key = pii_key
        self._on_change = on_change

    def take(self, record: Record) -> None:
        """Take a record of the topic; raises Invalid for one that cannot be read.

        A stream that is taken back is read no further; applied again, it goes on where it stood.
        """
        applied = read_applied(record.key, record.value)
        if isinstance(applied.definition, Stream):
            self.put(Contract(applied.definition, applied.version, self._pii_key))
        elif isinstance(applied.definition, StreamView | RequestView):
            self._views = {**self._views, applied.name: (applied.definition, applied.version)}
        elif isinstance(applied.definition, Recipe):
            self._models |= {applied.definition.model}
        elif isinstance(applied.definition, Graph):
            self._models |= {applied.name}
        elif applied.definition is None and applied.kind == "stream":
            self._take_back(applied.name)
        elif applied.definition is None and applied.kind == "view":
            self._views = {n: each for n, each in self._views.items() if n != applied.name}

    def put(self, contract: Contract) -> None:
        """From now on this is the stream's contract."""
        new = contract.name not in self._contracts
        # Replaced, never changed: readers in other threads see the one or the other.
        self._contracts = {**self._contracts, contract.name: contract}
        if new:
            self._on_change(self.names())

    def _take_back(self, stream: str) -> None:
        if stream in self._contracts:
            self._contracts = {n: each for n, each in self._contracts.items() if n != stream}
            self._on_change(self.names())

    def get(self, stream: str) -> Contract:
        try:
            return self._contracts[stream]
        except KeyError as err:
            raise NotFound("STREAM_UNKNOWN", stream=stream) from err

    def view(self, name: str) -> tuple[View, int]:
        try:
            return self._views[name]
        except KeyError as err:
            raise NotFound("VIEW_UNKNOWN", view=name) from err

    def views(self) -> list[tuple[View, int]]:
        return [self._views[name] for name in sorted(self._views)]

    def models(self) -> list[str]:
        """Also those whose recipe or graph was taken back: their versions stay."""
        return sorted(self._models)

    def names(self) -> list[str]:
        return sorted(self._contracts)

    def all(self) -> list[Contract]:
        return [contract for _, contract in sorted(self._contracts.items())]
