# SPDX-License-Identifier: Apache-2.0
"""The feature process on a real Kafka and real Delta tables, against an oracle in plain Python.

The test plays ingest and the registry: it writes their topics and tables as the contracts say. The
oracle answers event by event and shares no code with the service.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from pydantic import SecretStr

from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.application import Definition, definition_json, parse_definition
from headrace.client import Addresses, Client
from headrace.errors import Busy, Conflict, HeadraceError, Invalid, NotFound, Unavailable
from headrace.feature.v1 import feature_service_pb2 as pb
from headrace.feature.v1 import feature_service_pb2_grpc as feature_grpc
from headrace.ingest.v1.erasures_pb2 import EntityErased
from headrace.loader import load_application
from headrace.local.ports import pick_ports
from headrace.local.process import Child
from headrace.local.service_process import service_process
from headrace.registry.v1 import registry_events_pb2 as registry_pb
from headrace.rpc import call
from headrace_feature.adapters.delta_archive import DeltaArchive
from headrace_feature.adapters.kafka_topics import KafkaRawTopics
from headrace_feature.adapters.state_snapshots import StateSnapshots
from headrace_feature.domain.manifest import Manifest
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.delta_tables import DeltaTables
from headrace_ingest.adapters.duckdb_rows import DuckDbRows
from headrace_ingest.adapters.object_dataset_book import ObjectDatasetBook
from headrace_ingest.handlers import datasets
from headrace_ingest.testing import never_read
from headrace_kit.clock import SystemClock
from headrace_kit.erased_entities import entity_sha256
from headrace_kit.follow import TableFollower
from headrace_kit.kafka import KafkaPublisher, Message, Partition
from headrace_kit.objects import (
    MemoryObjectStore,
    S3Settings,
    delta_storage_options,
    delta_table_uri,
    object_store,
)
from headrace_kit.offsets import (
    committed_offsets,
    group_members,
    partitions_by_topic,
    topic_end_offsets,
)
from headrace_kit.testing import has_leaders
from headrace_kit.topic_log import KafkaTopicLog

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
START = 1_357_000_000_000_000
ZONES = ("a", "b", "c", "d", "e")
COLUMNS = {
    "ride_id": "string",
    "zone": "string",
    "riders": "int64",
    "fare": "float64",
    "due": "timestamp",
    "at": "timestamp",
    "known_at": "timestamp",
}
AGGREGATES = ("mean", "sum", "min", "max", "last")


@dataclass(frozen=True)
class Event:
    """One ride; `due` makes it a question as well."""

    id: str
    at: int
    known: int
    zone: str | None = "a"
    riders: int | None = 1
    fare: float | None = 1.5

    @property
    def value(self) -> dict[str, object]:
        return {
            "ride_id": self.id,
            "zone": self.zone,
            "riders": self.riders,
            "fare": self.fare,
            "due": self.at + HOUR,
            "at": self.at,
            "known_at": self.known,
        }


def some_events(count: int, *, seed: int) -> list[Event]:
    """Two days of rides in order of known time; one of seven is late, some values are absent."""
    chance = random.Random(seed)
    events = []
    for number in range(count):
        at = START + chance.randrange(0, 2 * DAY, MINUTE)
        late = chance.randrange(0, 5 * HOUR) if chance.random() < 1 / 7 else 0
        fare = chance.choice([None, 0.1, 0.2, 12.34, 1e16, -1e16])
        riders = chance.choice([None, 1, 2, 3, 2**62])
        zone = chance.choice(ZONES)
        events.append(Event(f"ride-{seed}-{number}", at, at + late, zone, riders, fare))
    return sorted(events, key=lambda event: event.known)


class Oracle:
    """The answers, from the list of events and the sentences of the design."""

    def __init__(self, events: list[Event]) -> None:
        self.by_id = {event.id: event for event in events}

    def answer(self, feature: str, zone: str | None, as_of: int) -> float:
        name, hours = feature.partition(":")[2].rsplit("_", 1)
        since = as_of - int(hours.removesuffix("h")) * HOUR
        seen = sorted(
            (event.at, event.id, event)
            for event in self.by_id.values()
            if zone and event.zone == zone and since < event.at <= as_of and event.known <= as_of
        )
        if name == "count":
            return float(len(seen))
        aggregate, column = name.split("_")
        values = [getattr(e, column) for *_, e in seen if getattr(e, column) is not None]
        if not values:
            return math.nan
        total = sum(map(Fraction, values))
        mean = float(total) / len(values)
        found = {"sum": float(total), "mean": mean, "min": min(values), "max": max(values)}
        return float(np.float32(found.get(aggregate, values[-1])))


def wait_for(done: Callable[[], object], *, said: str = "not in time"):
    """What `done` gives when it is neither None nor False; fails after DEADLINE_S."""
    deadline_s, waiting = time.monotonic() + DEADLINE_S, threading.Event()
    while time.monotonic() < deadline_s:
        result = done()
        if result is not None and result is not False:
            return result
        waiting.wait(0.02)
    raise AssertionError(said)


@dataclass
class Platform:
    """Ingest's and the registry's hands on Kafka."""

    bootstrap: str
    publisher: KafkaPublisher
    defined: list[str] = field(default_factory=list)

    def define(self, *documents: dict) -> None:
        self.define_parsed(*map(parse_definition, documents))

    def define_parsed(self, *definitions: Definition) -> None:
        for definition in definitions:
            key = f"{definition.kind}/{definition.name}"
            message = registry_pb.Definition(
                kind=definition.kind,
                name=definition.name,
                version=1,
                spec_json=definition_json(definition),
            )
            self.defined.append(key)
            self._publish(key, message.SerializeToString())

    def forget_definitions(self) -> None:
        while self.defined:
            self._publish(self.defined.pop(), None)

    def adopt_definitions(self) -> None:
        """What other tests left is forgotten with our own."""
        follower = TableFollower(
            bootstrap=self.bootstrap,
            topic=topics.REGISTRY_DEFINITIONS.name,
            on_record=lambda record: self.defined.append(record.key.decode()),
            service="tests",
        )
        follower.start()
        follower.stop(5.0)

    def _publish(self, key: str, value: bytes | None) -> None:
        self.publisher.publish([Message(topics.REGISTRY_DEFINITIONS.name, key.encode(), value)])


class Rides:
    """A stream of its own with a view on it."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.name = f"rides.{uuid.uuid4().hex[:8]}"
        self.topic = topics.INGEST_RECORDS.of(self.name)
        wanted = [(self.topic, topics.INGEST_RECORDS), (topics.RAW.of(self.name), topics.RAW)]
        create_topics(platform.bootstrap, wanted)
        wait_for(lambda: has_leaders(platform.bootstrap, [topic for topic, _ in wanted]))
        columns = {column: {"type": kind} for column, kind in COLUMNS.items()}
        platform.define(
            {
                "kind": "stream",
                "name": self.name,
                "description": "Rides.",
                "owner": "tests",
                "key": "ride_id",
                "id": "ride_id",
                "event_time": "at",
                "known_time": "known_at",
                "lateness_allowed": "1h",
                "columns": columns,
            }
        )
        self.features = self.define_view("1h", "12h")

    def define_view(self, *windows: str) -> list[str]:
        view = f"view-{uuid.uuid4().hex[:8]}"
        features = {
            f"count_{window}": {"aggregate": "count", "window": window} for window in windows
        }
        features |= {
            f"{aggregate}_{column}_{window}": {
                "aggregate": aggregate,
                "column": column,
                "window": window,
            }
            for window in windows
            for aggregate in AGGREGATES
            for column in ("riders", "fare")
        }
        self.platform.define(
            {
                "kind": "view",
                "name": view,
                "description": "Rides of a zone.",
                "stream": self.name,
                "entity": ["zone"],
                "features": features,
            }
        )
        return [f"{view}:{name}" for name in features]

    def publish(
        self, events: list[Event], *, key: str = "", by: KafkaPublisher | None = None
    ) -> None:
        """By their ids as keys, or all by one key, to one partition."""
        now_ms = time.time_ns() // 1_000_000
        messages = []
        for event in events:
            envelope = {
                "_id": event.id,
                "_event_us": event.at,
                "_known_us": event.known,
                "_published_ms": now_ms,
            }
            value = json.dumps(envelope | event.value).encode()
            messages.append(Message(self.topic, (key or event.id).encode(), value))
        (by or self.platform.publisher).publish(messages)

    def make_again(self) -> None:
        """The topic of records, as an operator does who deletes it."""
        bootstrap = self.platform.bootstrap
        admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        admin.delete_topics([self.topic])[self.topic].result(10.0)
        wait_for(lambda: not partitions_by_topic(bootstrap, [self.topic]))
        create_topics(bootstrap, [(self.topic, topics.INGEST_RECORDS)])
        wait_for(lambda: has_leaders(bootstrap, [self.topic]))

    def lag(self) -> int:
        ends = topic_end_offsets(self.platform.bootstrap, [self.topic])
        done = committed_offsets(self.platform.bootstrap, "feature", [self.topic])
        return sum(end - done.get(partition, 0) for partition, end in ends.items())

    def wait_folded(self) -> None:
        wait_for(lambda: self.lag() == 0, said="lag is left")


