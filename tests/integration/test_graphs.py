# SPDX-License-Identifier: Apache-2.0
"""A graph of two models, from its declaration to its answers: registry, trainer and inference.

Its models are registered files, so that no stream is needed; what a recipe measures is a test of
the trainer's own.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile

import grpc
import numpy as np
import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.application import Endpoint, Graph, build_application, parse_definition
from headrace.client import Addresses, Client
from headrace.errors import Conflict, Corrupt, HeadraceError, Invalid, NotFound, Unavailable
from headrace.graph_plan import plan_graph
from headrace.local.ports import pick_ports
from headrace.local.process import Child
from headrace.local.service_process import service_process
from headrace.model_definition import Model
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from headrace.registry.v1 import registry_events_pb2 as events
from headrace_kit.kafka import Partition
from headrace_kit.offsets import topic_end_offsets
from headrace_kit.testing import wait_until
from headrace_registry.adapters.child_acceptor import ChildAcceptor
from headrace_trainer.adapters.graph_training import compile_graph
from headrace_trainer.toy_models import ToyModel, a_linear_model, a_two_headed_model

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
CALL_TIMEOUT_S = 10.0
ROWS = {
    "x": np.array([0.5, -2.0, 3.0], np.float32),
    "y": np.array([1.0, 0.0, -1.0], np.float32),
}


def end_offsets(bootstrap: str, names: list[str]) -> dict[Partition, int] | None:
    """None while a new topic has no leader yet."""
    try:
        return topic_end_offsets(bootstrap, names)
    except (Unavailable, KafkaException):
        return None


@pytest.fixture(scope="module")
def bootstrap(kafka_server: str) -> str:
    """Kafka without runs and requests of other tests."""
    create_topics(kafka_server, static_topics())
    read = (topics.TRAINER_REQUESTS, topics.TRAINER_RUNS, topics.MONITOR_VERDICTS)
    names = [each.name for each in read]
    ends = wait_until(lambda: end_offsets(kafka_server, names))
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})
    gone = admin.delete_records([TopicPartition(*each, offset) for each, offset in ends.items()])
    for done in gone.values():
        done.result(CALL_TIMEOUT_S)
    return kafka_server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def client(bootstrap: str, folder: Path) -> Iterator[Client]:
    """Of a registry, a trainer and an inference service."""
    registry, trainer, inference, *http = pick_ports(6)
    registry_at = f"127.0.0.1:{registry}"
    with ExitStack() as running:
        for name, port, http_port in zip(
            ("registry", "trainer", "inference"), (registry, trainer, inference), http, strict=True
        ):
            data = folder / name
            data.mkdir()
            settings = {"KAFKA_BOOTSTRAP": bootstrap, "DATA_DIR": str(data)}
            if name != "registry":
                settings["REGISTRY_ADDRESS"] = registry_at
            spec = service_process(name, (port, http_port), settings)
            child = Child(spec, data / f"{name}.log", data)
            running.callback(child.stop)
            child.wait_ready()
        yield Client(
            Addresses(
                kafka=bootstrap,
                registry=registry_at,
                trainer=f"127.0.0.1:{trainer}",
                inference=f"127.0.0.1:{inference}",
            )
        )


def a_graph(name: str, one: str, two: str, **changes: object) -> Graph:
    graph = parse_definition(
        {
            "kind": "graph",
            "name": name,
            "description": "Two models, and a rule for what is far.",
            "inputs": {"x": "float32", "y": "float32"},
            "steps": {
                "near": {
                    "model": f"{one}@champion",
                    "inputs": {"features": ["x", "y"]},
                    "outputs": {"score": "float32"},
                },
                "far": {
                    "model": f"{two}/1",
                    "inputs": {"features": ["y"]},
                    "outputs": {"score": "float32"},
                },
                "both": {"ensemble": "mean", "of": ["near", "far"]},
                "chosen": {"branch": [{"when": "x > 1", "then": "far"}], "otherwise": "both"},
            },
            "outputs": {"score": "chosen"},
            **changes,
        }
    )
    assert isinstance(graph, Graph)
    return graph


def expected(one: ToyModel, two: ToyModel) -> np.ndarray:
    near = one.answer({"features": np.stack([ROWS["x"], ROWS["y"]], axis=1)})["score"]
    far = two.answer({"features": ROWS["y"][:, None]})["score"]
    return np.where(ROWS["x"] > 1, far, (near + far) / 2)


class Story:
    """An application with names of its own: two registered models, a graph of them, an endpoint."""

    def __init__(self, client: Client) -> None:
        self.client, self.name = client, f"g{uuid.uuid4().hex[:12]}"
        self.one, self.two = f"{self.name}-one", f"{self.name}-two"

    def declare(self) -> None:
        """The models alone, for the version that the graph names must be there before it."""
        self.client.apply(build_application(self.name, self._models()))

    def apply(self, **changes: object) -> None:
        endpoint = Endpoint(name=self.name, description="Ask.", model=self.name)
        graph = a_graph(self.name, self.one, self.two, **changes)
        self.client.apply(build_application(self.name, [*self._models(), graph, endpoint]))

    def _models(self) -> list[Model]:
        return [Model(name=name, description="A toy.") for name in (self.one, self.two)]

    def register(self, model: str, toy: ToyModel, *, approve: bool = True) -> events.ModelVersion:
        version = self.client.models.register(model, toy.onnx)
        if approve:
            self.client.models.approve(f"{model}/{version.version}", approver="tests")
        return version

    def train(self) -> events.ModelVersion:
        """The version that comes of it, its gate open."""
        before = len(self.client.versions(self.name))
        self.client.wait_run(wait_until(self._submitted), timeout_s=DEADLINE_S)
        wait_until(lambda: len(self.client.versions(self.name)) > before, timeout_s=DEADLINE_S)
        version = self.client.versions(self.name)[0]
        assert events.GATE_STATE_AWAITS_APPROVAL == version.gate.state
        return self.client.models.approve(f"{self.name}/{version.version}", approver="tests")

    def _submitted(self) -> str | None:
        """The run's id; None while the trainer does not know the graph yet."""
        try:
            return self.client.train(self.name)
        except NotFound:
            return None

    def answers(self, version: int) -> np.ndarray:
        """Of the endpoint, once it serves this version."""
        with grpc.insecure_channel(self.client.addresses.inference) as channel:
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            ready = oip.ModelReadyRequest(name=self.name, version=str(version))
            wait_until(lambda: stub.ModelReady(ready, timeout=CALL_TIMEOUT_S).ready)
            request = oip.ModelInferRequest(model_name=self.name)
            for name, values in ROWS.items():
                request.inputs.add(name=name, datatype="FP32", shape=values.shape)
                request.raw_input_contents.append(values.tobytes())
            answer = stub.ModelInfer(request, timeout=CALL_TIMEOUT_S)
        assert str(version) == answer.model_version
        place = [each.name for each in answer.outputs].index("score")
        return np.frombuffer(answer.raw_output_contents[place], np.float32)


