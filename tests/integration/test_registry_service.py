# SPDX-License-Identifier: Apache-2.0
"""The registry process on a real Kafka, over SQLite and a folder, and over PostgreSQL and S3.

The trainer's and the monitor's part is played by the test, which publishes their events.
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import onnx
import onnx.external_data_helper
import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from sqlalchemy import text
from sqlalchemy.engine import make_url

from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.errors import Conflict, HeadraceError, Invalid, Unavailable
from headrace.local.ports import pick_ports
from headrace.local.process import Child
from headrace.local.service_process import service_process
from headrace.local.settings import child_environment
from headrace.monitor.v1 import monitor_events_pb2
from headrace.registry.v1 import registry_events_pb2 as events
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.registry.v1 import registry_service_pb2_grpc as pb_grpc
from headrace.rpc import call, error_of, open_channel
from headrace_kit.kafka import KafkaPublisher, Message, Record
from headrace_kit.offsets import topic_end_offsets
from headrace_kit.sql import connect
from headrace_registry.domain.onnx_file import check_onnx
from headrace_registry.domain.version import RunCompleted
from headrace_registry.testing import FLIGHTS, a_run, an_apply, an_onnx_file, run_record, wire_bytes

pytestmark = pytest.mark.integration

DEADLINE_S = 40.0
CALL_TIMEOUT_S = 10.0
OUTPUTS = (
    topics.REGISTRY_DEFINITIONS.name,
    topics.REGISTRY_MODEL_VERSIONS.name,
    topics.REGISTRY_ROLLOUTS.name,
)
MODEL_1 = an_onnx_file(graph=wire_bytes(2, b"one"))
MODEL_2 = an_onnx_file(graph=wire_bytes(2, b"two"))


def wait_for(done: Callable[[], Any]) -> Any:
    """What `done` gives when it is neither None nor False; fails after DEADLINE_S."""
    deadline_s, waiting = time.monotonic() + DEADLINE_S, threading.Event()
    while time.monotonic() < deadline_s:
        result = done()
        if result is not None and result is not False:
            return result
        waiting.wait(0.05)
    raise AssertionError("not in time")


@dataclass
class Storage:
    """Where a registry keeps its rows and bytes, as settings."""

    settings: dict[str, str] = field(default_factory=dict)


def end_offsets(bootstrap: str, names: Sequence[str]) -> dict[str, int]:
    """The next offset of these topics, each of one partition; new ones have a leader soon."""

    def ask() -> dict[str, int] | None:
        try:
            return {each.topic: end for each, end in topic_end_offsets(bootstrap, names).items()}
        except (Unavailable, KafkaException):
            return None

    return wait_for(ask)


def forget_inputs(bootstrap: str) -> None:
    """Removes what other tests told the registry: a new one reads from the beginning."""
    names = (topics.TRAINER_RUNS.name, topics.MONITOR_VERDICTS.name)
    ends = end_offsets(bootstrap, names)
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    removed = admin.delete_records([TopicPartition(name, 0, ends[name]) for name in names])
    for done in removed.values():
        done.result(CALL_TIMEOUT_S)


class Outputs:
    """What is published on the registry's topics from now on."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": uuid.uuid4().hex,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "log_level": 0,
            }
        )
        partitions = [TopicPartition(topic, 0) for topic in OUTPUTS]
        ends = end_offsets(bootstrap, OUTPUTS)
        for partition in partitions:
            partition.offset = ends[partition.topic]
        self._consumer.assign(partitions)
        self._seen: list[tuple[str, str, bytes]] = []

    def seen(self) -> list[tuple[str, str, bytes]]:
        """(topic, ce_id, value) so far."""
        for message in self._consumer.consume(500, 0.1):
            assert message.error() is None
            ce_id = dict(message.headers())["ce_id"].decode()
            self._seen.append((message.topic(), ce_id, message.value()))
        return self._seen

    def wait(self, ce_id: str) -> bytes:
        """The value of the event with this id, when it is there."""
        return wait_for(lambda: next((v for _, i, v in self.seen() if i == ce_id), None))

    def ids(self, topic: topics.Topic) -> list[str]:
        return [ce_id for name, ce_id, _ in self.seen() if name == topic.name]

    def close(self) -> None:
        self._consumer.close()


