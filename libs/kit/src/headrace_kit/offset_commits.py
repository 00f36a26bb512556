# SPDX-License-Identifier: Apache-2.0
"""What a consumer group is told of how far the effects reach, one commit at a time.

A refusal is tried again later. It loses nothing: nobody starts from these offsets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import structlog
from confluent_kafka import KafkaError

from headrace_kit.backoff import Backoff
from headrace_kit.kafka import Partition

log = structlog.get_logger(__name__)


class OffsetCommits:
    """Next offsets by partition: to be told, on their way, and told."""

    def __init__(self) -> None:
        self._wanted: dict[Partition, int] = {}
        self._sent: dict[Partition, int] = {}
        self._told: dict[Partition, int] = {}
        self._retry = Backoff()

    def want(self, partition: Partition, offset: int) -> None:
        """Tell this, whatever was told before."""
        self._wanted[partition] = offset

    def want_anew(self, partitions: Collection[Partition]) -> None:
        """Tell that nothing of these is done; whatever was told counts no more."""
        self._wanted.update(dict.fromkeys(partitions, 0))
        self._told.clear()

    def want_changed(self, offsets: Mapping[Partition, int]) -> None:
        """Tell those of these offsets that were not told, and are not on their way."""
        for partition, offset in offsets.items():
            if offset != self._sent.get(partition, self._told.get(partition)):
                self._wanted[partition] = offset

    def next(self) -> Mapping[Partition, int]:
        """What is to be sent now, if anything: from now on it is on its way."""
        if self._sent or self._retry.left_s():
            return {}
        self._sent, self._wanted = self._wanted, {}
        return self._sent

    def settle(self, error: KafkaError | None, held: Collection[Partition]) -> None:
        """What was on its way was told, or refused; of what is held no more it is no matter."""
        ours = {each: at for each, at in self._sent.items() if each in held}
        self._sent = {}
        if error is None:
            self._told.update(ours)
            self._retry.succeeded()
        else:
            log.warning("commit_put_off", error=error.name(), delay_s=self._retry.failed())
            self._wanted = {**ours, **self._wanted}

    def forget(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            self._wanted.pop(partition, None)
            self._told.pop(partition, None)
