# SPDX-License-Identifier: Apache-2.0
"""Bad input of a caller is told with the row's number, and nothing that was queued is lost."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.application import parse_definition
from headrace.client import Client
from headrace.errors import Busy, Conflict, HeadraceError, Invalid, NotFound, Unavailable
from headrace.predictions import infer_request
from headrace.raw_producer import RawProducer
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


class FakeProducer:
    """Queues up to a size, and delivers what is queued at the flush."""

    def __init__(self, row_bytes_max=100):
        self.row_bytes_max, self.queued, self.delivered = row_bytes_max, [], []

    def produce(self, topic, *, value, key, on_delivery):
        if len(value) > self.row_bytes_max:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        self.queued.append(value)

    def flush(self, timeout_s):
        self.delivered, self.queued = self.delivered + self.queued, []
        return 0


@pytest.fixture
def producer():
    return FakeProducer()


@pytest.fixture
def client(producer):
    made = Client()
    made.__dict__.update(_raw=RawProducer(producer), definitions={("stream", "rides"): STREAM})
    return made


def test_row_that_is_too_large_is_named_and_the_rows_before_it_are_delivered(client, producer):
    with pytest.raises(Invalid, match="TOO_LARGE") as refused:
        client.publish_raw("rides", [(b"k", b"1"), (b"k", b"2"), (b"k", b"x" * 101), (b"k", b"4")])

    assert "3" == refused.value.metadata["row"]
    assert ([b"1", b"2"], []) == (producer.delivered, producer.queued)


@pytest.mark.parametrize("row", ["text", {"id": object()}, {"id": {1, 2}}, {"id": "\ud800"}])
def test_record_that_is_no_json_object_is_named_before_any_is_sent(client, producer, row):
    with pytest.raises(Invalid, match="BAD_REQUEST") as refused:
        client.publish("rides", [{"id": "a"}, row])

    assert "2" == refused.value.metadata["row"]
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

    assert {"row": "2", "missing": "riders"} == refused.value.metadata


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
