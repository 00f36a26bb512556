# SPDX-License-Identifier: Apache-2.0
"""Which worker owns which partition, as Kafka's group coordinator says: nobody announces anything.

A worker's client id in the group is `feature@<address>`, where the others reach it. What is known
is at most a second old; who asks the wrong worker is told so by it, and answers nothing wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping

import structlog

from headrace import topics
from headrace.errors import Unavailable
from headrace_kit.offsets import group_members, partitions_by_topic
from headrace_kit.part_thread import ThreadPart

INTERVAL_S = 1.0
REQUEST_TIMEOUT_S = 5.0

log = structlog.get_logger(__name__)


class GroupMembers(ThreadPart):
    """A Part; `address_by_partition` may be asked by any thread."""

    def __init__(
        self, bootstrap: str, group: str, *, streams: Callable[[], Collection[str]]
    ) -> None:
        super().__init__("members")
        self._bootstrap, self._group, self._streams = bootstrap, group, streams
        self._owners: Mapping[str, Mapping[int, str | None]] = {}
        self._asked = threading.Event()

    def stop(self, timeout_s: float) -> None:
        self._stopping.set()
        self._asked.set()
        super().stop(timeout_s)

    def look_again(self) -> None:
        """Something changed: do not wait for the second to pass."""
        self._asked.set()

    def address_by_partition(self, stream: str) -> Mapping[int, str | None]:
        """Of every partition of the stream's records; None where nobody owns it now.

        Raises Unavailable RESTORING before Kafka has said it.
        """
        if stream not in self._owners:
            raise Unavailable("RESTORING", stream=stream)
        return self._owners[stream]

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._thread.tick()
            self._asked.clear()
            try:
                self._owners = self._look()
            except Unavailable as err:
                log.warning("members_unknown", error=str(err))
            self._asked.wait(INTERVAL_S)

    def _look(self) -> Mapping[str, Mapping[int, str | None]]:
        wanted = {topics.INGEST_RECORDS.of(stream): stream for stream in self._streams()}
        there = partitions_by_topic(self._bootstrap, wanted.keys())
        found: dict[str, dict[int, str | None]] = {
            wanted[topic]: dict.fromkeys(numbers) for topic, numbers in there.items()
        }
        for member in group_members(self._bootstrap, self._group, timeout_s=REQUEST_TIMEOUT_S):
            address = member.client_id.partition("@")[2] or None
            for topic, number in member.partitions:
                if wanted.get(topic) in found:
                    found[wanted[topic]][number] = address
        return found
