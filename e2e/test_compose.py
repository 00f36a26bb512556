# SPDX-License-Identifier: Apache-2.0
"""docker-compose.yml without Docker: its commands as plain processes, told as compose tells them.

Kafka, PostgreSQL and the S3 server are real ones, in place of the containers'; the addresses go in
by the variables that the file itself has.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy.engine import make_url

from headrace.client import Addresses, Client
from headrace.loader import load_application
from headrace.local.objectstore import S3Server
from headrace.local.ports import LOOPBACK, pick_ports
from headrace.local.process import Child, HttpReady, ProcessSpec
from headrace.local.settings import child_environment
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[1]
SERVICES = ("registry", "ingest", "feature", "trainer", "inference", "monitor")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<rest>[^}]*))?\}")
TOPICS_DEADLINE_S = 60.0
STORED_DEADLINE_S = 60.0
STOP_GRACE_S = 60.0
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
    ports = iter(pick_ports(2 * len(SERVICES)))
    doors = {
        f"{service.upper()}_{door}_PORT": str(next(ports))
        for service in SERVICES
        for door in ("GRPC", "HTTP")
    }
    postgres = make_url(postgres_server)
    return doors | {
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


def test_services_of_compose_do_their_work_and_stop_when_told(
    children: dict[str, Child], variables: dict[str, str]
) -> None:
    grpc = {name: f"{LOOPBACK}:{variables[f'{name.upper()}_GRPC_PORT']}" for name in SERVICES}
    client = Client(Addresses(kafka=variables["KAFKA_ADDR"], **grpc))
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
