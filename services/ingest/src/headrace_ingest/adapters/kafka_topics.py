# SPDX-License-Identifier: Apache-2.0
"""TopicCatalogue on Kafka's admin API."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from headrace import topics
from headrace.errors import Unavailable
from headrace_ingest.ports import RawTopic
from headrace_kit.kafka import client_settings

REQUEST_TIMEOUT_S = 5.0
_MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)


class KafkaTopicCatalogue:
    """Asks the broker each time: a topic may be made again under its old name."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._client = AdminClient(client_settings(bootstrap, "ingest-topics"))

    def raw_topic(self, stream: str) -> RawTopic:
        raw, records = topics.RAW.of(stream), topics.INGEST_RECORDS.of(stream)
        asked = self._client.describe_topics(
            TopicCollection([raw, records]), request_timeout=REQUEST_TIMEOUT_S
        )
        found, _ = (self._described(name, asked[name]) for name in (raw, records))
        return RawTopic(str(found.topic_id), tuple(sorted(each.id for each in found.partitions)))

    def _described(self, name: str, answer: Any) -> Any:
        try:
            return answer.result(REQUEST_TIMEOUT_S)
        except (KafkaException, TimeoutError) as err:
            if isinstance(err, KafkaException) and err.args[0].code() in _MISSING:
                raise Unavailable("TOPIC_MISSING", topic=name) from err
            raise Unavailable("BROKER_UNAVAILABLE", bootstrap=self._bootstrap) from err
