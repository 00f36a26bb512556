# SPDX-License-Identifier: Apache-2.0
"""docker-compose.yml without Docker: its commands as plain processes, told as compose tells them.

Kafka, PostgreSQL and the S3 server are real ones, in place of the containers'; the addresses go in
by the variables that the file itself has.
"""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from sqlalchemy.engine import make_url

from headrace.client import Addresses, Client
from headrace.errors import Denied, NotFound
from headrace.ingest.v1 import ingest_service_pb2, ingest_service_pb2_grpc
from headrace.loader import load_application
from headrace.local.objectstore import S3Server
from headrace.local.ports import LOOPBACK, pick_ports
from headrace.local.process import Child, HttpReady, ProcessSpec
from headrace.local.settings import child_environment
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from headrace.rpc import call, open_channel
from headrace.tokens import issue_token
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[1]
SERVICES = ("registry", "ingest", "feature", "trainer", "inference", "monitor")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<rest>[^}]*))?\}")
TOPICS_DEADLINE_S = 60.0
STORED_DEADLINE_S = 60.0
STOP_GRACE_S = 60.0
CALL_TIMEOUT_S = 5.0
EVENTS = 100


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """As compose does it: `${A:-default}`, and `${A:?message}` which must be there."""

    def value(match: re.Match[str]) -> str:
        if match["how"] == ":-":
            return variables.get(match["name"]) or match["rest"]
        return variables[match["name"]]

    return VARIABLE.sub(value, text)


@pytest.fixture(scope="module")
def variables(
    kafka_server: str,
    postgres_server: str,
    s3_server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """What stands in `.env`, and where the real servers and our doors are."""
    names = [f"{service.upper()}_{door}_PORT" for service in SERVICES for door in ("GRPC", "HTTP")]
    names += ["INFERENCE_REST_PORT", "REGISTRY_REST_PORT"]
    doors = {name: str(port) for name, port in zip(names, pick_ports(len(names)), strict=True)}
    postgres = make_url(postgres_server)
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.json"
    return doors | {
        "TOKENS_PATH": str(tokens),
        "SERVICES_TOKEN": issue_token(tokens, "services", ["*"]),
        "PEERS_TOKEN": issue_token(tokens, "feature-workers", ["peer"]),
        "SHOP_TOKEN": issue_token(tokens, "shop", ["publish:flights.departed", "predict:delay"]),
        "TRUSTED_SIGNERS_PATH": str(_signers(tokens.with_name("signers.pem"))),
        "BIND_HOST": LOOPBACK,
        "DATA_DIR": str(tmp_path_factory.mktemp("compose")),
        "KAFKA_ADDR": kafka_server,
        "POSTGRES_ADDR": f"{postgres.host}:{postgres.port}",
        "POSTGRES_PASSWORD": str(postgres.password),
        "S3_ADDR": s3_server.endpoint.removeprefix("http://"),
        "S3_ACCESS_KEY": s3_server.access_key,
        "S3_SECRET_KEY": s3_server.secret_key,
        "FEATURE_ADDR": f"{LOOPBACK}:{doors['FEATURE_GRPC_PORT']}",
        "REGISTRY_ADDR": f"{LOOPBACK}:{doors['REGISTRY_GRPC_PORT']}",
    }


def _signers(file: Path) -> Path:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    file.write_bytes(key.public_bytes(serialization.Encoding.PEM, form))
    return file


def command(name: str, variables: Mapping[str, str]) -> tuple[str, ...]:
    program, *arguments = (interpolated(word, variables) for word in COMPOSE[name]["command"])
    assert "python" == program
    return (sys.executable, *arguments)


def process(service: str, variables: Mapping[str, str]) -> ProcessSpec:
    environment = {
        key: interpolated(value, variables)
        for key, value in COMPOSE[service]["environment"].items()
    }
    http_port = variables[f"{service.upper()}_HTTP_PORT"]
    return ProcessSpec(
        name=service,
        command=command(service, variables),
        environment=child_environment(environment),
        ready=HttpReady(f"http://{LOOPBACK}:{http_port}/health/ready"),
        stop_grace_s=STOP_GRACE_S,
    )


@pytest.fixture(scope="module")
def children(variables: dict[str, str]) -> Iterator[dict[str, Child]]:
    """The six services, ready; the admin job ran before them, as `depends_on` has it."""
    subprocess.run(command("topics", variables), check=True, timeout=TOPICS_DEADLINE_S)
    folder = Path(variables["DATA_DIR"])
    with ExitStack() as stack:
        started = {}
        for service in SERVICES:
            spec = process(service, variables)
            started[service] = Child(spec, folder / f"{service}.log", folder)
            stack.callback(started[service].kill)
        for child in started.values():
            child.wait_ready()
        yield started


def observations() -> list[dict[str, Any]]:
    hour_us = 3_600_000_000
    first_us = 1_356_998_400_000_000  # 2013-01-01
    return [
        {
            "event_id": f"weather-{number}",
            "origin": ("EWR", "JFK", "LGA")[number % 3],
            "temp": 30.0 + number / 10,
            "observed_at": first_us + number * hour_us,
            "known_at": first_us + number * hour_us,
        }
        for number in range(EVENTS)
    ]


def addresses(variables: Mapping[str, str]) -> Addresses:
    doors = {name: f"{LOOPBACK}:{variables[f'{name.upper()}_GRPC_PORT']}" for name in SERVICES}
    return Addresses(kafka=variables["KAFKA_ADDR"], **doors)


def reflected(channel: grpc.Channel, **asked: str) -> Any:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(**asked)
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=CALL_TIMEOUT_S)
    return answer


