# SPDX-License-Identifier: Apache-2.0
"""Whether topics that are read are still those that they were: made again, one has another id.

A consumer tells no ids, and goes on at the old offset amid the records of the new topic.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future

from confluent_kafka import KafkaException
from confluent_kafka.admin import TopicDescription

from headrace_kit.offsets import DescribedTopic, ask_for_topics, described_topics

REQUEST_TIMEOUT_S = 2.0
ASK_INTERVAL_S = 1.0
# An answer may never come: when its client was given up meanwhile.
ANSWER_S_MAX = 5.0


class TopicIds:
    """Of the topics that somebody asked for; not for several threads."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._ids: dict[str, str] = {}
        self._asked: Mapping[str, Future[TopicDescription]] = {}
        self._asked_s = 0.0

    def get(self, topic: str) -> str:
        """Empty unless it was identified."""
        return self._ids.get(topic, "")

    def identify(self, topics: Collection[str]) -> dict[str, DescribedTopic]:
        """What they are by now; raises Unavailable TOPIC_MISSING or BROKER_UNAVAILABLE."""
        described = described_topics(self._bootstrap, topics, timeout_s=REQUEST_TIMEOUT_S)
        self._ids |= {topic: each.id for topic, each in described.items()}
        self._asked = {}  # what is on its way may be of before
        return described

    def made_again(self, topics: Collection[str]) -> set[str]:
        """Those of the topics that have another id than they were identified by.

        Asks once a second and waits for no answer: it is told by a later call.
        """
        known, since_s = self._ids.keys() & {*topics}, time.monotonic() - self._asked_s
        if not self._asked and known and since_s >= ASK_INTERVAL_S:
            self._asked_s = time.monotonic()
            self._asked = ask_for_topics(self._bootstrap, known, timeout_s=REQUEST_TIMEOUT_S)
            return set()
        if not all(answer.done() for answer in self._asked.values()):
            self._asked = {} if since_s >= ANSWER_S_MAX else self._asked
            return set()
        told = {topic: _id(answer) for topic, answer in self._asked.items()}
        self._asked = {}
        return {each for each in known & told.keys() if told[each] not in ("", self.get(each))}


def _id(answer: Future[TopicDescription]) -> str:
    """Empty for a topic that is missing, or was not told of."""
    try:
        return str(answer.result().topic_id)
    except KafkaException:
        return ""
