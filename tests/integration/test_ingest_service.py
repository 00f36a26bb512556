# SPDX-License-Identifier: Apache-2.0
"""The ingest process on a real Kafka: exact accounts, also when it is killed at any step."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from deltalake import DeltaTable, QueryBuilder
from pydantic import SecretStr

from headrace import topics
from headrace.admin import create_topics
from headrace.application import definition_json
from headrace.errors import Busy, NotFound, Unavailable
from headrace.ingest.v1 import ingest_service_pb2 as pb
from headrace.ingest.v1 import ingest_service_pb2_grpc as pb_grpc
from headrace.local.ports import pick_ports
from headrace.local.process import Child, HttpReady, ProcessSpec
from headrace.local.settings import child_environment
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace.rpc import call, open_channel
from headrace_ingest.adapters.delta_archive import COMMITS_PER_CHECKPOINT, DeltaArchive
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.judging import empty_rows
from headrace_ingest.testing import a_contract, a_departure
from headrace_kit.kafka import KafkaPublisher, Message, Record, to_record
from headrace_kit.objects import S3Settings, delta_storage_options, delta_table_uri
from headrace_kit.offsets import committed_offsets, topic_end_offsets
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.integration

RUNBOOK = Path(__file__).resolve().parents[2] / "docs/runbooks/lost-offsets.md"
DEADLINE_S = 40.0
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


@pytest.fixture
def folder(tmp_path) -> Place:
    return Place(tmp_path.as_uri())


@pytest.fixture
def bucket(s3_server) -> Place:
    uri = f"s3://headrace/{uuid.uuid4().hex}"
    settings = {
        "INGEST_S3_ENDPOINT": s3_server.endpoint,
        "INGEST_S3_ACCESS_KEY": s3_server.access_key,
        "INGEST_S3_SECRET_KEY": s3_server.secret_key,
    }
    s3 = S3Settings(s3_server.endpoint, s3_server.access_key, SecretStr(s3_server.secret_key))
    return Place(uri, settings, delta_storage_options(uri, s3))


@pytest.fixture
def definitions(kafka_server) -> None:
    """An empty topic of definitions: what other tests applied is not this test's."""
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})
    wanted = [(DEFINITIONS.name, DEFINITIONS), (DEAD_LETTERS, topics.INGEST_DEAD_LETTERS)]
    create_topics(kafka_server, wanted)
    admin.delete_topics([DEFINITIONS.name])[DEFINITIONS.name].result(REQUEST_TIMEOUT_S)
    wait_until(lambda: create_topics(kafka_server, [(DEFINITIONS.name, DEFINITIONS)]))
    wait_until(lambda: has_leader(kafka_server, DEFINITIONS.name))


def has_leader(bootstrap: str, topic: str) -> bool:
    try:
        return topic_end_offsets(bootstrap, [topic]) is not None
    except (Unavailable, KafkaException):
        return False


