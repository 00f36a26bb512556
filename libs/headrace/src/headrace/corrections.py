# SPDX-License-Identifier: Apache-2.0
"""The newest of `feature.corrections`: which predictions were made before a record of theirs came.

Read without a group, from so far before the ends as is asked for, each once though it was repeated.
"""

from __future__ import annotations

from headrace import topics
from headrace.feature.v1.feature_events_pb2 import FeaturesCorrected
from headrace.newest_messages import newest_messages


def newest_corrections(bootstrap: str, *, count: int) -> list[FeaturesCorrected]:
    """At most so many, in the order in which they were told; raises Unavailable."""
    newest = newest_messages(bootstrap, topics.FEATURE_CORRECTIONS.name, count=count)
    told = sorted(newest, key=lambda message: message.timestamp()[1])
    events = (FeaturesCorrected.FromString(message.value()) for message in told)
    return list({event.correction_id: event for event in events}.values())[-count:]
