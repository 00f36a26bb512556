# SPDX-License-Identifier: Apache-2.0
"""Counts what became of every record, from the archive's own counters (P13)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from headrace import topics
from headrace.errors import TOPIC_MISSING, HeadraceError, Invalid, Unavailable
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.contract import Contract
from headrace_ingest.handlers.stopped_streams import ARCHIVE_MISSING, Stop
from headrace_ingest.ports.archive import Archive, RawTopic, TopicCatalogue
from headrace_ingest.ports.definitions import ContractBook


@dataclass(frozen=True, slots=True)
class StreamCount:
    """The account of a stream, why it is read no further, and the version of its contract.

    The account is None while the archive does not tell it, or Kafka does not tell its topic.
    """

    stream: str
    account: Account | None
    stopped: HeadraceError | None = None
    version: int = 0


def list_stream_counts(
    *,
    contracts: ContractBook,
    catalogue: TopicCatalogue,
    archive: Archive,
    stops: Mapping[str, Stop],
    waits: HeadraceError | None,
) -> list[StreamCount]:
    """Each applied stream by name, all partitions together; `stops` by name too.

    One whose raw topic is missing has nothing to count: its account goes by the topic's id. One
    whose contract cannot be used is told as stopped before a record comes for it. `waits` tells why
    all of them are read no further now, if so.
    """
    counter = _Counter(catalogue, archive, stops, waits)
    return [counter.count(each) for each in contracts.all()]


@dataclass(slots=True)
class _Counter:
    """Counts one stream after the other; who is away is not asked again: that may take seconds."""

    catalogue: TopicCatalogue
    archive: Archive
    stops: Mapping[str, Stop]
    waits: HeadraceError | None
    away: Unavailable | None = None
    kafka_away: Unavailable | None = None

    def count(self, contract: Contract) -> StreamCount:
        name, version = contract.name, contract.version
        stop = self.stops.get(name)
        stopped = stop.error if stop and stop.version == version else _unusable(contract)
        try:
            topic, lacking = self._topic(name)
        except Unavailable as err:
            if err.reason == TOPIC_MISSING:
                return StreamCount(name, Account(), err, version)
            return StreamCount(name, None, stopped or err, version)
        try:
            account = self._account(name, topic)
        except Unavailable as err:
            return StreamCount(name, None, err, version)
        return StreamCount(name, account, lacking or stopped or self.away or self.waits, version)

    def _topic(self, stream: str) -> tuple[RawTopic, Unavailable | None]:
        """And that of its records is missing, if so: what was read before is counted all the same.

        Raises Unavailable, TOPIC_MISSING for the raw topic.
        """
        if self.kafka_away is not None:
            raise self.kafka_away
        try:
            return self._asked(stream)
        except Unavailable as err:
            if err.reason != TOPIC_MISSING:
                self.kafka_away = err
            raise

    def _asked(self, stream: str) -> tuple[RawTopic, Unavailable | None]:
        try:
            return self.catalogue.raw_topic(stream), None
        except Unavailable as err:
            if err.metadata.get("topic") != topics.INGEST_RECORDS.of(stream):
                raise
            return self.catalogue.raw_topic(stream, alone=True), err

    def _account(self, stream: str, topic: RawTopic) -> Account | None:
        """Raises Unavailable ARCHIVE_MISSING, which concerns this stream alone."""
        if self.away is not None:
            return None
        try:
            accounts = self.archive.accounts(stream, topic)
        except Unavailable as err:
            if err.reason == ARCHIVE_MISSING:
                raise
            self.away = err
            return None
        return reduce(Account.plus, accounts.values(), Account())


def _unusable(contract: Contract) -> HeadraceError | None:
    try:
        contract.check_usable()
    except Invalid as err:
        return err
    return None