class Stream:
    """A stream of its own, its topics, and what a test publishes on it."""

    def __init__(self, bootstrap: str, publisher: KafkaPublisher) -> None:
        self.name = f"t{uuid.uuid4().hex[:12]}"
        self.raw, self.records = topics.RAW.of(self.name), topics.INGEST_RECORDS.of(self.name)
        self.bootstrap, self._publisher = bootstrap, publisher
        create_topics(bootstrap, [(self.raw, topics.RAW), (self.records, topics.INGEST_RECORDS)])
        wait_until(lambda: has_leader(bootstrap, self.raw))

    def apply(self, *, version: int = 1, **changes: Any) -> None:
        spec = definition_json(a_contract(name=self.name, **changes).stream)
        definition = Definition(kind="stream", name=self.name, version=version, spec_json=spec)
        key = f"stream/{self.name}".encode()
        message = Message(DEFINITIONS.name, key, definition.SerializeToString())
        self._publisher.publish([message])

    def publish(self, *values: bytes, key: bytes | None = None) -> None:
        keys = [key or json.loads(value)["flight"].encode() for value in values]
        self._publisher.publish(
            [Message(self.raw, k, value) for k, value in zip(keys, values, strict=True)]
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
        spec = ProcessSpec(
            name="ingest",
            command=(sys.executable, "-m", "headrace_ingest"),
            ready=HttpReady(f"http://127.0.0.1:{self.http_port}/health/ready"),
            environment=child_environment(
                {
                    "INGEST_KAFKA_BOOTSTRAP": self._bootstrap,
                    "INGEST_GRPC_PORT": str(self.grpc_port),
                    "INGEST_HTTP_PORT": str(self.http_port),
                    "INGEST_DATA_DIR": str(self._run_dir),
                    "INGEST_OBJECT_STORE_URI": self._place.uri,
                    "INGEST_COMMIT_INTERVAL_S": "0.1",
                    "HEADRACE_FAIL": fail,
                    **self._place.settings,
                    **settings,
                }
            ),
            stop_grace_s=25.0,
        )
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


@pytest.fixture
def start_service(kafka_server, definitions, folder, tmp_path_factory) -> Iterator:
    services = []

    def make(place: Place | None = None) -> Service:
        service = Service(kafka_server, place or folder, tmp_path_factory.mktemp("ingest"))
        services.append(service)
        return service

    yield make
    for service in services:
        service.close()


@pytest.fixture
def stream(kafka_server, definitions, publisher) -> Stream:
    stream = Stream(kafka_server, publisher)
    stream.apply()
    return stream


def a_value(number: int, **changes) -> bytes:
    """Departures of ten flights."""
    return json.dumps(a_departure(number, flight=f"UA{number % 10}", **changes)).encode()


GOOD = [a_value(number) for number in range(200)]
REPEATS = GOOD[:20]
CONFLICTS = [a_value(number, delay=99) for number in range(20, 30)]
LATE = [a_value(number, departed_at=1_356_000_000_000_000) for number in range(300, 305)]
BAD = {
    "BAD_TYPE": [a_value(400, delay="late")] * 3,
    "OUT_OF_RANGE": [a_value(401, delay=-500)] * 2,
    "BAD_TIMESTAMP": [a_value(402, departed_at=0)],
    "DECODE_ERROR": [a_value(403)[:-9]] * 2,
}
WANTED = {
    "received": 200 + 20 + 10 + 5 + 8,
    "stored": 205,
    "repeats": 20,
    "late": 5,
    "dead": {reason: len(values) for reason, values in BAD.items()} | {"DUPLICATE_CONFLICT": 10},
}
IDS = {f"departed:{number}" for number in [*range(200), *range(300, 305)]}


WAVES = [
    GOOD[:60],
    [*GOOD[60:120], *REPEATS, *BAD["BAD_TYPE"]],
    [*GOOD[120:180], *CONFLICTS, *BAD["OUT_OF_RANGE"], *BAD["BAD_TIMESTAMP"]],
    [*GOOD[180:], *LATE],
]


def publish_dirt(service: Service, stream: Stream) -> None:
    """Wave after wave, each taken in before the next while the service lives."""
    stream.publish(*BAD["DECODE_ERROR"], key=b"UA3")
    for wave in WAVES:
        stream.publish(*wave)
        wait_until(lambda: stream.taken_in() or not service.running(), timeout_s=DEADLINE_S)


def seen_by(service: Service, stream: Stream) -> dict:
    counts = service.counts(stream)
    return {
        "received": counts.received,
        "stored": counts.stored,
        "repeats": counts.repeats,
        "late": counts.late,
        "dead": dict(counts.dead_lettered_by_reason),
    }


def assert_exact(service: Service, stream: Stream) -> None:
    """Nothing lost, nothing twice, all accounted, whatever happened before."""
    assert seen_by(service, stream) == WANTED
    assert dict.fromkeys(IDS, 1) == dict(service.archived(stream))
    assert {record.headers["ce_id"].decode() for record in stream.read(stream.records)} == IDS
    letters = Counter(each.headers["dl-reason"].decode() for each in stream.dead_letters().values())
    assert letters == WANTED["dead"]


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_every_record_is_accounted_for(place, request, start_service, stream):
    service = start_service(request.getfixturevalue(place))
    service.start()
    publish_dirt(service, stream)

    assert_exact(service, stream)
    assert WANTED["stored"] == len(stream.read(stream.records))
    assert 0 == service.stop()


@pytest.mark.parametrize(
    ("step", "hit"),
    [
        ("ingest.sink.polled", 2),
        ("ingest.sink.records_delivered", 3),
        ("ingest.sink.version_read", 2),
        ("ingest.sink.committed", 2),
    ],
)
def test_kill_at_a_step_of_the_sink_changes_no_number(step, hit, start_service, stream):
    service = start_service()
    service.start(fail=f"{step}:{hit}:kill")
    publish_dirt(service, stream)
    assert -signal.SIGKILL == service.wait_ended()

    service.start()
    stream.wait_taken_in()
    assert_exact(service, stream)


def test_kill_while_partitions_are_given_up_changes_no_number(start_service, stream):
    service = start_service()
    service.start(fail="ingest.sink.revoke:1:kill")
    publish_dirt(service, stream)
    assert -signal.SIGKILL == service.stop()

    service.start()
    stream.wait_taken_in()
    assert_exact(service, stream)


def test_kill_during_maintenance_changes_no_number(start_service, stream, folder):
    fill_log(folder, stream, commits=COMMITS_PER_CHECKPOINT - 3)
    service = start_service()
    service.start(fail="ingest.sink.maintain:1:kill")
    publish_dirt(service, stream)
    assert -signal.SIGKILL == service.wait_ended()

    service.start()
    stream.wait_taken_in()
    assert_exact(service, stream)


def fill_log(place: Place, stream: Stream, *, commits: int) -> None:
    """Commits of another topic's account, so that the next checkpoint is near."""
    archive, contract = DeltaArchive(place.uri, place.options), a_contract(name=stream.name)
    archive.open(contract, "another topic", [0], ids_max=1)
    accounts = [Account(offset, dead_by_reason={"EMPTY": offset}) for offset in range(commits + 1)]
    for before, after in pairwise(accounts):
        archive.append(contract, empty_rows(contract.stream), {0: before}, {0: after})


def test_record_that_ends_the_process_three_times_is_set_aside(start_service, stream):
    # One key, one partition: each start dies at the first record that it judges, the same one.
    stream.publish(*[a_value(number * 10) for number in range(5)])
    service = start_service()
    for _ in range(3):
        service.start(fail="ingest.sink.judging:1:kill", ready=False)
        assert -signal.SIGKILL == service.wait_ended()
    service.start()
    stream.wait_taken_in()

    counts = service.counts(stream)
    assert (4, {"POISON_CRASH": 1}) == (counts.stored, dict(counts.dead_lettered_by_reason))


def test_process_that_slept_through_another_owner_writes_nothing(start_service, stream):
    zombie, heir = start_service(), start_service()
    zombie.start(fail="ingest.sink.version_read:2:stop")
    stream.publish(*WAVES[0])
    stream.wait_taken_in()
    stream.publish(*WAVES[1])
    heir.start()
    publish_dirt(heir, stream)
    os.kill(zombie.pid, signal.SIGCONT)
    assert 70 == zombie.wait_ended()

    stream.publish(*WAVES[3])
    stream.wait_taken_in()
    wanted = {f"departed:{number}" for number in [*range(200), *range(300, 305)]}
    assert dict.fromkeys(wanted, 1) == dict(heir.archived(stream))
    counts = heir.counts(stream)
    assert counts.received == sum(topic_end_offsets(stream.bootstrap, [stream.raw]).values())


def test_stream_with_lost_offsets_goes_on_as_the_runbook_says(
    start_service, stream, kafka_server, tmp_path
):
    service = start_service()
    service.start()
    stream.publish(*GOOD[:50])
    stream.wait_taken_in()
    assert 0 == service.stop()
    done = committed_offsets(kafka_server, "ingest", [stream.raw])
    stream.publish(*GOOD[50:])
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})
    beginnings = [TopicPartition(*partition, at + 1) for partition, at in done.items()]
    for deleted in admin.delete_records(beginnings).values():
        deleted.result(REQUEST_TIMEOUT_S)
    ends = topic_end_offsets(kafka_server, [stream.raw])
    left = sum(end - done.get(partition, -1) - 1 for partition, end in ends.items())
    service.start(ready=False)
    wait_until(lambda: b"offset_lost" in service.log.read_bytes(), timeout_s=DEADLINE_S)
    assert not service.ready()
    (script,) = re.findall(r"```python\n(.*?)```", RUNBOOK.read_text(), flags=re.DOTALL)
    (tmp_path / "again.py").write_text(script)
    said = subprocess.run(
        [sys.executable, tmp_path / "again.py", kafka_server, stream.name],
        check=True, capture_output=True, text=True, timeout=DEADLINE_S)  # fmt: skip
    assert f"{left} records kept\n" == said.stdout
    service.stop()

    service.start()
    stream.wait_taken_in()
    assert 50 + left == len(service.archived(stream))


