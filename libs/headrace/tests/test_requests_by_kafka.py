# SPDX-License-Identifier: Apache-2.0
"""Requests over Kafka from the client's side: what fits no record is claimed, both ways."""

import struct
from hashlib import sha256

import grpc
import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.errors import Corrupt, Invalid, NotFound, Unavailable
from headrace.inference.v1 import inference_events_pb2 as pb
from headrace.inference.v1 import inference_service_pb2 as claims_pb
from headrace.kafka_requests import (
    VALUE_BYTES_MAX,
    Answer,
    Asked,
    KafkaRequests,
    _answer,
    _answering,
)
from headrace.oip import grpc_predict_v2_pb2 as oip

ASKED = Asked("delay", 2, 7, 0)


class Claims:
    """ClaimService in memory."""

    def __init__(self):
        self.data_by_digest, self.stored_for = {}, []

    def StoreClaim(self, request, timeout):  # noqa: N802
        digest = sha256(request.contents).hexdigest()
        self.data_by_digest[digest] = request.contents
        self.stored_for.append(request.endpoint)
        claim = pb.Claim(digest=digest, size_bytes=len(request.contents))
        return claims_pb.StoreClaimResponse(claim=claim)

    def GetClaim(self, request, timeout):  # noqa: N802
        return claims_pb.GetClaimResponse(contents=self.data_by_digest[request.claim.digest])


class Message:
    def partition(self):
        return 2

    def offset(self):
        return 7

    def timestamp(self):
        return 2, 1_000


class Producer:
    """Delivers at the flush, or says why not."""

    def __init__(self):
        self.sent, self.error = [], None

    def produce(self, topic, *, value, key, headers, on_delivery):
        self.sent.append((topic, value, key, headers))
        self._report = on_delivery

    def flush(self, timeout_s):
        self._report(self.error, Message())
        return 0


@pytest.fixture
def requests():
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        made = KafkaRequests("127.0.0.1:1", channel)
        made._claims, made.__dict__["_producer"] = Claims(), Producer()
        yield made


def a_request(size_bytes=10):
    request = oip.ModelInferRequest(model_name="delay", id="r")
    request.raw_input_contents.append(bytes(size_bytes))
    return request


def test_request_that_fits_a_record_lies_in_it(requests):
    asked = requests.ask(a_request(), key="UA-1")

    topic = "inference.requests.delay.v1"
    assert [(topic, a_request().SerializeToString(), b"UA-1", [])] == requests._producer.sent
    assert Asked("delay", 2, 7, 1_000) == asked
    assert [] == requests._claims.stored_for


def test_request_that_fits_no_record_is_stored_and_claimed(requests):
    large = a_request(VALUE_BYTES_MAX)
    requests.ask(large)

    ((_, value, key, headers),) = requests._producer.sent
    data = large.SerializeToString()
    digest = sha256(data).hexdigest()
    assert (b"", None) == (value, key)
    assert [("claim-digest", digest), ("claim-bytes", str(len(data)))] == headers
    assert {digest: data} == requests._claims.data_by_digest
    assert ["delay"] == requests._claims.stored_for


def test_delivery_that_failed_is_told_and_may_be_tried_again(requests):
    requests._producer.error = KafkaError(KafkaError._MSG_TIMED_OUT)
    with pytest.raises(Unavailable, match="DELIVERY_UNKNOWN"):
        requests.ask(a_request())
    requests._producer.produce = refuse
    with pytest.raises(Unavailable, match="DELIVERY_UNKNOWN"):
        requests.ask(a_request())


@pytest.mark.parametrize("code", [KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART])
def test_endpoint_without_a_topic_is_an_unknown_definition(requests, code):
    requests._producer.error = KafkaError(code)
    with pytest.raises(NotFound, match=r"DEFINITION_UNKNOWN.*delay"):
        requests.ask(a_request())


def test_report_that_another_thread_runs_after_the_flush_is_waited_for(requests):
    producer = requests._producer
    producer.poll = lambda timeout_s: producer._report(None, Message())
    producer.flush = lambda timeout_s: 0

    assert Asked("delay", 2, 7, 1_000) == requests.ask(a_request())


def refuse(*_, **__):
    raise KafkaException(KafkaError(KafkaError._TRANSPORT))


def a_record(*offsets, rows=1, **fields):
    """The first row of an offset scores as much, each further one 0.25 more."""
    scores = [offset + 0.25 * row for offset in offsets for row in range(rows)]
    texts = [b"t" * int(score) for score in scores]
    raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    made = pb.PredictionsMade(
        version=3,
        request_partition=2,
        first_prediction_ids=[f"{offset:024x}00000000" for offset in offsets],
        run_rows=[rows] * len(offsets),
        as_of_us=[0] * len(offsets),
        served_at_us=[0] * len(offsets),
        request_offsets=offsets,
        **fields,
    )
    count = len(scores)
    floats = struct.pack(f"<{count}f", *scores)
    made.outputs.add(name="score", datatype="FP32", shape=[count], contents=floats)
    made.outputs.add(name="text", datatype="BYTES", shape=[count, 1], contents=raw)
    return made


def test_answer_is_cut_out_of_a_record_of_many():
    answer = _answer(a_record(5, 7, 9, rows=2), 7)

    first, second = answer.predictions()
    assert (7.0, 7.25, 3) == (first.score, second.score, second.version)
    assert f"{7:024x}00000001" == second.prediction_id
    text = answer.outputs["text"]
    assert ([2, 1], 2 * (struct.pack("<I", 7) + 7 * b"t")) == (
        list(text.shape),
        text.contents,
    )


def test_answer_that_has_its_record_for_itself_is_whole():
    made = a_record(7, rows=3)

    assert list(made.outputs) == list(_answer(made, 7).outputs.values())


def test_answer_without_a_score_holds_no_predictions():
    with pytest.raises(NotFound, match="PREDICTION_UNKNOWN"):
        Answer(1, ["p"], {}).predictions()


@pytest.mark.parametrize(
    "value",
    [
        b"\xff\xff",
        b"",
        a_record(5, 6).SerializeToString(),
        pb.PredictionsMade(request_partition=1, request_offsets=[7]).SerializeToString(),
        pb.PredictionsMade(request_offsets=[7]).SerializeToString(),
    ],
    ids=["a stranger's", "empty", "of others", "of another partition", "of another door"],
)
def test_record_that_does_not_answer_the_request_is_passed_over(value):
    assert _answering(value, ASKED) is None


def test_reason_that_a_request_was_answered_by_is_raised():
    made = pb.PredictionsMade(request_partition=2)
    made.refused.add(request_offset=6, reason="QUEUE_FULL")
    made.refused.add(request_offset=7, reason="TENSOR_SHAPE", metadata={"input": "x"})
    with pytest.raises(Invalid, match=r"TENSOR_SHAPE.*input=x"):
        _answering(made.SerializeToString(), ASKED)


def test_answer_that_is_claimed_is_fetched(requests):
    whole = a_record(7, rows=3)
    claim = requests._stored("delay", whole.SerializeToString())

    assert whole == requests._whole(pb.PredictionsMade(claim=claim), "delay")


def test_bytes_that_are_not_the_claimed_ones_are_no_answer(requests):
    claim = requests._stored("delay", a_record(7).SerializeToString())
    requests._claims.data_by_digest[claim.digest] = b"other"
    with pytest.raises(Corrupt, match="DIGEST_MISMATCH"):
        requests._whole(pb.PredictionsMade(claim=claim), "delay")