class Service:
    """One feature process; `start` may be called again after its end, on the same data."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self.grpc_port, self.http_port = pick_ports(2)
        self._platform, self._folder = platform, folder
        self.child: Child | None = None
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")
        self.stub = feature_grpc.FeatureServiceStub(self.channel)

    def start(self, *, fail: str | None = None, **settings: str) -> Service:
        told = {
            "KAFKA_BOOTSTRAP": self._platform.bootstrap,
            "DATA_DIR": str(self._folder / "feature"),
            "OBJECT_STORE_URI": (self._folder / "objects").as_uri(),
            **{name.upper(): value for name, value in settings.items()},
        }
        ports, environment = (self.grpc_port, self.http_port), {"HEADRACE_FAIL": fail or ""}
        spec = service_process("feature", ports, told, environment=environment)
        self.child = Child(spec, self._folder / "feature.log", self._folder)
        self.child.wait_ready()
        return self

    def wait_ended(self) -> int:
        return wait_for(lambda: self.child.died())

    def read(self, features: list[str], rows: list[tuple[str | None, int]]) -> np.ndarray:
        request = pb.GetOnlineFeaturesRequest(features=features)
        request.columns.add(name="zone").strings.values.extend(zone or "" for zone, _ in rows)
        request.as_of_us.extend(as_of for _, as_of in rows)
        answer = call(self.stub.GetOnlineFeatures, request, timeout_s=10.0)
        return np.frombuffer(answer.values, "<f4").reshape(answer.rows, len(features))

    def restored(self, features: list[str]) -> bool:
        """The group's offsets may say that all is read before this process has its state."""
        try:
            self.read(features, [("a", START)])
        except Unavailable as err:
            if err.reason != "RESTORING":
                raise
            return False
        return True

    def assert_equals(self, oracle: Oracle, features: list[str], *, seed: int) -> None:
        chance = random.Random(seed)
        rows = [(zone, START + chance.randrange(0, 2 * DAY + 6 * HOUR)) for zone in ZONES * 20]
        rows += [(event.zone, event.at) for event in list(oracle.by_id.values())[::10]]
        expected = [[oracle.answer(feature, *row) for feature in features] for row in rows]
        np.testing.assert_array_equal(np.array(expected, np.float32), self.read(features, rows))

    def training_set(
        self, recipe: str, until: int, *, published: bool = False
    ) -> tuple[pa.Table, pb.TrainingSetManifest]:
        request = pb.CreateTrainingSetRequest(
            recipe=recipe, known_until_us=until, published=published
        )
        parts = list(self.stub.CreateTrainingSet(request, timeout=60.0))
        data = b"".join(part.arrow_ipc for part in parts)
        manifest = parts[-1].manifest
        assert hashlib.sha256(data).hexdigest() == manifest.digest
        return pa.ipc.open_stream(data).read_all(), manifest

    def stop(self) -> None:
        self.channel.close()
        if self.child is not None:
            self.child.stop()


@pytest.fixture(scope="module")
def platform(kafka_server: str) -> Iterator[Platform]:
    create_topics(kafka_server, static_topics())
    publisher = KafkaPublisher(kafka_server, client_id="ingest-hand")
    made = Platform(kafka_server, publisher)
    made.adopt_definitions()
    made.forget_definitions()
    yield made
    publisher.close(5.0)


