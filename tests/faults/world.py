# SPDX-License-Identifier: Apache-2.0
"""A broker, ingest and feature as processes, each service behind a fault proxy of its own.

A load client writes its ledger; after the faults have ended and the lag is gone, `seen` reads all
that is there from outside.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import polars as pl
from confluent_kafka import Consumer, TopicPartition
from deltalake import DeltaTable, QueryBuilder
from tests.faults import oracle
from tests.faults.checker import Findings, Letter, Published, Row, Seen, check
from tests.faults.ledger import Ledger
from tests.faults.oracle import Order
from tests.faults.proxies import Proxy
from tests.faults.quiet_registry import QuietRegistry

from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.application import definition_json, parse_definition
from headrace.datasets import Datasets
from headrace.errors import Unavailable
from headrace.feature.v1 import feature_service_pb2 as feature_pb
from headrace.feature.v1 import feature_service_pb2_grpc as feature_grpc
from headrace.ingest.v1 import ingest_service_pb2 as ingest_pb
from headrace.ingest.v1 import ingest_service_pb2_grpc as ingest_grpc
from headrace.local.java import find_java
from headrace.local.kafka import KafkaBroker, provide_jars
from headrace.local.ports import pick_ports
from headrace.local.process import Child
from headrace.local.service_process import service_process
from headrace.local.tools import ToolCache
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace.rpc import call, open_channel
from headrace_ingest.testing import never_read
from headrace_kit.kafka import KafkaPublisher, Message
from headrace_kit.objects import S3Settings, delta_table_uri, object_store
from headrace_kit.offsets import committed_offsets, topic_end_offsets
from headrace_kit.testing import wait_until

CALL_TIMEOUT_S = 10.0
SETTLE_S_MAX = 60.0
SERVICES = ("ingest", "feature")
STREAM = "orders"
RAW, RECORDS = topics.RAW.of(STREAM), topics.INGEST_RECORDS.of(STREAM)
DEAD_LETTERS = topics.INGEST_DEAD_LETTERS.name
DEFINITIONS = topics.REGISTRY_DEFINITIONS.name
CUSTOMERS, SHOPS = 20, 5
MINUTE_US = 60_000_000
STREAM_DEFINITION = {
    "kind": "stream",
    "name": STREAM,
    "description": "Orders.",
    "owner": "faults",
    "key": "customer",
    "id": "order_id",
    "event_time": "at",
    "lateness_allowed": "1h",
    "columns": {
        "order_id": {"type": "string", "required": True},
        "customer": {"type": "string", "required": True},
        "shop": {"type": "string", "required": True},
        "amount": {"type": "float64", "min": 0},
        "at": {"type": "timestamp", "required": True},
    },
}


def view(entity: str) -> dict[str, object]:
    features = {
        f"{aggregate}_{window}": {"aggregate": aggregate, "window": window}
        | ({} if aggregate == "count" else {"column": "amount"})
        for aggregate in oracle.AGGREGATES
        for window in oracle.WINDOW_US_BY_NAME
    }
    return {
        "kind": "view",
        "name": entity,
        "description": f"Orders of a {entity}.",
        "stream": STREAM,
        "entity": [entity],
        "features": features,
    }


@dataclass(frozen=True, slots=True)
class ProxiedBroker(KafkaBroker):
    """A broker with one more listener for each proxy, which gives out the proxy's port."""

    proxy_port_by_listener: tuple[tuple[str, int, int], ...] = ()

    def _properties(self, log_dir: Path) -> dict[str, object]:
        properties = KafkaBroker._properties(self, log_dir)
        for name, port, advertised in self.proxy_port_by_listener:
            for key, at in (("listeners", port), ("advertised.listeners", advertised)):
                properties[key] = f"{properties[key]},{name}://127.0.0.1:{at}"
            protocols = properties["listener.security.protocol.map"]
            properties["listener.security.protocol.map"] = f"{protocols},{name}:PLAINTEXT"
        properties["inter.broker.listener.name"] = "PLAINTEXT"
        return properties


