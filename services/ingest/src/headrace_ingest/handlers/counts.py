# SPDX-License-Identifier: Apache-2.0
"""Counts what became of every record, from the archive's own counters (P13)."""

from __future__ import annotations

from functools import reduce

from headrace_ingest.domain.accounts import Account
from headrace_ingest.ports import Archive, ContractBook, TopicCatalogue


def list_stream_counts(
    *, contracts: ContractBook, topics: TopicCatalogue, archive: Archive
) -> list[tuple[str, Account]]:
    """The account of each applied stream, all partitions together, by name."""
    return [(name, _count(name, topics, archive)) for name in contracts.names()]


def _count(stream: str, topics: TopicCatalogue, archive: Archive) -> Account:
    accounts = archive.accounts(stream, topics.raw_topic(stream))
    return reduce(Account.plus, accounts.values(), Account())
