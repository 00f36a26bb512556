# SPDX-License-Identifier: Apache-2.0
"""The inference process on a real Kafka, asked by Triton's client.

FeatureService and ArtifactService are small gRPC servers of the test; the registry's topics are
written by the test. The models answer with their own version number, so a test sees who computed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import resource
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.utils import InferenceServerException

from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.application import Definition, definition_json, parse_definition
from headrace.errors import Busy, Conflict, HeadraceError, NotFound
from headrace.feature.v1 import feature_events_pb2 as feature_events
from headrace.feature.v1 import feature_service_pb2 as feature_pb
from headrace.feature.v1 import feature_service_pb2_grpc as feature_grpc
from headrace.inference.v1 import inference_events_pb2 as events
from headrace.local.ports import pick_ports
from headrace.local.process import Child
from headrace.local.service_process import service_process
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from headrace.prediction_log import LoggedPrediction, logged_predictions
from headrace.registry.v1 import registry_events_pb2 as registry_pb
from headrace.registry.v1 import registry_service_pb2 as artifact_pb
from headrace.registry.v1 import registry_service_pb2_grpc as artifact_grpc
from headrace_inference.domain.prediction import id_base, row_id
from headrace_inference.testing import (
    FEATURES,
    a_failing_model,
    a_large_model,
    a_model,
    a_spreading_model,
    an_endpoint,
)
from headrace_kit.auth import Guard
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.kafka import KafkaPublisher, Message
from headrace_kit.testing import wait_until

pytestmark = [
    pytest.mark.integration,
    # tritonclient's protobuf stubs and aio imports warn under new Python versions.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

DEADLINE_S = 60.0
# Models of which no two fit into the memory for models.
LARGE_BYTES, LARGE_MEMORY_BYTES, CHUNKS = 12_000_000, 20_000_000, 8
SPARE_FDS = 12
CALL_TIMEOUT_S = 15.0
# More than a start takes besides, less than it waits for a model.
SLOW_S = 4.0
RESTARTS, ANSWERS_MIN = 20, 100_000
# Callers that leave the processes that start most of both cores, and ask 2,000 times a second.
CALLERS, IN_FLIGHT, PAUSE_S = 4, 32, 0.05

EVENT_US = 1_356_000_000_000_000


class Features(feature_grpc.FeatureServiceServicer):
    """Every entity has the feature 0.25 and two absent ones; `gate` closed holds the answers,
    `refusal` is answered instead.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.refusal: HeadraceError | None = None
        self.asked: list[feature_pb.GetOnlineFeaturesRequest] = []

    def keys_asked(self) -> set[str]:
        columns = [column for request in list(self.asked) for column in request.columns]
        return {key for column in columns for key in column.strings.values}

    def GetOnlineFeatures(self, request, context):  # noqa: N802
        self.asked.append(request)
        self.gate.wait(CALL_TIMEOUT_S)
        if self.refusal is not None:
            raise self.refusal
        rows = len(request.as_of_us)
        values = np.full((rows, len(request.features)), np.nan, dtype="<f4")
        values[:, 0] = 0.25
        times = np.full(values.shape, -1, dtype="<i8")
        times[:, 0] = EVENT_US
        return feature_pb.GetOnlineFeaturesResponse(
            rows=rows,
            values=values.tobytes(),
            event_times_us=times.tobytes() if request.include_times else b"",
        )


class Artifacts(artifact_grpc.ArtifactServiceServicer):
    """What the test uploads, in small chunks, or about CHUNKS of them."""

    def __init__(self) -> None:
        self.data_by_digest: dict[str, bytes] = {}
        self.slow: set[str] = set()

    def upload(self, data: bytes) -> str:
        digest = sha256(data).hexdigest()
        self.data_by_digest[digest] = data
        return digest

    def DownloadArtifact(self, request, context):  # noqa: N802
        data = self.data_by_digest.get(request.digest)
        if data is None:
            raise NotFound("ARTIFACT_UNKNOWN", digest=request.digest)
        if request.digest in self.slow:
            threading.Event().wait(SLOW_S)
        step = max(100, len(data) // CHUNKS)
        for start in range(0, len(data), step):
            yield artifact_pb.DownloadArtifactResponse(chunk=data[start : start + step])


@dataclass
class Platform:
    """What stands around the service: Kafka, the registry's hand on its topics, two peers."""

    bootstrap: str
    publisher: KafkaPublisher
    features: Features
    artifacts: Artifacts
    peers_address: str
    generation: int = 0
    served: dict[int, registry_pb.ServedVersion] = field(default_factory=dict)

    def define(self, endpoint: str, *, topic: bool = True, **more: object) -> str:
        if topic:
            wanted = (topics.INFERENCE_REQUESTS, topics.INFERENCE_PREDICTIONS)
            create_topics(self.bootstrap, [(each.of(endpoint), each) for each in wanted])
        self.apply(an_endpoint(endpoint, **more))
        return endpoint

    def apply(self, definition: Definition) -> None:
        message = registry_pb.Definition(
            kind=definition.kind,
            name=definition.name,
            version=1,
            spec_json=definition_json(definition),
        )
        key = f"{definition.kind}/{definition.name}"
        self._publish(topics.REGISTRY_DEFINITIONS.name, key, message)

    def roll_out(
        self, endpoint: str, champion: int, *, canary: int | None = None, percent: int = 50
    ) -> None:
        self.generation += 1
        rollout = registry_pb.Rollout(
            endpoint=endpoint,
            model="delay-model",
            generation=self.generation,
            champion=self.version(champion),
            change="test",
        )
        if canary is not None:
            rollout.canary.CopyFrom(self.version(canary))
            rollout.canary_percent = percent
        self._publish(topics.REGISTRY_ROLLOUTS.name, endpoint, rollout)

    def version(self, version: int, data: bytes | None = None) -> registry_pb.ServedVersion:
        if version not in self.served:
            digest = self.artifacts.upload(data or a_model(float(version)))
            self.served[version] = registry_pb.ServedVersion(
                version=version, digest=digest, features=FEATURES
            )
        return self.served[version]

    def logged_when(
        self, endpoint: str, there: Callable[[list[LoggedPrediction]], bool]
    ) -> list[LoggedPrediction]:
        """The log once it holds what is waited for: it is written behind the answers."""
        return wait_for(lambda: rows if there(rows := self.logged(endpoint)) else None)

    def logged(self, endpoint: str) -> list[LoggedPrediction]:
        """Every row of the endpoint's predictions topic up to its present end."""
        return [row for value in self.records(endpoint) for row in logged_predictions(value)]

    def records(self, endpoint: str) -> list[bytes]:
        topic = topics.INFERENCE_PREDICTIONS.of(endpoint)
        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": uuid.uuid4().hex}
            | {"enable.auto.commit": False, "auto.offset.reset": "error"}
        )
        with contextlib.closing(consumer):
            ends = wait_for(lambda: end_offsets(consumer, topic))
            consumer.assign([TopicPartition(topic, number, 0) for number in ends])
            total, found = sum(ends.values()), []
            deadline_s = time.monotonic() + DEADLINE_S
            while len(found) < total and time.monotonic() < deadline_s:
                found += [
                    message.value()
                    for message in consumer.consume(1000, 0.2)
                    if message.error() is None
                ]
            assert total <= len(found)  # more may have come meanwhile
            return found

    def _publish(self, topic: str, key: str, message) -> None:
        self.publisher.publish([Message(topic, key.encode(), message.SerializeToString())])