def retyped() -> dict[str, Any]:
    """Columns of which one has another type than before."""
    columns = a_contract().stream.model_dump(mode="json", exclude_none=True)["columns"]
    return {**columns, "diverted": {"type": "string"}}


def test_stream_that_the_archive_cannot_hold_stops_alone_and_goes_on_by_another_contract(
    start_service, stream, kafka_server, publisher
):
    first = start_service()
    first.start()
    stream.publish(*GOOD[:10])
    stream.wait_taken_in()
    assert 0 == first.stop()
    other = Stream(kafka_server, publisher)
    other.apply()
    stream.apply(version=2, columns=retyped())
    stream.publish(*GOOD[10:20])

    service = start_service()
    service.start(ready=False)
    other.publish(*GOOD[:5])
    other.wait_taken_in()
    assert service.running()
    assert not service.ready()
    assert 10 == len(service.archived(stream))

    stream.apply(version=3)
    stream.wait_taken_in()
    wait_until(service.ready, timeout_s=DEADLINE_S)
    assert 20 == len(service.archived(stream))


def test_stream_of_dead_letters_stops_alone_and_goes_on_by_another_contract(
    start_service, stream, kafka_server, publisher
):
    other = Stream(kafka_server, publisher)
    other.apply()
    service = start_service()
    service.start(INGEST_DEAD_LETTERS_SHARE_MAX="0.1", INGEST_DEAD_LETTERS_WINDOW_RECORDS="100")
    stream.publish(*(a_value(number, clock=5_000) for number in range(50)))
    wait_until(lambda: not service.ready(), timeout_s=DEADLINE_S)

    other.publish(*GOOD[:5])
    other.wait_taken_in()
    assert len(stream.dead_letters()) <= 10

    columns = a_contract().stream.model_dump(mode="json", exclude_none=True)["columns"]
    columns["clock"]["max"] = 10_000
    stream.apply(version=2, columns=columns)
    stream.wait_taken_in()
    wait_until(service.ready, timeout_s=DEADLINE_S)
    assert 50 == len(service.archived(stream)) + len(stream.dead_letters())


