# SPDX-License-Identifier: Apache-2.0
"""The registry process on a real Kafka, over SQLite and a folder, and over PostgreSQL and S3.

The trainer's and the monitor's part is played by the test, which publishes their events.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnx.external_data_helper
import onnx.numpy_helper
import psutil
import pytest
from benchmarks.peers.installed import PythonPeer
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import text
from sqlalchemy.engine import make_url

from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.applied import read_applied
from headrace.errors import Conflict, HeadraceError, Invalid, Unavailable
from headrace.local.ports import pick_ports
from headrace.local.postgres import PostgresServer
from headrace.local.process import Child, running
from headrace.local.service_process import service_process
from headrace.local.settings import child_environment
from headrace.model_signing import SigningKey, read_trusted_signers
from headrace.models import Models
from headrace.monitor.v1 import monitor_events_pb2
from headrace.protobuf_wire import bytes_field
from headrace.registry.v1 import registry_events_pb2 as events
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.registry.v1 import registry_service_pb2_grpc as pb_grpc
from headrace.registry_state import Told, answered_state, told_state
from headrace.rpc import call, error_of, open_channel
from headrace_inference.adapters.registry_reader import RegistryReader
from headrace_inference.domain.serving import ServingTable
from headrace_kit.follow import TableFollower
from headrace_kit.kafka import KafkaPublisher, Message, Record
from headrace_kit.offsets import committed_offsets, topic_end_offsets
from headrace_kit.sql import connect
from headrace_kit.testing import MemoryPublisher, a_record
from headrace_registry.domain.onnx_file import check_onnx
from headrace_registry.domain.upload import PART_BYTES
from headrace_registry.domain.version import RunCompleted
from headrace_registry.testing import (
    FLIGHTS,
    MODEL,
    TENSORS_ENDPOINT,
    a_run,
    an_apply,
    an_onnx_file,
    run_record,
)

pytestmark = pytest.mark.integration

MLFLOW = PythonPeer("mlflow", "3.17.2", ("mlflow-skinny==3.17.2",))
DEADLINE_S = 60.0
CALL_TIMEOUT_S = 10.0
SPARE_FDS = 12
ABORTED, UNAVAILABLE = grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE
FILES_EXHAUSTED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "FILES_EXHAUSTED")
ARTIFACT_BYTES_MAX = 16 << 20
OUTPUTS = (
    topics.REGISTRY_DEFINITIONS.name,
    topics.REGISTRY_MODEL_VERSIONS.name,
    topics.REGISTRY_ROLLOUTS.name,
)


def a_model(name: str = "fraud", *, domain: str = "") -> bytes:
    """Made by the onnx package: one input with an open dimension, outputs of two types."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("ArgMax", ["x"], ["label"], domain=domain, axis=1, keepdims=0),
            onnx.helper.make_node("Constant", [], ["text"], value_strings=["yes"]),
        ],
        name,
        [value("x", onnx.TensorProto.FLOAT, ["rows", 3])],
        [
            value("label", onnx.TensorProto.INT64, ["rows"]),
            value("text", onnx.TensorProto.STRING, [1]),
        ],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def a_large_model() -> bytes:
    """Two parts of an upload, and the begin of a third."""
    rows, columns = 2_300, 1_000
    raw = np.random.default_rng(7).normal(size=(rows, columns)).astype(np.float32)
    weights = onnx.numpy_helper.from_array(raw, "w")
    value, float32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    taken, made = value("x", float32, ["rows", rows]), value("y", float32, ["rows", columns])
    graph = onnx.helper.make_graph([node], "large", [taken], [made], [weights])
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def a_bomb() -> bytes:
    """It asks for four terabytes at its first run."""
    size = onnx.helper.make_tensor("n", onnx.TensorProto.INT64, [1], [10**12])
    made = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n"])
    taken = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    nodes = [onnx.helper.make_node("ConstantOfShape", ["n"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "bomb", [taken], [made], [size])
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


# Sends so many bytes of a file, and then nothing more.
SENDER = """
import hashlib, sys, threading
from pathlib import Path
from headrace.registry.v1 import registry_service_pb2 as pb, registry_service_pb2_grpc as pb_grpc
from headrace.rpc import open_channel

port, file, sent_bytes = sys.argv[1:]
data = Path(file).read_bytes()
said = {"digest": hashlib.sha256(data).hexdigest(), "size_bytes": len(data), "format": "onnx"}

def parts():
    yield pb.UploadArtifactRequest(metadata=pb.ArtifactMetadata(**said))
    for start in range(0, int(sent_bytes), 1 << 17):
        yield pb.UploadArtifactRequest(chunk=data[start : start + (1 << 17)])
    threading.Event().wait()

stub = pb_grpc.ArtifactServiceStub(open_channel(f"127.0.0.1:{port}"))
stub.UploadArtifact(parts(), timeout=60.0)
"""
MODEL_1, MODEL_2 = a_model("one"), a_model("two")


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
        self._seen: list[Told] = []

    def seen(self) -> list[Told]:
        """What came so far."""
        for message in self._consumer.consume(500, 0.1):
            assert message.error() is None
            headers, place = dict(message.headers() or ()), f"offset {message.offset()}"
            told = Told(message.topic(), place, message.key(), headers, message.value())
            self._seen.append(told)
        return self._seen

    def wait(self, ce_id: str) -> bytes:
        """The value of the event with this id, when it is there."""
        return wait_for(lambda: next((m.value for m in self.seen() if m.ce_id == ce_id), None))

    def ids(self, topic: topics.Topic) -> list[str]:
        return [each.ce_id for each in self.seen() if each.topic == topic.name]

    def close(self) -> None:
        self._consumer.close()


class Service:
    """One registry process; `start` may be called again after its end, on the same storage."""

    def __init__(self, bootstrap: str, storage: Storage, folder: Path) -> None:
        self.grpc_port, self.http_port, self.rest_port = pick_ports(3)
        self.bootstrap, self._storage, self._folder = bootstrap, storage, folder
        self._child: Child | None = None
        self.channel = open_channel(f"127.0.0.1:{self.grpc_port}")
        self.registry = pb_grpc.RegistryServiceStub(self.channel)
        self.artifacts = pb_grpc.ArtifactServiceStub(self.channel)

    def start(self, *, fail: str = "", **more: str) -> None:
        told = {
            "KAFKA_BOOTSTRAP": self.bootstrap,
            "DATA_DIR": str(self._folder),
            "ARTIFACT_BYTES_MAX": str(ARTIFACT_BYTES_MAX),
            "REST_PORT": str(self.rest_port),
            **self._storage.settings,
            **more,
        }
        ports, environment = (self.grpc_port, self.http_port), {"HEADRACE_FAIL": fail}
        spec = service_process("registry", ports, told, environment=environment)
        self._child = Child(spec, self._folder / "registry.log", self._folder)
        self._child.wait_ready()
        grpc.channel_ready_future(self.channel).result(CALL_TIMEOUT_S)

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def wait_killed(self) -> None:
        assert -9 == self.wait_died()

    def wait_died(self) -> int:
        assert self._child is not None
        return wait_for(self._child.died)

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

    def retract(self, kind: str, name: str) -> events.Definition:
        request = pb.RetractDefinitionRequest(request_id=f"{kind}-{name}", kind=kind, name=name)
        return self.call("RetractDefinition", request).definition

    def call(self, method: str, request: Any) -> Any:
        return call(getattr(self.registry, method), request, timeout_s=CALL_TIMEOUT_S)

    def upload(self, data: bytes, **metadata: Any) -> str:
        said = {"digest": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        first = pb.ArtifactMetadata(**{**said, "format": "onnx", **metadata})
        parts = chunks(data, 1 << 16 if len(data) > ARTIFACT_BYTES_MAX // 4 else 64)
        return self.send([pb.UploadArtifactRequest(metadata=first), *parts])

    def send(self, parts: list[pb.UploadArtifactRequest]) -> str:
        try:
            return self.artifacts.UploadArtifact(iter(parts), timeout=CALL_TIMEOUT_S).digest
        except grpc.RpcError as err:
            raise error_of(err) from err

    def begin_upload(self, data: bytes) -> pb.BeginUploadResponse:
        digest = hashlib.sha256(data).hexdigest()
        said = pb.ArtifactMetadata(digest=digest, size_bytes=len(data), format="onnx")
        request = pb.BeginUploadRequest(metadata=said)
        return call(self.artifacts.BeginUpload, request, timeout_s=CALL_TIMEOUT_S)

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


def chunks(data: bytes, size: int = 64) -> list[pb.UploadArtifactRequest]:
    cut = (data[at : at + size] for at in range(0, len(data), size))
    return [pb.UploadArtifactRequest(chunk=chunk) for chunk in cut]


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
def test_file_from_elsewhere_is_registered_approved_and_served(service, outputs, tmp_path) -> None:
    file = tmp_path / "fraud.onnx"
    file.write_bytes(a_model())
    gate = {"metrics": {"accuracy": {"min": 0.9}}, "approval": True}
    service.start()
    service.apply({**MODEL, "gate": gate}, TENSORS_ENDPOINT)
    models = Models(service.channel)

    version = models.register("fraud", file, metrics={"accuracy": 0.95}, tags={"team": "risk"})
    assert events.GATE_STATE_AWAITS_APPROVAL == version.gate.state
    assert [("x", "FP32", [-1, 3])] == tensors_of(version.signature.inputs)
    assert [("label", "INT64", [-1]), ("text", "BYTES", [1])] == (
        tensors_of(version.signature.outputs)
    )
    models.approve("models:/fraud/1", approver="ann", reason="looked at it")
    models.describe("fraud@champion", card="# Fraud", tags_removed=["team"])
    approval = models.approval(version)
    assert approval is not None
    assert ("everybody", "looked at it") == (approval.caller, approval.reason)

    found = models.get("models:/fraud@champion")
    assert (1, "# Fraud", {}) == (found.version, found.card, dict(found.tags))
    assert file.read_bytes() == models.download("fraud@champion")
    assert ["fraud"] == [each.name for each in models.list()]
    served = events.Rollout.FromString(outputs.wait("rollout/fraud/1")).champion
    assert ([], found.signature) == (list(served.features), served.signature)
    outputs.wait("description/fraud/1/1")
    told = service.call("ListChanges", pb.ListChangesRequest(model="fraud")).changes
    actions = ["describe_version", "approve_version", "register_version"]
    assert actions == [each.action for each in told]
    assert {"everybody"} == {each.caller for each in told}
    moves = pb.ListAliasMovesRequest(model="fraud", alias="champion")
    assert [1] == [each.version for each in service.call("ListAliasMoves", moves).moves]


@on("embedded", "shared")
def test_definition_that_is_taken_back_is_forgotten_by_who_follows(service, outputs) -> None:
    name = f"fraud-{uuid.uuid4().hex}"
    model, endpoint = ("model", name), ("endpoint", name)
    documents = ({**MODEL, "name": name}, {**TENSORS_ENDPOINT, "name": name, "model": name})
    service.start()
    service.apply(*documents)
    with following(service.bootstrap) as known:
        assert {model, endpoint} <= known.keys()

        with pytest.raises(Conflict, match=f"needed_by=endpoint {name}"):
            service.retract(*model)
        service.retract(*endpoint)
        service.retract(*model)

        wait_for(lambda: not {model, endpoint} & known.keys())
        with following(service.bootstrap) as read_later:
            assert not {model, endpoint} & read_later.keys()
        assert answered_state(service.call).digest() == told_state(outputs.seen()).digest()

        service.apply(*documents, request_id="again")
        wait_for(lambda: {2} == {known.get(model), known.get(endpoint)})


@contextmanager
def following(bootstrap: str) -> Iterator[dict[tuple[str, str], int]]:
    """Versions by kind and name, as every service follows them; whole when the block begins."""
    known: dict[tuple[str, str], int] = {}

    def take(record: Record) -> None:
        applied = read_applied(record.key, record.value)
        if applied.definition is None:
            known.pop((applied.kind, applied.name), None)
        else:
            known[applied.kind, applied.name] = applied.version

    follower = TableFollower(
        bootstrap=bootstrap,
        topic=topics.REGISTRY_DEFINITIONS.name,
        on_record=take,
        service="tests",
    )
    follower.start()
    try:
        yield known
    finally:
        follower.stop(CALL_TIMEOUT_S)


def tensors_of(tensors: Any) -> list[tuple[str, str, list[int]]]:
    return [(each.name, each.datatype, list(each.shape)) for each in tensors]


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
    external = an_onnx_file(graph=bytes_field(5, bytes_field(13, bytes_field(2, b"../w"))))
    refused = {
        "no metadata": ("BAD_REQUEST", lambda: service.send(chunks(MODEL_1))),
        "nothing": ("BAD_REQUEST", lambda: service.send([])),
        "cut": ("BAD_REQUEST", lambda: service.send([begin, *chunks(MODEL_1[:-1])])),
        "longer": ("BAD_REQUEST", lambda: service.send([begin, *chunks(MODEL_1 + b"x")])),
        "twice": ("BAD_REQUEST", lambda: service.send([begin, begin])),
        "other bytes": ("DIGEST_MISMATCH", lambda: service.upload(MODEL_2, digest=digest)),
        "format": ("FORMAT", lambda: service.upload(MODEL_1, format="pickle")),
        "pickle": ("PICKLE", lambda: service.upload(b"\x80\x04K\x01.")),
        "operators": ("OPSET", lambda: service.upload(a_model(domain="com.evil"))),
        "bomb": ("VALIDATION_LIMIT", lambda: service.upload(a_bomb())),
        "external": ("EXTERNAL_DATA", lambda: service.upload(external)),
        "large": (
            "ARTIFACT_TOO_LARGE",
            lambda: service.upload(MODEL_1, size_bytes=ARTIFACT_BYTES_MAX + 1),
        ),
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
        ("embedded", "registry.in_txn:3:kill"),
        ("shared", "registry.committed:3:kill"),
        ("shared", "registry.inbox.committed:1:kill"),
        ("embedded", "kit.outbox.delivered:2:kill"),
    ],
    indirect=["service"],
)
def test_run_has_one_effect_when_the_process_is_killed(service, outputs, publish, fail) -> None:
    """G1 to G5: before come the application and, where transactions count, the uploaded file."""
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
    value_by_id: dict[str, bytes | None] = {}
    for each in outputs.seen():
        assert each.value == value_by_id.setdefault(each.ce_id, each.value)
    versions = list(dict.fromkeys(outputs.ids(topics.REGISTRY_MODEL_VERSIONS)))
    assert [
        "version/delay/1", "gate/delay/1", "alias/delay/champion/1",
        "version/delay/2", "gate/delay/2",
    ] == versions  # fmt: skip
    repeated = len(outputs.ids(topics.REGISTRY_ROLLOUTS)) > 2
    assert repeated == fail.startswith("kit.outbox")
    assert answered_state(service.call).digest() == told_state(outputs.seen()).digest()


@pytest.mark.parametrize(
    ("service", "fail"),
    [("shared", "registry.in_txn:4:kill"), ("embedded", "registry.committed:4:kill")],
    indirect=["service"],
)
def test_lost_reply_is_given_again_for_the_same_request(service, outputs, publish, fail) -> None:
    """G1 G2: before come the application, the uploaded file and the run."""
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
    outputs.wait("rollout/delay/2")
    assert answered_state(service.call).digest() == told_state(outputs.seen()).digest()


@on("embedded", "shared")
def test_registry_killed_under_load_keeps_what_it_answered_and_takes_up_the_rest(
    service, outputs, publish
) -> None:
    """As the kernel ends who takes too much memory: at any moment, with calls and runs at work."""
    callers, answers_min, runs = 8, 200, [a_completed_run(MODEL_1) for _ in range(20)]
    service.start()
    service.apply()
    service.upload(MODEL_1)
    publish(run_record(runs[0]))
    outputs.wait("rollout/delay/1")
    answered = Counter[str]()

    def move(alias: str) -> int:
        """By a request that is named after the generation which it makes."""
        seen = answered[alias]
        request_id = f"{alias}-{1 + seen}"
        asked = {"model": "delay", "alias": alias, "version": 1, "generation_expected": seen}
        request = pb.SetAliasRequest(request_id=request_id, **asked)
        return service.call("SetAlias", request).alias.generation

    def move_until_killed(alias: str) -> None:
        with suppress(Unavailable):
            while True:
                answered[alias] = move(alias)

    aliases = [f"of-{number}" for number in range(callers)]
    with ThreadPoolExecutor(callers) as pool:
        moving = [pool.submit(move_until_killed, alias) for alias in aliases]
        wait_for(lambda: answered.total() >= answers_min)
        for each in runs[1:]:
            publish(run_record(each))
        wait_for(lambda: len(service.versions()) > 2)
        os.kill(service.pid, signal.SIGKILL)
        for each in moving:
            each.result(DEADLINE_S)
    service.wait_killed()

    service.start()
    for alias in aliases:
        assert 1 + answered[alias] == move(alias)
        listed = pb.ListAliasMovesRequest(model="delay", alias=alias, page_size=1)
        assert [1 + answered[alias]] == [
            each.generation for each in service.call("ListAliasMoves", listed).moves
        ]
        outputs.wait(f"alias/delay/{alias}/{1 + answered[alias]}")
    wait_for(lambda: len(service.versions()) == len(runs))
    assert {each.run_id for each in runs} == {each.run_id for each in service.versions()}
    kept = answered_state(service.call).digest()
    wait_for(lambda: kept == told_state(outputs.seen()).digest())


@dataclass
class SqliteCopy:
    """The file of a registry that is at rest."""

    service: Service
    file: Path

    def take(self) -> None:
        assert 0 == self.service.stop()
        self._copy = self.file.read_bytes()
        self.service.start()

    def put_back(self) -> None:
        assert 0 == self.service.stop()
        self.file.write_bytes(self._copy)
        self.service.start()


@dataclass
class PostgresCopy:
    """A base backup of a server at work, which ends as by `pg_ctl stop -m immediate`.

    The registry is not asked to stop: it waits for its database, and goes on with another one.
    """

    service: Service
    server: PostgresServer
    folder: Path

    def start(self) -> None:
        spec = replace(self.server.process(), stop_signal=signal.SIGQUIT)
        self._child = Child(spec, self.folder / "postgres.log", self.folder)
        self._child.wait_ready()

    def take(self) -> None:
        command = self._child.spec.command
        *account, postgres = command[: command.index("-D")]
        owner = self._cluster.stat()
        self._copy.mkdir(mode=0o700)
        os.chown(self._copy, owner.st_uid, owner.st_gid)
        tool = Path(postgres).with_name("pg_basebackup")
        taken = [
            "--dbname",
            self.server.dsn,
            "--pgdata",
            self._copy,
            "--checkpoint=fast",
            "--no-password",
        ]
        subprocess.run([*account, tool, *taken], check=True, timeout=DEADLINE_S)

    def put_back(self) -> None:
        self._child.stop()
        away = outcome(lambda: self.service.apply(request_id="away"))
        assert (UNAVAILABLE, "DATABASE_UNAVAILABLE") == away
        shutil.rmtree(self._cluster)
        self._copy.rename(self._cluster)
        self.start()

    def close(self) -> None:
        self._child.stop()

    @property
    def _cluster(self) -> Path:
        return self.server.data_dir / "cluster"

    @property
    def _copy(self) -> Path:
        return self.server.data_dir / "copy"


@pytest.fixture
def sqlite_copy(fresh: str, tmp_path: Path) -> Iterator[SqliteCopy]:
    service = Service(fresh, Storage(), tmp_path)
    yield SqliteCopy(service, tmp_path / "registry.sqlite")
    service.close()


@pytest.fixture
def postgres_copy(fresh: str, tmp_path: Path) -> Iterator[PostgresCopy]:
    server = PostgresServer(tmp_path / "postgres", *pick_ports(1))
    made = PostgresCopy(Service(fresh, Storage(server.settings()), tmp_path), server, tmp_path)
    made.start()
    yield made
    made.service.close()
    made.close()


@pytest.mark.parametrize("kept", ["sqlite_copy", "postgres_copy"])
def test_registry_put_back_to_an_old_copy_is_told_and_followed_once_it_moved_on(
    kept, request, outputs, publish
) -> None:
    """P7: no follower goes back; the runbook's way leads on."""
    copy = request.getfixturevalue(kept)
    service = copy.service
    service.start()
    service.apply()
    service.upload(MODEL_1)
    publish(run_record(a_completed_run(MODEL_1)))
    outputs.wait("rollout/delay/1")
    copy.take()
    for generation in (1, 2):
        service.set_alias(1, generation, f"before-{generation}")
    outputs.wait("rollout/delay/3")

    copy.put_back()
    table = ServingTable()
    reader = RegistryReader(table, dead_letters=MemoryPublisher(), on_wanted=lambda: None)
    assert [] == refused_rollouts(reader, outputs.seen())
    again = service.set_alias(1, 1, "after-1")
    wait_for(lambda: outputs.ids(topics.REGISTRY_ROLLOUTS).count("rollout/delay/2") == 2)
    told = told_state(outputs.seen())
    assert 2 == again.generation
    assert ["alias delay@champion", "rollout delay"] == answered_state(service.call).differences(
        told
    )
    assert 2 == sum("and other content" in stranger for stranger in told.strangers)
    assert ["GENERATION_REUSED"] == refused_rollouts(reader, outputs.seen())
    assert 3 == table.state("delay").wanted.generation

    for generation in (2, 3):
        service.set_alias(1, generation, f"after-{generation}")
    outputs.wait("rollout/delay/4")
    assert [] == answered_state(service.call).differences(told_state(outputs.seen()))
    refused_rollouts(reader, outputs.seen())
    assert 4 == table.state("delay").wanted.generation


def test_runs_behind_the_copy_are_registered_again_by_a_registry_that_was_left_running(
    postgres_copy, outputs, publish
) -> None:
    """It ends at the next run, since it would never read the one before again."""
    service = postgres_copy.service
    service.start()
    service.apply()
    service.upload(MODEL_1)
    runs = [a_completed_run(MODEL_1) for _ in range(3)]
    publish(run_record(runs[0]))
    outputs.wait("rollout/delay/1")
    postgres_copy.take()
    publish(run_record(runs[1]))
    outputs.wait("rollout/delay/2")
    postgres_copy.put_back()

    publish(run_record(runs[2]))
    assert service.wait_died() > 0
    service.start()

    expected = {each.run_id for each in runs}
    wait_for(lambda: expected == {each.run_id for each in service.versions()})


def refused_rollouts(reader: RegistryReader, told: list[Told]) -> list[str]:
    """What inference says of these, which it may have seen before."""
    reasons = []
    for each in told:
        if each.topic == topics.REGISTRY_ROLLOUTS.name:
            try:
                reader.take_rollout(a_record(each.value))
            except Conflict as err:
                reasons.append(err.reason)
    return reasons


def test_registry_without_file_descriptors_lives_and_goes_on(service) -> None:
    """Callers take all that are left; nothing ends, and nothing is answered as a bug."""
    service.start()
    service.apply()
    opened = psutil.Process(service.pid).num_fds()
    _, hard = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (opened + SPARE_FDS, hard))
    with ExitStack() as callers:
        for _ in range(3 * SPARE_FDS):
            for port in (service.grpc_port, service.rest_port):
                callers.enter_context(socket.create_connection(("127.0.0.1", port), 5.0))
        wait_for(lambda: psutil.Process(service.pid).num_fds() >= opened + SPARE_FDS)
        applies = {outcome(lambda: service.apply(request_id=uuid.uuid4().hex)) for _ in range(5)}
        uploads = {outcome(lambda: service.upload(MODEL_1)) for _ in range(5)}

    assert {FILES_EXHAUSTED} == uploads - {None}
    # SQLite does not say for want of what it could not open a file.
    assert applies <= {None, FILES_EXHAUSTED, (UNAVAILABLE, "DATABASE_UNAVAILABLE")}

    assert wait_for(lambda: not refuses(service))
    service.upload(MODEL_2)
    with closing(HTTPConnection("127.0.0.1", service.rest_port, timeout=CALL_TIMEOUT_S)) as rest:
        rest.request("GET", "/api/2.0/mlflow/registered-models/search")
        assert 200 == rest.getresponse().status
    assert 0 == service.stop()


def refuses(service: Service) -> bool:
    return outcome(lambda: service.apply(request_id="again")) is not None


def outcome(ask: Callable[[], object]) -> tuple[grpc.StatusCode, str] | None:
    """The code and the reason of a refusal; None when it was answered."""
    try:
        ask()
    except HeadraceError as err:
        return err.__cause__.code(), err.reason
    return None


def test_database_that_is_away_is_told_until_it_is_back(fresh, tmp_path) -> None:
    server = PostgresServer(tmp_path / "postgres", *pick_ports(1))
    service = Service(fresh, Storage(server.settings()), tmp_path)
    listed = pb.ListModelsRequest()
    try:
        with running(server.process(), tmp_path):
            service.start()
            service.apply()
            models = service.call("ListModels", listed).models

        with pytest.raises(Unavailable, match="DATABASE_UNAVAILABLE"):
            service.call("ListModels", listed)
        with pytest.raises(Unavailable, match="DATABASE_UNAVAILABLE"):
            service.set_alias(1, 1, "away")

        with running(server.process(), tmp_path):
            assert models == service.call("ListModels", listed).models
            assert 0 == service.stop()
    finally:
        service.close()


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


def test_runs_of_a_topic_that_is_made_again_are_registered_once(
    service, outputs, publish, bootstrap, make_again
) -> None:
    """More of them than were read: the old place lies amid the new ones."""
    service.start()
    service.apply()
    for model in (MODEL_1, MODEL_2):
        service.upload(model)
    first, runs = run_record(a_completed_run(MODEL_1)), topics.TRAINER_RUNS
    publish(first)
    outputs.wait("rollout/delay/1")
    assert 0 == service.stop()
    place = end_offsets(bootstrap, [runs.name])[runs.name]

    again = make_again(runs.name, runs)
    new = run_record(a_completed_run(MODEL_2, auc=0.76, champion_auc=0.75))
    sent = [new, *[first] * (place + 1)]
    again.publish([Message(r.topic, r.key, r.value, tuple(r.headers.items())) for r in sent])
    service.start()
    outputs.wait("rollout/delay/2")
    ends = topic_end_offsets(bootstrap, [runs.name])
    wait_for(lambda: committed_offsets(bootstrap, "registry", [runs.name]) == ends)
    assert [2, 1] == [each.version for each in service.versions()]
    assert ["rollout/delay/1", "rollout/delay/2"] == outputs.ids(topics.REGISTRY_ROLLOUTS)


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


@pytest.fixture
def replicas(fresh: str, shared: Storage, tmp_path: Path) -> Iterator[list[Service]]:
    """Two processes on one PostgreSQL."""
    made = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        made.append(Service(fresh, shared, folder))
        made[-1].start()
    yield made
    for each in made:
        each.close()


def test_moves_that_race_at_two_replicas_have_one_winner_each(replicas, outputs, publish) -> None:
    """P7 across processes: of 16 callers, half of them at either, one has each generation."""
    generations, callers = 25, 16
    replicas[0].apply()
    replicas[0].upload(MODEL_1)
    for _ in range(2):
        publish(run_record(a_completed_run(MODEL_1)))
    outputs.wait("rollout/delay/2")
    together = threading.Barrier(callers)
    won: list[tuple[int, int]] = []
    lost: list[tuple[grpc.StatusCode, str] | None] = []

    def race(caller: int) -> None:
        service, version = replicas[caller % 2], 1 + caller // 2 % 2
        for generation in range(1, 1 + generations):
            together.wait(DEADLINE_S)
            request_id = f"{caller}-{generation}"
            try:
                moved = service.set_alias(version, generation, request_id)
            except Conflict as err:
                lost.append((err.__cause__.code(), err.reason))
            else:
                won.append((moved.generation, moved.version))

    with ThreadPoolExecutor(callers) as pool:
        for done in [pool.submit(race, caller) for caller in range(callers)]:
            done.result(DEADLINE_S)

    assert [*range(2, 2 + generations)] == [generation for generation, _ in won]
    assert [(ABORTED, "ALIAS_MOVED")] * generations * (callers - 1) == lost
    listed = pb.ListAliasMovesRequest(model="delay", alias="champion")
    for each in replicas:
        moves = each.call("ListAliasMoves", listed).moves
        assert [(1, 1), *won] == [(move.generation, move.version) for move in reversed(moves)]
    outputs.wait(f"rollout/delay/{2 + generations}")
    told = outputs.ids(topics.REGISTRY_MODEL_VERSIONS)
    moves_told = [each for each in told if each.startswith("alias/delay/champion/")]
    assert [f"alias/delay/champion/{n}" for n in range(1, 2 + generations)] == moves_told


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


@on("embedded", "shared")
def test_upload_goes_on_behind_kills_of_the_registry(service) -> None:
    data, models = a_large_model(), Models(service.channel)
    service.start(fail="registry.upload.part_kept:2:kill")
    with pytest.raises(Unavailable):
        service.upload(data)
    service.wait_killed()

    service.start(fail="registry.upload.stored:1:kill")
    assert 2 * PART_BYTES == service.begin_upload(data).offset_bytes
    with ThreadPoolExecutor(1) as pool:
        uploading = pool.submit(models.upload, data)
        service.wait_killed()
        service.start()
        digest = uploading.result(DEADLINE_S)

    assert service.begin_upload(data).stored
    assert data == service.download(digest)


@on("embedded", "shared")
def test_upload_goes_on_behind_a_kill_of_its_caller(service, tmp_path) -> None:
    data = a_large_model()
    service.start()
    file = tmp_path / "large.onnx"
    file.write_bytes(data)
    sent_bytes = PART_BYTES + PART_BYTES // 2
    command = [sys.executable, "-c", SENDER, str(service.grpc_port), str(file), str(sent_bytes)]
    sender = subprocess.Popen(command)
    try:
        wait_for(lambda: service.begin_upload(data).offset_bytes == PART_BYTES)
    finally:
        sender.kill()
        sender.wait(DEADLINE_S)

    digest = Models(service.channel).upload(data)
    assert data == service.download(digest)


@on("embedded", "shared")
def test_version_serves_once_it_is_signed_over_the_wire(service, outputs, tmp_path) -> None:
    key, stranger = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    signers = tmp_path / "signers.pem"
    signers.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    service.start(TRUSTED_SIGNERS_FILE=str(signers))
    service.apply({**MODEL, "gate": {"require_signature": True}}, TENSORS_ENDPOINT)
    models = Models(service.channel)
    models.register("fraud", a_model())
    promote = pb.SetAliasRequest(request_id="early", model="fraud", alias="champion", version=1)
    with pytest.raises(Conflict, match="GATE_NOT_PASSED"):
        service.call("SetAlias", promote)
    with pytest.raises(Invalid, match="SIGNATURE_INVALID"):
        models.sign("fraud/1", SigningKey(stranger))

    signed = models.sign("fraud/1", SigningKey(key))

    trusted = read_trusted_signers(signers.read_bytes())
    assert signed == models.get("fraud@champion")
    assert signed.signer == models.verify("fraud@champion", trusted)
    outputs.wait("signing/fraud/1/1")


@on("embedded", "shared")
def test_client_of_mlflow_lists_models_and_fetches_a_file(service, tmp_path) -> None:
    service.start()
    service.apply(MODEL, TENSORS_ENDPOINT)
    models, metrics = Models(service.channel), {"accuracy": 0.95, "latency_ms": 2.0}
    for file in (MODEL_1, MODEL_2):
        models.register("fraud", file, metrics=metrics, tags={"team": "risk"})
    folder = tmp_path / "fetched"
    folder.mkdir()
    MLFLOW.install()
    uri = f"http://127.0.0.1:{service.rest_port}"
    script = Path(__file__).with_name("ask_by_mlflow.py")
    command = [str(MLFLOW.python), str(script), uri, "fraud", str(folder)]

    asked = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert 0 == asked.returncode, asked.stderr
    refused = {"create", "move", "delete"}
    found = json.loads(asked.stdout)
    assert {"NOT_IMPLEMENTED"} == {found.pop(act) for act in refused}
    assert "experiments, runs and the like are no part of this" in found.pop("experiments")
    assert {
        "models": ["fraud"],
        "aliases": {"champion": "1"},
        "latest": ["2"],
        "newest": ["2"],
        "versions": ["2", "1"],
        "champion": "1",
        "tags": {"team": "risk"},
        "second": "READY",
        "files": {"model.onnx": hashlib.sha256(MODEL_1).hexdigest()},
        "unknown": "RESOURCE_DOES_NOT_EXIST",
        "no alias": "RESOURCE_DOES_NOT_EXIST",
    } == found
