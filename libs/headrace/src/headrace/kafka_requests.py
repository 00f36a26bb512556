# SPDX-License-Identifier: Apache-2.0
"""Requests to endpoints over Kafka, and their answers, for programs that can wait for them.

A request that fits no record is stored first, and its record claims it by its digest; an answer
that fits none is fetched the same way.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import grpc
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from google.protobuf.message import DecodeError

from headrace import admin, topics
from headrace.claims import CLAIM_BYTES, CLAIM_DIGEST
from headrace.errors import Corrupt, HeadraceError, NotFound, Unavailable, error_by_reason
from headrace.inference.v1 import inference_events_pb2 as pb
from headrace.inference.v1 import inference_service_pb2 as claims_pb
from headrace.inference.v1 import inference_service_pb2_grpc as claims_grpc
from headrace.missing_topics import MISSING_TOPIC
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.prediction_log import SCORE, row_ids
from headrace.predictions import Prediction
from headrace.raw_producer import await_reports, raw_producer
from headrace.rpc import call
from headrace.tracing import publishing

# The record's key and headers count besides.
VALUE_BYTES_MAX = admin.MESSAGE_BYTES_MAX - (4 << 10)
CLAIM_S, CLAIM_RETRIES_MAX = 30.0, 3
TIMEOUT_S = 10.0
POLL_S = 0.5
LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Asked:
    """Where a request lies, which its answer names, and since when by the broker's clock."""

    endpoint: str
    partition: int
    offset: int
    asked_at_ms: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Of each row its prediction id; of each output its raw contents, as in the protocol."""

    version: int
    prediction_ids: list[str]
    outputs: dict[str, pb.LoggedTensor]

    def predictions(self) -> list[Prediction]:
        """The rows of a version with features; raises NotFound PREDICTION_UNKNOWN for others."""
        if SCORE not in self.outputs:
            raise NotFound("PREDICTION_UNKNOWN", output=SCORE)
        scores = struct.unpack(f"<{len(self.prediction_ids)}f", self.outputs[SCORE].contents)
        pairs = zip(self.prediction_ids, scores, strict=True)
        return [Prediction(id_, score, self.version) for id_, score in pairs]


class KafkaRequests:
    """`inference`: where claims are stored and fetched. Several threads may use it."""

    def __init__(self, bootstrap: str, inference: grpc.Channel) -> None:
        self._bootstrap = bootstrap
        self._claims = claims_grpc.ClaimServiceStub(inference)

    def ask(self, request: oip.ModelInferRequest, *, key: str = "") -> Asked:
        """Returns once the request is durable: from then on it is answered, once in effect.

        Answers of one key come in the order of its requests. Raises Invalid TOO_LARGE and Busy
        CLAIMS_FULL for what finds no place, NotFound DEFINITION_UNKNOWN, Unavailable
        DELIVERY_UNKNOWN: ask again with the same id, and the predictions have the same ids.
        """
        value: bytes = request.SerializeToString()
        headers: list[tuple[str, str]] = []
        if len(value) > VALUE_BYTES_MAX:
            claim = self._stored(request.model_name, value)
            headers = [(CLAIM_DIGEST, claim.digest), (CLAIM_BYTES, str(claim.size_bytes))]
            value = b""
        topic = topics.INFERENCE_REQUESTS.of(request.model_name)
        with publishing(topic) as told:
            headers += told.get("headers", [])
            message = self._delivered(request.model_name, value, key.encode() or None, headers)
        return Asked(
            request.model_name, message.partition(), message.offset(), message.timestamp()[1]
        )

    def answer(self, asked: Asked, *, timeout_s: float) -> Answer:
        """Waits for it. Raises the error of the reason that the request was answered by, NotFound
        CLAIM_UNKNOWN for one that is no longer kept, Unavailable DEADLINE_UNMET when none has come.
        """
        with closing(self._consumer()) as consumer:
            made = self._found(consumer, asked, time.monotonic() + timeout_s)
        if made is None:
            raise Unavailable("DEADLINE_UNMET", waited_s=timeout_s)
        return _answer(self._whole(made, asked.endpoint), asked.offset)

    def _found(self, consumer: Consumer, asked: Asked, until_s: float) -> pb.PredictionsMade | None:
        try:
            for value in _values(consumer, asked, until_s):
                if (made := _answering(value, asked)) is not None:
                    return made
        except KafkaException as err:
            raise Unavailable("BROKER_UNAVAILABLE", bootstrap=self._bootstrap) from err
        return None

    def _stored(self, endpoint: str, value: bytes) -> pb.Claim:
        request = claims_pb.StoreClaimRequest(endpoint=endpoint, contents=value)
        claim: pb.Claim = call(
            self._claims.StoreClaim, request, timeout_s=CLAIM_S, retries_max=CLAIM_RETRIES_MAX
        ).claim
        _verify(value, claim)
        return claim

    def _whole(self, made: pb.PredictionsMade, endpoint: str) -> pb.PredictionsMade:
        if not made.HasField("claim"):
            return made
        request = claims_pb.GetClaimRequest(endpoint=endpoint, claim=made.claim)
        contents = call(
            self._claims.GetClaim, request, timeout_s=CLAIM_S, retries_max=CLAIM_RETRIES_MAX
        ).contents
        _verify(contents, made.claim)
        return pb.PredictionsMade.FromString(contents)

    def _delivered(
        self, endpoint: str, value: bytes, key: bytes | None, headers: list[tuple[str, str]]
    ) -> Any:
        reports: list[tuple[Any, Any]] = []
        topic = topics.INFERENCE_REQUESTS.of(endpoint)
        try:
            self._producer.produce(
                topic,
                value=value,
                key=key,
                headers=headers,
                on_delivery=lambda *report: reports.append(report),
            )
            await_reports(self._producer, lambda: bool(reports))
        except KafkaException as err:
            raise _undelivered(err.args[0], endpoint) from err
        except BufferError as err:
            raise Unavailable("DELIVERY_UNKNOWN", topic=topic) from err
        if not reports:
            raise Unavailable("DELIVERY_UNKNOWN", topic=topic)
        [(error, message)] = reports
        if error is not None:
            raise _undelivered(error, endpoint)
        return message

    @cached_property
    def _producer(self) -> Producer:
        return raw_producer(self._bootstrap)

    def _consumer(self) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "headrace-answers",  # asked for by the client, never joined
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )


def _undelivered(error: KafkaError, endpoint: str) -> HeadraceError:
    """The topic is made with the endpoint: without one there is none."""
    if error.code() in MISSING_TOPIC:
        return NotFound("DEFINITION_UNKNOWN", endpoint=endpoint)
    return Unavailable("DELIVERY_UNKNOWN", topic=topics.INFERENCE_REQUESTS.of(endpoint))


def _verify(contents: bytes, claim: pb.Claim) -> None:
    found = sha256(contents).hexdigest()
    if found != claim.digest:
        raise Corrupt("DIGEST_MISMATCH", digest=claim.digest, found=found)


def _values(consumer: Consumer, asked: Asked, until_s: float) -> Iterator[bytes]:
    """Answers lie in the partition of the request's number, behind its time."""
    topic = topics.INFERENCE_PREDICTIONS.of(asked.endpoint)
    told = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
    if told.error is not None:
        raise NotFound("DEFINITION_UNKNOWN", endpoint=asked.endpoint)
    number = asked.partition % len(told.partitions)
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=TIMEOUT_S)
    since = TopicPartition(topic, number, asked.asked_at_ms)
    begin = consumer.offsets_for_times([since], timeout=TIMEOUT_S)[0].offset
    consumer.assign([TopicPartition(topic, number, begin if begin >= 0 else end)])
    while (left_s := until_s - time.monotonic()) > 0:
        message = consumer.poll(min(left_s, POLL_S))
        if message is not None and message.error() is None:
            yield message.value() or b""


