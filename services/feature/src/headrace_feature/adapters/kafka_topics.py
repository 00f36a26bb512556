# SPDX-License-Identifier: Apache-2.0
"""What Kafka says about topics: the id that names the archive's counters, others, and the ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace import topics
from headrace_kit.offsets import (
    described_topics,
    topic_begin_offsets,
    topic_end_offsets,
    was_read,
)

ARCHIVING_GROUP = topics.RAW.owner  # commits its offsets behind those of the archive


@dataclass(frozen=True, slots=True)
class RawTopic:
    """A topic that was made again has another id."""

    id: str
    end_by_partition: Mapping[int, int]


def record_ends(bootstrap: str, stream: str) -> dict[int, int]:
    """Where each partition of a stream's records ends; raises Unavailable."""
    ends = topic_end_offsets(bootstrap, [topics.INGEST_RECORDS.of(stream)])
    return {partition.number: end for partition, end in ends.items()}


def record_topic_id(bootstrap: str, stream: str) -> str:
    """Of the topic of a stream's records: made again, it has another one. Raises Unavailable."""
    topic = topics.INGEST_RECORDS.of(stream)
    return described_topics(bootstrap, [topic])[topic].id


def erasure_log_id(bootstrap: str) -> str:
    """Of the topic that names erased entities; raises Unavailable."""
    topic = topics.INGEST_ERASURES.name
    return described_topics(bootstrap, [topic])[topic].id


def record_begins(bootstrap: str, stream: str) -> dict[int, int]:
    """Where each partition of a stream's records begins by now; raises Unavailable."""
    begins = topic_begin_offsets(bootstrap, [topics.INGEST_RECORDS.of(stream)])
    return {partition.number: begin for partition, begin in begins.items()}


class KafkaRawTopics:
    """Asks at each call: a topic may be made again."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    def __call__(self, stream: str) -> RawTopic:
        """Raises Unavailable TOPIC_MISSING or BROKER_UNAVAILABLE.

        The ends first, and the topic is described once more behind them: those of a topic that is
        made again meanwhile go with no older id.
        """
        topic = topics.RAW.of(stream)
        ends = topic_end_offsets(self._bootstrap, [topic])
        described = described_topics(self._bootstrap, [topic])[topic]
        return RawTopic(described.id, {each.number: end for each, end in ends.items()})

    def was_archived(self, stream: str) -> bool:
        """Whether there was an archive, as Kafka remembers; raises BROKER_UNAVAILABLE."""
        return was_read(self._bootstrap, ARCHIVING_GROUP, topics.RAW.of(stream))
