# SPDX-License-Identifier: Apache-2.0
"""Inference over Kafka on one core: single rows of the small model, from topic to topic.

Requests that wait are answered as fast as it goes; then half of the bar's rate is sent in an open
loop, and each answer is timed by the broker's clock, from when its request was in its topic to when
it was in its own: how busy the sender and a reader are does not count. Every request has its own id
and one of 1,000 keys; the answers are counted by the places of their requests. The raw limit is a
reader of the same topic on the same core that does nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from benchmarks.inference import SMALL, Model, a_request, inference, served
from benchmarks.machine import Machine, ServiceUnderTest, publish, rate, raw_limit
from benchmarks.outcome import Outcome, say
from headrace import topics
from headrace.inference.v1 import inference_events_pb2 as pb
from headrace_kit.kafka import Partition
from headrace_kit.offsets import committed_offsets, topic_end_offsets

Place = tuple[int, int]
ENDPOINT, GROUP = "bench", "inference.requests"
REQUESTS, PREDICTIONS = (
    topics.INFERENCE_REQUESTS.of(ENDPOINT),
    topics.INFERENCE_PREDICTIONS.of(ENDPOINT),
)
WAITING, KEYS, VALUES = 300_000, 1_000, 100
ROWS_PER_S_MIN, P99_MS_MAX = 20_000, 100.0
LOAD_PER_S, LOAD_S, TICK_S = ROWS_PER_S_MIN // 2, 20, 0.005
# A sender that is held up makes an easier load.
SENT_SHARE_MIN = 0.95
FLUSH_S_MAX, ANSWERED_S_MAX = 30.0, 120.0


def main() -> None:
    with served(SMALL) as (where, _, model):
        say("publishing what waits")
        with inference(where, model):
            pass  # makes the topics, the definition and the rollout
        publish(where, REQUESTS, requests(model, 0, WAITING))
        with inference(where, model) as service:
            rows_per_s = rate(where, service, GROUP, REQUESTS, WAITING)
            waiting = topic_end_offsets(where.bootstrap, [REQUESTS])
            before_s = service.cpu_s()
            send(where, model)
            total = WAITING + LOAD_PER_S * LOAD_S
            wait_answered(where, service, total)
            cpu_us = (service.cpu_s() - before_s) / (LOAD_PER_S * LOAD_S) * 1e6
        found = timed(where, waiting)
        say(f"{found}; {cpu_us:.1f} us of CPU a request at this rate")
        raw = raw_limit(where, REQUESTS, total)
    said = (
        f">= {ROWS_PER_S_MIN:,} rows/s, p99 <= {P99_MS_MAX:.0f} ms at {LOAD_PER_S:,} rows/s "
        f"(found {found.p99_ms:.0f}, sent {found.sent_per_s:,.0f}), 0 lost (found {found.lost}), "
        f"0 doubled (found {found.doubled})"
    )
    ok = rows_per_s >= ROWS_PER_S_MIN and found.p99_ms <= P99_MS_MAX
    ok = ok and found.sent_per_s >= SENT_SHARE_MIN * LOAD_PER_S
    ok = ok and not (found.lost or found.doubled)
    say(Outcome("infer_kafka", rows_per_s, "rows/s", raw, said, ok).line())


def wait_answered(where: Machine, service: ServiceUnderTest, total: int) -> None:
    deadline_s = time.monotonic() + ANSWERED_S_MAX
    while sum(committed_offsets(where.bootstrap, GROUP, [REQUESTS]).values()) < total:
        if service.child.died() is not None:
            raise service.child.start_failed()
        if time.monotonic() >= deadline_s:
            raise TimeoutError(f"{total:,} requests were not answered in {ANSWERED_S_MAX} s")
        time.sleep(0.1)


def requests(model: Model, first: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of single rows, numbered: of each its number is its id."""
    values = np.random.default_rng(5).random((VALUES, 1, model.width), dtype=np.float32)
    made = [a_request(each) for each in values]
    for number in range(first, end):
        request = made[number % VALUES]
        request.id = str(number)
        yield b"entity-%d" % (number % KEYS), request.SerializeToString()


def answered_ms(where: Machine) -> Iterator[tuple[Place, int]]:
    """Of each answer the place of its request, and the broker's time."""
    for message in read(where, PREDICTIONS):
        made = pb.PredictionsMade.FromString(message.value())
        for offset in made.request_offsets:
            yield (made.request_partition, offset), message.timestamp()[1]


def read(where: Machine, topic: str) -> Iterator[Message]:
    """The topic up to its end."""
    ends = topic_end_offsets(where.bootstrap, [topic])
    settings = {"bootstrap.servers": where.bootstrap, "group.id": "bench"}
    with closing(Consumer(settings)) as consumer:
        consumer.assign([TopicPartition(*partition, 0) for partition in ends])
        left = sum(ends.values())
        while left > 0:
            for message in consumer.consume(1_000, 1.0):
                left -= 1
                yield message


@dataclass(frozen=True, slots=True)
class Timed:
    """What was answered, from topic to topic; `latencies_ms` of those of the open loop."""

    latencies_ms: list[int]
    sent_per_s: float
    lost: int
    doubled: int

    @property
    def p99_ms(self) -> float:
        return float(np.percentile(self.latencies_ms, 99))

    def __str__(self) -> str:
        p50_ms = float(np.percentile(self.latencies_ms, 50))
        return (
            f"{self.sent_per_s:,.0f} rows/s sent: p50 {p50_ms:.0f} ms, p99 {self.p99_ms:.0f} ms; "
            f"of all lost {self.lost}, answered twice {self.doubled}"
        )


def timed(where: Machine, waiting: Mapping[Partition, int]) -> Timed:
    """`waiting`: where the requests of the open loop began."""
    asked_ms: dict[Place, int] = {}
    for message in read(where, REQUESTS):
        asked_ms[message.partition(), message.offset()] = message.timestamp()[1]
    begin = {partition.number: offset for partition, offset in waiting.items()}
    sent = {place: at for place, at in asked_ms.items() if place[1] >= begin[place[0]]}
    times: Counter[Place] = Counter()
    latencies = []
    for place, at_ms in answered_ms(where):
        times[place] += 1
        if place in sent:
            latencies.append(at_ms - sent[place])
    span_s = (max(sent.values()) - min(sent.values())) / 1e3
    doubled = sum(count - 1 for count in times.values())
    return Timed(latencies, len(sent) / span_s, len(asked_ms.keys() - times.keys()), doubled)


def send(where: Machine, model: Model) -> None:
    """The load's rate for its time, evenly; returns when all of it is in the topic."""
    producer = Producer(
        {"bootstrap.servers": where.bootstrap, "linger.ms": 2, "partitioner": "murmur2_random"}
    )
    total = LOAD_PER_S * LOAD_S
    records = list(requests(model, WAITING, WAITING + total))
    begun_s, number = time.monotonic(), 0
    while number < total:
        due = min(total, int((time.monotonic() - begun_s) * LOAD_PER_S))
        batch = [{"key": key, "value": value} for key, value in records[number:due]]
        producer.produce_batch(REQUESTS, batch)
        number = due
        producer.poll(0)
        time.sleep(TICK_S)
    if unsent := producer.flush(FLUSH_S_MAX):
        raise TimeoutError(f"{unsent:,} requests were not sent in {FLUSH_S_MAX} s")
