# SPDX-License-Identifier: Apache-2.0
"""Counts what became of every record, from the archive's own counters (P13)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from headrace.errors import HeadraceError, Invalid, Unavailable
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.contract import Contract
from headrace_ingest.handlers.stopped_streams import Stop
from headrace_ingest.ports import Archive, ContractBook, RawTopic, TopicCatalogue


@dataclass(frozen=True, slots=True)
class StreamCount:
    """The account of a stream, why it is read no further, and the version of its contract."""

    stream: str
    account: Account
    stopped: HeadraceError | None = None
    version: int = 0


def list_stream_counts(
    *,
    contracts: ContractBook,
    catalogue: TopicCatalogue,
    archive: Archive,
    stops: Mapping[str, Stop],
) -> list[StreamCount]:
    """Each applied stream by name, all partitions together; `stops` by name too.

    One whose topic is missing has nothing to count: its account goes by the topic's id. One whose
    contract cannot be used is told as stopped before a record comes for it.
    """
    applied = [contracts.get(name) for name in contracts.names()]
    return [_count(each, catalogue, archive, stops.get(each.name)) for each in applied]


def _count(
    contract: Contract,
    catalogue: TopicCatalogue,
    archive: Archive,
    stop: Stop | None,
) -> StreamCount:
    name, version = contract.name, contract.version
    try:
        account = _account(name, catalogue.raw_topic(name), archive)
    except Unavailable as err:
        if err.reason != "TOPIC_MISSING":
            raise
        return StreamCount(name, Account(), err, version)
    why = stop.error if stop and stop.version == version else _unusable(contract)
    return StreamCount(name, account, why, version)


def _unusable(contract: Contract) -> HeadraceError | None:
    try:
        contract.check_usable()
    except Invalid as err:
        return err
    return None


def _account(stream: str, topic: RawTopic, archive: Archive) -> Account:
    return reduce(Account.plus, archive.accounts(stream, topic).values(), Account())