@pytest.fixture
def rides(platform: Platform) -> Iterator[Rides]:
    yield Rides(platform)
    platform.forget_definitions()


@pytest.fixture
def service(platform: Platform, tmp_path: Path) -> Iterator[Service]:
    made = Service(platform, tmp_path)
    yield made
    made.stop()


def test_service_is_ready_before_anything_is_applied(service):
    service.start()

    with pytest.raises(NotFound, match="FEATURE_UNKNOWN"):
        service.read(["none:count_1h"], [("a", START)])


@pytest.mark.parametrize(
    "failpoint",
    [
        "feature.loop.folded",
        "feature.loop.batch",
        "kit.state.in_batch",
        "feature.loop.stored",
    ],
)
def test_kill_at_any_step_of_the_fold_changes_no_answer(failpoint, rides, service):
    events = some_events(600, seed=1)
    service.start(fail=f"{failpoint}:3:kill")
    for number in range(0, 600, 100):
        # A third of each part was sent before: repeats after a crash of ingest.
        rides.publish(events[max(0, number - 33) : number + 100])
        if service.child.died() is None:
            wait_for(lambda: service.child.died() is not None or rides.lag() == 0)
    assert -9 == service.wait_ended()

    service.start()
    rides.wait_folded()
    service.assert_equals(Oracle(events), rides.features, seed=2)


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_records_of_a_topic_that_is_made_again_are_folded_from_its_beginning(
    running, rides, service, kafka_server
):
    """More of them than there were: the old place lies amid the new ones."""
    service.start(snapshot_interval_s="0.1")
    rides.publish(some_events(100, seed=1))
    rides.wait_folded()
    wait_for(lambda: positions_copied(service._folder))
    if not running:
        service.child.stop()
    rides.make_again()
    events = some_events(600, seed=2)
    again = KafkaPublisher(kafka_server, client_id="ingest-again")  # who knows the new topic
    rides.publish(events, by=again)
    again.close(5.0)
    if not running:
        service.start()

    row, oracle = ("a", START + DAY), Oracle(events)
    expected = [oracle.answer(feature, *row) for feature in rides.features]
    wait_for(
        lambda: (
            (read := read_once_filled(service, rides.features, row)) is not None
            and np.array_equal(np.float32(read), np.float32(expected), equal_nan=True)
        )
    )
    service.assert_equals(oracle, rides.features, seed=3)


def snapshots_of(folder: Path) -> dict[bytes, list[Manifest]]:
    """By layout."""
    found = StateSnapshots(object_store((folder / "objects").as_uri(), None), SystemClock())
    return {layout: found.manifests(layout) for layout in found.layouts()}


def positions_copied(folder: Path) -> dict[int, int]:
    """How far the snapshots came in each partition."""
    copied: dict[int, int] = {}
    for manifest in [each for manifests in snapshots_of(folder).values() for each in manifests]:
        for number, position in manifest.next_by_partition.items():
            copied[number] = max(position, copied.get(number, 0))
    return copied


def all_is_copied(rides: Rides, folder: Path) -> bool:
    ends = topic_end_offsets(rides.platform.bootstrap, [rides.topic])
    return positions_copied(folder) == {partition.number: end for partition, end in ends.items()}


def forget_records(rides: Rides, before: dict[int, int]) -> None:
    """As retention would."""
    admin = AdminClient({"bootstrap.servers": rides.platform.bootstrap, "log_level": 0})
    asked = [TopicPartition(rides.topic, number, at) for number, at in before.items() if at]
    for answer in admin.delete_records(asked).values():
        answer.result(10.0)


@pytest.mark.parametrize(
    "failpoint",
    [
        "feature.snapshot.run_uploaded:3",
        "feature.snapshot.manifest_written:2",
        "feature.restore.half:1",  # there may be one run alone: batches come as they come
    ],
)
def test_lost_disk_comes_back_from_snapshots_that_a_kill_cut_short(
    failpoint, rides, service, tmp_path
):
    events = some_events(900, seed=11)
    service.start(fail=f"{failpoint}:kill", snapshot_interval_s="0.1")
    for first in range(0, 900, 100):
        rides.publish(events[first : first + 100])
        wait_for(lambda: service.child.died() is not None or all_is_copied(rides, tmp_path))
    if failpoint.startswith("feature.restore"):
        service.child.stop()
        shutil.rmtree(tmp_path / "feature")
        with pytest.raises(HeadraceError, match="START_FAILED"):
            service.start(fail=f"{failpoint}:kill")
    assert -9 == service.wait_ended()
    # What is in a snapshot can come from nowhere else.
    forget_records(rides, positions_copied(tmp_path))
    shutil.rmtree(tmp_path / "feature")

    service.start()
    rides.wait_folded()
    wait_for(lambda: service.restored(rides.features))
    service.assert_equals(Oracle(events), rides.features, seed=12)


def test_reads_are_refused_until_a_lost_disk_has_caught_up(rides, service, tmp_path):
    events = some_events(600, seed=13)
    service.start()
    rides.publish(events)
    rides.wait_folded()
    service.child.stop()
    shutil.rmtree(tmp_path / "feature")
    oracle, row = Oracle(events), ("a", START + DAY)

    service.start()
    first = wait_for(lambda: read_once_filled(service, rides.features, row))
    expected = [oracle.answer(feature, *row) for feature in rides.features]
    np.testing.assert_array_equal(np.array(expected, np.float32), np.array(first, np.float32))


@pytest.fixture
def neighbour(platform: Platform, tmp_path: Path) -> Iterator[Service]:
    """A second worker of the group, with a disk of its own."""
    (tmp_path / "neighbour").mkdir()
    made = Service(platform, tmp_path / "neighbour")
    yield made
    made.stop()


def assert_same_once_restored(service: Service, oracle: Oracle, features: list[str]) -> None:
    """Whatever is answered is right; what is refused is refused as RESTORING or unreachable."""

    def answered() -> bool:
        try:
            service.assert_equals(oracle, features, seed=14)
        except Unavailable as err:
            if err.reason not in ("RESTORING", "SERVICE_UNAVAILABLE"):
                raise
            return False
        return True

    wait_for(answered)