class World:
    """Everything of one test; `close` ends all of it."""

    def __init__(
        self, folder: Path, cache: ToolCache, *, kafka_options: tuple[str, ...] = (), seed: int = 7
    ) -> None:
        self.folder, self.dice = folder, random.Random(seed)
        self.object_store_uri = (folder / "objects").as_uri()
        self.store_settings: dict[str, str] = {}
        self.store_options: dict[str, str] = {}
        self.s3: S3Settings | None = None
        ports = pick_ports(2 + 2 * len(SERVICES))
        listeners = tuple(
            (name.upper(), ports[2 + 2 * number], ports[3 + 2 * number])
            for number, name in enumerate(SERVICES)
        )
        self.proxies = {
            name.lower(): Proxy(advertised, port, kafka=True)
            for name, port, advertised in listeners
        }
        self._broker = ProxiedBroker(
            folder / "kafka", ports[0], ports[1], find_java(), provide_jars(cache),
            options=kafka_options, proxy_port_by_listener=listeners,
        )  # fmt: skip
        self.bootstrap = self._broker.bootstrap
        self._kafka: Child | None = None
        self.registry = QuietRegistry()
        self.services: dict[str, Service] = {}
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.orders: dict[str, Order] = {}
        self._begun_us = time.time_ns() // 1_000 - 10 * MINUTE_US
        self.settled_s: list[float] = []

    def start(self) -> None:
        """The broker with its topics, and the definitions."""
        for proxy in self.proxies.values():
            proxy.start()
        self.start_broker()
        create_topics(self.bootstrap, static_topics())
        create_topics(self.bootstrap, [(RAW, topics.RAW), (RECORDS, topics.INGEST_RECORDS)])
        self.define(STREAM_DEFINITION, view("customer"), view("shop"))

    def start_broker(self) -> None:
        self._kafka = Child(self._broker.process(), self.folder / "kafka.log", self.folder)
        self._kafka.wait_ready()

    def stop_broker(self, *, kill: bool = False) -> None:
        assert self._kafka is not None
        self._kafka.kill() if kill else self._kafka.stop()

    def define(self, *documents: Mapping[str, object], version: int = 1) -> None:
        """As the registry would."""
        publisher = KafkaPublisher(self.bootstrap, client_id="faults")
        for document in documents:
            made = parse_definition(dict(document))
            event = Definition(
                kind=made.kind, name=made.name, version=version, spec_json=definition_json(made)
            )
            key = f"{made.kind}/{made.name}".encode()
            publisher.publish([Message(DEFINITIONS, key, event.SerializeToString())])
        publisher.close(5.0)

    def service(self, name: str, *, at: str = "") -> Service:
        """One process of a service; `at` tells several of one name apart."""
        made = Service(self, name, self.folder / f"{name}{at}")
        self.services[name + at] = made
        return made

    def close_services(self) -> None:
        for service in self.services.values():
            service.close()

    def close(self) -> None:
        self.close_services()
        if self._kafka is not None:
            self._kafka.kill()
        for proxy in self.proxies.values():
            proxy.stop()
        self.registry.close()
        self.ledger.close()

    def new_orders(self, count: int, *, late_share: float = 0.0) -> dict[str, bytes]:
        """Values by event id, shuffled within ten minutes, a share thirty days late."""
        values = {}
        for _ in range(count):
            number, event_id = len(self.orders), uuid.UUID(int=self.dice.getrandbits(128)).hex
            late_us = 29 * 86_400_000_000 if self.dice.random() < late_share else 0
            order = Order(
                event_id,
                f"customer-{self.dice.randrange(CUSTOMERS)}",
                f"shop-{self.dice.randrange(SHOPS)}",
                self.dice.randrange(10_000) / 100,
                self._begun_us + self.dice.randrange(10 * MINUTE_US) + number - late_us,
            )
            self.orders[event_id] = order
            values[event_id] = order_value(order)
        return values

    def produce(self, value_by_id: Mapping[str, bytes], *, timeout_s: float = 10.0) -> None:
        """As a user's own Kafka client does; what is delivered is accepted."""
        publisher = KafkaPublisher(self.bootstrap, client_id="load")
        messages = [Message(RAW, key_of(value), value) for value in value_by_id.values()]
        try:
            with self.ledger.call(value_by_id):
                publisher.publish(messages, timeout_s=timeout_s)
        finally:
            publisher.close(1.0)

    def try_to_produce(self, value_by_id: Mapping[str, bytes], *, timeout_s: float) -> bool:
        """False when its outcome is not known; the same ids may be sent again."""
        try:
            self.produce(value_by_id, timeout_s=timeout_s)
        except Unavailable:
            return False
        return True

    def settle(self) -> None:
        """Until no service has anything left to read; how long that took is noted (P12)."""
        begin_s = time.monotonic()
        wait_until(lambda: self.read_up("ingest", RAW), timeout_s=SETTLE_S_MAX)
        wait_until(lambda: self.read_up("feature", RECORDS), timeout_s=SETTLE_S_MAX)
        self.settled_s.append(time.monotonic() - begin_s)

    def read_up(self, group: str, topic: str) -> bool:
        ends = topic_end_offsets(self.bootstrap, [topic])
        done = committed_offsets(self.bootstrap, group, [topic])
        return all(done.get(partition, 0) >= end for partition, end in ends.items())

    def check(self) -> Findings:
        """What is wrong now, by letter, after the lag is gone."""
        self.settle()
        as_of_us = time.time_ns() // 1_000
        seen = self.seen(as_of_us)
        stored = {row.event_id for row in seen.rows}
        kept = [order for event_id, order in self.orders.items() if event_id in stored]
        return check(self.ledger.entries(), seen, oracle.answers(kept, as_of_us))

    def seen(self, as_of_us: int) -> Seen:
        ends = topic_end_offsets(self.bootstrap, [RAW])
        return Seen(
            raw_end_by_partition={partition.number: end for partition, end in ends.items()},
            rows=self.rows(),
            letters=self.letters(),
            repeats=self.repeats(),
            published=self.published(),
            features=self.features(as_of_us),
        )

    def table(self) -> DeltaTable:
        uri = delta_table_uri(self.object_store_uri, "records", STREAM)
        return DeltaTable(uri, storage_options=self.store_options)

    def rows(self) -> list[Row]:
        found = QueryBuilder().register("records", self.table())
        query = "select _event_id, _payload_sha256, _partition, _offset from records"
        rows = pl.DataFrame(found.execute(query).read_all()).iter_rows()
        return [Row(event_id, sha256.hex(), *place) for event_id, sha256, *place in rows]

    def repeats(self) -> dict[int, int]:
        """As the archive's accounts have them, by partition of the raw topic as it is now."""
        from headrace_ingest.adapters.delta_archive import DeltaArchive
        from headrace_ingest.adapters.kafka_topics import KafkaTopicCatalogue

        topic = KafkaTopicCatalogue(self.bootstrap, "ingest").raw_topic(STREAM)
        archive = DeltaArchive(self.object_store_uri, self.store_options, was_read=never_read)
        return {n: each.repeats for n, each in archive.accounts(STREAM, topic).items()}

    def snapshots(self) -> list[str]:
        """The manifests of feature's state that are whole: one being put has another name yet."""
        store = object_store(self.object_store_uri, self.s3)
        return [key for key in store.keys("feature") if "/manifests/" in key]

    def letters(self) -> list[Letter]:
        found = (dict(headers) for _, _, headers in self.read(DEAD_LETTERS))
        return [
            Letter(
                int(headers["dl-partition"]),
                int(headers["dl-offset"]),
                headers["dl-reason"].decode(),
                headers["dl-sha256"].decode(),
            )
            for headers in found
            if headers["dl-topic"] == RAW.encode()
        ]

    def published(self) -> list[Published]:
        return [
            Published(key.decode(), json.loads(value)["_id"])
            for key, value, _ in self.read(RECORDS)
        ]

    def read(self, topic: str) -> Iterator[tuple[bytes, bytes, Sequence[tuple[str, bytes]]]]:
        """Key, value and headers of every record, partition by partition."""
        ends = topic_end_offsets(self.bootstrap, [topic])
        settings = {"bootstrap.servers": self.bootstrap, "group.id": "checker", "log_level": 0}
        consumer = Consumer(settings | {"enable.auto.commit": False, "auto.offset.reset": "error"})
        try:
            for partition, end in sorted(ends.items()):
                consumer.assign([TopicPartition(*partition, 0)])
                position = 0
                while position < end:
                    for message in consumer.consume(min(1_000, end - position), CALL_TIMEOUT_S):
                        assert message.error() is None, message.error()
                        position = message.offset() + 1
                        yield message.key(), message.value(), message.headers() or []
        finally:
            consumer.close()

    def features(self, as_of_us: int) -> dict[tuple[str, str], float]:
        """Every answer about every customer and shop, of the first feature process."""
        service = next(each for each in self.services.values() if each.name == "feature")
        entities = {
            "customer": [f"customer-{number}" for number in range(CUSTOMERS)],
            "shop": [f"shop-{number}" for number in range(SHOPS)],
        }
        found = {}
        for name, keys in entities.items():
            features = oracle.feature_names(name)
            request = feature_pb.GetOnlineFeaturesRequest(features=features)
            request.columns.add(name=name).strings.values.extend(keys)
            request.as_of_us.extend([as_of_us] * len(keys))
            answer = service.online_features(request)
            values = np.frombuffer(answer.values, "<f4").reshape(len(keys), len(features))
            found |= {
                (key, feature): float(values[row, column])
                for row, key in enumerate(keys)
                for column, feature in enumerate(features)
            }
        return found


