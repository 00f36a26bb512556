# SPDX-License-Identifier: Apache-2.0
"""What the handlers need from the world."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from headrace_kit.clock import Clock
from headrace_kit.kafka import Partition, Publisher
from headrace_kit.state_store import StateStore

__all__ = ["Clock", "EndOffsets", "Partition", "Publisher", "StateStore"]


class EndOffsets(Protocol):
    """How far topics reach."""

    def __call__(self, topics: Collection[str]) -> Mapping[Partition, int]:
        """The next offset of every partition of these topics, as of now; 0 when it has no record.

        Raises Unavailable TOPIC_MISSING or BROKER_UNAVAILABLE.
        """
