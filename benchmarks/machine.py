# SPDX-License-Identifier: Apache-2.0
"""One Kafka broker and one service on a machine of two cores: each has a core of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar
from urllib.request import urlopen

import psutil
from confluent_kafka import Producer

from benchmarks.outcome import say
from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.application import definition_json, parse_definition
from headrace.local.java import find_java
from headrace.local.kafka import KafkaBroker, provide_jars
from headrace.local.ports import pick_ports
from headrace.local.process import Child, running
from headrace.local.service_process import service_process
from headrace.local.tools import ToolCache
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace_kit.kafka import KafkaPublisher, Message
from headrace_kit.offsets import committed_offsets, topic_partitions

RAW = """
import sys, time
from confluent_kafka import Consumer, TopicPartition
bootstrap, topic, *numbers = sys.argv[1:]
settings = {"bootstrap.servers": bootstrap, "group.id": "raw", "enable.auto.commit": False}
consumer = Consumer(settings)
partitions = [TopicPartition(topic, int(number), 0) for number in numbers]
count = sum(consumer.get_watermark_offsets(each)[1] for each in partitions)
consumer.assign(partitions)
read, begun = 0, 0.0
while read < count:
    read += len(consumer.consume(10_000, 1.0))
    begun = begun or time.monotonic()
print(time.monotonic() - begun)
"""
T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
SERVICE_CORE, OTHER_CORE = 0, 1
PRODUCER_RECORDS = 50_000


@dataclass(frozen=True, slots=True)
class Machine:
    """A broker on the other core, and a folder for the run."""

    bootstrap: str
    folder: Path

    def define(self, *documents: Mapping[str, object]) -> None:
        """Apply definitions as the registry would."""
        publisher = KafkaPublisher(self.bootstrap, client_id="benchmark")
        for document in documents:
            made = parse_definition(dict(document))
            event = Definition(
                kind=made.kind, name=made.name, version=1, spec_json=definition_json(made)
            )
            key = f"{made.kind}/{made.name}".encode()
            publisher.publish(
                [Message(topics.REGISTRY_DEFINITIONS.name, key, event.SerializeToString())]
            )
        publisher.close(5.0)

    def take_back(self, *keys: str) -> None:
        """Take back what was applied, by `<kind>/<name>`."""
        publisher = KafkaPublisher(self.bootstrap, client_id="benchmark")
        topic = topics.REGISTRY_DEFINITIONS.name
        publisher.publish([Message(topic, key.encode(), None) for key in keys])
        publisher.close(5.0)

    def data_folder(self, service: str) -> Path:
        """Where a service keeps its state."""
        return self.folder / service

    @contextmanager
    def service(
        self,
        name: str,
        *,
        cores: tuple[int, ...] = (SERVICE_CORE,),
        worker: str = "",
        objects: bool = True,
        wait: bool = True,
        **settings: str,
    ) -> Iterator[ServiceUnderTest]:
        """The service on its cores, ready; `worker` tells several apart, `objects` is its store.

        Not `wait`: for a clock that begins with the first records, which are read before that.
        """
        grpc_port, http_port = pick_ports(2)
        told = {
            "KAFKA_BOOTSTRAP": self.bootstrap,
            "DATA_DIR": str(self.data_folder(name + worker)),
            **({"OBJECT_STORE_URI": (self.folder / "objects").as_uri()} if objects else {}),
            **{key.upper(): value for key, value in settings.items()},
        }
        spec = service_process(name, (grpc_port, http_port), told, before=pinned(*cores))
        child = Child(spec, self.folder / f"{name}{worker}.log", self.folder)
        try:
            if wait:
                child.wait_ready()
            yield ServiceUnderTest(child, f"127.0.0.1:{grpc_port}")
        finally:
            child.stop()


@dataclass(frozen=True, slots=True)
class ServiceUnderTest:
    """A running service."""

    child: Child
    address: str

    def cpu_s(self) -> float:
        times = self._process().cpu_times()
        return times.user + times.system

    def metric(self, name: str) -> float:
        """The sum of all that /metrics tells under the name."""
        return sum(self.metrics(name).values())

    def metrics(self, name: str) -> dict[str, float]:
        """By labels, as they are written."""
        port = self.child.spec.ports[f"{self.child.spec.name}-http"]
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        told = (each.rsplit(" ", 1) for each in lines if _named(each, name))
        return {labelled.removeprefix(name): float(value) for labelled, value in told}

    def rss_mb(self) -> float:
        return self._process().memory_info().rss / 1e6

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """It takes nothing of its core meanwhile."""
        process = self._process()
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    def _process(self) -> psutil.Process:
        """The service itself: the child that we started may be what holds it."""
        process = psutil.Process(self.child.pid)
        return max([process, *process.children(recursive=True)], key=lambda p: p.memory_info().rss)


def _named(line: str, name: str) -> bool:
    return line.startswith((f"{name} ", f"{name}{{"))


@contextmanager
def beside(*works: Callable[[threading.Event], None]) -> Iterator[None]:
    """Runs them in threads until the block ends, which they are told by the event."""
    ended = threading.Event()
    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(work, ended) for work in works]
        try:
            yield
        finally:
            ended.set()
            for each in running:
                each.result()


@contextmanager
def machine() -> Iterator[Machine]:
    """A broker with the platform's topics; what it wrote goes at the end."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as scratch:
        folder = Path(scratch)
        port, controller_port = pick_ports(2)
        jars = provide_jars(ToolCache(ROOT / ".headrace/tools"))
        broker = KafkaBroker(folder / "kafka", port, controller_port, find_java(), jars)
        process = broker.process()
        process = replace(process, command=(*pinned(OTHER_CORE), *process.command))
        with running(process, folder):
            create_topics(broker.bootstrap, static_topics())
            os.sched_setaffinity(0, {OTHER_CORE})
            yield Machine(broker.bootstrap, folder)


