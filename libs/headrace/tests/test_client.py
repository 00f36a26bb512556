# SPDX-License-Identifier: Apache-2.0
"""Bad input of a caller is told with the row's number, and nothing that was queued is lost."""

from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace import raw_producer
from headrace.application import parse_definition
from headrace.client import Client
from headrace.errors import Busy, Conflict, HeadraceError, Invalid, NotFound, Unavailable
from headrace.ingest.v1.ingest_service_pb2 import StreamCounts
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.predictions import infer_request, predictions_of
from headrace.raw_producer import RawProducer, encoder, raw_row
from headrace.trainer.v1 import trainer_service_pb2

COLUMNS = {"ride": "string", "riders": "int64", "price": "float64"}
STREAM = parse_definition(
    {
        "kind": "stream",
        "name": "rides",
        "description": "Rides.",
        "owner": "tests",
        "key": "id",
        "id": "id",
        "event_time": "at",
        "lateness_allowed": "1h",
        "columns": {"id": {"type": "string"}, "at": {"type": "timestamp"}},
    }
)
ENDPOINT = parse_definition(
    {
        "kind": "endpoint",
        "name": "late",
        "description": "Late?",
        "model": "late",
        "entity_key": "ride",
        "columns": COLUMNS,
        "rollout": {"canary_percent": 20, "outcomes_min": 1, "outcomes_max": 2, "alpha": 0.05},
    }
)
ROW = {"ride": "a", "riders": 2, "price": 1.5}


@dataclass
class FakeMessage:
    kept_key: bytes
    kept_value: bytes

    def key(self):
        return self.kept_key

    def value(self):
        return self.kept_value


class FakeProducer:
    """Queues up to a size, and delivers what is queued at the flush; or fails with an error."""

    def __init__(self, row_bytes_max=100):
        self.row_bytes_max, self.queued, self.delivered = row_bytes_max, [], []
        self.fails_from, self.error = None, KafkaError(KafkaError._MSG_TIMED_OUT)

    def list_topics(self, topic, timeout):
        """It is not there."""
        error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
        return SimpleNamespace(topics={topic: SimpleNamespace(error=error)})

    def produce(self, topic, *, value, key, on_delivery):
        if len(value) > self.row_bytes_max:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        self.queued.append((FakeMessage(key, value), on_delivery))

    def flush(self, timeout_s):
        for message, on_delivery in self.queued:
            failed = self.fails_from is not None and len(self.delivered) >= self.fails_from
            on_delivery(self.error if failed else None, message)
            if not failed:
                self.delivered.append(message.value())
        self.queued = []
        return 0


@pytest.fixture
def producer():
    return FakeProducer()


@pytest.fixture
def client(producer):
    made = Client()
    made.__dict__.update(_raw=RawProducer(producer), definitions={("stream", "rides"): STREAM})
    return made


# `definitions` asks the registry, and `_raw` makes a producer: the rest opens a channel at most.
OPENED = [
    name
    for name, each in vars(Client).items()
    if isinstance(each, cached_property) and name not in ("definitions", "_raw")
]


@pytest.mark.parametrize("name", OPENED)
def test_each_part_of_a_client_is_made_without_a_service(name):
    assert getattr(Client(), name) is not None


def test_row_that_is_too_large_is_named_and_the_rows_before_it_are_delivered(client, producer):
    with pytest.raises(Invalid, match="TOO_LARGE") as refused:
        client.publish_raw("rides", [(b"k", b"1"), (b"k", b"2"), (b"k", b"x" * 101), (b"k", b"4")])

    assert "3" == refused.value.metadata["row"]
    assert ([b"1", b"2"], []) == (producer.delivered, producer.queued)
    assert "2" == refused.value.metadata["accepted"]


@pytest.mark.parametrize(
    ("value", "key"), [("a", b"a"), (7, b"7"), (True, b"true"), (None, b""), (..., b"")]
)
def test_key_is_the_text_of_its_column(value, key):
    record = {} if value is ... else {"id": value}

    assert key == raw_row(1, record, "id", encoder(STREAM))[0]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (KafkaError._MSG_TIMED_OUT, "DELIVERY_UNKNOWN"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "TOPIC_MISSING"),
        (KafkaError._UNKNOWN_TOPIC, "TOPIC_MISSING"),
        (KafkaError._UNKNOWN_PARTITION, "TOPIC_MISSING"),
        (KafkaError._DESTROY, "TOPIC_MISSING"),
    ],
)
def test_records_that_are_not_delivered_are_counted_beside_those_that_are(
    client, producer, code, reason
):
    producer.fails_from, producer.error = 2, KafkaError(code)

    with pytest.raises(Unavailable, match=reason) as lost:
        client.publish("rides", [{"id": each} for each in "abcde"])

    told = lost.value.metadata
    assert ("raw.rides.v1", "2", "3") == (told["topic"], told["accepted"], told["records"])
    assert "repeat" in told["again"]


