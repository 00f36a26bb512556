# SPDX-License-Identifier: Apache-2.0
"""The trainer process on a real Kafka: what it takes and keeps, and what it says while it waits.

No feature service is there, so a run that was taken waits; to train is a test of the trainer's own.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.application import definition_json
from headrace.errors import NotFound, Unavailable
from headrace.feature.v1 import feature_service_pb2 as feature_pb
from headrace.feature.v1 import feature_service_pb2_grpc as feature_grpc
from headrace.local.ports import pick_ports
from headrace.local.process import Child
from headrace.local.service_process import service_process
from headrace.local.settings import child_environment
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace.rpc import call, open_channel
from headrace.trainer.v1 import trainer_service_pb2 as pb
from headrace.trainer.v1 import trainer_service_pb2_grpc as pb_grpc
from headrace.trainer.v1.trainer_events_pb2 import TrainingRequest
from headrace_kit.kafka import KafkaPublisher, Message, Partition
from headrace_kit.offsets import topic_end_offsets
from headrace_kit.testing import wait_until
from headrace_trainer.adapters.feature_client import GrpcTrainingSetClient
from headrace_trainer.testing import a_recipe

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
CALL_TIMEOUT_S = 10.0


class Service:
    """One trainer process on one folder; `start` may be called again after its end."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.grpc_port, self.http_port, nobody = pick_ports(3)
        self._folder = folder
        self._settings = {
            "KAFKA_BOOTSTRAP": bootstrap,
            "DATA_DIR": str(folder),
            "FEATURE_ADDRESS": f"127.0.0.1:{nobody}",
        }
        self._child: Child | None = None
        self._channel = open_channel(f"127.0.0.1:{self.grpc_port}")
        self._trainer = pb_grpc.TrainerServiceStub(self._channel)

    def start(self) -> None:
        spec = service_process("trainer", (self.grpc_port, self.http_port), self._settings)
        self._child = Child(spec, self._folder / "trainer.log", self._folder)
        self._child.wait_ready()

    def kill(self) -> None:
        self._child.kill()
        wait_until(self._child.died, timeout_s=DEADLINE_S)

    def close(self) -> None:
        self._channel.close()
        if self._child is not None:
            self._child.stop()

    def log(self) -> str:
        return (self._folder / "trainer.log").read_text(encoding="utf-8")

    def submit(self, recipe: str, request_id: str) -> str:
        request = pb.SubmitRunRequest(request_id=request_id, recipe=recipe)
        return call(self._trainer.SubmitRun, request, timeout_s=CALL_TIMEOUT_S).run_id

    def runs(self) -> list[pb.Run]:
        """The newest first."""
        return list(call(self._trainer.ListRuns, pb.ListRunsRequest(), timeout_s=10.0).runs)

    def run(self, run_id: str) -> pb.Run | None:
        request = pb.GetRunRequest(run_id=run_id)
        try:
            return call(self._trainer.GetRun, request, timeout_s=CALL_TIMEOUT_S).run
        except NotFound:
            return None


def end_offsets(bootstrap: str, names: list[str]) -> dict[Partition, int] | None:
    """None while a new topic has no leader yet."""
    try:
        return topic_end_offsets(bootstrap, names)
    except (Unavailable, KafkaException):
        return None


@pytest.fixture
def bootstrap(kafka_server: str) -> str:
    """Kafka without requests of other tests."""
    create_topics(kafka_server, static_topics())
    names = [topics.TRAINER_REQUESTS.name]
    ends = wait_until(lambda: end_offsets(kafka_server, names))
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})
    gone = admin.delete_records([TopicPartition(*each, offset) for each, offset in ends.items()])
    for done in gone.values():
        done.result(CALL_TIMEOUT_S)
    return kafka_server


@pytest.fixture
def service(bootstrap: str, tmp_path: Path) -> Iterator[Service]:
    made = Service(bootstrap, tmp_path)
    yield made
    made.close()


@pytest.fixture
def apply(publisher: KafkaPublisher) -> Callable[[str], None]:
    """Plays the registry: publishes a recipe of this name."""

    def publish(name: str) -> None:
        spec = definition_json(a_recipe().model_copy(update={"name": name}))
        value = Definition(kind="recipe", name=name, spec_json=spec).SerializeToString()
        key = f"recipe/{name}".encode()
        publisher.publish([Message(topics.REGISTRY_DEFINITIONS.name, key, value)])

    return publish