def pinned(*cores: int) -> tuple[str, ...]:
    return ("taskset", "-c", ",".join(map(str, cores)))


def rate(where: Machine, service: ServiceUnderTest, group: str, topic: str, events: int) -> float:
    """Events per second from a tenth done to all done, as the committed offsets tell it."""
    begun_s = cpu_s = 0.0
    first = 0
    while True:
        done = sum(committed_offsets(where.bootstrap, group, [topic]).values())
        now_s = time.monotonic()
        if not begun_s and done >= events // 10:
            begun_s, first, cpu_s = now_s, done, service.cpu_s()
            if first > events // 4:
                late = f"{first:,} of {events:,} events were stored before the clock began"
                raise SystemExit(f"{late}: run this on a machine that does nothing else")
        if done >= events:
            break
        if service.child.died() is not None:
            raise service.child.start_failed()
        time.sleep(0.02)
    found = (events - first) / (now_s - begun_s)
    cpu_us = (service.cpu_s() - cpu_s) / (events - first) * 1e6
    say(f"{found:,.0f} events/s, {cpu_us:.2f} us of CPU an event, RSS {service.rss_mb():,.0f} MB")
    return found


def raw_limit(
    where: Machine, topic: str, events: int, cores: tuple[int, ...] = (SERVICE_CORE,)
) -> float:
    """Events per second of consumers that do nothing, as many as cores; median of three."""
    rates = [events / max(_raw_s(where, topic, cores)) for _ in range(3)]
    say(f"raw consume by {len(cores)}: {sorted(rates)[1]:,.0f} events/s")
    return sorted(rates)[1]


def _raw_s(where: Machine, topic: str, cores: tuple[int, ...]) -> list[float]:
    """Of each consumer, the seconds for its share of the partitions."""
    numbers = [str(each.number) for each in topic_partitions(where.bootstrap, [topic])]
    command = [*pinned(*cores), sys.executable, "-c", RAW, where.bootstrap, topic]
    consumers = [
        subprocess.Popen([*command, *numbers[place :: len(cores)]], stdout=subprocess.PIPE)
        for place in range(len(cores))
    ]
    return [float(consumer.communicate()[0]) for consumer in consumers]


def publish(where: Machine, topic: str, records: Iterable[tuple[bytes, bytes]]) -> None:
    """(key, value) of each record, as fast as the broker takes them."""
    producer = Producer(
        {
            "bootstrap.servers": where.bootstrap,
            "compression.type": "lz4",
            "linger.ms": 20,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 200_000,
        }
    )
    for batch in batched(records, PRODUCER_RECORDS):
        producer.produce_batch(topic, [{"key": key, "value": value} for key, value in batch])
        producer.flush()


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