@pytest.fixture(scope="module")
def platform(kafka_server: str) -> Iterator[Platform]:
    create_topics(kafka_server, static_topics())
    publisher = KafkaPublisher(kafka_server, client_id="registry-hand")
    features, artifacts = Features(), Artifacts()
    peers = GrpcServer(
        host="127.0.0.1",
        port=0,
        services=[
            (feature_grpc.add_FeatureServiceServicer_to_server, features),
            (artifact_grpc.add_ArtifactServiceServicer_to_server, artifacts),
        ],
        names=["headrace.feature.v1.FeatureService", "headrace.registry.v1.ArtifactService"],
        guard=Guard("tests", None),
        workers=64,
    )
    port = peers.start()
    yield Platform(kafka_server, publisher, features, artifacts, f"127.0.0.1:{port}")
    features.gate.set()
    peers.stop(1.0)
    publisher.close(5.0)


class Service:
    """One inference process; `start` may be called again after its end, on the same data."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self.grpc_port, self.http_port = pick_ports(2)
        self._platform, self.folder = platform, folder
        self.child: Child | None = None
        self.channel = grpc.insecure_channel(self.address)
        self.stub = oip_grpc.GRPCInferenceServiceStub(self.channel)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def start(self, *, fail: str | None = None, wait: bool = True, **settings: str) -> Service:
        told = {
            "KAFKA_BOOTSTRAP": self._platform.bootstrap,
            "DATA_DIR": str(self.folder),
            "FEATURE_ADDRESS": self._platform.peers_address,
            "REGISTRY_ADDRESS": self._platform.peers_address,
            **{name.upper(): value for name, value in settings.items()},
        }
        ports, environment = (self.grpc_port, self.http_port), {"HEADRACE_FAIL": fail or ""}
        spec = service_process("inference", ports, told, environment=environment)
        self.child = Child(spec, self.folder / "inference.log", self.folder)
        if wait:
            self.child.wait_ready()
        return self

    def metrics(self) -> str:
        with urlopen(f"http://127.0.0.1:{self.http_port}/metrics", timeout=CALL_TIMEOUT_S) as told:
            return told.read().decode()

    def wait_ended(self) -> int:
        return wait_for(lambda: self.child.died())

    def wait_version(self, endpoint: str, version: int) -> None:
        request = oip.ModelReadyRequest(name=endpoint, version=str(version))
        wait_for(lambda: self.stub.ModelReady(request, timeout=CALL_TIMEOUT_S).ready)

    def infer(
        self, endpoint: str, *flight_ids: str, id: str = "", timeout_s: float = CALL_TIMEOUT_S
    ):
        return self.stub.ModelInfer(
            keys_request(endpoint, *flight_ids, id=id), timeout=timeout_s, wait_for_ready=False
        )

    def stop(self) -> None:
        self.channel.close()
        if self.child is not None:
            self.child.stop()


@pytest.fixture
def make_service(platform: Platform, tmp_path: Path) -> Iterator[Callable[[], Service]]:
    made: list[Service] = []

    def make() -> Service:
        made.append(Service(platform, tmp_path))
        return made[-1]

    yield make
    for service in made:
        service.stop()


@pytest.fixture(scope="module")
def endpoint(platform: Platform) -> str:
    """Served by version 1, before the shared service starts."""
    name = platform.define(f"delay-{uuid.uuid4().hex[:8]}")
    platform.roll_out(name, 1)
    return name


@pytest.fixture(scope="module")
def service(platform, endpoint, tmp_path_factory) -> Iterator[Service]:
    """The service that the tests share which do not end it."""
    running = Service(platform, tmp_path_factory.mktemp("inference")).start()
    yield running
    ended = running.child.died()
    running.stop()
    assert ended is None


@pytest.fixture
def client(service: Service) -> Iterator[triton.InferenceServerClient]:
    with contextlib.closing(triton.InferenceServerClient(service.address)) as made:
        yield made


def wait_for(done: Callable[[], object]):
    """What `done` gives when it is neither None nor False; fails after DEADLINE_S."""
    deadline_s, waiting = time.monotonic() + DEADLINE_S, threading.Event()
    while time.monotonic() < deadline_s:
        result = done()
        if result is not None and result is not False:
            return result
        waiting.wait(0.02)
    raise AssertionError("not in time")


def end_offsets(consumer: Consumer, topic: str) -> dict[int, int] | None:
    """None while a partition of a new topic has no leader yet."""
    partitions = range(topics.INFERENCE_PREDICTIONS.partitions)
    with contextlib.suppress(KafkaException):
        return {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1]
            for number in partitions
        }


def raw_strings(values) -> bytes:
    return b"".join(len(v).to_bytes(4, "little") + v.encode() for v in values)


def keys_request(endpoint: str, *flight_ids: str, id: str = "") -> oip.ModelInferRequest:
    rows = len(flight_ids)
    request = oip.ModelInferRequest(model_name=endpoint, id=id)
    for name, datatype, raw in (
        ("flight_id", "BYTES", raw_strings(flight_ids)),
        ("distance", "FP64", np.full(rows, 100.0).tobytes()),
        ("minutes", "INT64", np.full(rows, 5).tobytes()),
    ):
        request.inputs.add(name=name, datatype=datatype, shape=[rows])
        request.raw_input_contents.append(raw)
    return request


def triton_input(name: str, datatype: str, values) -> triton.InferInput:
    array = np.asarray(values)
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def triton_features(rows=1, width=3, first=0.0) -> triton.InferInput:
    values = np.full((rows, width), first, dtype=np.float32)
    return triton_input("features", "FP32", values)


def triton_keys(*flight_ids: str) -> list[triton.InferInput]:
    rows = len(flight_ids)
    return [
        triton_input(
            "flight_id", "BYTES", np.array([f.encode() for f in flight_ids], dtype=object)
        ),
        triton_input("distance", "FP64", np.full(rows, 100.0)),
        triton_input("minutes", "INT64", np.full(rows, 5, dtype=np.int64)),
    ]


# --- as Triton's client sees it ---


def test_server_and_model_are_live_and_ready(client, endpoint):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(endpoint)
    assert client.is_model_ready(endpoint, "1")
    assert not client.is_model_ready(endpoint, "99")
    assert not client.is_model_ready("nothing")


@pytest.mark.parametrize("name", ["", "inference.GRPCInferenceService"])
def test_health_service_says_serving(service, name):
    health = health_pb2_grpc.HealthStub(service.channel)
    asked = health_pb2.HealthCheckRequest(service=name)
    serving = health_pb2.HealthCheckResponse.SERVING

    wait_for(lambda: health.Check(asked, timeout=CALL_TIMEOUT_S).status == serving)


def test_metadata_tells_what_works(client, endpoint):
    server = client.get_server_metadata(as_json=True)
    model = client.get_model_metadata(endpoint, as_json=True)

    assert {"binary_tensor_data", "model_configuration"} < set(server["extensions"])
    assert [{"name": "features", "datatype": "FP32", "shape": ["-1", "3"]}] == model["inputs"]
    assert (["1"], "onnxruntime_onnx") == (model["versions"], model["platform"])
    assert {"score", "features", "prediction_id"} == {o["name"] for o in model["outputs"]}


def test_repository_index_lists_the_served_version(client, endpoint):
    index = client.get_model_repository_index(as_json=True)["models"]

    assert {"name": endpoint, "version": "1", "state": "READY"} in index


def test_tensors_are_answered(client, endpoint, platform):
    answer = client.infer(endpoint, [triton_features(2, first=0.5)], request_id="by-tensors")

    np.testing.assert_array_equal([1.5, 1.5], answer.as_numpy("score"))
    assert ("1", "by-tensors") == (answer.get_response().model_version, answer.get_response().id)
    ids = {prediction_id.decode() for prediction_id in answer.as_numpy("prediction_id")}
    rows = platform.logged_when(endpoint, lambda rows: ids <= {e.prediction_id for e in rows})
    logged = {e.prediction_id: e for e in rows}
    for row, prediction_id in enumerate(answer.as_numpy("prediction_id")):
        event = logged[prediction_id.decode()]
        assert answer.as_numpy("score")[row] == event.score
        assert (1, events.DOOR_TENSORS, "") == (event.version, event.door, event.entity_key)


def test_features_that_the_server_read_are_explained(client, endpoint):
    outputs = [triton.InferRequestedOutput(name) for name in ("attributions", "score")]

    answer = client.infer(endpoint, triton_keys("UA-1", "UA-2"), outputs=outputs)

    # The model answers 1 and the first feature, which is 0.25.
    np.testing.assert_array_equal([[0.25, 0.0, 0.0]] * 2, answer.as_numpy("attributions"))
    np.testing.assert_array_equal([1.25, 1.25], answer.as_numpy("score"))
    assert answer.get_output("attributions").parameters["features"].string_param.count(",") == 2


def test_entity_keys_are_answered_with_features_as_of_the_moment(client, endpoint, platform):
    outputs = [triton.InferRequestedOutput(name) for name in ("features", "score")]

    answer = client.infer(
        endpoint,
        triton_keys("UA-1", "UA-2"),
        outputs=outputs,
        request_id="by-keys",
        parameters={"as_of_us": 1_357_000_000_000_000},
    )

    np.testing.assert_array_equal([1.25, 1.25], answer.as_numpy("score"))
    np.testing.assert_array_equal([[0.25, np.nan, np.nan]] * 2, answer.as_numpy("features"))
    assert ["features", "score"] == [o.name for o in answer.get_response().outputs]
    asked = platform.features.asked[-1]
    assert [1_357_000_000_000_000] * 2 == list(asked.as_of_us)
    assert list(FEATURES) == list(asked.features)
    columns = {column.name: column for column in asked.columns}
    assert {"flight_id", "distance", "minutes"} == columns.keys()
    assert ["UA-1", "UA-2"] == list(columns["flight_id"].strings.values)
    assert [100.0, 100.0] == list(columns["distance"].doubles.values)
    assert [5, 5] == list(columns["minutes"].int64s.values)
    rows = platform.logged_when(
        endpoint, lambda rows: {"UA-1", "UA-2"} <= {e.entity_key for e in rows}
    )
    logged = {e.entity_key: e for e in rows if e.door == events.DOOR_ENTITY_KEYS}
    assert [1.25, 1.25] == [logged[key].score for key in ("UA-1", "UA-2")]
    assert 1_357_000_000_000_000 == logged["UA-1"].as_of_us
    assert [(EVENT_US, -1, -1)] * 2 == [logged[key].event_times_us for key in ("UA-1", "UA-2")]
    ids = [logged[key].prediction_id for key in ("UA-1", "UA-2")]
    assert ids == list(asked.prediction_ids)


@pytest.mark.parametrize(
    ("inputs", "asked", "status", "reason"),
    [
        ([triton_features()], {"model_name": "nothing"}, "NOT_FOUND", "MODEL_UNKNOWN"),
        ([triton_features()], {"model_version": "99"}, "NOT_FOUND", "MODEL_UNKNOWN"),
        ([triton_features()], {"model_version": "one"}, "NOT_FOUND", "MODEL_UNKNOWN"),
        ([], {}, "INVALID_ARGUMENT", "TENSOR_NAME"),
        ([triton_features(), triton_features()], {}, "INVALID_ARGUMENT", "TENSOR_NAME"),
        (triton_keys("UA-1")[:2], {}, "INVALID_ARGUMENT", "TENSOR_NAME"),
        (
            [triton_input("features", "FP64", np.zeros((1, 3)))],
            {},
            "INVALID_ARGUMENT",
            "TENSOR_DTYPE",
        ),
        ([triton_features(width=2)], {}, "INVALID_ARGUMENT", "TENSOR_SHAPE"),
        ([triton_features(first=np.inf)], {}, "INVALID_ARGUMENT", "TENSOR_NONFINITE"),
        ([triton_features(rows=1001)], {}, "RESOURCE_EXHAUSTED", "BATCH_TOO_LARGE"),
        ([triton_features()] * 257, {}, "RESOURCE_EXHAUSTED", "TOO_MANY_INPUTS"),
        ([triton_features(rows=1_500_000)], {}, "RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE"),
    ],
)
def test_mistake_is_answered_with_its_reason(client, endpoint, inputs, asked, status, reason):
    with pytest.raises(InferenceServerException) as refused:
        client.infer(**({"model_name": endpoint, "inputs": inputs} | asked))

    assert f"StatusCode.{status}" == refused.value.status()
    assert reason in refused.value.message()


def test_bytes_that_are_no_message_are_the_callers_mistake(service):
    call = service.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    with pytest.raises(grpc.RpcError) as refused:
        call(b"\xff\xff\xff", timeout=CALL_TIMEOUT_S)
    assert grpc.StatusCode.INVALID_ARGUMENT == refused.value.code()
    assert "DECODE_ERROR" in refused.value.details()


def test_reflection_lists_the_protocol(service):
    stub = reflection_pb2_grpc.ServerReflectionStub(service.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="*")

    (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=CALL_TIMEOUT_S)

    listed = {one.name for one in answer.list_services_response.service}
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= listed


def test_unready_endpoint_is_told_from_an_unknown_one(client, service, platform):
    name = platform.define(f"empty-{uuid.uuid4().hex[:8]}")
    listed = {"name": name, "state": "UNAVAILABLE", "reason": "MODEL_NOT_READY"}
    wait_for(lambda: listed in client.get_model_repository_index(as_json=True)["models"])

    with pytest.raises(InferenceServerException, match="MODEL_NOT_READY") as refused:
        client.infer(name, [triton_features()])
    assert "StatusCode.FAILED_PRECONDITION" == refused.value.status()


def test_failure_of_the_model_is_told_without_its_text(client, service, platform):
    name = platform.define(f"failing-{uuid.uuid4().hex[:8]}")
    platform.version(900, a_failing_model())
    platform.roll_out(name, 900)
    service.wait_version(name, 900)

    with pytest.raises(InferenceServerException, match="MODEL_ERROR") as refused:
        client.infer(name, [triton_features(first=13.0)])
    assert "StatusCode.INTERNAL" == refused.value.status()
    assert "onnx" not in refused.value.message().lower()
    np.testing.assert_array_equal([0.5], client.infer(name, [triton_features()]).as_numpy("score"))


def test_score_that_is_not_finite_is_not_answered(client, service, platform):
    name = platform.define(f"nan-{uuid.uuid4().hex[:8]}")
    platform.version(901, a_model(float("nan")))
    platform.roll_out(name, 901)
    service.wait_version(name, 901)

    with pytest.raises(InferenceServerException, match="MODEL_NONFINITE") as refused:
        client.infer(name, [triton_features()])
    assert "StatusCode.INTERNAL" == refused.value.status()
    [record] = wait_until(lambda: platform.records(name))
    told = events.PredictionsMade.FromString(record)
    assert (901, 1) == (told.version, len(told.nonfinite))
    assert [] == platform.logged(name)


def test_endpoint_without_its_topic_answers_and_counts_what_is_not_logged(
    client, service, platform
):
    name = platform.define(f"no-topic-{uuid.uuid4().hex[:8]}", topic=False)
    platform.roll_out(name, 1)
    service.wait_version(name, 1)

    assert [1.0] == client.infer(name, [triton_features()]).as_numpy("score").tolist()
    lost = 'headrace_inference_log_lost_rows_total{reason="TOPIC_MISSING"} 1.0'
    wait_for(lambda: lost in service.metrics())


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Conflict("FEATURES_STALE", view="weather"), "FAILED_PRECONDITION"),
        (NotFound("FEATURE_UNKNOWN", feature="weather:wind"), "NOT_FOUND"),
        (Busy("QUEUE_FULL"), "RESOURCE_EXHAUSTED"),
    ],
    ids=lambda value: getattr(value, "reason", value),
)
def test_refusal_of_the_feature_service_reaches_the_caller(
    client, platform, endpoint, monkeypatch, refusal, status
):
    monkeypatch.setattr(platform.features, "refusal", refusal)

    with pytest.raises(InferenceServerException, match=refusal.reason) as refused:
        client.infer(endpoint, triton_keys("UA-1"))
    assert f"StatusCode.{status}" == refused.value.status()


def refused_late(service, endpoint) -> float:
    labels = f'endpoint="{endpoint}",reason="DEADLINE_UNMET"'
    name = f"headrace_inference_request_failure_total{{{labels}}}"
    lines = [line for line in service.metrics().splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_deadline_that_passes_while_features_are_read_ends_the_call(service, platform, endpoint):
    refused_before = refused_late(service, endpoint)
    platform.features.gate.clear()
    try:
        with pytest.raises(grpc.RpcError) as late:
            service.infer(endpoint, "UA-late", timeout_s=0.2)
        wait_for(lambda: refused_late(service, endpoint) > refused_before)
    finally:
        platform.features.gate.set()

    assert grpc.StatusCode.DEADLINE_EXCEEDED == late.value.code()
    service.infer(endpoint, "UA-behind")
    logged = platform.logged_when(
        endpoint, lambda rows: "UA-behind" in {event.entity_key for event in rows}
    )
    assert "UA-late" not in {event.entity_key for event in logged}


# --- versions come and go ---


def test_canary_takes_its_share_and_each_arm_shadows_the_other(service, platform):
    name = platform.define(f"canary-{uuid.uuid4().hex[:8]}")
    platform.roll_out(name, 11, canary=12, percent=50)
    service.wait_version(name, 12)

    answers = {f"UA-{i}": service.infer(name, f"UA-{i}").model_version for i in range(100)}
    again = {key: service.infer(name, key).model_version for key in answers}

    assert answers == again
    assert 25 < sum(version == "12" for version in answers.values()) < 75
    for event in platform.logged_when(name, lambda rows: len(rows) == 2 * len(answers)):
        assert str(event.version) == answers[event.entity_key]
        assert (event.version + 0.25, event.shadow_version + 0.25) == (
            event.score,
            event.shadow_score,
        )


@pytest.mark.parametrize("door", ["native", "grpcio"])
def test_entity_that_a_parameter_names_keeps_its_arm_at_each_way_in(make_service, platform, door):
    name = platform.define(f"named-{uuid.uuid4().hex[:8]}")
    platform.roll_out(name, 13, canary=14, percent=50)
    (rest_port,) = pick_ports(1)
    service = make_service().start(grpc_door=door, rest_port=str(rest_port))
    service.wait_version(name, 14)
    keys = [f"{door}-{number}" for number in range(20)]
    requests = [tensors_named(name, key) for key in keys]

    by_entity = [service.infer(name, key).model_version for key in keys]
    by_tensors = [service.stub.ModelInfer(each, timeout=CALL_TIMEOUT_S) for each in requests]
    streamed = service.stub.ModelStreamInfer(iter(requests), timeout=CALL_TIMEOUT_S)
    over_http = [named_over_http(rest_port, name, key) for key in keys]

    assert {"13", "14"} == set(by_entity)
    assert by_entity == [answer.model_version for answer in by_tensors]
    assert by_entity == [answer.infer_response.model_version for answer in streamed]
    assert by_entity == [version for version, _ in over_http]
    told = {answer.raw_output_contents[1][4:].decode() for answer in by_tensors}
    told |= {prediction_id for _, prediction_id in over_http}
    rows = platform.logged_when(name, lambda rows: told <= {row.prediction_id for row in rows})
    key_by_id = {row.prediction_id: row.entity_key for row in rows if row.prediction_id in told}
    assert sorted([*keys, *keys]) == sorted(key_by_id.values())


def tensors_named(endpoint: str, key: str) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=endpoint)
    request.inputs.add(name="features", datatype="FP32", shape=[1, 3])
    request.raw_input_contents.append(bytes(12))
    request.parameters["entity_key"].string_param = key
    return request


def named_over_http(port: int, endpoint: str, key: str) -> tuple[str, str]:
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]}
    body = json.dumps({"inputs": [tensor], "parameters": {"entity_key": key}})
    with contextlib.closing(
        HTTPConnection("127.0.0.1", port, timeout=CALL_TIMEOUT_S)
    ) as connection:
        connection.request("POST", f"/v2/models/{endpoint}/infer", body)
        told = json.loads(connection.getresponse().read())
    (prediction_id,) = told["outputs"][1]["data"]
    return told["model_version"], prediction_id


def test_artifact_that_does_not_hash_to_its_digest_is_not_served(service, client, platform):
    name = platform.define(f"tampered-{uuid.uuid4().hex[:8]}")
    platform.roll_out(name, 21)
    service.wait_version(name, 21)
    digest = platform.version(22).digest
    platform.artifacts.data_by_digest[digest] = a_model(666.0)

    platform.roll_out(name, 22)

    refused = {"name": name, "version": "22", "state": "UNAVAILABLE", "reason": "DIGEST_MISMATCH"}
    wait_for(lambda: refused in client.get_model_repository_index(as_json=True)["models"])
    assert "21" == service.infer(name, "UA-1").model_version
    # Mended, it is served without anybody's hand on the service.
    platform.artifacts.data_by_digest[digest] = a_model(22.0)
    service.wait_version(name, 22)


def test_promotions_under_load_fail_no_request(service, platform):
    name = platform.define(f"swap-{uuid.uuid4().hex[:8]}")
    platform.roll_out(name, 100)
    service.wait_version(name, 100)
    done = threading.Event()
    answers: list[tuple[str, float]] = []

    def call(caller: int) -> None:
        with grpc.insecure_channel(service.address) as channel:
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            while not done.is_set():
                request = keys_request(name, f"UA-{caller}-{len(answers)}")
                answer = stub.ModelInfer(request, timeout=CALL_TIMEOUT_S)
                score = np.frombuffer(answer.raw_output_contents[0], dtype="<f4")[0]
                answers.append((answer.model_version, float(score)))

    def wait_answered_by(version: int) -> None:
        wait_for(lambda: str(version) in [served for served, _ in list(answers)])

    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(call, caller) for caller in range(4)]
        try:
            wait_answered_by(100)
            for version in range(101, 111):
                platform.roll_out(name, version)
                wait_answered_by(version)
        finally:
            done.set()
        for caller in callers:
            assert caller.exception(CALL_TIMEOUT_S) is None

    assert all(float(version) + 0.25 == score for version, score in answers)
    logged = platform.logged_when(name, lambda rows: len(rows) == len(answers))
    assert len(answers) == len({event.prediction_id for event in logged})
    assert all(event.version + 0.25 == event.score for event in logged)


# --- ends, wanted and not ---


def test_admitted_requests_are_answered_after_sigterm(make_service, platform, endpoint):
    service = make_service().start(fail="inference.request.half:1:sleep:2")
    held, names = uuid.uuid4().hex, [uuid.uuid4().hex for _ in range(4)]

    def call_until_refused(caller: str) -> tuple[list[str], str, grpc.StatusCode]:
        answered = []
        with grpc.insecure_channel(service.address) as channel:
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            while True:
                one = f"{caller}-{len(answered)}"
                request = keys_request(endpoint, f"load-{one}", id=one)
                try:
                    answered.append(stub.ModelInfer(request, timeout=CALL_TIMEOUT_S).id)
                except grpc.RpcError as err:
                    return answered, one, err.code()

    with ThreadPoolExecutor(5) as pool:
        admitted = pool.submit(service.infer, endpoint, f"held-{held}", id=held)
        wait_for(lambda: f"held-{held}" in platform.features.keys_asked())
        callers = [pool.submit(call_until_refused, name) for name in names]
        wait_for(lambda: all(f"load-{name}-9" in platform.features.keys_asked() for name in names))
        service.child.ask_to_stop()
        outcomes = [caller.result(CALL_TIMEOUT_S) for caller in callers]
        assert held == admitted.result(CALL_TIMEOUT_S).id

    assert 0 == service.wait_ended()
    logged = {event.entity_key for event in platform.logged(endpoint)}
    assert {f"load-{one}" for answered, _, _ in outcomes for one in answered} <= logged
    assert set() == {f"load-{refused}" for _, refused, _ in outcomes} & logged
    assert {grpc.StatusCode.UNAVAILABLE} == {code for _, _, code in outcomes}


class Callers:
    """They ask either replica in turn, many at once, and the other one where one is away; what
    neither answers fails them.
    """

    def __init__(self, replicas: Sequence[Service], endpoint: str) -> None:
        # Channels to one address would share a connection, and wait for long behind a refusal.
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 100),
        ]
        self._channels = [grpc.insecure_channel(each.address, options) for each in replicas]
        self._stubs = [oip_grpc.GRPCInferenceServiceStub(each) for each in self._channels]
        self._request = oip.ModelInferRequest(model_name=endpoint)
        self._request.inputs.add(name="features", datatype="FP32", shape=[1, len(FEATURES)])
        self._request.raw_input_contents.append(np.full(len(FEATURES), 0.5, "<f4").tobytes())
        self._stopping = threading.Event()
        self.answered: list[str] = []
        self._answered_first = {
            (caller, replica): 0 for caller in range(CALLERS) for replica in range(len(replicas))
        }
        self._pool = ThreadPoolExecutor(CALLERS)
        self._calling = [self._pool.submit(self._call, caller) for caller in range(CALLERS)]

    def stop(self) -> None:
        """Raises what a caller could not get answered by either."""
        self._stopping.set()
        self._pool.shutdown()
        for channel in self._channels:
            channel.close()
        for each in self._calling:
            each.result()

    def wait_answers(self, count: int) -> None:
        self._wait(lambda: len(self.answered) >= count)

    def wait_answers_of(self, replica: int) -> None:
        """To each caller, all that it had in flight at another time left behind."""
        wanted = {
            (caller, of): count + IN_FLIGHT + 1
            for (caller, of), count in self._answered_first.items()
            if of == replica
        }
        self._wait(lambda: all(self._answered_first[each] >= n for each, n in wanted.items()))

    def _wait(self, done: Callable[[], bool]) -> None:
        wait_for(lambda: done() or any(each.done() for each in self._calling))

    def _call(self, caller: int) -> None:
        for turn in itertools.count():
            if self._stopping.wait(PAUSE_S):
                return
            names = [f"rolling-{caller}-{turn}-{number}" for number in range(IN_FLIGHT)]
            one, other = self._stubs[turn % 2], self._stubs[1 - turn % 2]
            calls = [one.ModelInfer.future(self._named(n), timeout=CALL_TIMEOUT_S) for n in names]
            for name, call in zip(names, calls, strict=True):
                answer = self._answer_of(call)
                if answer is None:
                    request = self._named(name)
                    answer = other.ModelInfer(request, timeout=CALL_TIMEOUT_S, wait_for_ready=True)
                else:
                    self._answered_first[caller, turn % 2] += 1
                assert (name, "1", 1.5) == (answer.id, *answered(answer))
                self.answered.append(name)

    @staticmethod
    def _answer_of(call) -> oip.ModelInferResponse | None:
        """None where another is to be asked."""
        try:
            return call.result()
        except grpc.RpcError as err:
            if err.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            return None

    def _named(self, name: str) -> oip.ModelInferRequest:
        request = oip.ModelInferRequest()
        request.CopyFrom(self._request)
        request.id = name
        return request


@pytest.mark.timeout(900)  # it starts 22 processes
def test_replica_that_restarts_costs_no_request_of_who_asks_the_other(make_service, platform):
    """P10: of 100,000 requests across 20 restarts each has its answer, and has it once."""
    endpoint = platform.define(f"rolling-{uuid.uuid4().hex[:8]}")
    platform.roll_out(endpoint, 1)
    replicas, folders = [make_service() for _ in range(2)], ["first", "second"]
    for replica, folder in zip(replicas, folders, strict=True):
        replica.start(data_dir=str(replica.folder / folder))
    callers = Callers(replicas, endpoint)
    try:
        for restart in range(RESTARTS):
            callers.wait_answers(restart * ANSWERS_MIN // RESTARTS)
            for number in range(len(replicas)):
                callers.wait_answers_of(number)
            replica, folder = replicas[restart % 2], folders[restart % 2]
            replica.child.ask_to_stop()
            assert 0 == replica.wait_ended()
            replica.start(data_dir=str(replica.folder / folder))
        callers.wait_answers(ANSWERS_MIN)
    finally:
        callers.stop()

    assert ANSWERS_MIN <= len(callers.answered)
    # What a replica had taken up and did not answer would be logged by the other one too.
    asked = {row_id(id_base(name, endpoint), 0) for name in callers.answered}
    logged = platform.logged_when(endpoint, lambda rows: len(rows) >= len(asked))
    assert len(callers.answered) == len(asked) == len(logged)
    assert asked == {row.prediction_id for row in logged}


@pytest.mark.parametrize(
    ("failpoint", "gap"), [("inference.request.half", 0), ("inference.request.answered", 1)]
)
def test_retry_after_a_kill_is_logged_and_the_gap_before_it_is_told(
    make_service, platform, endpoint, failpoint, gap
):
    service = make_service().start(fail=f"{failpoint}:1:kill")
    request_id, key = uuid.uuid4().hex, f"killed-{uuid.uuid4().hex[:8]}"

    with pytest.raises(grpc.RpcError) as lost:
        service.infer(endpoint, key, id=request_id)
    assert grpc.StatusCode.UNAVAILABLE == lost.value.code()
    assert -signal.SIGKILL == service.wait_ended()
    service.start()
    answer = service.infer(endpoint, key, id=request_id)

    rows = platform.logged_when(endpoint, lambda rows: key in {e.entity_key for e in rows})
    logged = [event for event in rows if event.entity_key == key]
    assert [answer.raw_output_contents[1][4:].decode()] == [e.prediction_id for e in logged]
    assert 1 + gap == logged[0].rows_answered


@pytest.fixture
def large_endpoints(platform) -> list[str]:
    """Two, of models that come into memory in turn; their versions answer with their numbers."""
    names = []
    for version in (41, 42):
        platform.version(version, a_large_model(float(version), size_bytes=LARGE_BYTES))
        names.append(platform.define(f"large-{uuid.uuid4().hex[:8]}"))
        platform.roll_out(names[-1], version)
    return names


def metric(service: Service, name: str) -> float:
    told = re.search(rf"^headrace_inference_{name} (.+)$", service.metrics(), re.MULTILINE)
    return float(told.group(1))


def asked_in_turn(service: Service, endpoints: Sequence[str], rounds: int) -> list[float]:
    answers = [service.infer(name, "UA-1") for _ in range(rounds) for name in endpoints]
    return [np.frombuffer(a.raw_output_contents[0], "<f4").item() for a in answers]


def test_models_that_do_not_fit_into_memory_together_answer_in_turn(
    make_service, platform, large_endpoints
):
    service = make_service().start(model_memory_bytes_max=str(LARGE_MEMORY_BYTES))
    before = metric(service, "model_evictions_total")

    assert [41.0, 42.0] * 3 == asked_in_turn(service, large_endpoints, 3)
    assert 5 <= metric(service, "model_evictions_total") - before
    assert LARGE_BYTES < metric(service, "models_resident_bytes") <= LARGE_MEMORY_BYTES


def test_damaged_file_of_a_model_that_left_memory_is_fetched_anew(
    make_service, platform, large_endpoints, tmp_path
):
    service = make_service().start(model_memory_bytes_max=str(LARGE_MEMORY_BYTES))
    kept = [tmp_path / "models" / platform.served[version].digest for version in (41, 42)]
    for file in kept:
        file.write_bytes(file.read_bytes()[:-1] + b"?")

    assert [41.0, 42.0, 41.0] == [
        *asked_in_turn(service, large_endpoints, 1),
        *asked_in_turn(service, large_endpoints[:1], 1),
    ]
    assert [file.name for file in kept] == [sha256(f.read_bytes()).hexdigest() for f in kept]


def test_kill_while_a_request_brings_its_model_back_leaves_nothing_half(
    make_service, platform, large_endpoints, tmp_path
):
    memory = {"model_memory_bytes_max": str(LARGE_MEMORY_BYTES)}
    service = make_service().start(**memory)
    service.child.stop()  # it starts again from its files, without a download
    service.start(fail="inference.model.download_half:3:kill", **memory)
    for file in (tmp_path / "models").iterdir():
        file.unlink()
    with pytest.raises(grpc.RpcError) as lost:
        asked_in_turn(service, large_endpoints, 1)
    assert grpc.StatusCode.UNAVAILABLE == lost.value.code()
    assert -signal.SIGKILL == service.wait_ended()

    service.start(**memory)

    assert [41.0, 42.0] == asked_in_turn(service, large_endpoints, 1)


def test_model_larger_than_the_memory_for_models_is_refused_and_others_serve(
    make_service, platform, endpoint, large_endpoints
):
    service = make_service().start(model_memory_bytes_max=str(LARGE_BYTES // 2))

    service.infer(endpoint, "UA-1")
    index = service.stub.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=CALL_TIMEOUT_S)
    reasons = {model.name: model.reason for model in index.models}
    assert ["MODEL_TOO_LARGE"] * 2 == [reasons[name] for name in large_endpoints]


def spread_rows(endpoint: str, rows: int) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=endpoint)
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 1])
    request.raw_input_contents.append(np.ones((rows, 1), "<f4").tobytes())
    return request


def test_request_of_a_kilobyte_does_not_take_the_memory(make_service, platform):
    """Of a model of a hundred bytes, that makes 4 MB of each row."""
    name = platform.define(f"spread-{uuid.uuid4().hex[:8]}")
    digest = platform.artifacts.upload(a_spreading_model(1_000_000))
    platform.served[951] = registry_pb.ServedVersion(version=951, digest=digest)
    platform.roll_out(name, 951)
    service = make_service().start()
    service.wait_version(name, 951)

    with pytest.raises(grpc.RpcError) as refused:
        service.stub.ModelInfer(spread_rows(name, 300), timeout=CALL_TIMEOUT_S)

    assert grpc.StatusCode.RESOURCE_EXHAUSTED == refused.value.code()
    assert "BATCH_TOO_LARGE" in refused.value.details()
    answer = service.stub.ModelInfer(spread_rows(name, 1), timeout=CALL_TIMEOUT_S)
    assert 4_000_000 == len(answer.raw_output_contents[0])
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{service.child.pid}/status").read_text())
    assert int(peak[1]) < 1 << 20


@pytest.mark.parametrize("failpoint", ["inference.model.download_half", "inference.model.verified"])
def test_kill_while_loading_leaves_nothing_half(make_service, platform, failpoint):
    name = platform.define(f"load-{uuid.uuid4().hex[:8]}")
    platform.roll_out(name, 31)
    service = make_service().start(fail=f"{failpoint}:1:kill", wait=False)
    assert -signal.SIGKILL == service.wait_ended()

    service.start()

    answer = service.infer(name, "UA-1")
    assert ("31", [np.float32(31.25)]) == (
        answer.model_version,
        np.frombuffer(answer.raw_output_contents[0], dtype="<f4").tolist(),
    )


@pytest.mark.parametrize("failpoint", ["inference.model.download_half", "inference.model.verified"])
def test_old_version_serves_while_a_load_stands_half_until_it_is_killed(
    make_service, platform, tmp_path, failpoint
):
    name = platform.define(f"load-{uuid.uuid4().hex[:8]}")
    platform.roll_out(name, 33)
    service = make_service().start()
    service.child.stop()
    service.start()  # from its files, without a download, as the next time
    loaded = int(metric(service, "swaps_total"))
    service.child.stop()
    hit = 1 if failpoint == "inference.model.download_half" else 1 + loaded
    service.start(fail=f"{failpoint}:{hit}:sleep:{DEADLINE_S}")
    file, log = tmp_path / "models" / platform.version(34).digest, tmp_path / "inference.log"

    platform.roll_out(name, 34)
    wait_for(lambda: "failpoint_hit" in log.read_text())
    whole = failpoint == "inference.model.verified"
    answers = [service.infer(name, f"UA-{number}") for number in range(50)]
    assert whole == file.exists()
    assert {("33", 33.25)} == {answered(each) for each in answers}
    service.child.kill()
    service.start()

    assert ("34", 34.25) == answered(service.infer(name, "UA-1"))
    assert file.name == sha256(file.read_bytes()).hexdigest()


def answered(answer: oip.ModelInferResponse) -> tuple[str, float]:
    """The version and the score of a row."""
    return answer.model_version, np.frombuffer(answer.raw_output_contents[0], "<f4").item()


def test_request_that_a_kill_while_draining_cut_short_is_asked_again_and_logged_once(
    make_service, platform, endpoint
):
    hold = "inference.request.half:2:sleep:60"
    service = make_service().start(fail=f"{hold},inference.drain.half:1:kill")
    names = [f"{name}-{uuid.uuid4().hex[:8]}" for name in ("given", "held")]
    given, held = names
    answers = [service.infer(endpoint, given, id=given)]
    platform.logged_when(endpoint, lambda rows: given in {event.entity_key for event in rows})
    waiting = service.stub.ModelInfer.future(
        keys_request(endpoint, held, id=held), timeout=CALL_TIMEOUT_S
    )
    wait_for(lambda: held in platform.features.keys_asked())

    service.child.ask_to_stop()
    assert -signal.SIGKILL == service.wait_ended()
    assert grpc.StatusCode.UNAVAILABLE == waiting.code()
    service.start()
    answers += [service.infer(endpoint, name, id=name) for name in (held, given)]

    # Of the second answer to the same request the log has a second row, by the same id. Two keys
    # may lie in two partitions, and no order is told between those.
    rows = platform.logged_when(
        endpoint, lambda rows: 3 <= sum(event.entity_key in names for event in rows)
    )
    logged = [(e.entity_key, e.prediction_id) for e in rows if e.entity_key in names]
    ids = [each.raw_output_contents[1][4:].decode() for each in answers]
    assert sorted(zip((given, held, given), ids, strict=True)) == sorted(logged)
    assert ids[0] == ids[2] != ids[1]


def test_cached_model_serves_while_the_registry_is_away(make_service, platform, endpoint):
    service = make_service().start()
    service.child.stop()

    service.start(registry_address="127.0.0.1:1")

    assert "1" == service.infer(endpoint, "UA-1").model_version


@pytest.mark.parametrize("door", ["native", "grpcio"])
def test_inference_without_file_descriptors_answers_who_is_connected_and_goes_on(
    make_service, platform, endpoint, door
):
    """Strangers take all that are left; a version that came meanwhile is served when they go."""
    (rest_port,) = pick_ports(1)
    service = make_service().start(grpc_door=door, rest_port=str(rest_port))
    other, ports = platform.define(f"other-{uuid.uuid4().hex[:8]}"), (service.grpc_port, rest_port)
    service.infer(endpoint, "connects")
    process = psutil.Process(service.child.pid)
    limit = process.num_fds() + SPARE_FDS
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, hard))

    with contextlib.ExitStack() as strangers:
        for port in SPARE_FDS * ports:
            strangers.enter_context(socket.create_connection(("127.0.0.1", port), CALL_TIMEOUT_S))
        wait_for(lambda: process.num_fds() >= limit)
        keys = {f"without-{number}-{uuid.uuid4().hex[:8]}" for number in range(20)}
        for key in keys:
            service.infer(endpoint, key)
        platform.roll_out(other, 1)

    def goes_on() -> bool:
        """Asked by a new connection; the door has one behind it for each."""
        with grpc.insecure_channel(service.address) as later:
            stub = oip_grpc.GRPCInferenceServiceStub(later)
            try:
                stub.ModelInfer(keys_request(endpoint, "later"), timeout=CALL_TIMEOUT_S)
                asked = oip.ModelReadyRequest(name=other, version="1")
                return stub.ModelReady(asked, timeout=CALL_TIMEOUT_S).ready
            except grpc.RpcError as err:
                if err.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                return False

    wait_for(goes_on)
    platform.logged_when(endpoint, lambda rows: keys <= {each.entity_key for each in rows})


def test_replica_that_starts_again_listens_when_it_can_answer(make_service, platform):
    name = platform.define(f"restart-{uuid.uuid4().hex[:8]}")
    platform.artifacts.slow.add(platform.version(90).digest)
    platform.roll_out(name, 90)
    service = make_service().start(wait=False)

    held = service.stub.ModelInfer.future(
        keys_request(name, "UA-1"), timeout=4 * CALL_TIMEOUT_S, wait_for_ready=True
    )

    assert "90" == held.result().model_version


def test_service_waits_unready_for_a_registry_that_is_away(make_service, platform, endpoint):
    service = make_service().start(registry_address="127.0.0.1:1", wait=False)
    request = oip.RepositoryIndexRequest()

    def refused():
        with contextlib.suppress(grpc.RpcError):
            models = service.stub.RepositoryIndex(request, timeout=CALL_TIMEOUT_S).models
            return any(m.name == endpoint and m.reason == "SERVICE_UNAVAILABLE" for m in models)

    wait_until(refused)  # it listens after a while, for what it can answer
    assert not service.child.ready()
    assert not service.stub.ServerReady(oip.ServerReadyRequest(), timeout=5).ready


def test_feature_service_away_is_told_and_tensors_go_on(make_service, platform, endpoint):
    service = make_service().start(feature_address="127.0.0.1:1")

    with pytest.raises(grpc.RpcError) as away:
        service.infer(endpoint, "UA-1")
    assert grpc.StatusCode.UNAVAILABLE == away.value.code()
    assert "SERVICE_UNAVAILABLE" in away.value.details()
    with contextlib.closing(triton.InferenceServerClient(service.address)) as client:
        answer = client.infer(endpoint, [triton_features()])
    np.testing.assert_array_equal([1.0], answer.as_numpy("score"))


def a_view_with_rows(name: str, features: Sequence[str]) -> Definition:
    count = {"aggregate": "count", "window": "1h"}
    return parse_definition(
        {
            "kind": "view",
            "name": name,
            "description": "Flights.",
            "stream": "flights",
            "entity": ["flight_id"],
            "features": dict.fromkeys(features, count),
            "publish_rows": True,
        }
    )


def test_features_come_from_rows_where_these_are_the_answer(make_service, platform, endpoint):
    by_view: dict[str, list[str]] = {}
    for feature in FEATURES:
        view, _, name = feature.partition(":")
        by_view.setdefault(view, []).append(name)
    wanted = [(topics.FEATURE_ROWS.of(view), topics.FEATURE_ROWS) for view in by_view]
    # What is defined here is defined for all who share the broker: a feature service awaits it.
    wanted.append((topics.INGEST_RECORDS.of("flights"), topics.INGEST_RECORDS))
    create_topics(platform.bootstrap, wanted)
    for view, names in by_view.items():
        spec_json = definition_json(a_view_with_rows(view, names))
        definition = registry_pb.Definition(kind="view", name=view, spec_json=spec_json)
        platform._publish(topics.REGISTRY_DEFINITIONS.name, f"view/{view}", definition)
        row = feature_events.FeatureRowChanged(
            view=view,
            entity="UA-1",
            features=names,
            values=np.full(len(names), 0.5, "<f4").tobytes(),
            from_us=100,
            until_us=200,
            definition_digest=sha256(spec_json).hexdigest(),
        )
        platform._publish(topics.FEATURE_ROWS.of(view), "UA-1", row)
    service = make_service().start(feature_rows=",".join(by_view))

    def features_of(flight: str, as_of_us: int) -> list[float]:
        with contextlib.closing(triton.InferenceServerClient(service.address)) as client:
            answer = client.infer(
                endpoint,
                triton_keys(flight),
                outputs=[triton.InferRequestedOutput("features")],
                parameters={"as_of_us": as_of_us},
            )
        return answer.as_numpy("features")[0].tolist()

    assert [0.5, 0.5, 0.5] == features_of("UA-1", 199)
    assert 0.25 == features_of("UA-1", 200)[0]
    assert 0.25 == features_of("UA-2", 199)[0]


@pytest.fixture
def flights(platform: Platform, tmp_path: Path) -> Iterator[Flights]:
    made = Flights(platform, tmp_path)
    yield made
    made.close()


class Flights:
    """A stream with one record and a view on it, which a feature service answers."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self.name, self.platform = f"flights-{uuid.uuid4().hex[:8]}", platform
        self.topic = topics.INGEST_RECORDS.of(self.name)
        wanted = [(self.topic, topics.INGEST_RECORDS), (topics.RAW.of(self.name), topics.RAW)]
        create_topics(platform.bootstrap, wanted)
        self.event_us = time.time_ns() // 1_000 - 60_000_000
        self.publish("UA-1")
        self.definitions = [parse_definition(each) for each in self._documents()]
        for definition in self.definitions:
            platform.apply(definition)
        ports = pick_ports(2)
        self.address = f"127.0.0.1:{ports[0]}"
        told = {
            "KAFKA_BOOTSTRAP": platform.bootstrap,
            "DATA_DIR": str(folder / "feature"),
            "OBJECT_STORE_URI": (folder / "objects").as_uri(),
        }
        self.child = Child(service_process("feature", ports, told), folder / "feature.log", folder)
        self.child.wait_ready()

    def _documents(self) -> list[dict[str, object]]:
        stream = {"name": self.name, "owner": "tests", "event_time": "at"}
        stream |= dict.fromkeys(("key", "id"), "flight_id")
        columns = {"flight_id": {"type": "string"}, "at": {"type": "timestamp"}}
        told = {"description": "Flights.", "lateness_allowed": "1h", "columns": columns}
        count = {"aggregate": "count", "window": "1h"}
        view = {"name": self.name, "description": "Of a flight.", "entity": ["flight_id"]}
        return [
            {"kind": "stream", **stream, **told},
            {"kind": "view", **view, "stream": self.name, "features": {"seen": count}},
        ]

    def publish(self, flight: str) -> None:
        envelope = {"_id": flight, "_event_us": self.event_us, "_known_us": self.event_us}
        value = {**envelope, "_published_ms": 1, "flight_id": flight, "at": self.event_us}
        record = Message(self.topic, b"UA-1", json.dumps(value).encode(), (), 0)
        self.platform.publisher.publish([record])

    @contextlib.contextmanager
    def held_up(self) -> Iterator[None]:
        """Nothing more is read of the stream: a publisher's transaction is open."""
        producer = Producer(
            {"bootstrap.servers": self.platform.bootstrap, "transactional.id": self.name}
        )
        producer.init_transactions(CALL_TIMEOUT_S)
        producer.begin_transaction()
        producer.produce(self.topic, value=b"", key=b"UA-1", partition=0)
        producer.flush(CALL_TIMEOUT_S)
        try:
            yield
        finally:
            producer.abort_transaction(CALL_TIMEOUT_S)

    def close(self) -> None:
        self.child.stop()
        topic = topics.REGISTRY_DEFINITIONS.name
        keys = [f"{each.kind}/{each.name}".encode() for each in reversed(self.definitions)]
        self.platform.publisher.publish([Message(topic, key, None) for key in keys])


