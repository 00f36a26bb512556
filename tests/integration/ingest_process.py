# SPDX-License-Identifier: Apache-2.0
"""An ingest process on a real Kafka, and a stream of its own, for the tests of its behaviour."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
from confluent_kafka import Consumer, TopicPartition
from deltalake import DeltaTable, QueryBuilder
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace import topics
from headrace.admin import create_topics
from headrace.application import definition_json
from headrace.ingest.v1 import ingest_service_pb2 as pb
from headrace.ingest.v1 import ingest_service_pb2_grpc as pb_grpc
from headrace.local.ports import pick_ports
from headrace.local.process import Child, HttpReady
from headrace.local.service_process import service_process
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace.rpc import call, open_channel
from headrace_ingest.testing import a_contract
from headrace_kit.kafka import KafkaPublisher, Message, Record, to_record
from headrace_kit.objects import delta_table_uri
from headrace_kit.offsets import committed_offsets, topic_end_offsets
from headrace_kit.testing import has_leaders, wait_until

DEADLINE_S = 60.0
CALL_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 15.0
DEAD_LETTERS = topics.INGEST_DEAD_LETTERS.name
DEFINITIONS = topics.REGISTRY_DEFINITIONS


@dataclass
class Place:
    """Where a test's archive lies, as settings and as a reader needs it."""

    uri: str
    settings: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


class Stream:
    """A stream of its own, its topics, and what a test publishes on it."""

    def __init__(self, bootstrap: str, publisher: KafkaPublisher) -> None:
        self.name = f"t{uuid.uuid4().hex[:12]}"
        self.raw, self.records = topics.RAW.of(self.name), topics.INGEST_RECORDS.of(self.name)
        self.bootstrap, self._publisher = bootstrap, publisher
        create_topics(bootstrap, [(self.raw, topics.RAW), (self.records, topics.INGEST_RECORDS)])
        wait_until(lambda: has_leaders(bootstrap, [self.raw]))

    def apply(self, *, version: int = 1, **changes: Any) -> None:
        spec = definition_json(a_contract(name=self.name, **changes).stream)
        definition = Definition(kind="stream", name=self.name, version=version, spec_json=spec)
        key = f"stream/{self.name}".encode()
        message = Message(DEFINITIONS.name, key, definition.SerializeToString())
        self._publisher.publish([message])

    def publish(
        self, *values: bytes, key: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        keys = [key or json.loads(value)["flight"].encode() for value in values]
        told = tuple((name, each.encode()) for name, each in (headers or {}).items())
        self._publisher.publish(
            [Message(self.raw, k, value, told) for k, value in zip(keys, values, strict=True)]
        )

    def taken_in(self) -> bool:
        ends = topic_end_offsets(self.bootstrap, [self.raw])
        done = committed_offsets(self.bootstrap, "ingest", [self.raw])
        return all(done.get(partition, 0) >= end for partition, end in ends.items())

    def wait_taken_in(self) -> None:
        wait_until(self.taken_in, timeout_s=DEADLINE_S)

    def read(self, topic: str) -> list[Record]:
        """All records of a topic."""
        ends = topic_end_offsets(self.bootstrap, [topic])
        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": "reader", "log_level": 0}
            | {"auto.offset.reset": "error", "enable.auto.commit": False}
        )
        consumer.assign([TopicPartition(*partition, 0) for partition in ends])
        records: list[Record] = []
        while left := sum(ends.values()) - len(records):
            messages = consumer.consume(min(left, 500), CALL_TIMEOUT_S)
            assert messages, "the topic ends early"
            assert [None] * len(messages) == [message.error() for message in messages]
            records.extend(map(to_record, messages))
        consumer.close()
        return records

    def dead_letters(self) -> dict[bytes, Record]:
        """The newest dead letter by its key."""
        letters = self.read(DEAD_LETTERS)
        return {r.key: r for r in letters if r.headers["dl-topic"] == self.raw.encode()}


class Service:
    """One ingest process; `start` may be called again after its end, on the same archive."""

    def __init__(self, bootstrap: str, place: Place, run_dir: Path) -> None:
        self.grpc_port, self.http_port = pick_ports(2)
        self._bootstrap, self._place, self._run_dir = bootstrap, place, run_dir
        self._child: Child | None = None
        self._channel = open_channel(f"127.0.0.1:{self.grpc_port}")

    def start(self, *, fail: str = "", ready: bool = True, **settings: str) -> None:
        told = {
            "KAFKA_BOOTSTRAP": self._bootstrap,
            "DATA_DIR": str(self._run_dir),
            "OBJECT_STORE_URI": self._place.uri,
            "COMMIT_INTERVAL_S": "0.1",
            **self._place.settings,
            **settings,
        }
        ports, environment = (self.grpc_port, self.http_port), {"HEADRACE_FAIL": fail}
        spec = service_process("ingest", ports, told, environment=environment)
        self._child = Child(spec, self.log, self._run_dir)
        if ready:
            self._child.wait_ready()

    @property
    def log(self) -> Path:
        return self._run_dir / f"ingest-{self.grpc_port}.log"

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def running(self) -> bool:
        return self._child is not None and self._child.died() is None

    def ready(self) -> bool:
        return HttpReady(f"http://127.0.0.1:{self.http_port}/health/ready")(CALL_TIMEOUT_S)

    @contextmanager
    def watched(self) -> Iterator[list[bool]]:
        """What it told meanwhile to who watches whether it serves: now, and each change."""
        told: list[bool] = []
        serving = health_pb2.HealthCheckResponse.SERVING
        watch = health_pb2_grpc.HealthStub(self._channel).Watch(health_pb2.HealthCheckRequest())
        told.append(next(watch).status == serving)

        def listen() -> None:
            with suppress(grpc.RpcError):  # that we cancel it
                told.extend(answer.status == serving for answer in watch)

        listener = Thread(target=listen)
        listener.start()
        try:
            yield told
        finally:
            watch.cancel()
            listener.join(CALL_TIMEOUT_S)

    def wait_ended(self) -> int | None:
        """Its exit code."""
        assert self._child is not None
        wait_until(lambda: not self.running(), timeout_s=DEADLINE_S)
        return self._child.died()

    def stop(self) -> int | None:
        assert self._child is not None
        self._child.ask_to_stop()
        return self.wait_ended()

    def close(self) -> None:
        self._channel.close()
        if self._child is not None:
            self._child.kill()

    def publish(self, request: pb.PublishRequest, *, retries_max: int = 0) -> pb.PublishResponse:
        stub = pb_grpc.IngestServiceStub(self._channel)
        return call(stub.Publish, request, timeout_s=CALL_TIMEOUT_S, retries_max=retries_max)

    def counts(self, stream: Stream) -> pb.StreamCounts:
        stub = pb_grpc.DatasetServiceStub(self._channel)
        request = pb.ListStreamCountsRequest()
        answer = call(stub.ListStreamCounts, request, timeout_s=CALL_TIMEOUT_S, retries_max=5)
        return next(each for each in answer.streams if each.stream == stream.name)

    def archived(self, stream: Stream) -> Counter[str]:
        """How often each event id is in the archive."""
        uri = delta_table_uri(self._place.uri, "records", stream.name)
        table = DeltaTable(uri, storage_options=self._place.options)
        found = QueryBuilder().register("records", table)
        batches = found.execute("select _event_id from records").read_all()
        return Counter(batches.column("_event_id").to_pylist())
