# SPDX-License-Identifier: Apache-2.0
"""EndOffsets by Kafka's admin API."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from headrace_kit.kafka import Partition
from headrace_kit.offsets import topic_begin_offsets, topic_end_offsets


class KafkaEndOffsets:
    """The ends of partitions that have records; one that retention emptied ends at 0."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    def __call__(self, topics: Collection[str]) -> Mapping[Partition, int]:
        ends = topic_end_offsets(self._bootstrap, topics)
        begins = topic_begin_offsets(self._bootstrap, topics)
        return {each: end if end > begins[each] else 0 for each, end in ends.items()}
