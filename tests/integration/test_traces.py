# SPDX-License-Identifier: Apache-2.0
"""One trace from a caller's span to who reads what became of it, over real processes and Kafka.

The test plays the registry, and the collector: an HTTP server that takes OTLP.
"""

from __future__ import annotations

import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.errors import HeadraceError
from headrace.local.ports import pick_ports
from headrace.local.process import Child
from headrace.local.service_process import service_process
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from headrace.registry.v1 import registry_events_pb2 as registry_pb
from headrace.registry.v1 import registry_service_pb2 as artifact_pb
from headrace.registry.v1 import registry_service_pb2_grpc as artifact_grpc
from headrace.rpc import call, open_channel
from headrace_inference.testing import a_model
from headrace_kit.auth import Guard
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.kafka import KafkaPublisher, Message
from headrace_kit.testing import recorded_spans, wait_until
from headrace_monitor.testing import Scene, a_definition

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
CALL_TIMEOUT_S = 15.0
SERVER, CLIENT = trace_pb2.Span.SPAN_KIND_SERVER, trace_pb2.Span.SPAN_KIND_CLIENT
PRODUCER, CONSUMER = trace_pb2.Span.SPAN_KIND_PRODUCER, trace_pb2.Span.SPAN_KIND_CONSUMER


class Collector:
    """Takes OTLP over HTTP; `gate` closed holds the answers."""

    def __init__(self) -> None:
        self.spans_by_service: dict[str, list[trace_pb2.Span]] = defaultdict(list)
        self.asked, self.gate = threading.Event(), threading.Event()
        self.gate.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.take(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing is printed."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def take(self, body: bytes) -> None:
        self.asked.set()
        self.gate.wait(DEADLINE_S)
        for told in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = {each.key: each.value.string_value for each in told.resource.attributes}
            spans = [span for scope in told.scope_spans for span in scope.spans]
            self.spans_by_service[resource["service.name"]] += spans

    def span(self, service: str, kind: int, name: str = "") -> trace_pb2.Span:
        """The only one of this kind and name, waited for; without a name the only one."""

        def found() -> list[trace_pb2.Span]:
            spans = list(self.spans_by_service[f"headrace-{service}"])
            return [span for span in spans if span.kind == kind and name in ("", span.name)]

        wait_until(found, timeout_s=DEADLINE_S)
        (span,) = found()
        return span

    def close(self) -> None:
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()


class Artifacts(artifact_grpc.ArtifactServiceServicer):
    """Has one model, whose answer is 1 and the first feature."""

    def __init__(self) -> None:
        self.data = a_model(1.0, width=1)

    def DownloadArtifact(self, request, context):  # noqa: N802 - gRPC's name
        yield artifact_pb.DownloadArtifactResponse(chunk=self.data)


class Platform:
    """Kafka, the registry's hand on it, and the processes that are traced."""

    def __init__(self, bootstrap: str, folder: Path, collector: Collector) -> None:
        self.bootstrap, self.folder, self.collector = bootstrap, folder, collector
        self.scene = Scene(f"-{uuid.uuid4().hex[:8]}")
        self.view = f"asked-{uuid.uuid4().hex[:8]}"
        self.children: list[Child] = []
        self.http_ports: dict[str, int] = {}
        self.publisher = KafkaPublisher(bootstrap, client_id="test")
        self.artifacts = Artifacts()
        self.peer = GrpcServer(
            host="127.0.0.1",
            port=0,
            services=[(artifact_grpc.add_ArtifactServiceServicer_to_server, self.artifacts)],
            names=["headrace.registry.v1.ArtifactService"],
            guard=Guard("tests", None),
        )
        self.registry_address = f"127.0.0.1:{self.peer.start()}"

    def apply(self) -> None:
        scene, streams = self.scene, (self.scene.scheduled, self.scene.arrived)
        create_topics(self.bootstrap, static_topics())
        records, logs = topics.INGEST_RECORDS, topics.INFERENCE_PREDICTIONS
        create_topics(self.bootstrap, [(records.of(stream), records) for stream in streams])
        names = (scene.name, scene.static)
        create_topics(self.bootstrap, [(logs.of(name), logs) for name in names])
        wanted = topics.INFERENCE_REQUESTS
        create_topics(self.bootstrap, [(wanted.of(name), wanted) for name in names])
        view = {
            "kind": "view",
            "name": self.view,
            "description": "What the caller says.",
            "features": {"distance": {"transform": "value", "column": "distance"}},
        }
        documents = [view, *scene.documents()]
        for document in documents:
            if document["kind"] == "endpoint":
                document["columns"]["distance"] = "float64"
        self.publisher.publish([a_definition(document) for document in documents])
        self.publisher.publish([self._rollout()])

    def _rollout(self) -> Message:
        scene = self.scene
        rollout = registry_pb.Rollout(
            endpoint=scene.name, model=scene.name, generation=1, change="test"
        )
        rollout.champion.version = 1
        rollout.champion.digest = sha256(self.artifacts.data).hexdigest()
        rollout.champion.features.append(f"{self.view}:distance")
        key = scene.name.encode()
        return Message(topics.REGISTRY_ROLLOUTS.name, key, rollout.SerializeToString())

    def start(self, service: str, told: dict[str, str], **otel: str) -> tuple[Child, str]:
        """The process, when it is ready, and its gRPC address."""
        grpc_port, http_port = pick_ports(2)
        self.http_ports[service] = http_port
        settings = {
            "KAFKA_BOOTSTRAP": self.bootstrap,
            "DATA_DIR": str(self.folder / service),
            **told,
        }
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            **otel,
        }
        spec = service_process(service, (grpc_port, http_port), settings, environment=environment)
        child = Child(spec, self.folder / f"{service}.log", self.folder)
        self.children.append(child)
        child.wait_ready()
        return child, f"127.0.0.1:{grpc_port}"

    def metric(self, service: str, name: str) -> float:
        address = f"http://127.0.0.1:{self.http_ports[service]}/metrics"
        with urlopen(address, timeout=CALL_TIMEOUT_S) as told:
            lines = [line for line in told.read().decode().splitlines() if line.startswith(name)]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    def close(self) -> None:
        for child in self.children:
            child.stop()
        removed = [a_definition(document) for document in self.scene.documents()]
        keys = [*(each.key for each in removed), f"view/{self.view}".encode()]
        topic = topics.REGISTRY_DEFINITIONS.name
        self.publisher.publish([Message(topic, key, None) for key in keys])
        self.publisher.close(5.0)
        self.peer.stop(1.0)


