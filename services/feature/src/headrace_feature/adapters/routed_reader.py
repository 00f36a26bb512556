# SPDX-License-Identifier: Apache-2.0
"""Reads over all workers: what others own of the entities comes as one more run to be merged.

State is a set of observations, so an answer merged from all owners is the answer of one worker that
owned everything. A worker that is away, or not done restoring, makes the read Unavailable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol, TypeVar

import grpc

from headrace.errors import HeadraceError, Invalid, Unavailable
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace.feature.v1 import feature_service_pb2_grpc as service
from headrace_feature.adapters.conversions import (
    to_note_request,
    to_observations_request,
    to_places,
)
from headrace_feature.adapters.observation_budget import ObservationBudget
from headrace_feature.adapters.run_files import from_bytes
from headrace_feature.domain.gathering import Wanted
from headrace_feature.domain.log_place import LogPlace, earliest
from headrace_feature.domain.observations import AnyRun, Run
from headrace_feature.domain.online_query import GetOnlineFeatures
from headrace_feature.domain.views import Layout
from headrace_feature.handlers import GetObservations
from headrace_feature.ports import ObservationReader
from headrace_kit.grpc_client import error_of, open_channel

PEERS_MAX = 64
PEER_TIMEOUT_S = 0.8  # of the reader's own second
T = TypeVar("T")


class Owners(Protocol):
    """Who owns what."""

    def address_by_partition(self, stream: str) -> Mapping[int, str | None]:
        """Of every partition; None where nobody owns it. Raises Unavailable RESTORING."""

    def look_again(self) -> None:
        """What was said is outdated."""


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """By other workers: what they hold, and how far they had read what they were asked for."""

    runs: Sequence[Run]
    places: Mapping[int, LogPlace]


class Peers(Protocol):
    """The other workers."""

    def reading(self) -> AbstractContextManager[None]:
        """A read: it may hold what it is told inside, and lets go of it at the end."""

    def ask(self, queries: Mapping[str, GetObservations]) -> Told:
        """What each address holds, asked all at once.

        Raises Unavailable RESTORING, or SERVICE_UNAVAILABLE when one does not answer, and Busy
        BATCH_TOO_LARGE when they hold too much, QUEUE_FULL when other reads hold it.
        """

    def note(self, addresses: Collection[str], query: GetOnlineFeatures) -> None:
        """Each is told what is about to be served; raises Unavailable SERVICE_UNAVAILABLE."""


class RoutedReader:
    """ObservationReader of this worker's store and of the others'."""

    def __init__(self, store: ObservationReader, owners: Owners, peers: Peers) -> None:
        self._store, self._owners, self._peers = store, owners, peers
        self._elsewhere: dict[bytes, Mapping[int, LogPlace]] = {}

    @contextmanager
    def reading(self) -> Iterator[ObservationReader]:
        with self._peers.reading():
            yield RoutedReader(self._store, self._owners, self._peers)

    def runs_of(self, layout: Layout, wanted: Wanted) -> Sequence[AnyRun]:
        ours = self.owned(layout)
        addresses = self._owners.address_by_partition(layout.stream)
        runs = self._store.runs_of(layout, wanted)
        others = addresses.keys() - ours
        if not others:
            self._elsewhere.pop(layout.id, None)
            return runs
        queries = {
            address: GetObservations(layout.id, tuple(numbers), wanted)
            for address, numbers in _by_address(layout, addresses, others).items()
        }
        try:
            told = self._peers.ask(queries)
        except Unavailable:
            self._owners.look_again()
            raise
        # What came to us since the rows before were asked for is not told of any more.
        before = self._elsewhere.get(layout.id, {})
        self._elsewhere[layout.id] = {
            n: earliest([place, before.get(n, place)]) for n, place in told.places.items()
        }
        return [*runs, *told.runs]

    def elsewhere(self, layout: Layout) -> Mapping[int, LogPlace]:
        return self._elsewhere.get(layout.id, {})

    def next_by_partition(self, layout: Layout) -> Mapping[int, int]:
        """A new mapping each time while others own something: what they read on is not in it, and
        an answer is kept for one mapping alone.
        """
        positions = self._store.next_by_partition(layout)
        alone = self._owners.address_by_partition(layout.stream).keys() <= self.owned(layout)
        return positions if alone else dict(positions)

    def topic_id(self, layout: Layout) -> str:
        return self._store.topic_id(layout)

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
    """Peers by ObservationService, which are shown the token."""

    def __init__(self, token: str, budget: ObservationBudget) -> None:
        self._token, self._budget = token, budget

    def reading(self) -> AbstractContextManager[None]:
        return self._budget.reading()

    def ask(self, queries: Mapping[str, GetObservations]) -> Told:
        """An owner that holds too much for one answer says so, and is asked for a stream."""
        deadline_s = time.monotonic() + PEER_TIMEOUT_S
        requests = {address: to_observations_request(each) for address, each in queries.items()}
        calls = [
            _stub(address, self._token).GetObservations.future(request, timeout=PEER_TIMEOUT_S)
            for address, request in requests.items()
        ]
        answers = dict(zip(requests, _received(calls, _answer), strict=True))
        self._budget.take(sum(len(each.run) + each.bytes for each in answers.values()))
        found = [each.run for each in answers.values() if each.HasField("run")]
        large = {at: requests[at] for at, each in answers.items() if each.HasField("bytes")}
        left_s = max(0.001, deadline_s - time.monotonic())
        streams = [
            _stub(address, self._token).StreamObservations(
                wire.StreamObservationsRequest(query=request), timeout=left_s
            )
            for address, request in large.items()
        ]
        found += [piece.run for piece in chain(*_received(streams, list))]
        places = {
            number: place
            for at, each in answers.items()
            for number, place in to_places(each, queries[at].partitions).items()
        }
        return Told(list(map(from_bytes, found)), places)

    def note(self, addresses: Collection[str], query: GetOnlineFeatures) -> None:
        request = to_note_request(query)
        calls = [
            _stub(address, self._token).NoteServed.future(request, timeout=PEER_TIMEOUT_S)
            for address in addresses
        ]
        _received(calls, _answer)


def _received(calls: Sequence[Any], read: Callable[[Any], T]) -> list[T]:
    """What comes of calls that are under way; when one fails, the others need not go on."""
    try:
        return [read(call) for call in calls]
    except grpc.RpcError as err:
        raise _told(error_of(err, service="feature")) from err
    finally:
        for call in calls:
            call.cancel()


def _answer(call: Any) -> Any:
    return call.result()


def _told(error: HeadraceError) -> HeadraceError:
    """What the caller did wrong, or asked too much of, is told as it is; the rest is ours."""
    if isinstance(error, Invalid) or error.reason in ("RESTORING", "BATCH_TOO_LARGE"):
        return error
    return Unavailable("SERVICE_UNAVAILABLE", service="feature", error=error)


@lru_cache(maxsize=PEERS_MAX)
def _stub(address: str, token: str) -> service.ObservationServiceStub:
    return service.ObservationServiceStub(open_channel(address, token=token))
