# SPDX-License-Identifier: Apache-2.0
"""The flights that left New York in 2013, replayed as streams of events."""

from flights_example.events import (
    ARRIVED,
    DEPARTED,
    SCHEDULED,
    STREAMS,
    WEATHER,
    EventBatch,
    StreamBatch,
    event_batches,
)

__all__ = [
    "ARRIVED",
    "DEPARTED",
    "SCHEDULED",
    "STREAMS",
    "WEATHER",
    "EventBatch",
    "StreamBatch",
    "event_batches",
]
