# SPDX-License-Identifier: Apache-2.0
"""Asks an endpoint over Kafka, and judges what became of it.

A small model lies in the service's cache, so that Kafka is all it needs. The ledger is the offsets
of the requests, as their deliveries told them.
"""

from __future__ import annotations

import math
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.application import definition_json
from headrace.inference.v1 import inference_events_pb2 as pb
from headrace.local.ports import pick_ports
from headrace.local.process import Child
from headrace.local.service_process import service_process
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.registry.v1 import registry_events_pb2 as registry_pb
from headrace_inference.testing import FEATURES, a_model, an_endpoint
from headrace_kit.kafka import KafkaPublisher, Message
from headrace_kit.offsets import (
    committed_offsets,
    described_topics,
    partitions_by_topic,
    topic_end_offsets,
)
from headrace_kit.testing import has_leaders, wait_until

GROUP = "inference.requests"
Place = tuple[int, int]


@dataclass
class Asker:
    """Publishes requests to an endpoint of its own, and reads what became of them."""

    bootstrap: str
    folder: Path
    endpoint: str = field(default_factory=lambda: f"asked-{uuid.uuid4().hex[:8]}")
    asked: dict[Place, str] = field(default_factory=dict)
    rows: int = 1
    topic_id: str = ""  # of the requests, once their topic was made again

    def serve(self) -> None:
        """Topics, definition and rollout, as apply and the registry would."""
        create_topics(self.bootstrap, static_topics())
        wanted = (topics.INFERENCE_REQUESTS, topics.INFERENCE_PREDICTIONS)
        create_topics(self.bootstrap, [(each.of(self.endpoint), each) for each in wanted])
        names = [each.of(self.endpoint) for each in wanted]
        wait_until(lambda: has_leaders(self.bootstrap, names))
        definition = registry_pb.Definition(
            kind="endpoint",
            name=self.endpoint,
            version=1,
            spec_json=definition_json(an_endpoint(self.endpoint)),
        )
        rollout = registry_pb.Rollout(
            endpoint=self.endpoint,
            model="m",
            generation=1,
            champion=registry_pb.ServedVersion(
                version=1, digest=sha256(a_model(1.0)).hexdigest(), features=FEATURES
            ),
            change="test",
        )
        publisher = KafkaPublisher(self.bootstrap, client_id="registry-hand")
        for topic, key, message in (
            (topics.REGISTRY_DEFINITIONS.name, f"endpoint/{self.endpoint}", definition),
            (topics.REGISTRY_ROLLOUTS.name, self.endpoint, rollout),
        ):
            publisher.publish([Message(topic, key.encode(), message.SerializeToString())])
        publisher.close(5.0)

    def make_again(self) -> None:
        """The topic of the requests; what was asked before is asked no more."""
        topic = topics.INFERENCE_REQUESTS.of(self.endpoint)
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        admin.delete_topics([topic])[topic].result(30)
        wait_until(lambda: create_topics(self.bootstrap, [(topic, topics.INFERENCE_REQUESTS)]))
        wait_until(lambda: has_leaders(self.bootstrap, [topic]))
        self.topic_id = described_topics(self.bootstrap, [topic])[topic].id
        self.asked.clear()

    def forget_answers(self) -> None:
        """The topic of the answers, as an operator does who deletes it; and what it answered."""
        topic = topics.INFERENCE_PREDICTIONS.of(self.endpoint)
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        admin.delete_topics([topic])[topic].result(30.0)
        wait_until(lambda: not partitions_by_topic(self.bootstrap, [topic]))
        self.asked.clear()

    def make_answers(self) -> None:
        topic = topics.INFERENCE_PREDICTIONS.of(self.endpoint)
        create_topics(self.bootstrap, [(topic, topics.INFERENCE_PREDICTIONS)])
        wait_until(lambda: has_leaders(self.bootstrap, [topic]))

    def worker(self, name: str, *, fail: str = "", **settings: str) -> Child:
        """An inference service; the same name is the same folder.

        Nobody waits until it is ready: a broker that tests share may name models of others.
        """
        folder = self.folder / name
        cached = folder / "models" / sha256(a_model(1.0)).hexdigest()
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_bytes(a_model(1.0))
        told = {"KAFKA_BOOTSTRAP": self.bootstrap, "DATA_DIR": str(folder), **settings}
        ports, environment = tuple(pick_ports(2)), {"HEADRACE_FAIL": fail}
        spec = service_process("inference", ports, told, environment=environment)
        return Child(spec, folder / "inference.log", folder)

    def ask(self, count: int) -> None:
        """Requests of 20 entities; one in ten is of the wrong shape."""
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "partitioner": "murmur2_random", "linger.ms": 5}
        )
        first = len(self.asked)
        for number in range(first, first + count):
            key, value, headers = self.record(number)
            producer.produce(
                topics.INFERENCE_REQUESTS.of(self.endpoint),
                value,
                key,
                headers=headers,
                on_delivery=self._note(number),
            )
        assert producer.flush(30) == 0

    def record(self, number: int) -> tuple[bytes, bytes, dict[str, bytes]]:
        """Key, value and headers."""
        return b"entity-%d" % (number % 20), self.request(number), {}

    def request(self, number: int) -> bytes:
        width = len(FEATURES) - (number % 10 == 9)
        request = oip.ModelInferRequest(model_name=self.endpoint, id=str(number))
        request.inputs.add(name="features", datatype="FP32", shape=[self.rows, width])
        request.raw_input_contents.append(np.full(self.rows * width, number, "<f4").tobytes())
        return request.SerializeToString()

    def _note(self, number: int):
        def note(error, message) -> None:
            assert error is None
            self.asked[message.partition(), message.offset()] = str(number)

        return note

    def await_no_lag(self) -> None:
        wait_until(self.all_answered)

    def all_answered(self) -> bool:
        """Asked of the group only once it has answered something: in a broker without any group
        librdkafka's admin client ended the whole test process (SIGSEGV), now and then.
        """
        if not self.some_answered():
            return False
        topic = topics.INFERENCE_REQUESTS.of(self.endpoint)
        ends = topic_end_offsets(self.bootstrap, [topic])
        return committed_offsets(self.bootstrap, GROUP, [topic]) == ends

    def some_answered(self) -> bool:
        answers = topics.INFERENCE_PREDICTIONS.of(self.endpoint)
        return any(topic_end_offsets(self.bootstrap, [answers]).values())

    def answers(self) -> list[tuple[Place, float | str]]:
        """Place of the request, and the score of all its rows or the reason, in the order of the
        partitions.
        """
        found: list[tuple[Place, float | str]] = []
        for value in self._values():
            event = self.whole(pb.PredictionsMade.FromString(value))
            if self.topic_id not in ("", event.request_topic_id):
                continue
            number = event.request_partition
            scores = np.frombuffer(b"".join(each.contents for each in event.outputs), "<f4")
            begins = np.cumsum([0, *event.run_rows])
            for run, offset in enumerate(event.request_offsets):
                said = {*scores[begins[run] : begins[run + 1]].tolist()}
                right = event.run_rows[run] == self.rows and len(said) == 1
                found.append(((number, offset), said.pop() if right else math.nan))
            found += [((number, each.request_offset), each.reason) for each in event.refused]
        return found

    def whole(self, event: pb.PredictionsMade) -> pb.PredictionsMade:
        """What the record stands for."""
        return event

    def _values(self) -> Iterator[bytes]:
        topic = topics.INFERENCE_PREDICTIONS.of(self.endpoint)
        ends = topic_end_offsets(self.bootstrap, [topic])
        settings = {"bootstrap.servers": self.bootstrap, "group.id": uuid.uuid4().hex}
        with closing(Consumer(settings)) as consumer:
            for partition, end in ends.items():
                consumer.assign([TopicPartition(*partition, 0)])
                for _ in range(end):
                    (message,) = consumer.consume(1, 30)
                    assert message.error() is None
                    yield message.value()

    def wrong(self) -> dict[str, object]:
        """What is not as promised: nothing lost, doubled or made up, each its own answer, and the
        answers of an entity in the order of its requests.
        """
        answers = self.answers()
        times = Counter(place for place, _ in answers)
        last: dict[tuple[int, int], int] = {}
        disorder = []
        for (number, offset), _ in answers:
            asked = int(self.asked.get((number, offset), -1))
            entity = number, asked % 20
            if offset < last.get(entity, -1):
                disorder.append((number, offset))
            last[entity] = offset
        expected = {
            place: "TENSOR_SHAPE" if int(id_) % 10 == 9 else 1.0 + int(id_)
            for place, id_ in self.asked.items()
        }
        found = {
            "lost": sorted(self.asked.keys() - times.keys()),
            "made up": sorted(times.keys() - self.asked.keys()),
            "doubled": sorted(place for place, count in times.items() if count > 1),
            "mistaken": sorted(p for p, said in answers if said != expected.get(p, said)),
            "disorder": disorder,
        }
        return {name: places for name, places in found.items() if places}