class TopicThatGoesAgain(FakeProducer):
    """It is there when it is asked for, and gone when something is sent again."""

    error_again = KafkaError(KafkaError._UNKNOWN_TOPIC)

    def list_topics(self, topic, timeout):
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None)})

    def poll(self, timeout_s):
        return 0

    def produce(self, topic, **given):
        if self.fails_from is not None and self.delivered:
            raise KafkaException(self.error_again)
        super().produce(topic, **given)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (KafkaError._UNKNOWN_TOPIC, "TOPIC_MISSING"),
        (KafkaError._FATAL, "DELIVERY_UNKNOWN"),
    ],
)
def test_what_cannot_be_sent_again_is_told_as_any_other(client, monkeypatch, code, reason):
    producer = TopicThatGoesAgain()
    producer.fails_from, producer.error = 2, KafkaError(KafkaError._UNKNOWN_PARTITION)
    producer.error_again = KafkaError(code)
    client.__dict__["_raw"] = RawProducer(producer)
    monkeypatch.setattr(raw_producer, "TOPIC_WAIT_S", 0.1)

    with pytest.raises(Unavailable, match=reason) as lost:
        client.publish("rides", [{"id": each} for each in "abcde"])

    assert "2" == lost.value.metadata["accepted"]


def test_records_of_other_threads_in_the_queue_are_none_of_this_call(client, producer, monkeypatch):
    flush = producer.flush
    monkeypatch.setattr(producer, "flush", lambda timeout_s: flush(timeout_s) + 5)

    assert 2 == client.publish("rides", [{"id": each} for each in "ab"])


def test_report_that_another_thread_runs_after_the_flush_is_waited_for(
    client, producer, monkeypatch
):
    flush = producer.flush
    monkeypatch.setattr(producer, "flush", lambda timeout_s: 0)
    producer.poll = flush

    assert 2 == client.publish("rides", [{"id": each} for each in "ab"])


class Requests:
    """Notes what is asked, and with which key."""

    def ask(self, request, *, key):
        self.request, self.key = request, key
        return SimpleNamespace()

    def answer(self, asked, *, timeout_s):
        return SimpleNamespace(predictions=list)


@pytest.mark.parametrize(("ride", "key"), [("a", "a"), (None, "")])
def test_request_over_kafka_of_a_null_key_has_none(client, monkeypatch, ride, key):
    asked = Requests()
    client.__dict__.update(requests=asked, definitions={("endpoint", "late"): ENDPOINT})
    monkeypatch.setattr("headrace.client.infer_request", lambda *_: None)
    client.predict("late", [{**ROW, "ride": ride}], door="kafka")

    assert key == asked.key


class Versions:
    """Of which every alias names the ninth."""

    def number(self, reference):
        return reference.version or 9


@pytest.mark.parametrize(
    ("name", "version"),
    [("late", ""), ("models:/lateness/7", "7"), ("lateness@champion", "9")],
)
def test_endpoint_is_asked_by_its_name_or_for_a_version_of_its_model(client, name, version):
    endpoint = ENDPOINT.model_copy(update={"model": "lateness"})
    asked = Requests()
    definitions = {("endpoint", "late"): endpoint}
    client.__dict__.update(models=Versions(), requests=asked, definitions=definitions)
    client.predict(name, [ROW], door="kafka")

    assert ("late", version) == (asked.request.model_name, asked.request.model_version)


@pytest.mark.parametrize(
    ("endpoints", "name", "told"),
    [
        (("late",), "other", "DEFINITION_UNKNOWN"),
        (("late",), "other/7", "no endpoint serves this model"),
        (("late", "later"), "lateness/7", "name one of its endpoints: late, later"),
    ],
)
def test_version_that_names_no_one_endpoint_is_told(client, endpoints, name, told):
    found = [ENDPOINT.model_copy(update={"name": n, "model": "lateness"}) for n in endpoints]
    client.__dict__.update(definitions={("endpoint", each.name): each for each in found})

    with pytest.raises(HeadraceError, match=told):
        client.predict(name, [ROW])


def test_topic_that_the_producer_misses_at_once_is_told_as_missing(client, producer, monkeypatch):
    def missing(topic, **_):
        raise KafkaException(KafkaError(KafkaError._UNKNOWN_TOPIC))

    monkeypatch.setattr(producer, "produce", missing)

    with pytest.raises(Unavailable, match="TOPIC_MISSING"):
        client.publish("rides", [{"id": "a"}])