RICH = {
    "kind": "graph",
    "name": "rich",
    "description": "Every kind of step and of tensor.",
    "inputs": {
        "x": "float32", "d": "float64", "n": "int64", "k": "int32", "s": "string", "b": "bool",
        "v": "float32[3]", "unread": "float32",
    },
    "steps": {
        "numbers": {"expression": "ROUND(x / (d + 2), 2) + n % 3 - ABS(k) * SQRT(v_1) + LN(d + 1)"},
        "whole": {"expression": "COALESCE(n * k, 0)", "type": "int64"},
        "exact": {"expression": "EXP(d) - FLOOR(x) + CEIL(x)", "type": "float64"},
        "kept": {"expression": "NOT b AND x > 0 OR n IN (1, 2) OR s = 'UA' OR d IS NULL"},
        "word": {"expression": "CASE WHEN kept THEN s ELSE 'none' END"},
        "scaled": {"expression": "LEAST(GREATEST(v, 0), x)"},
        "said": {"model": "toy/1", "inputs": {"features": "scaled"}},
        "heads": {"model": "heads/1", "inputs": {"x": "v"}},
        "all": {"ensemble": "weighted", "of": ["said", "x"], "weights": [3, 1]},
        "voted": {"ensemble": "vote", "of": ["k", "k2", "k"]},
        "k2": {"branch": [{"when": "kept", "then": "k"}], "otherwise": "k"},
        "most": {"ensemble": "max", "of": ["scaled", "heads.chances"]},
    },
    "outputs": {
        name: name.removeprefix("out_")
        for name in (
            "out_numbers", "out_whole", "out_exact", "out_kept", "out_word", "out_all", "out_voted",
            "out_most",
        )
    },
}  # fmt: skip


def test_registry_accepts_whatever_a_graph_compiles_to() -> None:
    graph = parse_definition(RICH)
    assert isinstance(graph, Graph)
    models = {"said": a_linear_model(3), "heads": a_two_headed_model()}
    signatures = {step: model.signature for step, model in models.items()}
    plan = plan_graph(graph, (), signatures)
    files = {step: model.onnx for step, model in models.items()}

    with TemporaryFile() as file:
        file.write(compile_graph(graph, plan, files, signatures))
        found = ChildAcceptor().accept(file)

    assert [] == [each.sentence for each in found.findings if not each.passed]
    taken = [(each.name, each.datatype, each.shape) for each in found.signature.inputs]
    assert ("v", "FP32", (-1, 3)) in taken
    assert [*RICH["inputs"]] == [name for name, *_ in taken]
    given = {each.name: (each.datatype, each.shape) for each in found.signature.outputs}
    assert {
        "out_whole": ("INT64", (-1,)),
        "out_exact": ("FP64", (-1,)),
        "out_kept": ("BOOL", (-1,)),
        "out_word": ("BYTES", (-1,)),
        "out_voted": ("INT32", (-1,)),
        "out_most": ("FP32", (-1, 3)),
    }.items() <= given.items()


