# SPDX-License-Identifier: Apache-2.0
"""PublishedRows on `feature.rows.<view>`, whose key is the entity: a hash of it is compared."""

from __future__ import annotations

import time

from headrace.errors import Unavailable
from headrace.topics import Topic
from headrace_kit.erased_entities import Entity, entity_sha256
from headrace_kit.topic_log import TopicLog, partitions_there


class KafkaPublishedRows:
    """Reads the whole topic, which is compacted: a record for each entity, or some more."""

    def __init__(self, log: TopicLog, rows: Topic) -> None:
        self._log, self._rows = log, rows

    def count(self, view: str, entity: Entity, *, timeout_s: float) -> int:
        deadline_s, topic = time.monotonic() + timeout_s, self._rows.of(view)
        there = dict[bytes, bool]()
        for partition in partitions_there(self._log, topic):
            for record in self._log.read(partition):
                if time.monotonic() > deadline_s:
                    raise Unavailable("SERVICE_UNAVAILABLE", timeout_s=timeout_s)
                key = record.key or b""
                if entity_sha256(entity.column, key.decode(errors="replace")) == entity.sha256:
                    there[key] = record.value is not None
        return sum(there.values())