@pytest.mark.parametrize(
    "row",
    ["text", {"id": object()}, {"id": {1, 2}}, {"id": "\ud800"}, {"id": "b", "fare": float("nan")}],
)
def test_record_that_is_no_json_object_is_named_before_any_is_sent(client, producer, row):
    with pytest.raises(Invalid, match="BAD_REQUEST") as refused:
        client.publish("rides", [{"id": "a"}, row])

    assert ("2", "0") == tuple(refused.value.metadata[name] for name in ("row", "accepted"))
    assert ([], []) == (producer.delivered, producer.queued)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ride", 7),
        ("ride", b"a"),
        ("ride", "\ud800"),
        ("riders", "2"),
        ("riders", 2.0),
        ("riders", None),
        ("riders", 1 << 63),
        ("price", "1.5"),
        ("price", None),
        ("price", 10**400),
    ],
)
def test_value_of_another_type_is_named_by_row_and_column(column, value):
    with pytest.raises(Invalid, match="BAD_REQUEST") as refused:
        infer_request(ENDPOINT, [ROW, {**ROW, column: value}], "r")

    assert {"row": "2", "column": column}.items() <= refused.value.metadata.items()


def test_absent_column_is_named_by_row():
    with pytest.raises(Invalid, match="BAD_REQUEST") as refused:
        infer_request(ENDPOINT, [ROW, {"ride": "a"}], "r")

    columns = "ride, riders, price"
    assert {"row": "2", "missing": "riders", "columns": columns} == refused.value.metadata


def test_values_reach_the_tensors_of_their_columns():
    tensors = infer_request(ENDPOINT, [ROW, {"ride": None, "riders": -1, "price": 2}], "r").inputs

    contents = {tensor.name: tensor.contents for tensor in tensors}
    assert [b"a", b""] == list(contents["ride"].bytes_contents)
    assert [2, -1] == list(contents["riders"].int64_contents)
    assert [1.5, 2.0] == list(contents["price"].fp64_contents)


@pytest.mark.parametrize(
    ("reason", "branch", "told"),
    [
        ("TOO_FEW_ROWS", Conflict, "TOO_FEW_ROWS"),
        ("RECORDS_BEHIND", Unavailable, "RECORDS_BEHIND"),
        ("DEFINITION_UNKNOWN", NotFound, "DEFINITION_UNKNOWN"),
        ("ARTIFACT_TOO_LARGE", Busy, "ARTIFACT_TOO_LARGE"),
        ("TRAINING_FAILED", HeadraceError, "TRAINING_FAILED"),
        ("OF_A_NEWER_VERSION", HeadraceError, "INTERNAL"),
    ],
)
def test_failed_run_raises_the_error_of_its_reason(client, monkeypatch, reason, branch, told):
    failed = trainer_service_pb2.Run(state=trainer_service_pb2.RUN_STATE_FAILED, reason=reason)
    monkeypatch.setattr(client, "run", lambda run_id: failed)

    with pytest.raises(HeadraceError, match=told) as raised:
        client.wait_run("r", timeout_s=1.0)
    assert branch is type(raised.value)


def test_attributions_stand_by_row_and_feature():
    answer = oip.ModelInferResponse(model_version="7")
    answer.outputs.add(name="score").contents.fp32_contents.extend([0.25, 0.75])
    answer.outputs.add(name="prediction_id").contents.bytes_contents.extend([b"p0", b"p1"])
    moved = answer.outputs.add(name="attributions", shape=[2, 2])
    moved.parameters["features"].string_param = "weather:wind,when:hour"
    moved.contents.fp32_contents.extend([0.5, 0.0, -0.5, 1.0])

    first, second = predictions_of(answer)

    assert {"weather:wind": 0.5, "when:hour": 0.0} == first.attributions
    assert ("p1", 0.75, 7) == (second.prediction_id, second.score, second.version)
    assert {"weather:wind": -0.5, "when:hour": 1.0} == second.attributions


class Counting:
    """A client of which ingest learns the newest contract at the third look."""

    looks = 0

    def stream_counts(self):
        self.looks += 1
        version = 2 if self.looks > 2 else 1
        return [StreamCounts(stream="rides", contract_version=version), StreamCounts(stream="x")]


def test_streams_are_awaited_in_their_versions(monkeypatch):
    monkeypatch.setattr("headrace.client.POLL_INTERVAL_S", 0.0)
    counting = Counting()

    [found] = Client.await_streams(counting, {"rides": 2}, timeout_s=5.0)

    assert ("rides", 2, 3) == (found.stream, found.contract_version, counting.looks)


def test_streams_that_do_not_come_are_told_in_time(monkeypatch):
    monkeypatch.setattr("headrace.client.POLL_INTERVAL_S", 0.0)

    with pytest.raises(Unavailable, match=r"SERVICE_UNAVAILABLE.*service=ingest"):
        Client.await_streams(Counting(), {"absent": 1}, timeout_s=0.01)