class Service:
    """One registry process; `start` may be called again after its end, on the same storage."""

    def __init__(self, bootstrap: str, storage: Storage, folder: Path) -> None:
        self.grpc_port, self.http_port = pick_ports(2)
        self._bootstrap, self._storage, self._folder = bootstrap, storage, folder
        self._child: Child | None = None
        self.channel = open_channel(f"127.0.0.1:{self.grpc_port}")
        self.registry = pb_grpc.RegistryServiceStub(self.channel)
        self.artifacts = pb_grpc.ArtifactServiceStub(self.channel)

    def start(self, *, fail: str = "") -> None:
        told = {
            "KAFKA_BOOTSTRAP": self._bootstrap,
            "DATA_DIR": str(self._folder),
            "ARTIFACT_BYTES_MAX": str(1 << 20),
            **self._storage.settings,
        }
        ports, environment = (self.grpc_port, self.http_port), {"HEADRACE_FAIL": fail}
        spec = service_process("registry", ports, told, environment=environment)
        self._child = Child(spec, self._folder / "registry.log", self._folder)
        self._child.wait_ready()
        grpc.channel_ready_future(self.channel).result(CALL_TIMEOUT_S)

    def wait_killed(self) -> None:
        assert self._child is not None
        assert -9 == wait_for(self._child.died)

    def stop(self) -> int | None:
        if self._child is None:
            return None
        self._child.ask_to_stop()
        code = wait_for(self._child.died)
        self._child = None
        return code

    def close(self) -> None:
        self.channel.close()
        if self._child is not None:
            self._child.stop()

    def apply(
        self, *documents: dict[str, Any], request_id: str = "apply"
    ) -> pb.ApplyDefinitionsResponse:
        sent = [
            events.Definition(kind=each.kind, name=each.name, spec_json=each.spec_json)
            for each in an_apply(*documents).definitions
        ]
        request = pb.ApplyDefinitionsRequest(
            request_id=request_id, application="tests", definitions=sent
        )
        return self.call("ApplyDefinitions", request)

    def call(self, method: str, request: Any) -> Any:
        return call(getattr(self.registry, method), request, timeout_s=CALL_TIMEOUT_S)

    def upload(self, data: bytes, **metadata: Any) -> str:
        said = {"digest": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        first = pb.ArtifactMetadata(**{**said, "format": "onnx", **metadata})
        return self.send([pb.UploadArtifactRequest(metadata=first), *chunks(data)])

    def send(self, parts: list[pb.UploadArtifactRequest]) -> str:
        try:
            return self.artifacts.UploadArtifact(iter(parts), timeout=CALL_TIMEOUT_S).digest
        except grpc.RpcError as err:
            raise error_of(err) from err

    def download(self, digest: str) -> bytes:
        try:
            request = pb.DownloadArtifactRequest(digest=digest)
            answer = self.artifacts.DownloadArtifact(request, timeout=CALL_TIMEOUT_S)
            return b"".join(each.chunk for each in answer)
        except grpc.RpcError as err:
            raise error_of(err) from err

    def versions(self) -> list[events.ModelVersion]:
        return list(self.call("ListVersions", pb.ListVersionsRequest(model="delay")).versions)

    def rollout(self) -> events.Rollout:
        return self.call("ListRollouts", pb.ListRolloutsRequest()).rollouts[0]

    def set_alias(self, version: int, generation_expected: int, request_id: str) -> events.Alias:
        request = pb.SetAliasRequest(
            request_id=request_id,
            model="delay",
            alias="champion",
            version=version,
            generation_expected=generation_expected,
        )
        return self.call("SetAlias", request).alias


def chunks(data: bytes) -> list[pb.UploadArtifactRequest]:
    return [pb.UploadArtifactRequest(chunk=data[at : at + 64]) for at in range(0, len(data), 64)]


@pytest.fixture(scope="module")
def bootstrap(kafka_server: str) -> str:
    create_topics(kafka_server, static_topics())
    return kafka_server


@pytest.fixture
def fresh(bootstrap: str) -> str:
    """Kafka without runs and verdicts of other tests."""
    forget_inputs(bootstrap)
    return bootstrap


@pytest.fixture
def publish(bootstrap: str, publisher: KafkaPublisher) -> Callable[[Record], None]:
    """Publishes a record that a builder made."""

    def send(record: Record) -> None:
        headers = tuple(record.headers.items())
        publisher.publish([Message(record.topic, record.key, record.value, headers)])

    return send


@pytest.fixture
def outputs(bootstrap: str) -> Iterator[Outputs]:
    made = Outputs(bootstrap)
    yield made
    made.close()


@pytest.fixture
def embedded() -> Storage:
    """SQLite and a folder, in the data dir."""
    return Storage()


@pytest.fixture
def shared(postgres_server: str, s3_server: Any) -> Storage:
    """A new database of PostgreSQL and a prefix in a bucket."""
    name = f"registry_{uuid.uuid4().hex}"
    engine = connect(postgres_server)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"create database {name}"))
    engine.dispose()
    url = make_url(postgres_server)
    return Storage(
        {
            "DATABASE_URI": f"postgresql://{url.username}@{url.host}:{url.port}/{name}",
            "DATABASE_PASSWORD": str(url.password),
            "OBJECT_STORE_URI": f"s3://headrace/{name}",
            "S3_ENDPOINT": s3_server.endpoint,
            "S3_ACCESS_KEY": s3_server.access_key,
            "S3_SECRET_KEY": s3_server.secret_key,
        }
    )


