# SPDX-License-Identifier: Apache-2.0
"""Streams that are not read, why, and when they are tried again.

A stream whose contract the archive cannot hold, or that would be set aside beyond its tolerance, is
tried again by another contract. One whose topic or archive is missing is asked for now and then;
one whose records name a contract that has not come yet waits for a moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog

from headrace import topics
from headrace.errors import TOPIC_MISSING, HeadraceError, NotFound, Unavailable
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.envelope import newer_versions
from headrace_ingest.handlers.streams_in_work import StreamInWork
from headrace_ingest.ports.archive import Archive, TopicCatalogue
from headrace_ingest.ports.definitions import ContractBook
from headrace_kit.kafka import RecordBatch

TAKEN_BACK = 0  # the version of no contract
# How often it is looked whether the topic or archive of a waiting stream has come, and whether the
# topic of the next stream in turn is still the same.
LOOK_INTERVAL_S = 1.0
ARCHIVE_MISSING = "ARCHIVE_MISSING"
# Records may name contracts that are applied and not here yet. Each call of the loop looks for the
# next one, ten times or so, once for each version that is applied and however many are named:
# what anybody can write into a header holds a stream no longer than this.
CONTRACT_AWAITED_S_MAX = 0.5
CONTRACT_AWAITED = "DEFINITION_AWAITED"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a stream is not read, as long as this version of its contract is applied.

    One that waits for a topic or its archive was last asked for it at `asked_s`.
    """

    version: int
    error: HeadraceError
    asked_s: float


class StoppedStreams:
    """By name; any thread may ask `errors` and `stops`."""

    def __init__(
        self,
        *,
        contracts: ContractBook,
        catalogue: TopicCatalogue,
        archive: Archive,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._contracts, self._catalogue, self._archive = contracts, catalogue, archive
        self._monotonic_s = monotonic_s
        self._stops: dict[str, Stop] = {}
        self._turn, self._looked_s = deque[str](), 0.0
        self._awaited_beyond: dict[str, int] = {}  # the version that was applied, by stream

    def __contains__(self, name: str) -> bool:
        return name in self._stops

    def errors(self) -> Mapping[str, HeadraceError]:
        """Why, by name."""
        return {name: stop.error for name, stop in dict(self._stops).items()}

    def stops(self) -> Mapping[str, Stop]:
        """By name."""
        return dict(self._stops)

    def add(self, name: str, version: int, error: HeadraceError) -> None:
        self._stops[name] = Stop(version, error, self._monotonic_s())
        if isinstance(error, Unavailable):
            log.warning("stream_waits", stream=name, error=str(error))
        else:
            log.error("stream_stopped", stream=name, error=str(error))

    def applied(self, name: str) -> Contract | None:
        """The contract; None when it was taken back: the loop has not left its topic yet."""
        try:
            return self._contracts.get(name)
        except NotFound:
            return None

    def try_again(self) -> None:
        """A stream that may be read again is placed anew. At most one is asked for: each question
        may take seconds, and the streams that are read wait meanwhile.
        """
        asked = False
        for name, stop in sorted(self._stops.items(), key=lambda each: each[1].asked_s):
            contract = self.applied(name)
            version = TAKEN_BACK if contract is None else contract.version
            if version != stop.version or self._over(stop):
                del self._stops[name]
            elif not asked and self._to_ask(stop):
                asked = True
                if self._there(name, stop):
                    del self._stops[name]

    def awaits_contract(self, stream: StreamInWork, records: RecordBatch) -> bool:
        """Whether records name a contract beyond the applied one, which is awaited now."""
        name, version = stream.name, stream.contract.version
        if self._awaited_beyond.get(name) == version:
            return False
        newer = newer_versions(records, stream.contract)
        if newer:
            self._awaited_beyond[name], stream.awaits = version, True
            awaited = Unavailable(CONTRACT_AWAITED, dataschema=f"{name}/{min(newer)}")
            self.add(name, version, awaited)
        return bool(newer)

    def lost_topic(
        self, streams: Mapping[str, StreamInWork]
    ) -> tuple[StreamInWork, Unavailable] | None:
        """Each stream in its turn: one whose topic was deleted, to wait and be placed anew.

        Kafka's client does not tell a topic that was made again from the one that it reads.
        """
        now_s = self._monotonic_s()
        if now_s - self._looked_s < LOOK_INTERVAL_S:
            return None
        self._looked_s = now_s
        self._turn = self._turn or deque(n for n, each in streams.items() if each.shards)
        name = self._turn.popleft() if self._turn else None
        if name is None or name in self._stops:
            return None
        missing = self._missing(streams[name])
        return (streams[name], missing) if missing else None

    def _missing(self, stream: StreamInWork) -> Unavailable | None:
        try:
            if self._catalogue.raw_topic(stream.name).topic_id == stream.topic_id:
                return None
        except Unavailable as err:
            return err if err.reason == TOPIC_MISSING else None
        return Unavailable(TOPIC_MISSING, topic=topics.RAW.of(stream.name))

    def _over(self, stop: Stop) -> bool:
        """Whether a contract was awaited for long enough."""
        since_s = self._monotonic_s() - stop.asked_s
        return stop.error.reason == CONTRACT_AWAITED and since_s >= CONTRACT_AWAITED_S_MAX

    def _to_ask(self, stop: Stop) -> bool:
        asked_for = stop.error.reason in (TOPIC_MISSING, ARCHIVE_MISSING)
        return asked_for and self._monotonic_s() - stop.asked_s >= LOOK_INTERVAL_S

    def _there(self, name: str, stop: Stop) -> bool:
        """Whether what a stream waited for is there; it is asked for now and then."""
        self._stops[name] = replace(stop, asked_s=self._monotonic_s())
        try:
            topic = self._catalogue.raw_topic(name)
            if stop.error.reason == ARCHIVE_MISSING:
                self._archive.accounts(name, topic)
        except Unavailable:
            return False
        return True