@pytest.fixture
def request_run(publisher: KafkaPublisher) -> Callable[[str, str], None]:
    """Plays the monitor: publishes a request."""

    def publish(request_id: str, recipe: str) -> None:
        publisher.publish([request_message(request_id, recipe)])

    return publish


def request_message(request_id: str, recipe: str) -> Message:
    request = TrainingRequest(request_id=request_id, recipe=recipe, known_until_us=10**15)
    value, key = request.SerializeToString(), request_id.encode()
    return Message(topics.TRAINER_REQUESTS.name, key, value)


def waiting(run: pb.Run) -> pb.Run | None:
    return run if run.state == pb.RUN_STATE_QUEUED and run.progress else None


def a_name() -> str:
    return f"r{uuid.uuid4().hex}"


def dead_letters(bootstrap: str, key: str) -> list[str]:
    """The reasons of all dead letters of the request with this key."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid.uuid4().hex,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    consumer.assign([TopicPartition(topics.TRAINER_DEAD_LETTERS.name, 0, 0)])
    reasons = []
    while (message := consumer.poll(DEADLINE_S)) is not None and message.error() is None:
        headers = dict(message.headers())
        if headers["dl-key"] == key.encode():
            reasons.append(headers["dl-reason"].decode())
    consumer.close()
    return reasons


def test_database_that_is_away_ends_the_start_with_one_line(tmp_path: Path) -> None:
    settings = {
        "TRAINER_DATABASE_URI": "postgresql://nobody@127.0.0.1:1/none",
        "TRAINER_DATA_DIR": str(tmp_path),
        "TRAINER_HTTP_PORT": str(pick_ports(1)[0]),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "headrace_trainer"],
        env=child_environment(settings),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )

    assert 69 == ended.returncode
    told = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert 1 == len(told), ended.stderr
    assert told[0].startswith("DATABASE_UNAVAILABLE")


def test_repeated_submit_without_a_time_answers_with_the_first_run(service, apply) -> None:
    recipe = a_name()
    apply(recipe)
    service.start()

    assert "now" == service.submit(recipe, "now")
    first = service.run("now").known_until_us
    assert "now" == service.submit(recipe, "now")

    assert first == service.run("now").known_until_us


def test_run_whose_training_set_cannot_be_made_says_what_it_waits_for(service, apply) -> None:
    recipe = a_name()
    apply(recipe)
    service.start()
    service.submit(recipe, "waits")

    run = wait_until(lambda: waiting(service.run("waits")))

    assert "waits after try 1: SERVICE_UNAVAILABLE" == run.progress


def test_recipe_that_was_applied_just_before_is_known(service, apply) -> None:
    service.start()
    for number in range(10):
        recipe = a_name()
        apply(recipe)
        assert f"early-{number}" == service.submit(recipe, f"early-{number}")

    with pytest.raises(NotFound, match="DEFINITION_UNKNOWN"):
        service.submit(a_name(), "nobody")


def test_request_that_overtook_its_recipe_is_taken(service, apply, request_run) -> None:
    recipe = a_name()
    service.start()
    request_run("early", recipe)
    wait_until(lambda: "DEFINITION_AWAITED" in service.log())

    apply(recipe)

    wait_until(lambda: service.run("early"))


def test_request_is_set_aside_once_over_kills(service, bootstrap, apply, request_run) -> None:
    recipe, bad = a_name(), f"UPPER-{a_name()}"
    apply(recipe)
    request_run(bad, recipe)
    service.start()
    wait_until(lambda: dead_letters(bootstrap, bad) == ["BAD_NAME"])

    for number in range(2):
        service.kill()
        service.start()
        request_run(f"after-{number}", recipe)
        wait_until(lambda number=number: service.run(f"after-{number}"))

    assert ["BAD_NAME"] == dead_letters(bootstrap, bad)


def test_requests_of_a_topic_that_is_made_again_are_taken_once(
    service, bootstrap, apply, request_run, make_again
) -> None:
    """More of them than were read: the old place lies amid the new ones."""
    recipe, requests = a_name(), topics.TRAINER_REQUESTS
    apply(recipe)
    service.start()
    for request_id in ("first", "second"):
        request_run(request_id, recipe)
        wait_until(lambda each=request_id: service.run(each))
    place = sum(topic_end_offsets(bootstrap, [requests.name]).values())
    service.kill()

    again = make_again(requests.name, requests)
    repeats = [request_message("first", recipe)] * place
    again.publish([request_message("new", recipe), *repeats, request_message("last", recipe)])
    service.start()
    for request_id in ("last", "new"):
        wait_until(lambda each=request_id: service.run(each))
    listed = service.runs()
    assert ["last", "new", "second", "first"] == [run.run_id for run in listed]


class NeverComplete(feature_grpc.FeatureServiceServicer):
    """Makes every training set wait for as long as its caller is there."""

    def __init__(self) -> None:
        self.asked, self.gone = threading.Event(), threading.Event()

    def CreateTrainingSet(self, request, context):  # noqa: N802 - gRPC names it
        context.add_callback(self.gone.set)
        self.asked.set()
        self.gone.wait(DEADLINE_S)
        yield from ()


@contextmanager
def channel_to(service: feature_grpc.FeatureServiceServicer) -> Iterator[grpc.Channel]:
    server = grpc.server(ThreadPoolExecutor(1))
    feature_grpc.add_FeatureServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with open_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(None).wait(DEADLINE_S)


def test_training_set_that_is_abandoned_is_waited_for_by_nobody(tmp_path: Path) -> None:
    feature = NeverComplete()
    with channel_to(feature) as channel, ThreadPoolExecutor(1) as pool:
        sets = GrpcTrainingSetClient(channel)
        made = pool.submit(sets.create, "delay", 1, tmp_path / "set.arrow", published=True)
        assert feature.asked.wait(DEADLINE_S)
        sets.abandon()

        with pytest.raises(Unavailable, match="SERVICE_UNAVAILABLE"):
            made.result(DEADLINE_S)
        assert feature.gone.wait(DEADLINE_S)


class Empty(feature_grpc.FeatureServiceServicer):
    """Makes training sets without rows, of a stream that has records."""

    def CreateTrainingSet(self, request, context):  # noqa: N802 - gRPC names it
        spine = feature_pb.SpineTally(
            stream="rides", records=2, last_event_time_us=10**6, left_out={"label_awaited": 2}
        )
        digest = hashlib.sha256(b"").hexdigest()
        manifest = feature_pb.TrainingSetManifest(known_until_us=10**9, digest=digest, spine=spine)
        for stream, partition in (("ends", 1), ("rides", 0), ("rides", 1)):
            manifest.raw_offsets.add(stream=stream, partition=partition, first=3, last=5)
        yield feature_pb.CreateTrainingSetResponse(manifest=manifest)


def test_training_set_without_rows_comes_with_what_there_was_instead(tmp_path: Path) -> None:
    with channel_to(Empty()) as channel:
        sets = GrpcTrainingSetClient(channel)
        made = sets.create("delay", 1, tmp_path / "set.arrow", published=True)

    assert {
        "stream": "rides",
        "records": 2,
        "known_until": "1970-01-01T00:16:40Z",
        "first_event": "1970-01-01T00:00:00Z",
        "last_event": "1970-01-01T00:00:01Z",
        "label_awaited": 2,
    } == made.spine
    assert {"ends": "1:3-5", "rides": "0:3-5 1:3-5"} == made.offsets_by_stream


class CallsFirst(grpc.UnaryStreamClientInterceptor):
    """Calls something just before the call is made."""

    def __init__(self) -> None:
        self.first: Callable[[], None] = lambda: None

    def intercept_unary_stream(self, continuation, details, request):
        self.first()
        return continuation(details, request)


def test_training_set_that_is_abandoned_just_before_its_call_is_not_waited_for(
    tmp_path: Path,
) -> None:
    calls, feature = CallsFirst(), NeverComplete()
    with channel_to(feature) as channel, ThreadPoolExecutor(1) as pool:
        sets = GrpcTrainingSetClient(grpc.intercept_channel(channel, calls))
        calls.first = sets.abandon
        made = pool.submit(sets.create, "delay", 1, tmp_path / "set.arrow", published=True)
        try:
            with pytest.raises(Unavailable, match="CANCELLED"):
                made.result(DEADLINE_S)
        finally:
            feature.gone.set()