@pytest.fixture
def service(request: pytest.FixtureRequest, fresh: str, tmp_path: Path) -> Iterator[Service]:
    """On the embedded storage unless a test says `on(...)`."""
    storage = request.getfixturevalue(getattr(request, "param", "embedded"))
    made = Service(fresh, storage, tmp_path)
    yield made
    made.close()


def on(*storages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("service", storages, indirect=True)


def a_completed_run(data: bytes, **trained: Any) -> RunCompleted:
    run_id = f"run-{uuid.uuid4().hex}"
    return a_run(run_id, digest=hashlib.sha256(data).hexdigest(), **trained)


def a_canary_record(version: int, generation: int, decision: int) -> Record:
    event = monitor_events_pb2.VerdictReached(
        endpoint="delay",
        model="delay",
        canary=monitor_events_pb2.CanaryVerdict(
            canary_version=version,
            rollout_generation=generation,
            decision=decision,
            evidence="e-value 40 of 40",
        ),
    )
    record = run_record(a_run())
    headers = {"ce_id": uuid.uuid4().hex.encode()}
    topic, value = topics.MONITOR_VERDICTS.name, event.SerializeToString()
    return replace(record, topic=topic, key=b"delay", value=value, headers=headers)


@on("embedded", "shared")
def test_run_becomes_version_canary_and_champion(service, outputs, publish) -> None:
    service.start()
    assert [1, 1, 1, 1] == [each.version for each in service.apply().definitions]
    first, second = service.upload(MODEL_1), service.upload(MODEL_2)

    publish(run_record(a_completed_run(MODEL_1)))
    rollout = events.Rollout.FromString(outputs.wait("rollout/delay/1"))
    assert (1, first, False) == (
        rollout.champion.version,
        rollout.champion.digest,
        rollout.HasField("canary"),
    )
    publish(run_record(a_completed_run(MODEL_2, auc=0.76, champion_auc=0.75)))
    rollout = events.Rollout.FromString(outputs.wait("rollout/delay/2"))
    assert (1, 2, second) == (
        rollout.champion.version,
        rollout.canary.version,
        rollout.canary.digest,
    )
    publish(a_canary_record(2, 1, monitor_events_pb2.CANARY_DECISION_PROMOTE))  # a stale one
    publish(a_canary_record(2, 2, monitor_events_pb2.CANARY_DECISION_PROMOTE))
    rollout = events.Rollout.FromString(outputs.wait("rollout/delay/3"))
    assert (2, False) == (rollout.champion.version, rollout.HasField("canary"))

    assert [
        "version/delay/1", "gate/delay/1", "alias/delay/champion/1",
        "version/delay/2", "gate/delay/2", "alias/delay/champion/2",
    ] == outputs.ids(topics.REGISTRY_MODEL_VERSIONS)  # fmt: skip
    assert [2, 1] == [each.version for each in service.versions()]
    assert rollout == service.rollout()
    assert MODEL_2 == service.download(second)
    assert 0 == service.stop()


def test_errors_of_the_caller_are_told_with_their_status(service, publish, outputs) -> None:
    service.start()
    service.apply()
    service.upload(MODEL_1)
    publish(run_record(a_completed_run(MODEL_1)))
    publish(run_record(a_completed_run(MODEL_1, auc=0.6)))
    outputs.wait("gate/delay/2")
    code = grpc.StatusCode
    expected = {
        "BAD_NAME": (code.INVALID_ARGUMENT, pb.SetAliasRequest(request_id="a", model="Delay")),
        "VERSION_UNKNOWN": (code.NOT_FOUND, _alias("b", version=9)),
        "GATE_NOT_PASSED": (code.FAILED_PRECONDITION, _alias("c", version=2)),
        "ALIAS_MOVED": (code.ABORTED, _alias("d", generation_expected=5)),
        "BAD_REQUEST": (code.INVALID_ARGUMENT, _alias("")),
    }

    for reason, (status, request) in expected.items():
        with pytest.raises(grpc.RpcError) as refused:
            service.registry.SetAlias(request, timeout=CALL_TIMEOUT_S)
        assert (status, reason) == (refused.value.code(), error_of(refused.value).reason)


def _alias(request_id: str, *, version: int = 1, generation_expected: int = 1) -> Any:
    return pb.SetAliasRequest(
        request_id=request_id,
        model="delay",
        alias="champion",
        version=version,
        generation_expected=generation_expected,
    )


def test_contract_that_refuses_older_records_is_refused_with_what_changed(service) -> None:
    service.start()
    service.apply()
    changed = {"delay": {"type": "int64"}, "gate": {"type": "string", "required": True}}

    with pytest.raises(Conflict, match="CONTRACT_INCOMPATIBLE") as refused:
        service.apply({**FLIGHTS, "columns": FLIGHTS["columns"] | changed}, request_id="change")

    assert [
        "column delay: type was float64, is int64",
        "column gate: new and required",
    ] == refused.value.metadata["changes"].splitlines()
    listed = service.call("ListDefinitions", pb.ListDefinitionsRequest()).definitions
    assert [1] == [each.version for each in listed if each.kind == "stream"]


def test_bad_uploads_are_refused_and_nothing_is_stored(service) -> None:
    service.start()
    digest = hashlib.sha256(MODEL_1).hexdigest()
    metadata = pb.ArtifactMetadata(digest=digest, size_bytes=len(MODEL_1), format="onnx")
    begin = pb.UploadArtifactRequest(metadata=metadata)
    external = an_onnx_file(graph=wire_bytes(5, wire_bytes(13, wire_bytes(2, b"../w"))))
    refused = {
        "no metadata": ("BAD_REQUEST", lambda: service.send(chunks(MODEL_1))),
        "nothing": ("BAD_REQUEST", lambda: service.send([])),
        "cut": ("BAD_REQUEST", lambda: service.send([begin, *chunks(MODEL_1[:-1])])),
        "longer": ("BAD_REQUEST", lambda: service.send([begin, *chunks(MODEL_1 + b"x")])),
        "twice": ("BAD_REQUEST", lambda: service.send([begin, begin])),
        "other bytes": ("DIGEST_MISMATCH", lambda: service.upload(MODEL_2, digest=digest)),
        "format": ("FORMAT", lambda: service.upload(MODEL_1, format="safetensors")),
        "pickle": ("PICKLE", lambda: service.upload(b"\x80\x04K\x01.")),
        "external": ("EXTERNAL_DATA", lambda: service.upload(external)),
        "large": ("ARTIFACT_TOO_LARGE", lambda: service.upload(MODEL_1, size_bytes=(1 << 20) + 1)),
        "unknown": ("ARTIFACT_UNKNOWN", lambda: service.download(digest)),
        "path": ("BAD_REQUEST", lambda: service.download("../../etc/passwd")),
    }

    for reason, attempt in refused.values():
        with pytest.raises(HeadraceError) as told:
            attempt()
        assert reason == told.value.reason

    assert digest == service.upload(MODEL_1)
    assert digest == service.upload(MODEL_1)
    assert MODEL_1 == service.download(digest)


def test_model_of_the_onnx_package_is_taken_unless_its_weights_lie_outside() -> None:
    bias = onnx.helper.make_tensor(
        "bias", onnx.TensorProto.FLOAT, [2], struct.pack("<2f", 1, 2), raw=True
    )
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["features", "bias"], ["score"])],
        "sum",
        [onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["rows", 2])],
        [onnx.helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, ["rows", 2])],
        [bias],
    )
    model = onnx.helper.make_model(graph)
    check_onnx(model.SerializeToString())
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "weights.bin")

    with pytest.raises(Invalid, match="EXTERNAL_DATA"):
        check_onnx(model.SerializeToString())


