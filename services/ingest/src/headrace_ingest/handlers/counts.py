# SPDX-License-Identifier: Apache-2.0
"""Counts what became of every record, from the archive's own counters (P13)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from headrace import topics
from headrace.errors import HeadraceError, Unavailable
from headrace_ingest.domain.accounts import Account
from headrace_ingest.ports import Archive, ContractBook, RawTopic, TopicCatalogue


@dataclass(frozen=True, slots=True)
class StreamCount:
    """The account of a stream, and why it is read no further."""

    stream: str
    account: Account
    stopped: HeadraceError | None = None


def list_stream_counts(
    *,
    contracts: ContractBook,
    catalogue: TopicCatalogue,
    archive: Archive,
    stopped: Mapping[str, HeadraceError],
) -> list[StreamCount]:
    """Each applied stream by name, all partitions together; `stopped` by raw topic.

    One whose topic is missing has nothing to count: its account goes by the topic's id.
    """
    counts = []
    for stream in contracts.names():
        try:
            account = _account(stream, catalogue.raw_topic(stream), archive)
        except Unavailable as err:
            if err.reason != "TOPIC_MISSING":
                raise
            counts.append(StreamCount(stream, Account(), err))
        else:
            counts.append(StreamCount(stream, account, stopped.get(topics.RAW.of(stream))))
    return counts


def _account(stream: str, topic: RawTopic, archive: Archive) -> Account:
    return reduce(Account.plus, archive.accounts(stream, topic).values(), Account())