def _answering(value: bytes, asked: Asked) -> pb.PredictionsMade | None:
    """None for a record that does not answer this request; raises its error when it is refused."""
    try:
        made = pb.PredictionsMade.FromString(value)
    except DecodeError:  # a stranger's
        return None
    if not made.HasField("request_partition") or made.request_partition != asked.partition:
        return None
    for refused in made.refused:
        if refused.request_offset == asked.offset:
            raise error_by_reason(refused.reason, **dict(refused.metadata))
    return made if asked.offset in made.request_offsets else None


def _answer(made: pb.PredictionsMade, offset: int) -> Answer:
    """Of a record that may answer other requests too; one request's runs lie together."""
    before = [*made.request_offsets].index(offset)
    first, total = sum(made.run_rows[:before]), sum(made.run_rows)
    pairs = zip(made.request_offsets, made.run_rows, strict=True)
    rows = sum(rows for at, rows in pairs if at == offset)
    outputs = {each.name: _taken(each, first, rows, total) for each in made.outputs}
    return Answer(made.version, row_ids(made)[first : first + rows], outputs)


def _taken(tensor: pb.LoggedTensor, first: int, rows: int, total: int) -> pb.LoggedTensor:
    if rows == total:  # all of it, also where its first size does not count rows
        return tensor
    if tensor.datatype == "BYTES":
        elements = [*_elements(tensor.contents)]
        width = len(elements) // total
        contents = b"".join(elements[first * width : (first + rows) * width])
    else:
        width = len(tensor.contents) // total
        contents = tensor.contents[first * width : (first + rows) * width]
    return pb.LoggedTensor(
        name=tensor.name,
        datatype=tensor.datatype,
        shape=[rows, *tensor.shape[1:]],
        contents=contents,
    )


def _elements(contents: bytes) -> Iterator[bytes]:
    """Each with its length before it."""
    begin = 0
    while begin < len(contents):
        (length,) = LENGTH.unpack_from(contents, begin)
        end = begin + LENGTH.size + length
        yield contents[begin:end]
        begin = end
