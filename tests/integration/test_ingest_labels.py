# SPDX-License-Identifier: Apache-2.0
"""Labels read from the archive on disk, by keys that may say anything."""

from __future__ import annotations

import pytest
from ingest_process import DEADLINE_S, DEFINITIONS, Stream

from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.application import definition_json, parse_definition
from headrace.client import Addresses, Client
from headrace.labels import features_of
from headrace.prediction_log import one_row_record
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace_ingest.adapters.delta_archive import DeltaArchive
from headrace_ingest.adapters.delta_rows import DeltaRows
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.judging import ARCHIVE_COLUMNS, judge
from headrace_ingest.testing import (
    NOW_US,
    a_contract,
    a_raw,
    a_stream_document,
    never_read,
)
from headrace_kit.json_strict import decode
from headrace_kit.kafka import Message
from headrace_kit.testing import a_batch, wait_until

pytestmark = pytest.mark.integration

KEYS = ["UA1", "O'Hare", "x') or ('1'='1", '"; drop table records', "Zürich"]


@pytest.fixture
def rows(folder):
    """Rows of an archive with one record for each key."""
    contract, archive = a_contract(), DeltaArchive(folder.uri, folder.options, was_read=never_read)
    archive.open(contract, "t", [0], ids_max=1)
    records = [
        a_raw(number, record={"key": key.encode()}, flight=key, delay=float(number))
        for number, key in enumerate(KEYS)
    ]
    found = judge(a_batch(records), contract, decode=decode).rows
    kept = found.select(*ARCHIVE_COLUMNS, *contract.stream.columns)
    archive.append(contract, kept, {0: Account()}, {0: Account(5)})
    return contract, DeltaRows(folder.uri, folder.options, was_read=never_read)


@pytest.mark.parametrize("key", KEYS)
def test_key_finds_its_own_record_and_no_other(key, rows):
    contract, records = rows

    found = records.of_keys(contract, ["_event_id", "flight"], key="flight", keys=[key])

    assert [key] == found["flight"].to_list()


def test_number_is_found_by_its_digits(rows):
    contract, records = rows
    found = [
        records.of_keys(contract, ["flight"], key="delay", keys=[key])["flight"].to_list()
        for key in ("3", "3.0")
    ]

    assert [[KEYS[3]], []] == found


def test_stream_without_records_and_column_without_values_are_empty(rows):
    contract, records = rows
    other = a_contract(name="others")
    columns = contract.stream.model_dump(mode="json", exclude_none=True)["columns"]
    wider = a_contract(2, columns=columns | {"gate": {"type": "string"}})

    assert 0 == records.of_keys(other, ["flight"], key="flight", keys=KEYS).height
    found = records.of_keys(wider, ["flight", "gate"], key="flight", keys=["UA1"])
    assert [("UA1", None)] == found.rows()


def test_records_are_read_by_event_time_from_the_first_to_before_the_last(rows):
    contract, records = rows

    def between(from_us, until_us, rows_max=10):
        found = records.between(contract, from_us=from_us, until_us=until_us, rows_max=rows_max)
        return found.height, set(found.columns) >= {"_event_id", "_event_time_us", "flight"}

    assert (len(KEYS), True) == between(NOW_US, NOW_US + 1)
    assert (0, True) == between(0, NOW_US)
    assert (0, True) == between(NOW_US + 1, 7_258_118_400_000_000)
    assert (2, True) == between(0, 7_258_118_400_000_000, rows_max=2)


def test_records_are_read_by_their_texts_too(rows):
    contract, records = rows

    def keys(**having):
        found = records.between(
            contract, from_us=0, until_us=NOW_US + 1, rows_max=10, having=having
        )
        return found["flight"].to_list()

    assert ["O'Hare"] == keys(flight="O'Hare", origin="EWR")
    assert [] == keys(flight="O'Hare", origin="JFK")


@pytest.fixture
def queue(start_service, kafka_server, publisher):
    """A service with a label queue on the predictions of an endpoint of its own."""
    stream = Stream(kafka_server, publisher)
    columns = a_stream_document()["columns"] | {"verdict": {"type": "string"}}
    stream.apply(columns=columns)
    predictions = topics.INFERENCE_PREDICTIONS.of(stream.name)
    wanted = [(predictions, topics.INFERENCE_PREDICTIONS)]
    create_topics(kafka_server, [*wanted, *static_topics()])
    document = {
        "kind": "label",
        "name": stream.name,
        "description": "Where from?",
        "stream": stream.name,
        "key": "flight",
        "value": "origin = 'JFK'",
        "window": "2h",
        "origin": "verdict",
        "queue": {
            "endpoint": stream.name,
            "answer": "origin",
            "choices": ["EWR", "JFK"],
            "rules": {"random": 1.0},
        },
    }
    spec = definition_json(parse_definition(document))
    definition = Definition(kind="label", name=stream.name, version=1, spec_json=spec)
    key = f"label/{stream.name}".encode()
    publisher.publish([Message(DEFINITIONS.name, key, definition.SerializeToString())])
    publisher.publish([a_prediction(stream, "p1", "UA7")])
    service = start_service()
    service.start()
    client = Client(Addresses(ingest=f"127.0.0.1:{service.grpc_port}")).labels
    return service, stream, client


def a_prediction(stream, prediction_id, flight):
    """All of one partition."""
    made = one_row_record(
        prediction_id=prediction_id,
        endpoint=stream.name,
        model="delays",
        version=1,
        entity_key=flight,
        as_of_us=NOW_US,
        features=[0.5],
        score=0.4,
    )
    topic = topics.INFERENCE_PREDICTIONS.of(stream.name)
    return Message(topic, b"UA7", made.SerializeToString())


def targets(labels, stream):
    return sorted(task.target for task in labels.tasks(stream.name))


def test_predictions_of_a_topic_that_is_made_again_are_each_one_task(queue, make_again):
    """More of them than were read: the old place lies amid the new ones."""
    service, stream, labels = queue
    wait_until(lambda: targets(labels, stream) == ["UA7"])
    service.stop()
    predictions = topics.INFERENCE_PREDICTIONS
    again = make_again(predictions.of(stream.name), predictions)
    flights = {"p2": "UA8", "p1": "UA7", "p3": "UA9"}
    again.publish([a_prediction(stream, *each) for each in flights.items()])

    service.start()
    wait_until(lambda: "UA9" in targets(labels, stream))
    assert ["UA7", "UA8", "UA9"] == targets(labels, stream)


def test_answer_of_a_person_becomes_the_truth_about_the_prediction(queue):
    service, stream, labels = queue
    wait_until(lambda: list(labels.tasks(stream.name)), timeout_s=DEADLINE_S)
    claimed = labels.claim(stream.name, "ann")
    assert ("UA7", ["EWR", "JFK"]) == (claimed.task.target, list(claimed.choices))
    # Nobody answers as the registry: what was logged is shown without names.
    assert {"feature 0": 0.5} == features_of(claimed.task.item)

    labels.submit(claimed.task.task_id, "ann", "JFK")
    wait_until(lambda: service.counts(stream).stored == 1, timeout_s=DEADLINE_S)

    [found] = labels.look_up(stream.name, [("UA7", NOW_US)])
    assert (True, "human", claimed.task.task_id) == (found.value.flag, found.origin, found.event_id)
    assert [] == list(labels.tasks(stream.name))