def test_features_further_behind_than_their_endpoint_allows_are_refused(
    make_service, platform, flights
):
    platform.served[960] = registry_pb.ServedVersion(
        version=960,
        digest=platform.artifacts.upload(a_model(960.0, width=1)),
        features=[f"{flights.name}:seen"],
    )
    bounded = platform.define(f"bounded-{uuid.uuid4().hex[:8]}", staleness_max="3s")
    patient = platform.define(f"patient-{uuid.uuid4().hex[:8]}")
    for name in (bounded, patient):
        platform.roll_out(name, 960)
    service = make_service().start(feature_address=flights.address)

    def refused(name: str) -> str:
        """The reason with its code, or nothing."""
        try:
            service.infer(name, "UA-1")
        except grpc.RpcError as err:
            return f"{err.code().name} {err.details()}"
        return ""

    wait_for(lambda: not refused(bounded))
    (row, *_) = platform.logged_when(bounded, bool)
    assert ((1.0,), (flights.event_us,)) == (row.features, row.event_times_us)

    with flights.held_up():
        wait_for(lambda: "FAILED_PRECONDITION FEATURES_STALE" in refused(bounded))
        assert "" == refused(patient)
    flights.publish("UA-2")  # behind what was aborted, which counts as unread until then
    wait_for(lambda: not refused(bounded))