def methods_of(address: str, token: str) -> set[str]:
    """The paths of all methods that a service tells of itself by reflection."""
    found: set[str] = set()
    with open_channel(address, token=token) as channel:
        listed = reflected(channel, list_services="").list_services_response.service
        for name in (each.name for each in listed):
            told = reflected(channel, file_containing_symbol=name).file_descriptor_response
            for raw in told.file_descriptor_proto:
                file = FileDescriptorProto.FromString(raw)
                found |= {
                    f"/{name}/{method.name}"
                    for each in file.service
                    if f"{file.package}.{each.name}" == name
                    for method in each.method
                }
    return found


def refusal(address: str, token: str, method: str) -> grpc.StatusCode:
    """How a call is refused: one with a stream each way is wire-compatible with every kind."""
    with open_channel(address, token=token) as channel:
        try:
            list(channel.stream_stream(method)(iter([b""]), timeout=CALL_TIMEOUT_S))
        except grpc.RpcError as err:
            return err.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("service", SERVICES)
def test_no_method_but_health_is_open_without_a_token(
    children: dict[str, Child], variables: dict[str, str], service: str
) -> None:
    address = getattr(addresses(variables), service)
    methods = methods_of(address, variables["SERVICES_TOKEN"])
    open_ones = {
        method
        for method in methods
        if refusal(address, "", method) != grpc.StatusCode.UNAUTHENTICATED
    }

    assert len(methods) > len(open_ones)
    assert {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"} == open_ones


@pytest.mark.parametrize(
    ("service", "method"),
    [
        ("registry", "/headrace.registry.v1.RegistryService/SetAlias"),
        ("ingest", "/headrace.ingest.v1.DatasetService/EraseEntity"),
        ("feature", "/headrace.feature.v1.FeatureService/GetOnlineFeatures"),
        ("trainer", "/headrace.trainer.v1.TrainerService/SubmitRun"),
    ],
)
def test_caller_that_may_publish_may_not_do_this(
    children: dict[str, Child], variables: dict[str, str], service: str, method: str
) -> None:
    address = getattr(addresses(variables), service)

    assert grpc.StatusCode.PERMISSION_DENIED == refusal(address, variables["SHOP_TOKEN"], method)


def test_caller_publishes_to_no_stream_of_another(
    children: dict[str, Child], variables: dict[str, str]
) -> None:
    channel = open_channel(addresses(variables).ingest, token=variables["SHOP_TOKEN"])
    stub = ingest_service_pb2_grpc.IngestServiceStub(channel)
    request = ingest_service_pb2.PublishRequest(stream="weather.observed")
    with pytest.raises(Denied, match="ACTION_FORBIDDEN") as unary:
        call(stub.Publish, request, timeout_s=CALL_TIMEOUT_S)
    assert "weather.observed" == unary.value.metadata["name"]

    asked = iter([ingest_service_pb2.PublishStreamRequest(stream="weather.observed")])
    with pytest.raises(grpc.RpcError) as streamed:
        list(stub.PublishStream(asked, timeout=CALL_TIMEOUT_S))
    assert grpc.StatusCode.PERMISSION_DENIED == streamed.value.code()


def test_caller_asks_no_endpoint_of_another(
    children: dict[str, Child], variables: dict[str, str]
) -> None:
    channel = open_channel(addresses(variables).inference, token=variables["SHOP_TOKEN"])
    stub = oip_grpc.GRPCInferenceServiceStub(channel)
    with pytest.raises(Denied, match="ACTION_FORBIDDEN"):
        call(stub.ModelInfer, oip.ModelInferRequest(model_name="cancel"), timeout_s=CALL_TIMEOUT_S)
    with pytest.raises(NotFound, match="MODEL_UNKNOWN"):
        call(stub.ModelInfer, oip.ModelInferRequest(model_name="delay"), timeout_s=CALL_TIMEOUT_S)


@pytest.mark.parametrize(
    ("caller", "status"), [("SERVICES_TOKEN", 200), ("SHOP_TOKEN", 403), ("", 401)]
)
def test_client_of_mlflow_is_asked_for_a_token(
    children: dict[str, Child], variables: dict[str, str], caller: str, status: int
) -> None:
    shown = {"authorization": f"Bearer {variables[caller]}"} if caller else {}
    door = http.client.HTTPConnection(
        LOOPBACK, int(variables["REGISTRY_REST_PORT"]), timeout=CALL_TIMEOUT_S
    )
    try:
        door.request("GET", "/api/2.0/mlflow/registered-models/search", headers=shown)
        assert status == door.getresponse().status
    finally:
        door.close()


def test_services_of_compose_do_their_work_and_stop_when_told(
    children: dict[str, Child], variables: dict[str, str]
) -> None:
    client = Client(addresses(variables), token=variables["SERVICES_TOKEN"])
    client.apply(load_application(ROOT / "examples/flights"))
    client.publish("weather.observed", observations())

    def stored() -> bool:
        counts = {each.stream: each for each in client.stream_counts()}
        return "weather.observed" in counts and counts["weather.observed"].stored == EVENTS

    wait_until(stored, timeout_s=STORED_DEADLINE_S)
    for child in children.values():
        child.ask_to_stop()
    for child in children.values():
        child.finish()

    assert dict.fromkeys(SERVICES, 0) == {name: each.died() for name, each in children.items()}
