# SPDX-License-Identifier: Apache-2.0
"""Topics that a reader needs and that are not there, and when each is looked for next."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import structlog

from headrace.errors import TOPIC_MISSING
from headrace.reasons import REASONS
from headrace_kit.backoff import Backoff

log = structlog.get_logger(__name__)


class MissingTopics:
    """By name. What is placed may wait for its own topic, or for another one (`hold_up`)."""

    def __init__(self) -> None:
        self._missing: set[str] = set()
        self._awaited: dict[str, str] = {}  # by topic, the one that its placing waits for
        self._looks: dict[str, Backoff] = {}  # by topic that is looked for

    def __contains__(self, topic: str) -> bool:
        return topic in self._missing

    def named(self) -> list[str]:
        return sorted(self._missing)

    def note(self, topics: Iterable[str]) -> None:
        for topic in {*topics} - self._missing:
            log.error("topic_missing", topic=topic, next=REASONS[TOPIC_MISSING].next)
            self._missing.add(topic)

    def hold_up(self, topic: str, missing: str) -> None:
        """Nothing of the topic is placed until the missing one is there; both may be the same."""
        self._awaited[topic] = missing
        self.note([missing])

    def holds_up(self, topic: str) -> bool:
        """Whether it is missing itself, or waits for one that is."""
        return topic in self._missing or self._awaited.get(topic) in self._missing

    def placed(self, topic: str) -> None:
        """Whatever it waited for is there for good."""
        self._looks.pop(self._awaited.pop(topic, topic), None)

    def keep(self, topics: Collection[str]) -> None:
        """Others are needed no more; who waits for what is told anew."""
        self._missing &= {*topics}
        self._awaited.clear()
        self._looks.clear()

    def due(self, besides: Collection[str]) -> list[str]:
        """Those to look for now, each with a back-off of its own, and so some that are there."""
        looked_for = self._missing | {*besides}
        due = [each for each in looked_for if not self._looks.setdefault(each, Backoff()).left_s()]
        for topic in due:  # what is found too: the placing may tell again that it is missing
            self._looks[topic].failed()
        return due

    def found(self, there: Collection[str]) -> set[str]:
        """Those of the missing that are there by now: they are missing no more."""
        found = self._missing & {*there}
        self._missing -= found
        for topic in found - {*self._awaited.values()}:
            del self._looks[topic]
        return found