@pytest.mark.parametrize(
    ("service", "fail"),
    [
        ("embedded", "registry.in_txn:2:kill"),
        ("shared", "registry.committed:2:kill"),
        ("shared", "registry.inbox.committed:1:kill"),
        ("embedded", "kit.outbox.delivered:2:kill"),
    ],
    indirect=["service"],
)
def test_run_has_one_effect_when_the_process_is_killed(service, outputs, publish, fail) -> None:
    """G1 to G5: hit 1 of the first two and of the last is the application being applied."""
    service.start(fail=fail)
    service.apply()
    outputs.wait("definition/endpoint/delay/1")
    service.upload(MODEL_1)
    publish(run_record(a_completed_run(MODEL_1)))
    service.wait_killed()

    service.start()
    outputs.wait("rollout/delay/1")
    publish(run_record(a_completed_run(MODEL_1)))
    outputs.wait("rollout/delay/2")

    assert [2, 1] == [each.version for each in service.versions()]
    value_by_id: dict[str, bytes] = {}
    for _, ce_id, value in outputs.seen():
        assert value == value_by_id.setdefault(ce_id, value)
    versions = list(dict.fromkeys(outputs.ids(topics.REGISTRY_MODEL_VERSIONS)))
    assert [
        "version/delay/1", "gate/delay/1", "alias/delay/champion/1",
        "version/delay/2", "gate/delay/2",
    ] == versions  # fmt: skip
    repeated = len(outputs.ids(topics.REGISTRY_ROLLOUTS)) > 2
    assert repeated == fail.startswith("kit.outbox")