def test_two_workers_share_a_stream_and_answer_as_one(rides, service, neighbour, tmp_path):
    events = some_events(900, seed=13)
    shared = {"object_store_uri": (tmp_path / "objects").as_uri(), "snapshot_interval_s": "0.2"}
    service.start(**shared)
    rides.publish(events[:300])
    rides.wait_folded()
    neighbour.start(**shared)
    rides.publish(events[300:600])
    rides.wait_folded()
    for each in (service, neighbour):
        assert_same_once_restored(each, Oracle(events[:600]), rides.features)

    wait_for(lambda: all_is_copied(rides, tmp_path))
    service.child.kill()
    # What the dead worker owned can come from its snapshots alone.
    forget_records(rides, positions_copied(tmp_path))
    rides.publish(events[600:])
    rides.wait_folded()
    assert_same_once_restored(neighbour, Oracle(events), rides.features)


def test_workers_that_come_and_go_change_no_answer(rides, service, neighbour, tmp_path):
    events = some_events(800, seed=15)
    shared = {"object_store_uri": (tmp_path / "objects").as_uri(), "snapshot_interval_s": "0.1"}
    service.start(**shared)
    for first in range(0, 800, 200):
        neighbour.start(**shared)
        rides.publish(events[first : first + 200])
        end = neighbour.child.stop if first % 400 else neighbour.child.kill
        end()
    rides.wait_folded()
    assert_same_once_restored(service, Oracle(events), rides.features)


