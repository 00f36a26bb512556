# SPDX-License-Identifier: Apache-2.0
"""Quix Streams: the stream benchmark's aggregates, exactly once, until it is stopped.

Arguments: bootstrap, topic, output topic, folder of the state. Run by the peer's own Python.
"""

import sys
from typing import Any

from quixstreams import Application, State

bootstrap, topic, output, folder = sys.argv[1:]
NONE = [0, 0.0, float("-inf"), 0.0]


def plus(totals: list[Any], click: dict[str, Any]) -> list[Any]:
    amount = click["amount"]
    return [totals[0] + 1, totals[1] + amount, max(totals[2], amount), amount]


def total(click: dict[str, Any], state: State) -> list[Any]:
    totals = plus(state.get("totals", NONE), click)
    state.set("totals", totals)
    return totals


def event_time_ms(value: Any, headers: Any, timestamp_ms: int, kind: Any) -> int:
    return int(value["at"]) // 1000


app = Application(
    bootstrap,
    consumer_group="quix-streams",
    auto_offset_reset="earliest",
    commit_interval=1.0,
    state_dir=folder,
    processing_guarantee="exactly-once",
    loglevel="WARNING",
)
rows = app.topic(output, value_serializer="json")
clicks = app.dataframe(
    app.topic(topic, value_deserializer="json", timestamp_extractor=event_time_ms)
)
minutes = clicks.tumbling_window(60_000).reduce(plus, lambda click: plus(NONE, click)).current()
minutes.to_topic(rows)
clicks.apply(total, stateful=True).to_topic(rows)
app.run()