def test_stopped_service_leaves_nothing_behind(start_service, stream):
    service = start_service()
    service.start(INGEST_COMMIT_INTERVAL_S="60")
    stream.publish(*GOOD[:10])
    stream.wait_taken_in()
    # The archive rests now: what comes is gathered, and stored by the stop.
    stream.publish(*GOOD[10:])
    wait_until(lambda: len(stream.read(stream.records)) == len(GOOD))
    assert 0 == service.stop()

    assert stream.taken_in()
    assert len(GOOD) == sum(service.archived(stream).values())


def test_stream_applied_live_is_read_at_once(start_service, stream, kafka_server, publisher):
    service = start_service()
    service.start()
    other = Stream(kafka_server, publisher)
    other.apply()
    other.publish(*GOOD[:10])
    other.wait_taken_in()

    assert 10 == service.counts(other).stored
    with pytest.raises(NotFound, match="STREAM_UNKNOWN"):
        service.publish(a_request("no.such", GOOD[:1]))


def a_request(stream: str, values: list[bytes]) -> pb.PublishRequest:
    items = [
        pb.PublishItem(event_id=f"mine:{number}", key=b"UA%d" % (number % 10), value=value)
        for number, value in enumerate(values)
    ]
    return pb.PublishRequest(stream=stream, items=items)


@pytest.mark.parametrize("step", ["ingest.publish.validated", "ingest.publish.delivered"])
def test_publish_killed_before_its_answer_is_repeated_with_one_row_each(
    step, start_service, stream
):
    service = start_service()
    service.start(fail=f"{step}:1:kill")
    with pytest.raises(Unavailable):
        service.publish(a_request(stream.name, GOOD[:50]))
    assert -signal.SIGKILL == service.wait_ended()

    service.start()
    answer = service.publish(a_request(stream.name, GOOD[:50]), retries_max=5)
    stream.wait_taken_in()
    assert [True] * 50 == [status.accepted for status in answer.statuses]
    assert {f"mine:{number}": 1 for number in range(50)} == dict(service.archived(stream))


def test_publish_refuses_what_is_too_much(start_service, stream):
    service = start_service()
    service.start()

    with pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        service.publish(a_request(stream.name, GOOD[:1] * 1_001))
    statuses = service.publish(a_request(stream.name, [GOOD[0], b"", GOOD[1]])).statuses
    assert ["", "EMPTY", ""] == [status.reason for status in statuses]
