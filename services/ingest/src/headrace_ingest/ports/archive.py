# SPDX-License-Identifier: Apache-2.0
"""The archive of records, the topics that they come from, and where their quality is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.dedup import Seen
from headrace_ingest.domain.quality import StreamQuality


class Overtaken(Exception):
    """Another process has written on for a partition that this one held: end, and start again."""


@dataclass(frozen=True, slots=True)
class RawTopic:
    """A raw topic as Kafka has it; a topic that was made again has another id."""

    topic_id: str
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """What the archive knows of a raw partition; `seen` from old to new."""

    account: Account
    seen: Sequence[Seen]


class TopicCatalogue(Protocol):
    """What Kafka says about topics."""

    def raw_topic(self, stream: str, *, alone: bool = False) -> RawTopic:
        """Raises Unavailable TOPIC_MISSING, also for that of its records unless the raw one is
        asked for alone, or BROKER_UNAVAILABLE.
        """


class QualityLog(Protocol):
    """Where the quality of a stream is told."""

    def tell(self, quality: StreamQuality) -> None:
        """Raises Unavailable: tell it again."""


class Archive(Protocol):
    """Accepted records and the accounts of the raw partitions that they came from.

    Every method raises Unavailable OBJECT_STORE_UNAVAILABLE when the outcome is not known.
    """

    def open(
        self,
        contract: Contract,
        topic_id: str,
        partitions: Collection[int],
        *,
        ids_max: int,
    ) -> Mapping[int, Restored]:
        """Read these partitions, and take the right to append to them from now on.

        `seen`: the rows stored last, `ids_max` by partition or all that there are.
        Raises Invalid BAD_DEFINITION when a column is archived with another type, Unavailable
        ARCHIVE_MISSING when there is no table of a stream that was read before.
        """

    def append(
        self,
        contract: Contract,
        rows: pl.DataFrame,
        before: Mapping[int, Account],
        after: Mapping[int, Account],
    ) -> None:
        """Store rows and accounts, both or neither; asked again after a doubt, it stores once.

        `before` and `after` hold all partitions in work, changed or not. Raises Overtaken unless
        the archive's accounts are `before` (or `after`: done), Unavailable ARCHIVE_MISSING, with
        nothing written, when the table was taken away since.
        """

    def accounts(self, stream: str, topic: RawTopic) -> Mapping[int, Account]:
        """What is stored now, by partition, whoever stored it.

        Raises Unavailable ARCHIVE_MISSING as `open` does.
        """
