# SPDX-License-Identifier: Apache-2.0
"""Reads over all workers: what others own of the entities comes as one more run to be merged.

State is a set of observations, so an answer merged from all owners is the answer of one worker that
owned everything. A worker that is away, or not done restoring, makes the read Unavailable.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol

import grpc

from headrace.errors import HeadraceError, Invalid, Unavailable
from headrace.feature.v1 import feature_service_pb2_grpc as service
from headrace_feature.adapters.conversions import to_note_request, to_observations_request
from headrace_feature.adapters.run_files import from_bytes
from headrace_feature.domain.gathering import Wanted
from headrace_feature.domain.observations import Run
from headrace_feature.domain.online_query import GetOnlineFeatures
from headrace_feature.domain.views import Layout
from headrace_feature.handlers import GetObservations
from headrace_feature.ports import ObservationReader
from headrace_kit.grpc_client import error_of, open_channel

PEERS_MAX = 64
PEER_TIMEOUT_S = 0.8  # of the reader's own second
MESSAGES_MAX = 32  # of one read, each of 16 MiB at most


class Owners(Protocol):
    """Who owns what."""

    def address_by_partition(self, stream: str) -> Mapping[int, str | None]:
        """Of every partition; None where nobody owns it. Raises Unavailable RESTORING."""

    def look_again(self) -> None:
        """What was said is outdated."""


class Peers(Protocol):
    """The other workers."""

    def ask(self, queries: Mapping[str, GetObservations]) -> Sequence[Run]:
        """What each address holds, asked all at once.

        Raises Unavailable RESTORING, or SERVICE_UNAVAILABLE when one does not answer.
        """

    def note(self, addresses: Collection[str], query: GetOnlineFeatures) -> None:
        """Each is told what is about to be served; raises Unavailable SERVICE_UNAVAILABLE."""


class RoutedReader:
    """ObservationReader of this worker's store and of the others'."""

    def __init__(self, store: ObservationReader, owners: Owners, peers: Peers) -> None:
        self._store, self._owners, self._peers = store, owners, peers

    def runs_of(self, layout: Layout, wanted: Wanted) -> Sequence[Run]:
        ours = self.owned(layout)
        addresses = self._owners.address_by_partition(layout.stream)
        runs = self._store.runs_of(layout, wanted)
        others = addresses.keys() - ours
        if not others:
            return runs
        queries = {
            address: GetObservations(layout.id, tuple(numbers), wanted)
            for address, numbers in _by_address(layout, addresses, others).items()
        }
        try:
            return [*runs, *self._peers.ask(queries)]
        except Unavailable:
            self._owners.look_again()
            raise

    def next_by_partition(self, layout: Layout) -> Mapping[int, int]:
        """A new mapping each time while others own something: what they read on is not in it, and
        an answer is kept for one mapping alone.
        """
        positions = self._store.next_by_partition(layout)
        alone = self._owners.address_by_partition(layout.stream).keys() <= self.owned(layout)
        return positions if alone else dict(positions)

    def furthest_by_partition(self, stream: str) -> Mapping[int, int]:
        return self._store.furthest_by_partition(stream)

    def floor_us(self, layout: Layout) -> int:
        return self._store.floor_us(layout)

    def owned(self, layout: Layout) -> frozenset[int]:
        """None as long as nobody said: then all are asked of whoever the group says has them."""
        return frozenset(self._store.owned(layout) or ())

    def restoring(self, layout: Layout) -> frozenset[int]:
        return self._store.restoring(layout)


def _by_address(
    layout: Layout, addresses: Mapping[int, str | None], partitions: Iterable[int]
) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number in sorted(partitions):
        address = addresses[number]
        if address is None:
            raise Unavailable("RESTORING", stream=layout.stream, partition=number)
        found.setdefault(address, []).append(number)
    return found


class GrpcPeers:
    """Peers by ObservationService."""

    def ask(self, queries: Mapping[str, GetObservations]) -> Sequence[Run]:
        """What does not fit into one message comes in several."""
        deadline_s = time.monotonic() + PEER_TIMEOUT_S
        found: list[Run] = []
        asked = list(queries.items())
        while asked:
            calls = [_asked(address, query, deadline_s) for address, query in asked]
            answers = _answers(calls)
            found += [from_bytes(each.run) for each in answers if each is not None]
            large = [one for one, each in zip(asked, answers, strict=True) if each is None]
            asked = [half for address, query in large for half in _halves(address, query)]
            if len(found) + len(asked) > MESSAGES_MAX:
                raise Unavailable("SERVICE_UNAVAILABLE", service="feature", messages=MESSAGES_MAX)
        return found

    def note(self, addresses: Collection[str], query: GetOnlineFeatures) -> None:
        request = to_note_request(query)
        calls = [
            _stub(address).NoteServed.future(request, timeout=PEER_TIMEOUT_S)
            for address in addresses
        ]
        if None in _answers(calls):
            raise Unavailable("SERVICE_UNAVAILABLE", service="feature", problem="note too large")


def _asked(address: str, query: GetObservations, deadline_s: float) -> Any:
    left_s = max(0.001, deadline_s - time.monotonic())
    return _stub(address).GetObservations.future(to_observations_request(query), timeout=left_s)


def _halves(address: str, query: GetObservations) -> list[tuple[str, GetObservations]]:
    halves = query.wanted.halves()
    if len(halves) == 1:
        raise Unavailable("SERVICE_UNAVAILABLE", service="feature", problem="one moment too large")
    return [(address, replace(query, wanted=half)) for half in halves]


def _answers(calls: Sequence[Any]) -> list[Any]:
    """None for an answer that is too large for a message."""
    try:
        return [_answer(call) for call in calls]
    finally:
        for call in calls:
            call.cancel()


def _answer(call: Any) -> Any:
    try:
        return call.result()
    except grpc.RpcError as err:
        error = error_of(err)
        if error.reason == "MESSAGE_TOO_LARGE":
            return None
        raise _unavailable(error) from err


def _unavailable(error: HeadraceError) -> HeadraceError:
    """What the caller did wrong is told as it is; the rest is ours."""
    if isinstance(error, Invalid) or error.reason == "RESTORING":
        return error
    return Unavailable("SERVICE_UNAVAILABLE", service="feature", error=error)


@lru_cache(maxsize=PEERS_MAX)
def _stub(address: str) -> service.ObservationServiceStub:
    return service.ObservationServiceStub(open_channel(address))
