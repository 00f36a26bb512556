# SPDX-License-Identifier: Apache-2.0
"""bytewax: the stream benchmark's aggregates, with recovery; prints events a second.

Arguments: bootstrap, topic, events, folder of the recovery store, output topic. Run by the peer's
own Python.
"""

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op
import bytewax.operators.windowing as windowing
import orjson
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSource
from bytewax.connectors.kafka import operators as kafka
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main

bootstrap, topic, events, folder, output = sys.argv[1:]
Totals = tuple[int, float, float, float]
NONE: Totals = (0, 0.0, float("-inf"), 0.0)
count, begun_s, begun_at = 0, 0.0, 0


def plus(totals: Totals, click: dict) -> Totals:
    amount = click["amount"]
    return (totals[0] + 1, totals[1] + amount, max(totals[2], amount), amount)


def counted(messages: list) -> Iterator[tuple[str, dict]]:
    """The clicks of a batch; the clock runs from a tenth of all."""
    global count, begun_s, begun_at
    if not begun_s and count >= int(events) // 10:
        begun_s, begun_at = time.monotonic(), count
    count += len(messages)
    return ((message.key.decode(), orjson.loads(message.value)) for message in messages)


def at(click: dict) -> datetime:
    return datetime.fromtimestamp(click["at"] / 1e6, tz=UTC)


def row(item: tuple[str, tuple]) -> KafkaSinkMessage:
    return KafkaSinkMessage(item[0].encode(), orjson.dumps(item[1]))


flow = Dataflow("clicks")
source = KafkaSource([bootstrap], [topic], tail=False, batch_size=10_000)
clicks = op.flat_map_batch("read", op.input("in", flow, source), counted)
minutes = windowing.fold_window(
    "minutes",
    clicks,
    windowing.EventClock(at, wait_for_system_duration=timedelta(seconds=10)),
    windowing.TumblingWindower(
        length=timedelta(minutes=1), align_to=datetime(2023, 1, 1, tzinfo=UTC)
    ),
    lambda: NONE,
    plus,
    lambda one, other: other,
)
totals = op.stateful_map(
    "totals", clicks, lambda before, click: (after := plus(before or NONE, click), after)
)
rows = op.map("rows", op.merge("both", minutes.down, totals), row)
kafka.output("out", rows, brokers=[bootstrap], topic=output)

Path(folder).mkdir(parents=True)
init_db_dir(Path(folder), 1)
recovery = RecoveryConfig(folder)
cluster_main(flow, [], 0, epoch_interval=timedelta(seconds=1), recovery_config=recovery)
sys.stdout.write(f"{(count - begun_at) / (time.monotonic() - begun_s)}\n")