def order_value(order: Order) -> bytes:
    return json.dumps(
        {
            "order_id": order.event_id,
            "customer": order.customer,
            "shop": order.shop,
            "amount": order.amount,
            "at": order.at_us,
        }
    ).encode()


def key_of(value: bytes) -> bytes:
    return str(json.loads(value)["customer"]).encode()


class Service:
    """One process; started, killed, paused and started again on the same folder and ports."""

    def __init__(self, world: World, name: str, folder: Path) -> None:
        self.name, self._world, self.folder = name, world, folder
        self.grpc_port, self.http_port = pick_ports(2)
        self._channel: grpc.Channel = open_channel(f"127.0.0.1:{self.grpc_port}")
        self._child: Child | None = None

    def start(
        self,
        *,
        fail: str = "",
        ready: bool = True,
        environment: Mapping[str, str] | None = None,
        **settings: str,
    ) -> None:
        """`settings` win over the usual ones; their names are without the service's prefix."""
        told = {
            "KAFKA_BOOTSTRAP": f"127.0.0.1:{self._world.proxies[self.name].port}",
            "DATA_DIR": str(self.folder),
            "OBJECT_STORE_URI": self._world.object_store_uri,
            **self._world.store_settings,
            **settings,
        }
        if self.name == "ingest":
            told.setdefault("REGISTRY_ADDRESS", self._world.registry.address)
        spec = service_process(
            self.name,
            (self.grpc_port, self.http_port),
            told,
            environment={"HEADRACE_FAIL": fail, **(environment or {})},
        )
        self._child = Child(spec, self.log, self._world.folder)
        if ready:
            self._child.wait_ready()

    @property
    def log(self) -> Path:
        return self._world.folder / f"{self.folder.name}.log"

    @property
    def child(self) -> Child:
        assert self._child is not None
        return self._child

    def running(self) -> bool:
        return self._child is not None and self._child.died() is None

    def ready(self) -> bool:
        return self.running() and self.child.ready()

    def wait_ready(self) -> None:
        wait_until(self.ready, timeout_s=SETTLE_S_MAX)

    def wait_ended(self) -> int | None:
        """Its exit code."""
        wait_until(lambda: not self.running(), timeout_s=SETTLE_S_MAX)
        return self.child.died()

    def kill(self) -> None:
        self.child.kill()

    def pause(self) -> None:
        os.killpg(self.child.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.child.pid, signal.SIGCONT)

    def stop(self) -> int | None:
        self.child.ask_to_stop()
        return self.wait_ended()

    def close(self) -> None:
        self._channel.close()
        if self._child is not None:
            self._child.kill()

    def datasets(self) -> Datasets:
        return Datasets(self._channel)

    def publish(self, value_by_id: Mapping[str, bytes], *, retries_max: int = 0) -> list[str]:
        """Through the front door, with the ledger; the reason of each item."""
        items = [
            ingest_pb.PublishItem(event_id=event_id, key=key_of(value), value=value)
            for event_id, value in value_by_id.items()
        ]
        request = ingest_pb.PublishRequest(stream=STREAM, items=items)
        stub = ingest_grpc.IngestServiceStub(self._channel)
        with self._world.ledger.call(value_by_id):
            answer = call(stub.Publish, request, timeout_s=CALL_TIMEOUT_S, retries_max=retries_max)
        return [status.reason for status in answer.statuses]

    def online_features(
        self, request: feature_pb.GetOnlineFeaturesRequest
    ) -> feature_pb.GetOnlineFeaturesResponse:
        """The answer, once there is one: a worker that joins says RESTORING for a while."""
        stub = feature_grpc.FeatureServiceStub(self._channel)
        return wait_until(lambda: call(stub.GetOnlineFeatures, request, timeout_s=CALL_TIMEOUT_S))
