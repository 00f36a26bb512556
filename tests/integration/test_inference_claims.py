# SPDX-License-Identifier: Apache-2.0
"""Requests and answers over Kafka that fit no record, from client to client: on a folder and on S3.

A model gives back what it is asked, so that what is too large one way is too large the other way.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from contracts.conformance.inference.ours import our_service
from onnx import TensorProto
from pydantic import SecretStr

from headrace import topics
from headrace.client import Addresses, Client
from headrace.errors import HeadraceError, Invalid, NotFound
from headrace.inference.v1 import inference_events_pb2 as pb
from headrace.kafka_requests import VALUE_BYTES_MAX, KafkaRequests
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace_inference.testing import an_echo
from headrace_kit.kafka import Partition
from headrace_kit.objects import ObjectStore, S3Settings, object_store
from headrace_kit.testing import wait_until
from headrace_kit.topic_log import KafkaTopicLog

pytestmark = pytest.mark.integration

ANSWER_S_MAX = 60.0
WIDTH = 1_000
# Of FP32: a request of two thirds of a record, of 4 MB, and of more than a claim may hold.
SMALL, LARGE, TOO_LARGE = 150, 1_000, 2_000
CLAIM_BYTES_MAX = 6_000_000
# Of a topic that takes less than our records: answers of one row, and none of SMALL.
NARROW_BYTES_MAX = 16_384


@dataclass
class Platform:
    """A registry and an inference service, a client of theirs, and where claims are kept."""

    endpoint: str
    client: Client
    objects: ObjectStore
    kafka: str

    @property
    def requests(self) -> KafkaRequests:
        return self.client.requests

    def answered(self, rows: int) -> np.ndarray:
        asked = self.requests.ask(self.request(rows))
        answer = self.requests.answer(asked, timeout_s=ANSWER_S_MAX)
        assert rows == len(set(answer.prediction_ids))
        output = answer.outputs["y"]
        return np.frombuffer(output.contents, "<f4").reshape(tuple(output.shape))

    def request(self, rows: int) -> oip.ModelInferRequest:
        request = oip.ModelInferRequest(model_name=self.endpoint, id=uuid.uuid4().hex)
        request.inputs.add(name="x", datatype="FP32", shape=[rows, WIDTH])
        request.raw_input_contents.append(tensor(rows).tobytes())
        return request


def tensor(rows: int) -> np.ndarray:
    return np.arange(rows * WIDTH, dtype="<f4").reshape(rows, WIDTH)


@pytest.fixture(scope="module", params=["folder", "s3"])
def platform(request, kafka_server, s3_server, tmp_path_factory) -> Iterator[Platform]:
    folder: Path = tmp_path_factory.mktemp("claims")
    endpoint = f"wide-{uuid.uuid4().hex[:8]}"
    settings, s3 = {"OBJECT_STORE_URI": (folder / "objects").as_uri()}, None
    if request.param == "s3":
        settings = {
            "OBJECT_STORE_URI": f"s3://headrace/{endpoint}",
            "S3_ENDPOINT": s3_server.endpoint,
            "S3_ACCESS_KEY": s3_server.access_key,
            "S3_SECRET_KEY": s3_server.secret_key,
        }
        s3 = S3Settings(s3_server.endpoint, s3_server.access_key, SecretStr(s3_server.secret_key))
    bounds = {"ROWS_MAX": "2000", "CLAIM_BYTES_MAX": str(CLAIM_BYTES_MAX)}
    model = an_echo(TensorProto.FLOAT, ("rows", WIDTH))
    with our_service(kafka_server, folder, {endpoint: model}, **settings, **bounds) as ours:
        client = Client(Addresses(kafka=kafka_server, inference=ours.grpc))
        objects = object_store(settings["OBJECT_STORE_URI"], s3)
        yield Platform(endpoint, client, objects, kafka_server)


def test_request_that_fits_a_record_needs_no_object(platform):
    before = platform.objects.keys("claims")

    assert (tensor(SMALL) == platform.answered(SMALL)).all()
    assert before == platform.objects.keys("claims")


def test_request_and_answer_that_fit_no_record_come_through(platform):
    before = {*platform.objects.keys("claims")}
    assert (tensor(LARGE) == platform.answered(LARGE)).all()

    added = {*platform.objects.keys("claims")} - before
    sizes = [int(key.rpartition("-")[2]) for key in added]
    assert 2 == len(sizes)
    assert VALUE_BYTES_MAX < min(sizes) <= max(sizes) <= CLAIM_BYTES_MAX


def test_requests_of_a_key_are_answered_in_order_however_large_they_are(platform):
    rows = [LARGE, 1, LARGE + 1, 2]
    asked = [platform.requests.ask(platform.request(count), key="UA-1") for count in rows]
    answers = [platform.requests.answer(each, timeout_s=ANSWER_S_MAX) for each in asked]

    assert 1 == len({each.partition for each in asked})
    assert rows == [len(each.prediction_ids) for each in answers]


@pytest.fixture
def narrow(platform) -> Iterator[str]:
    """The topic of the answers, which takes records of NARROW_BYTES_MAX."""
    topic = topics.INFERENCE_PREDICTIONS.of(platform.endpoint)
    admin = AdminClient({"bootstrap.servers": platform.kafka, "log_level": 0})
    wide = bytes_max(admin, topic)
    set_bytes_max(admin, topic, NARROW_BYTES_MAX)
    yield topic
    set_bytes_max(admin, topic, wide)


def bytes_max(admin: AdminClient, topic: str) -> int:
    (told,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
    return int(told.result(ANSWER_S_MAX)["max.message.bytes"].value)


def set_bytes_max(admin: AdminClient, topic: str, to: int) -> None:
    op = AlterConfigOpType.SET
    entry = ConfigEntry("max.message.bytes", str(to), incremental_operation=op)
    changed = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    (done,) = admin.incremental_alter_configs([changed]).values()
    done.result(ANSWER_S_MAX)
    wait_until(lambda: to == bytes_max(admin, topic))


def test_answers_that_their_topic_does_not_take_are_claimed_in_the_order_of_their_key(
    platform, narrow, set_aside
):
    rows = [1, SMALL, 1, SMALL + 1, 1]
    asked = [platform.requests.ask(platform.request(count), key="UA-2") for count in rows]
    answers = [platform.requests.answer(each, timeout_s=ANSWER_S_MAX) for each in asked]

    assert rows == [len(each.prediction_ids) for each in answers]
    log = KafkaTopicLog(platform.kafka)
    records = [each for n in log.partitions(narrow) for each in log.read(Partition(narrow, n))]
    events = [pb.PredictionsMade.FromString(each.value or b"") for each in records]
    found = [n for event in events for n in event.request_offsets if n >= asked[0].offset]
    own = [n for n in dict.fromkeys(found) if n in {each.offset for each in asked}]
    assert [each.offset for each in asked] == own
    requests = topics.INFERENCE_REQUESTS.of(platform.endpoint)
    assert [] == set_aside(topics.INFERENCE_DEAD_LETTERS, requests)


def refused(ask: Callable[[], object]) -> HeadraceError:
    with pytest.raises(HeadraceError) as caught:
        ask()
    return caught.value


def test_more_than_a_claim_holds_is_refused_before_it_is_asked(platform):
    error = refused(lambda: platform.requests.ask(platform.request(TOO_LARGE)))

    assert isinstance(error, Invalid)
    assert ("TOO_LARGE", str(CLAIM_BYTES_MAX)) == (error.reason, error.metadata["bytes_max"])


def test_claim_of_what_was_never_stored_is_answered_so(platform, monkeypatch):
    def unstored(_, endpoint: str, value: bytes) -> pb.Claim:
        return pb.Claim(digest=sha256(value).hexdigest(), size_bytes=len(value))

    monkeypatch.setattr(KafkaRequests, "_stored", unstored)
    asked = platform.requests.ask(platform.request(LARGE))
    error = refused(lambda: platform.requests.answer(asked, timeout_s=ANSWER_S_MAX))

    assert isinstance(error, NotFound)
    assert "CLAIM_UNKNOWN" == error.reason


def test_endpoint_that_nobody_knows_has_no_claims(platform):
    request = platform.request(LARGE)
    request.model_name = "unknown"
    error = refused(lambda: platform.requests.ask(request))

    assert "MODEL_UNKNOWN" == error.reason
