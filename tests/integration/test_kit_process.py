# SPDX-License-Identifier: Apache-2.0
"""A bare service as a process: it is small, says what it lacks, and ends when it is asked to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from headrace_kit.kafka import Message
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.integration

RSS_MB_MAX = 85  # 72 measured, 30 of them pages of shared libraries
SERVICE = """
import sys
import threading
from pathlib import Path
from pydantic_settings import SettingsConfigDict
from headrace_kit import kafka, lifecycle
from headrace_kit.admin_http import AdminServer
from headrace_kit.consume import ConsumeLoop
from headrace_kit.auth import Guard
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.kafka import KafkaPublisher
from headrace_kit.lifecycle import run_service
from headrace_kit.settings import ServiceSettings, load_settings
from headrace_kit.telemetry import configure_logging

kafka.await_broker.__kwdefaults__["timeout_s"] = 1.0  # a test does not wait for 30 s

class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="PROBE_", frozen=True, extra="forbid")
    grpc_port: int = 0
    http_port: int = 0
    data_dir: Path = Path("data")
    topic: str

class Handler:
    def positions(self, partitions):
        return {}
    def handle(self, records):
        if any(record.value == b"bug" for record in records):
            raise KeyError("bug")
        if any(record.value == b"hang" for record in records):
            lifecycle.TICK_AGE_S_MAX = 1.0  # a test does not wait for minutes
            threading.Event().wait()
    def idle(self):
        pass

settings = load_settings(Settings, sys.argv[1:])
configure_logging("probe", settings.log_level)
publisher = KafkaPublisher(settings.kafka_bootstrap, client_id="probe")
loop = ConsumeLoop(bootstrap=settings.kafka_bootstrap, group="probe." + settings.topic,
                   handler=Handler(), dead_letters=publisher, service="probe")
loop.subscribe([settings.topic])
server = GrpcServer(host=settings.grpc_host, port=settings.grpc_port, services=[], names=["probe"],
                    guard=Guard("probe", None))
admin = AdminServer(settings.http_host, settings.http_port, loop.ready)
sys.exit(run_service("probe", [publisher, loop, server], admin=admin, on_ready=server.set_ready))
"""


class Process:
    def __init__(self, log, **settings):
        self.log = log
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", SERVICE],
                stdout=output,
                stderr=output,
                env={**os.environ, **settings},
            )

    def lines(self):
        return self.log.read_text().splitlines()

    def said(self, event):
        return any(f'"event": "{event}"' in line for line in self.lines())

    def end(self, number):
        begin_s = time.monotonic()
        self.popen.send_signal(number)
        return self.popen.wait(20.0), time.monotonic() - begin_s


@pytest.fixture
def start(tmp_path):
    started = []

    def launch(bootstrap, topic="t"):
        process = Process(tmp_path / "log", PROBE_KAFKA_BOOTSTRAP=bootstrap, PROBE_TOPIC=topic)
        started.append(process)
        return process

    yield launch
    for process in started:
        process.popen.kill()
        process.popen.wait(10.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_service_is_small_and_ends_quickly_with_code_0(kafka_server, new_topic, start, number):
    service = start(kafka_server, new_topic(1))
    wait_until(lambda: service.said("service_ready"))

    rss_mb = psutil.Process(service.popen.pid).memory_info().rss / 2**20
    code, seconds = service.end(number)

    assert 0 == code, service.lines()
    assert seconds < 3.0
    assert rss_mb < RSS_MB_MAX
    assert service.said("service_stopped")


def test_missing_kafka_is_one_line_and_code_69(start):
    service = start("127.0.0.1:1")

    assert 69 == service.popen.wait(60.0)
    assert [line for line in service.lines() if not line.startswith("{")] == [
        "Kafka does not answer at 127.0.0.1:1. Start it with `headrace up` or set "
        "PROBE_KAFKA_BOOTSTRAP."
    ]


def test_signal_while_waiting_for_kafka_ends_with_code_0(start):
    service = start("10.255.255.1:9092")  # nothing answers, nothing refuses
    wait_until(lambda: service.said("service_starting"))

    code, seconds = service.end(signal.SIGTERM)

    assert 0 == code, service.lines()
    assert seconds < 5.0


def test_bug_in_a_handler_ends_with_code_70_and_a_log(kafka_server, new_topic, publisher, start):
    topic = new_topic(1)
    publisher.publish([Message(topic, None, b"bug")])

    service = start(kafka_server, topic)

    assert 70 == service.popen.wait(60.0)
    assert service.said("part_thread_failed")
    assert any(re.search(r"KeyError", line) for line in service.lines())


def test_hanging_handler_ends_with_code_70_and_says_where(
    kafka_server, new_topic, publisher, start
):
    topic = new_topic(1)
    publisher.publish([Message(topic, None, b"hang")])

    service = start(kafka_server, topic)

    assert 70 == service.popen.wait(60.0)
    assert service.said("part_stalled")
    assert any("in handle" in line for line in service.lines())