@pytest.fixture
def story(client: Client) -> Story:
    return Story(client)


def test_graph_answers_as_its_models_and_lineage_names_them(story: Story) -> None:
    one, two, client = a_linear_model(2), a_linear_model(1, opset=13), story.client
    story.declare()
    versions = [story.register(story.one, one), story.register(story.two, two)]
    story.apply()

    version = story.train()

    np.testing.assert_allclose(story.answers(version.version), expected(one, two), rtol=1e-5)
    components = {
        (each.name, each.at)
        for each in client.lineage.version(f"{story.name}@champion").sources
        if each.kind == "component"
    }
    assert {(f"models:/{v.model}/{v.version}", v.digest) for v in versions} == components
    for component, _ in components:
        (graph,) = client.lineage.versions_from(component, kind="component")
        assert (story.name, 1) == (graph.model, graph.version)


def test_graph_of_the_same_versions_has_the_same_digest(story: Story) -> None:
    story.declare()
    story.register(story.one, a_linear_model(2))
    story.register(story.two, a_linear_model(1))
    story.apply()

    assert story.train().digest == story.train().digest


def test_graph_follows_a_promoted_model_by_itself(story: Story) -> None:
    one, other, two = a_linear_model(2), a_linear_model(2, opset=18), a_linear_model(1)
    client = story.client
    story.declare()
    story.register(story.one, one)
    story.register(story.two, two)
    story.apply()
    first = story.train()

    promoted = story.register(story.one, other)
    client.promote(story.one, promoted.version)

    wait_until(lambda: len(client.versions(story.name)) > 1, timeout_s=DEADLINE_S)
    followed = client.versions(story.name)[0]
    assert first.digest != followed.digest
    assert promoted.digest == followed.trained.manifest[f"component:models:/{story.one}/2"]
    assert events.GATE_STATE_AWAITS_APPROVAL == followed.gate.state
    client.models.approve(f"{story.name}/{followed.version}", approver="tests")
    client.promote(story.name, followed.version)
    np.testing.assert_allclose(story.answers(followed.version), expected(other, two), rtol=1e-5)


def test_graph_of_a_model_that_serves_nothing_waits_for_nothing(story: Story) -> None:
    story.declare()
    story.register(story.two, a_linear_model(1))
    story.apply()

    with pytest.raises(NotFound, match="ALIAS_UNKNOWN"):
        story.train()


def test_version_that_has_not_passed_its_gate_is_no_component(story: Story) -> None:
    story.declare()
    story.register(story.one, a_linear_model(2))
    story.register(story.two, a_linear_model(1), approve=False)
    story.apply()

    with pytest.raises(Conflict, match="GATE_NOT_PASSED"):
        story.train()


def test_component_whose_bytes_were_changed_is_refused(story: Story, folder: Path) -> None:
    story.declare()
    story.register(story.one, a_linear_model(2))
    # Of a width of its own: other graphs must find their models whole.
    changed = story.register(story.two, a_linear_model(1, ir_version=9))
    story.apply()
    (file,) = [each for each in (folder / "registry").rglob("*") if changed.digest in each.name]
    file.write_bytes(a_linear_model(1, opset=18).onnx)

    with pytest.raises(Corrupt, match="DIGEST_MISMATCH"):
        story.train()


def test_version_that_is_there_must_fit_when_the_graph_is_applied(story: Story) -> None:
    story.declare()
    story.register(story.two, a_linear_model(3))

    with pytest.raises(Invalid, match="BAD_DEFINITION") as refused:
        story.apply()

    assert "steps.far.inputs.features" == refused.value.metadata["key"]


def test_version_that_is_not_there_is_refused_when_the_graph_is_applied(story: Story) -> None:
    story.declare()

    with pytest.raises(NotFound, match=r"VERSION_UNKNOWN.*key=steps.far.model"):
        story.apply()


def test_version_that_does_not_fit_fails_the_run_with_its_key(story: Story) -> None:
    story.declare()
    story.register(story.two, a_linear_model(1))
    story.apply()
    story.register(story.one, a_linear_model(4))

    with pytest.raises(HeadraceError, match=r"BAD_DEFINITION.*key=steps.near.inputs.features"):
        story.train()