def asked_over_http(
    port: int, endpoint: str, rows: int, first: float
) -> tuple[list[float], list[str]]:
    """Scores and prediction ids."""
    tensor = {
        "name": "features",
        "datatype": "FP32",
        "shape": [rows, 3],
        "data": [first] * 3 * rows,
    }
    body = json.dumps({"inputs": [tensor]})
    with contextlib.closing(
        HTTPConnection("127.0.0.1", port, timeout=CALL_TIMEOUT_S)
    ) as connection:
        connection.request("POST", f"/v2/models/{endpoint}/infer", body)
        told = json.loads(connection.getresponse().read())
    outputs = {each["name"]: each["data"] for each in told["outputs"]}
    return outputs["score"], outputs["prediction_id"]


@pytest.mark.parametrize("door", ["native", "grpcio"])
def test_calls_that_come_together_are_answered_by_either_door(
    make_service, platform, endpoint, door
):
    (rest_port,) = pick_ports(1)
    service = make_service().start(grpc_door=door, rest_port=str(rest_port))
    with (
        ThreadPoolExecutor(16) as pool,
        contextlib.closing(triton.InferenceServerClient(service.address)) as client,
    ):

        def ask(number: int) -> tuple[list[float], list[str]]:
            rows, first = 1 + number % 3, float(number)
            if number % 2:
                return asked_over_http(rest_port, endpoint, rows, first)
            answer = client.infer(endpoint, [triton_features(rows=rows, first=first)])
            ids = [each.decode() for each in answer.as_numpy("prediction_id")]
            return answer.as_numpy("score").tolist(), ids

        answers = list(pool.map(ask, range(200)))

    for number, (scores, _) in enumerate(answers):
        assert [1.0 + number] * (1 + number % 3) == scores
    ids = {each for _, found in answers for each in found}
    assert 399 == len(ids)
    platform.logged_when(endpoint, lambda rows: ids <= {row.prediction_id for row in rows})


def test_taken_port_says_what_to_do(service, make_service):
    second = make_service()
    second.grpc_port = service.grpc_port

    second.start(wait=False)

    assert 69 == second.wait_ended()
    assert "PORT_TAKEN" in second.child.log.read_text()


def test_wrong_setting_is_refused_by_name(make_service):
    service = make_service().start(wait=False, rows_maximum="5")

    assert 78 == service.wait_ended()
    assert "INFERENCE_ROWS_MAXIMUM" in service.child.log.read_text()