@pytest.mark.parametrize(
    ("service", "fail"),
    [("shared", "registry.in_txn:3:kill"), ("embedded", "registry.committed:3:kill")],
    indirect=["service"],
)
def test_lost_reply_is_given_again_for_the_same_request(service, outputs, publish, fail) -> None:
    """G1 G2: hits 1 and 2 are the application and the run."""
    service.start(fail=fail)
    service.apply()
    service.upload(MODEL_1)
    publish(run_record(a_completed_run(MODEL_1)))
    outputs.wait("rollout/delay/1")
    with pytest.raises(HeadraceError, match="SERVICE_UNAVAILABLE"):
        service.set_alias(1, 1, "lost")
    service.wait_killed()

    service.start()
    answer = service.set_alias(1, 1, "lost")

    assert (1, 2) == (answer.version, answer.generation)
    assert answer == service.set_alias(1, 1, "lost")
    outputs.wait("alias/delay/champion/2")
    assert 2 == service.rollout().generation


def test_unreadable_record_is_set_aside_and_the_next_is_handled(
    service, outputs, publish, bootstrap
) -> None:
    service.start()
    service.apply()
    service.upload(MODEL_1)
    good = run_record(a_completed_run(MODEL_1))
    bad = replace(good, value=b"\xff\xff", key=uuid.uuid4().hex.encode())
    publish(bad)
    publish(good)

    outputs.wait("rollout/delay/1")
    letter = last_dead_letter(bootstrap, bad.key)
    assert ("DECODE_ERROR", "registry", b"\xff\xff") == letter


def last_dead_letter(bootstrap: str, key: bytes | None) -> tuple[str, str, bytes]:
    topic = topics.REGISTRY_DEAD_LETTERS.name
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "log_level": 0}
    )
    consumer.assign([TopicPartition(topic, 0, 0)])

    def look() -> tuple[str, str, bytes] | None:
        for message in consumer.consume(500, 0.2):
            headers = dict(message.headers())
            if headers["dl-key"] == key:
                reason, who = headers["dl-reason"].decode(), headers["dl-service"].decode()
                return reason, who, message.value()
        return None

    try:
        return wait_for(look)
    finally:
        consumer.close()


def test_racing_moves_over_grpc_have_one_winner_each(service, outputs, publish) -> None:
    """P7 through the whole service: 200 moves by 8 callers, 25 generations."""
    service.start()
    service.apply()
    service.upload(MODEL_1)
    for _ in range(2):
        publish(run_record(a_completed_run(MODEL_1)))
    outputs.wait("rollout/delay/2")
    generations, callers = 25, 8
    won: list[int] = []

    def race(caller: int, generation: int) -> None:
        try:
            service.set_alias(1 + caller % 2, generation, f"{caller}-{generation}")
            won.append(generation)
        except HeadraceError as err:
            lost.append(err.reason)

    lost: list[str] = []
    for generation in range(1, 1 + generations):
        threads = [threading.Thread(target=race, args=(c, generation)) for c in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert list(range(1, 1 + generations)) == won
    assert ["ALIAS_MOVED"] * generations * (callers - 1) == lost
    outputs.wait(f"alias/delay/champion/{1 + generations}")
    outputs.wait(f"rollout/delay/{2 + generations}")
    generation_of = [int(i.rpartition("/")[2]) for i in outputs.ids(topics.REGISTRY_ROLLOUTS)]
    assert sorted(generation_of) == generation_of


def test_wrong_settings_end_the_process_and_are_named() -> None:
    wrong = {"REGISTRY_GRPC_PROT": "1", "REGISTRY_KAFKA": "kafka:9092"}
    ended = subprocess.run(
        [sys.executable, "-m", "headrace_registry", "--check-config"],
        env=child_environment(wrong),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )

    assert 78 == ended.returncode
    assert all(name in ended.stderr for name in wrong)