@pytest.fixture
def platform(kafka_server: str, tmp_path: Path) -> Iterator[Platform]:
    collector = Collector()
    made = Platform(kafka_server, tmp_path, collector)
    made.apply()
    yield made
    made.close()
    collector.close()


@contextmanager
def a_program() -> Iterator[trace.Span]:
    """Its span, in which it calls."""
    with recorded_spans(), trace.get_tracer("shop").start_as_current_span("order") as span:
        yield span


def by_key(platform: Platform, *keys: str) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=platform.scene.name, id=f"order-{keys[0]}")
    entity = request.inputs.add(name=platform.scene.entity_key, datatype="BYTES", shape=[len(keys)])
    entity.contents.bytes_contents.extend(key.encode() for key in keys)
    distance = request.inputs.add(name="distance", datatype="FP64", shape=[len(keys)])
    distance.contents.fp64_contents.extend([0.5] * len(keys))
    return request


def wait_served(platform: Platform, stub: oip_grpc.GRPCInferenceServiceStub) -> None:
    request = oip.ModelReadyRequest(name=platform.scene.name)

    def ready() -> bool:
        try:
            return call(stub.ModelReady, request, timeout_s=CALL_TIMEOUT_S).ready
        except HeadraceError:
            return False

    wait_until(ready, timeout_s=DEADLINE_S)


def attributes(span: trace_pb2.Span) -> dict[str, object]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }


def test_one_trace_leads_from_the_caller_to_who_reads_the_prediction_log(platform):
    collector, log = platform.collector, topics.INFERENCE_PREDICTIONS.of(platform.scene.name)
    _, feature = platform.start("feature", {"OBJECT_STORE_URI": platform.folder.as_uri()})
    _, inference = platform.start(
        "inference",
        {"FEATURE_ADDRESS": feature, "REGISTRY_ADDRESS": platform.registry_address},
    )
    platform.start("monitor", {})
    with open_channel(inference) as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        wait_served(platform, stub)
        call(stub.ModelInfer, by_key(platform, "untraced"), timeout_s=CALL_TIMEOUT_S)
        with a_program() as program:
            call(stub.ModelInfer, by_key(platform, "f-1"), timeout_s=CALL_TIMEOUT_S)

    rpc, read = (
        "inference.GRPCInferenceService/ModelInfer",
        ("headrace.feature.v1.FeatureService/GetOnlineFeatures"),
    )
    served = collector.span("inference", SERVER, rpc)
    asked = collector.span("inference", CLIENT, read)
    answered = collector.span("feature", SERVER, read)
    written = collector.span("inference", PRODUCER, f"send {log}")
    # Its name tells the topic, unless the batch held records of others too.
    folded = collector.span("monitor", CONSUMER)

    way = [served, asked, answered, written, folded]
    wanted = program.get_span_context().trace_id.to_bytes(16, "big")
    assert {wanted} == {span.trace_id for span in way}
    assert served.span_id == asked.parent_span_id == written.parent_span_id
    assert asked.span_id == answered.parent_span_id
    assert [served.span_id] == [link.span_id for link in written.links]
    assert [written.span_id] == [link.span_id for link in folded.links]
    told = attributes(served)
    assert ("order-f-1", platform.scene.name, 1) == (
        told["headrace.request.id"],
        told["headrace.endpoint"],
        told["headrace.model.version"],
    )


def test_collector_that_hangs_slows_no_call_and_no_exit(platform):
    collector = platform.collector
    collector.gate.clear()
    child, inference = platform.start(
        "inference",
        {"REGISTRY_ADDRESS": platform.registry_address},
        OTEL_BSP_MAX_QUEUE_SIZE="20",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10",
    )
    request = oip.ModelInferRequest(model_name=platform.scene.name)
    tensor = request.inputs.add(name="features", datatype="FP32", shape=[1, 1])
    tensor.contents.fp32_contents.append(0.5)
    with open_channel(inference) as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        wait_served(platform, stub)
        with a_program():
            for _ in range(100):
                answer = call(stub.ModelInfer, request, timeout_s=CALL_TIMEOUT_S)
                assert [1.5] == list(answer.outputs[0].contents.fp32_contents)

    assert collector.asked.wait(DEADLINE_S)
    lost = 'headrace_inference_trace_lost_spans_total{reason="QUEUE_FULL"}'
    assert 100 < platform.metric("inference", lost)
    child.ask_to_stop()
    wait_until(lambda: child.died() is not None, timeout_s=DEADLINE_S)
    assert 0 == child.died()
    assert not collector.gate.is_set()
