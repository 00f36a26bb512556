# SPDX-License-Identifier: Apache-2.0
"""TopicCatalogue on Kafka's admin API, and what the group remembers."""

from __future__ import annotations

from headrace import topics
from headrace_ingest.ports.archive import RawTopic
from headrace_kit.offsets import described_topics, was_read

REQUEST_TIMEOUT_S = 5.0


class KafkaTopicCatalogue:
    """Asks the broker each time: a topic may be made again under its old name."""

    def __init__(self, bootstrap: str, group: str) -> None:
        self._bootstrap, self._group = bootstrap, group

    def raw_topic(self, stream: str, *, alone: bool = False) -> RawTopic:
        raw, records = topics.RAW.of(stream), topics.INGEST_RECORDS.of(stream)
        asked = [raw] if alone else [raw, records]
        found = described_topics(self._bootstrap, asked, timeout_s=REQUEST_TIMEOUT_S)[raw]
        return RawTopic(found.id, found.partitions)

    def was_read(self, stream: str) -> bool:
        """Whether the group has come beyond a beginning of the topic: only ever behind a commit of
        the archive. Raises Unavailable BROKER_UNAVAILABLE.
        """
        return was_read(self._bootstrap, self._group, topics.RAW.of(stream))
