# SPDX-License-Identifier: Apache-2.0
"""Counts what became of every record, from the archive's own counters (P13)."""

from __future__ import annotations

from functools import reduce

from headrace_ingest.domain.accounts import Account
from headrace_ingest.ports import Archive, ContractBook, TopicCatalogue


def list_stream_counts(
    *, contracts: ContractBook, catalogue: TopicCatalogue, archive: Archive
) -> list[tuple[str, Account]]:
    """The account of each applied stream, all partitions together, by name."""
    return [(name, _count(name, catalogue, archive)) for name in contracts.names()]


def _count(stream: str, catalogue: TopicCatalogue, archive: Archive) -> Account:
    accounts = archive.accounts(stream, catalogue.raw_topic(stream))
    return reduce(Account.plus, accounts.values(), Account())