def test_entity_with_very_many_observations_is_answered_by_any_worker(
    rides, service, neighbour, tmp_path
):
    """About 12 MB of them at each worker, four of one moment, on every partition."""
    moments = [START + number // 4 * 400_000 for number in range(300_000)]
    events = [Event(f"ride-{n:06}", at, at, "a", n % 7, n / 8) for n, at in enumerate(moments)]
    shared = {"object_store_uri": (tmp_path / "objects").as_uri()}
    service.start(**shared)
    neighbour.start(**shared)
    rides.publish(events)
    rides.wait_folded()

    asked = [each for each in rides.features if each.endswith(("count_12h", "_fare_12h"))]
    row = ("a", events[-1].at)
    oracle = Oracle(events)
    expected = [np.float32(oracle.answer(feature, *row)) for feature in asked]
    for each in (service, neighbour):
        assert expected == wait_for(lambda each=each: read_once_answered(each, asked, row))


def read_once_answered(service: Service, features: list[str], row) -> list[float] | None:
    try:
        return service.read(features, [row])[0].tolist()
    except Unavailable as err:  # not yet restored, or beyond the time of a machine under load
        if err.reason not in ("RESTORING", "SERVICE_UNAVAILABLE"):
            raise
        return None


def test_late_event_changes_only_answers_that_could_know_it(rides, service):
    service.start()
    rides.publish([Event("on-time", START, START, riders=1)])
    rides.wait_folded()
    late = Event("late", START + MINUTE, START + 3 * HOUR, riders=7)
    rides.publish([late])
    rides.wait_folded()

    feature = [name for name in rides.features if name.endswith("sum_riders_12h")]
    moments = [START + MINUTE, late.known - 1, late.known, START + 12 * HOUR + MINUTE]
    answers = service.read(feature, [("a", moment) for moment in moments])
    assert [1, 1, 8] == answers[:3, 0].tolist()
    assert math.isnan(answers[3, 0])


def read_once_filled(service: Service, features: list[str], row) -> list[float] | None:
    """None while the view is unknown or being filled."""
    try:
        return service.read(features, [row])[0].tolist()
    except (Unavailable, NotFound) as err:
        if err.reason not in ("RESTORING", "FEATURE_UNKNOWN"):
            raise
        return None


def test_new_view_is_filled_from_the_beginning_while_records_come(rides, service):
    events = some_events(900, seed=3)
    service.start()
    rides.publish(events[:600])
    rides.wait_folded()

    added = rides.define_view("2h")
    oracle, row = Oracle(events[:600]), ("a", START + DAY)

    first = wait_for(lambda: read_once_filled(service, added, row))
    expected = [oracle.answer(feature, *row) for feature in added]
    np.testing.assert_array_equal(np.array(expected, np.float32), np.array(first, np.float32))
    rides.publish(events[600:])
    rides.wait_folded()
    service.assert_equals(Oracle(events), [*rides.features, *added], seed=4)


def test_view_that_was_added_while_the_service_was_off_is_filled(rides, service):
    events = some_events(300, seed=5)
    service.start()
    rides.publish(events)
    rides.wait_folded()
    service.child.stop()
    assert 0 == service.child.died()

    added = rides.define_view("3h")
    service.start()
    wait_for(lambda: read_once_filled(service, added, ("a", START)))
    service.assert_equals(Oracle(events), [*rides.features, *added], seed=6)


def test_unreadable_record_is_set_aside_and_the_next_one_counts(
    platform, rides, service, set_aside
):
    service.start()
    good = Event("good", START, START)
    platform.publisher.publish(
        [Message(rides.topic, b"good", b"\xff not json", (("ce_id", b"x"),))]
    )
    rides.publish([good, replace(good, id="bad", riders="two"), replace(good, id="good-2")])
    rides.wait_folded()

    count = [name for name in rides.features if name.endswith("count_1h")]
    assert [[2.0]] == service.read(count, [("a", START)]).tolist()
    assert 2 == len(set_aside(topics.FEATURE_DEAD_LETTERS, rides.topic))


def test_record_that_ends_the_fold_three_times_is_set_aside(rides, service, set_aside):
    # One key, one partition: each start dies at the first record that it folds, the same one.
    one = Event("ride", START, START)
    rides.publish([replace(one, id=f"ride-{number}") for number in range(5)], key="one")
    for _ in range(3):
        with suppress(Unavailable):  # it dies before or after it is ready
            service.start(fail="feature.loop.folding:1:kill")
        assert -9 == service.wait_ended()
    service.start()
    rides.wait_folded()

    count = [name for name in rides.features if name.endswith("count_1h")]
    assert [[4.0]] == service.read(count, [("a", START)]).tolist()
    assert 1 == len(set_aside(topics.FEATURE_DEAD_LETTERS, rides.topic))


def test_freshness_counts_each_record_once(rides, service):
    service.start()
    # What a view is still filled with when it comes is history, and not counted.
    wait_for(lambda: read_once_filled(service, rides.features, ("a", START)))
    assert not call(service.stub.GetFreshness, pb.GetFreshnessRequest(), timeout_s=5.0).records
    rides.publish(some_events(50, seed=7))
    rides.wait_folded()
    added = rides.define_view("4h")
    wait_for(lambda: read_once_filled(service, added, ("a", START)))

    said = call(service.stub.GetFreshness, pb.GetFreshnessRequest(), timeout_s=5.0)
    assert 50 == said.records
    assert 0 < said.p50_ms <= said.p99_ms < 60_000


def test_answer_is_known_until_now_though_nothing_comes(rides, service):
    rides.publish(some_events(20, seed=5))
    service.start()
    rides.wait_folded()

    assert 8 == len(answer_known_until_now(service, rides).event_times_us)


def test_answer_of_either_worker_is_known_until_now_though_nothing_comes(
    rides, service, neighbour, kafka_server, tmp_path
):
    shared = {"object_store_uri": (tmp_path / "objects").as_uri()}
    service.start(**shared)
    neighbour.start(**shared)
    rides.publish(some_events(100, seed=5))
    wait_for(lambda: 2 == owners(kafka_server, rides.topic))
    rides.wait_folded()

    for each in (service, neighbour):
        assert answer_known_until_now(each, rides)


def owners(bootstrap: str, topic: str) -> int:
    members = group_members(bootstrap, "feature", timeout_s=5.0)
    return sum(any(topic == each for each, _ in member.partitions) for member in members)


def answer_known_until_now(service: Service, rides: Rides) -> pb.GetOnlineFeaturesResponse:
    request = pb.GetOnlineFeaturesRequest(
        features=rides.features[:1], include_times=True, staleness_max_ms=5_000
    )
    request.columns.add(name="zone").strings.values.extend(["a"])
    begun_us = time.time_ns() // 1_000

    def told() -> pb.GetOnlineFeaturesResponse | None:
        try:
            answer = call(service.stub.GetOnlineFeatures, request, timeout_s=5.0)
        except (Conflict, Unavailable):  # Kafka was not asked yet, or a partition is on its way
            return None
        return answer if answer.known_until_us > begun_us else None

    return wait_for(told)


def test_malformed_requests_are_refused_with_a_reason(rides, service):
    service.start()
    request = pb.GetOnlineFeaturesRequest(features=rides.features[:1])
    wait_for(lambda: read_once_filled(service, rides.features[:1], ("a", START)))
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        call(service.stub.GetOnlineFeatures, request, timeout_s=5.0)
    request.columns.add(name="zone").strings.values.extend(["a"] * 10_001)
    with pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        call(service.stub.GetOnlineFeatures, request, timeout_s=5.0)
    training = pb.CreateTrainingSetRequest(recipe="none", known_until_us=1)
    with pytest.raises(grpc.RpcError, match="DEFINITION_UNKNOWN"):
        list(service.stub.CreateTrainingSet(training, timeout=5.0))


class Lake:
    """Ingest's hand on the Delta table of a stream."""

    def __init__(self, rides: Rides | Departures, uri: str, s3: S3Settings | None = None) -> None:
        self.rides, self.uri = rides, delta_table_uri(uri, "records", rides.name)
        self.options = delta_storage_options(uri, s3)
        admin = AdminClient({"bootstrap.servers": rides.platform.bootstrap, "log_level": 0})
        topic = topics.RAW.of(rides.name)
        asked = admin.describe_topics(TopicCollection([topic]))[topic]
        self.topic_id = str(asked.result(10.0).topic_id)

    def append(self, events: list[Event], *, known: int) -> None:
        kinds = {"string": pa.string(), "float64": pa.float64()}
        values = [event.value for event in events]
        columns = {
            name: pa.array([value[name] for value in values], kinds.get(kind, pa.int64()))
            for name, kind in COLUMNS.items()
        }
        envelope = {
            "_event_id": [event.id for event in events],
            "_event_time_us": [event.at for event in events],
            "_known_time_us": [event.known for event in events],
        }
        self.write(columns | envelope, known=known)

    def write(self, columns: dict[str, Any], *, known: int) -> None:
        """Partitions 0 and 1 have data; the others have stored nothing."""
        moments = [datetime.fromtimestamp(at / 1e6, UTC) for at in columns["_event_time_us"]]
        counters = [
            Transaction(f"ingest|{self.topic_id}|{partition}|known_time", known)
            for partition in (0, 1)
        ]
        write_deltalake(
            self.uri,
            pa.table({**columns, "_event_date": [moment.date() for moment in moments]}),
            mode="append",
            partition_by=["_event_date"],
            storage_options=self.options,
            commit_properties=CommitProperties(app_transactions=counters),
        )


@pytest.fixture(params=["folder", "s3"])
def lake(request, rides, tmp_path) -> Lake:
    if request.param == "folder":
        return Lake(rides, (tmp_path / "objects").as_uri())
    server = request.getfixturevalue("s3_server")
    s3 = S3Settings(server.endpoint, server.access_key, SecretStr(server.secret_key))
    return Lake(rides, f"s3://headrace/{uuid.uuid4().hex}", s3)


def settings_of(lake: Lake) -> dict[str, str]:
    if not lake.options:
        return {}
    return {
        "object_store_uri": lake.uri.partition("/records/")[0],
        "s3_endpoint": lake.options["AWS_ENDPOINT_URL"],
        "s3_access_key": lake.options["AWS_ACCESS_KEY_ID"],
        "s3_secret_key": lake.options["AWS_SECRET_ACCESS_KEY"],
    }


def define_recipe(rides: Rides) -> str:
    name = f"recipe-{uuid.uuid4().hex[:8]}"
    rides.platform.define(
        {
            "kind": "recipe",
            "name": name,
            "description": "Many riders?",
            "model": "riders",
            "spine": {"stream": rides.name, "entity_key": "ride_id", "time": "due", "offset": "0s"},
            "label": {
                "stream": rides.name,
                "key": "ride_id",
                "column": "riders",
                "above": 2,
                "absent_after": "6h",
            },
            "features": rides.features,
            "network": {
                "hidden": [8],
                "dropout": 0,
                "learning_rate": 0.01,
                "weight_decay": 0,
                "batch_rows": 8,
                "epochs_max": 1,
                "members": 1,
                "embedding_size": 2,
                "seed": 1,
            },
            "gate": {"holdout": "1d", "auc_min": 0.5, "champion_margin": 0.1},
        }
    )
    return name


def test_training_set_waits_for_the_archive_and_equals_the_online_read(lake, rides, service):
    events = some_events(400, seed=8)
    until = START + 30 * HOUR
    early, rest = ([e for e in events if (e.known <= until) == known] for known in (True, False))
    recipe = define_recipe(rides)
    service.start(**settings_of(lake))
    rides.publish(events)
    rides.wait_folded()
    lake.append(early[:100], known=until)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(service.training_set, recipe, until)
        lake.append(early[100:], known=until)
        lake.append([*rest, *early[:5]], known=until + DAY)
        table, manifest = asked.result(DEADLINE_S)

    by_id = {event.id: event for event in events}
    keys, as_of = table["entity_key"].to_pylist(), table["as_of_us"].to_pylist()
    asked_rows = [by_id[key] for key in keys]
    labels = [float(event.riders is None or event.riders > 2) for event in asked_rows]
    expected = sorted(
        (e.at + HOUR, e.id)
        for e in early
        if e.known <= e.at + HOUR <= until and (e.riders is not None or e.at + 7 * HOUR <= until)
    )
    assert expected == list(zip(as_of, keys, strict=True))
    assert labels == table["label"].to_pylist()
    assert (len(expected), rides.features) == (manifest.rows, list(manifest.features))
    assert {rides.name: 2} == dict(manifest.delta_version_by_stream)
    online = service.read(
        rides.features, [(e.zone, moment) for e, moment in zip(asked_rows, as_of, strict=True)]
    )
    flat = table["features"].combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(online, flat.reshape(online.shape))


def test_training_set_of_what_was_published_needs_no_later_record(lake, rides, service):
    """The stream is quiet: nothing will ever be known after its last record."""
    events = some_events(200, seed=12)
    recipe, newest = define_recipe(rides), max(event.known for event in events)
    service.start(**settings_of(lake))
    lake.append(events, known=newest)
    now = SystemClock().now_us()
    _, manifest = service.training_set(recipe, now, published=True)

    asked = [event for event in events if event.known <= event.at + HOUR]
    assert (len(asked), now) == (manifest.rows, manifest.known_until_us)
    assert (rides.name, len(events)) == (manifest.spine.stream, manifest.spine.records)
    assert {"known_after_asked": len(events) - len(asked)} == dict(manifest.spine.left_out)
    with pytest.raises(grpc.RpcError) as refused:
        service.training_set(recipe, now + DAY)
    assert grpc.StatusCode.INVALID_ARGUMENT is refused.value.code()


def test_historical_features_equal_the_online_read_and_come_again_by_manifest(lake, rides, service):
    events = some_events(400, seed=9)
    service.start(**settings_of(lake))
    rides.publish(events)
    rides.wait_folded()
    lake.append(events, known=START + 3 * DAY)
    asked = [(event.zone, event.at + MINUTE) for event in events[::3]]
    zones, moments = zip(*asked, strict=True)
    rows = pa.table({"zone": zones, "n": range(len(asked)), "as_of_us": moments})
    client = Client(Addresses(feature=f"127.0.0.1:{service.grpc_port}"))

    first = client.get_historical_features(rows, rides.features)
    table = first.to_table()
    lake.append(some_events(50, seed=10), known=START + 4 * DAY)
    again = client.get_historical_features(rows, rides.features, manifest=first.manifest)

    assert rows == table.select(rows.column_names)
    values = np.stack([table[feature].to_numpy() for feature in rides.features], axis=1)
    np.testing.assert_array_equal(service.read(rides.features, asked), values)
    assert rows.num_rows == sum(batch.num_rows for batch in again)
    assert first.manifest == again.manifest
    assert {rides.name: 0} == dict(again.manifest.delta_version_by_stream)
    with pytest.raises(NotFound, match="FEATURE_UNKNOWN"):
        client.get_historical_features(rows, ["none:none"]).to_table()


ROOT = Path(__file__).parents[2]
NOON = 1_362_139_200_000_000  # 2013-03-01T12:00:00Z


def documented_reads() -> list[str]:
    """The Python of the document's part on reading features."""
    text = (ROOT / "docs" / "application.md").read_text(encoding="utf-8")
    part = text.partition("\n## Reading features\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", part, re.DOTALL)


class Departures:
    """What the document asks about, with its view as the example has it."""

    def __init__(self, platform: Platform) -> None:
        self.platform, self.name = platform, f"departed.{uuid.uuid4().hex[:8]}"
        self.topic = topics.INGEST_RECORDS.of(self.name)
        wanted = [(self.topic, topics.INGEST_RECORDS), (topics.RAW.of(self.name), topics.RAW)]
        create_topics(platform.bootstrap, wanted)
        wait_for(lambda: has_leaders(platform.bootstrap, [topic for topic, _ in wanted]))
        flights = load_application(ROOT / "examples" / "flights")
        platform.define_parsed(
            flights.streams["flights.departed"].model_copy(update={"name": self.name}),
            flights.views["origin-departures"].model_copy(update={"stream": self.name}),
        )

    def publish(self, lake: Lake, rows: list[dict[str, Any]]) -> None:
        now_ms = time.time_ns() // 1_000_000
        values = [json.dumps({**row, "_published_ms": now_ms}).encode() for row in rows]
        self.platform.publisher.publish([Message(self.topic, b"", value) for value in values])
        lake.write(
            {
                "_event_id": [row["_id"] for row in rows],
                "_event_time_us": [row["_event_us"] for row in rows],
                "_known_time_us": [row["_known_us"] for row in rows],
                "origin": [row["origin"] for row in rows],
                "dep_delay": [row["dep_delay"] for row in rows],
            },
            known=NOON + DAY,
        )


def a_departure(name: str, origin: str, delay: int, at: int, known: int) -> dict[str, Any]:
    times = {"_event_us": at, "_known_us": known}
    return {"_id": name, "origin": origin, "dep_delay": delay, **times}


def answered(example: str, names: dict[str, Any]) -> bool:
    """Whether it ran to its end: a view may be filled still, and Kafka may not be asked yet."""
    try:
        exec(example, names)  # noqa: S102 - our own document
    except (Unavailable, NotFound, Conflict) as err:
        if err.reason not in ("RESTORING", "FEATURE_UNKNOWN", "FEATURES_STALE"):
            raise
        return False
    return names["ewr"]["origin-departures:count_1h"].value == 1.0


def test_documented_reads_answer_by_what_was_known(platform, service, tmp_path):
    departures = Departures(platform)
    rows = [
        a_departure("a", "EWR", 10, at=NOON - 3 * HOUR, known=NOON - 3 * HOUR),
        a_departure("known too late", "EWR", 20, at=NOON - 170 * MINUTE, known=NOON - 2 * HOUR),
        a_departure("b", "JFK", 7, at=NOON - 130 * MINUTE, known=NOON - 130 * MINUTE),
        a_departure("the next day", "EWR", 60, at=NOON + 21 * HOUR, known=NOON + 21 * HOUR),
    ]
    departures.publish(Lake(departures, (tmp_path / "objects").as_uri()), rows)
    service.start()
    online, historical = documented_reads()
    names: dict[str, Any] = {"client": Client(Addresses(feature=f"127.0.0.1:{service.grpc_port}"))}

    wait_for(lambda: answered(online, names))
    exec(historical, names)  # noqa: S102 - our own document

    assert 10.0 == names["ewr"]["origin-departures:mean_delay_1h"].value
    assert NOON - 3 * HOUR == names["ewr"]["origin-departures:count_1h"].event_time_us
    assert (0.0, None) == (names["count"].value, names["count"].event_time_us)
    training = names["training"]
    assert ["UA1545", "B6725", "UA1545"] == training["flight"].to_list()
    assert [1.0, 1.0, 0.0] == training["origin-departures:count_1h"].to_list()
    assert [10.0, 7.0] == training["origin-departures:mean_delay_1h"].to_list()[:2]
    names["again"].to_table()
    assert names["history"].manifest.digest == names["again"].manifest.digest
    platform.forget_definitions()


def feature_rows(lake: Lake, view: str) -> dict[str, dict[str, object]]:
    """By event id, which is there once."""
    uri = delta_table_uri(lake.uri.partition("/records/")[0], "features", view)
    rows = DeltaTable(uri, storage_options=lake.options).to_pyarrow_table().to_pylist()
    by_id = {row["_event_id"]: row for row in rows}
    assert len(rows) == len(by_id)
    return by_id


def reached(client: Client, view: str, until: int | None = None) -> int:
    [*_, last] = client.materialize_view(view, until_us=until)
    return last.reached_us


def reached_again(client: Client, view: str) -> int | None:
    """None while the channel has not found the process that was started again."""
    try:
        return reached(client, view)
    except Unavailable as err:
        if err.reason != "SERVICE_UNAVAILABLE":
            raise
        return None


def assert_rows_are_the_online_read(
    lake: Lake, service: Service, events: list[Event], features: list[str]
) -> None:
    view = features[0].partition(":")[0]
    rows, moments = feature_rows(lake, view), {e.id: max(e.at, e.known) for e in events}
    assert moments == {name: row["_known_time_us"] for name, row in rows.items()}
    names = [feature.partition(":")[2] for feature in features]
    stored = [[rows[event.id][name] for name in names] for event in events]
    for first in range(0, len(events), 100):
        asked = [(event.zone, moments[event.id]) for event in events[first : first + 100]]
        expected = service.read(features, asked)
        np.testing.assert_array_equal(
            expected, np.array(stored[first : first + 100], dtype=np.float32)
        )


def test_view_is_materialized_as_it_is_read_online_and_makes_datasets(
    platform, lake, rides, service, tmp_path
):
    events, view = some_events(300, seed=21), rides.features[0].partition(":")[0]
    service.start(**settings_of(lake))
    rides.publish(events)
    rides.wait_folded()
    half = START + DAY
    early = [event for event in events if max(event.at, event.known) <= half]
    lake.append(events, known=START + 3 * DAY + 1)
    client = Client(Addresses(feature=f"127.0.0.1:{service.grpc_port}"))

    assert half == reached(client, view, half)
    assert_rows_are_the_online_read(lake, service, early, rides.features)
    contracts = AppliedContracts()
    follower = TableFollower(
        bootstrap=platform.bootstrap,
        topic=topics.REGISTRY_DEFINITIONS.name,
        on_record=contracts.take,
        service="tests",
    )
    follower.start()
    follower.stop(5.0)
    tables = DeltaTables(lake.uri.partition("/records/")[0], lake.options, was_read=never_read)
    store, book = DuckDbRows(tables, tmp_path / "spill"), ObjectDatasetBook(MemoryObjectStore())

    def dataset(request: str, **changes: object) -> datasets.Manifest:
        asked = {"stream": "", "filter": "", "delta_version": None, "known_until_us": 0, **changes}
        command = datasets.CreateDataset(name="rows", description="", view=view, **asked)
        clock = SystemClock()
        return datasets.create_dataset(
            command, request, contracts=contracts, book=book, rows=store, clock=clock, timeout_s=60
        )

    first = dataset("first")
    assert START + 3 * DAY == reached(client, view)
    assert_rows_are_the_online_read(lake, service, events, rides.features)
    second, again = dataset("second"), dataset("again", known_until_us=half)
    [*_, diff] = datasets.diff_datasets(
        datasets.Reference("rows", 1),
        datasets.Reference("rows", 2),
        book=book,
        rows=store,
        timeout_s=60,
    )

    assert [len(early), len(events)] == [first.content.rows, second.content.rows]
    assert first.content.digest == again.content.digest
    assert (len(events) - len(early), 0, 0) == (
        diff.rows.added,
        diff.rows.removed,
        diff.rows.changed,
    )


def test_erased_entity_leaves_the_feature_table_and_the_rows_topic(lake, rides, service):
    """On a folder and on S3; a view by the stream's key publishes rows."""
    # An erasure outlives its test: each has events of its own.
    seed, view = 23 if lake.options else 24, f"view-{uuid.uuid4().hex[:8]}"
    events = some_events(60, seed=seed)
    topic = topics.FEATURE_ROWS.of(view)
    create_topics(rides.platform.bootstrap, [(topic, topics.FEATURE_ROWS)])
    wait_for(lambda: has_leaders(rides.platform.bootstrap, [topic]))
    rides.platform.define(
        {
            "kind": "view",
            "name": view,
            "description": "Each ride.",
            "stream": rides.name,
            "entity": ["ride_id"],
            "publish_rows": True,
            "features": {"count_1h": {"aggregate": "count", "window": "1h"}},
        }
    )
    service.start(**settings_of(lake))
    rides.publish(events)
    rides.wait_folded()
    # What a view is filled with from an archive has no rows: there is none before they are there.
    wait_for(lambda: len(newest_rows(rides.platform, topic)) == len(events))
    lake.append(events, known=START + 3 * DAY + 1)
    reached(Client(Addresses(feature=f"127.0.0.1:{service.grpc_port}")), view)
    erase(rides.platform, "ride_id", events[0].id)

    others = {event.id for event in events[1:]}
    wait_for(lambda: feature_rows(lake, view).keys() == others)
    wait_for(lambda: newest_rows(rides.platform, topic) == others)


def newest_rows(platform: Platform, topic: str) -> set[str]:
    """The keys that have a row."""
    log, there = KafkaTopicLog(platform.bootstrap), {}
    for number in log.partitions(topic):
        for record in log.read(Partition(topic, number)):
            there[record.key.decode()] = record.value is not None
    return {key for key, held in there.items() if held}


def erase(platform: Platform, column: str, value: str) -> None:
    """As ingest tells it."""
    sha256 = entity_sha256(column, value)
    event = EntityErased(column=column, entity_sha256=sha256, erased_at_us=time.time_ns() // 1_000)
    topic = topics.INGEST_ERASURES.name
    platform.publisher.publish([Message(topic, sha256.encode(), event.SerializeToString())])


def test_kill_before_the_commit_leaves_nothing_half_visible(lake, rides, service):
    events, view = some_events(300, seed=22), rides.features[0].partition(":")[0]
    service.start(fail="feature.offline.parquet_written:2:kill", **settings_of(lake))
    rides.publish(events)
    rides.wait_folded()
    half = START + DAY
    early = {event.id for event in events if max(event.at, event.known) <= half}
    lake.append(events, known=START + 3 * DAY + 1)
    client = Client(Addresses(feature=f"127.0.0.1:{service.grpc_port}"))
    reached(client, view, half)
    with pytest.raises(Unavailable):
        reached(client, view)
    assert -9 == service.wait_ended()
    assert early == feature_rows(lake, view).keys()

    service.start(**settings_of(lake))
    wait_for(lambda: read_once_filled(service, rides.features, ("a", START)))
    assert START + 3 * DAY == wait_for(lambda: reached_again(client, view))
    assert_rows_are_the_online_read(lake, service, events, rides.features)


def test_archive_that_never_comes_is_unavailable(platform, lake):
    archive = DeltaArchive(
        lake.uri.partition("/records/")[0],
        lake.options,
        raw_topic=KafkaRawTopics(platform.bootstrap),
        was_archived=KafkaRawTopics(platform.bootstrap).was_archived,
        clock=SystemClock(),
        wait_s_max=0.1,
    )
    with pytest.raises(Unavailable, match="RECORDS_BEHIND"):
        archive.snapshots([lake.rides.name], START)
    lake.append([Event("e", START, START)], known=START)
    with pytest.raises(Unavailable, match="RECORDS_BEHIND"):
        archive.snapshots([lake.rides.name], START)
    found = archive.snapshots([lake.rides.name], START - 1)
    assert 0 == found[lake.rides.name].version


def forget_archive(rides: Rides) -> None:
    """As who gives it up: Kafka forgets with the topic that it was read."""
    admin = AdminClient({"bootstrap.servers": rides.platform.bootstrap, "log_level": 0})
    topic = topics.RAW.of(rides.name)
    admin.delete_topics([topic])[topic].result(10.0)


@pytest.mark.parametrize("back", [True, False], ids=["put back", "given up"])
def test_view_that_is_new_while_the_archive_is_gone_keeps_the_others_from_nothing(
    back, rides, service, tmp_path
):
    lake, events = Lake(rides, (tmp_path / "objects").as_uri()), some_events(300, seed=30)
    lake.append(events[:200], known=START + 3 * DAY)
    archived = Consumer({"bootstrap.servers": rides.platform.bootstrap, "group.id": "ingest"})
    raw = TopicPartition(topics.RAW.of(rides.name), 0, 1)
    archived.commit(offsets=[raw], asynchronous=False)
    archived.close()
    service.start()
    rides.publish(events[:200])
    rides.wait_folded()
    wait_for(lambda: service.restored(rides.features))

    table, aside = tmp_path / "objects" / "records" / rides.name, tmp_path / "aside"
    table.rename(aside)
    added, row = rides.define_view("2h"), ("a", START + DAY)
    wait_for(lambda: "ARCHIVE_MISSING" in (tmp_path / "feature.log").read_text())
    rides.publish(events[200:])
    rides.wait_folded()
    service.assert_equals(Oracle(events), rides.features, seed=31)
    with pytest.raises(Unavailable, match="RESTORING"):
        service.read(added, [row])

    if back:
        lake.uri = aside.as_uri()
        lake.append(events[200:], known=START + 3 * DAY)
        aside.rename(table)
    else:
        forget_archive(rides)
    wait_for(lambda: read_once_filled(service, added, row))
    rides.wait_folded()
    service.assert_equals(Oracle(events), [*rides.features, *added], seed=32)


def test_wrong_setting_ends_the_start_by_name(service):
    with pytest.raises(HeadraceError, match="START_FAILED"):
        service.start(keep_dais="3")
    assert 78 == service.child.died()
