# SPDX-License-Identifier: Apache-2.0
"""TopicCatalogue on Kafka's admin API."""

from __future__ import annotations

from headrace import topics
from headrace_ingest.ports import RawTopic
from headrace_kit.offsets import described_topics

REQUEST_TIMEOUT_S = 5.0


class KafkaTopicCatalogue:
    """Asks the broker each time: a topic may be made again under its old name."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    def raw_topic(self, stream: str) -> RawTopic:
        raw, records = topics.RAW.of(stream), topics.INGEST_RECORDS.of(stream)
        found = described_topics(self._bootstrap, [raw, records], timeout_s=REQUEST_TIMEOUT_S)[raw]
        return RawTopic(found.id, found.partitions)
