# SPDX-License-Identifier: Apache-2.0
"""CloudEvents in structured mode are taken as the records that they carry."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from headrace_ingest.domain.judging import judge
from headrace_ingest.testing import NOW_US, a_contract, a_departure, a_raw
from headrace_kit.json_strict import decode_record as decode
from headrace_kit.kafka import Record
from headrace_kit.testing import a_batch

HEADERS = {"content-type": b"application/cloudevents+json; charset=UTF-8"}


def an_event(number: int = 0, **changes: Any) -> Record:
    """A departure in an envelope; a change to ... takes an attribute out."""
    event = {
        "specversion": "1.0",
        "id": f"event-{number}",
        "source": "/gate",
        "type": "departed",
        "data": a_departure(number),
    } | changes
    value = json.dumps({name: each for name, each in event.items() if each is not ...}).encode()
    return a_raw(number, record={"value": value, "headers": HEADERS})


def judged(*records: Record, **contract: Any):
    return judge(a_batch(list(records)), a_contract(**contract), decode=decode)


def test_event_is_taken_between_plain_records_by_its_own_id():
    rows = judged(a_raw(0), an_event(1), a_raw(2)).rows

    assert ["departed:0", "event-1", "departed:2"] == rows["_event_id"].to_list()
    assert rows["origin"].to_list() == ["EWR"] * 3


def test_time_of_the_event_stands_for_an_absent_event_time():
    data = a_departure(departed_at=...)
    rows = judged(an_event(data=data, time="2013-01-01T00:26:40Z")).rows

    assert [NOW_US] == rows["_event_time_us"].to_list()


def test_what_a_null_names_is_not_there():
    rows = judged(an_event(time=None, data_base64=None)).rows

    assert ["event-0"] == rows["_event_id"].to_list()


def test_data_may_be_base64():
    data = base64.b64encode(json.dumps(a_departure()).encode()).decode()

    assert ["EWR"] == judged(an_event(data=..., data_base64=data)).rows["origin"].to_list()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"specversion": "0.3"}, "DECODE_ERROR"),
        ({"id": ...}, "DECODE_ERROR"),
        ({"data": ...}, "DECODE_ERROR"),
        ({"data": ..., "data_base64": "%%"}, "DECODE_ERROR"),
        ({"data": "text"}, "BAD_TYPE"),
        ({"data_base64": "e30="}, "DECODE_ERROR"),
        ({"data": a_departure(departed_at=...), "time": 5}, "BAD_TIMESTAMP"),
        ({"data": a_departure(departed_at=...), "time": True}, "BAD_TIMESTAMP"),
        ({"dataschema": "other/1"}, "SCHEMA_UNKNOWN"),
        ({"dataschema": "flights.departed/2"}, "SCHEMA_INCOMPATIBLE"),
        ({"dataschema": "flights.departed/0"}, "SCHEMA_INCOMPATIBLE"),
        ({"dataschema": "flights.departed/01"}, "SCHEMA_UNKNOWN"),
        ({"id": "../a"}, "BAD_ID:ce_id"),
        ({"data": a_departure(delay="late")}, "BAD_TYPE:delay"),
        ({"data": a_departure(delay=10**20)}, "BAD_TYPE:delay"),
        ({"data": a_departure(delay=float("inf"))}, "BAD_TYPE:delay"),
    ],
)
def test_bad_event_gets_its_reason_between_good_ones(changes, reason):
    assert {1: reason} == judged(an_event(0), an_event(1, **changes), a_raw(2)).refused
