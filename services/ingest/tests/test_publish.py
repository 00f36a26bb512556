# SPDX-License-Identifier: Apache-2.0
"""Publish answers per item, and accepted means delivered (FAULTS 8.2)."""

from __future__ import annotations

import pytest

from headrace.errors import Busy, Invalid, NotFound, Unavailable
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.handlers.publish import PublishItem, PublishRecords, publish_records
from headrace_ingest.testing import a_contract
from headrace_kit.testing import MemoryPublisher

STREAM = "flights.departed"


def an_item(event_id="", key=b"UA1", value=b"{}"):
    return PublishItem(event_id, key, value)


@pytest.fixture
def publisher():
    return MemoryPublisher()


@pytest.fixture
def publish(publisher):
    contracts = AppliedContracts()
    contracts.put(a_contract())

    def call(*items, stream=STREAM):
        command = PublishRecords(stream, items)
        return publish_records(command, contracts=contracts, publisher=publisher, timeout_s=1.0)

    return call


def test_accepted_item_is_on_the_raw_topic(publish, publisher):
    assert ["", ""] == publish(an_item("mine", value=b"1"), an_item(value=b"2"))

    first, second = publisher.published
    assert ("raw.flights.departed.v1", b"UA1", b"1") == (first.topic, first.key, first.value)
    assert ((("ce_id", b"mine"),), ()) == (first.headers, second.headers)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (an_item(value=b""), "EMPTY"),
        (an_item(key=b""), "KEY_MISSING"),
        (an_item("a\x00b"), "BAD_ID"),
        (an_item("x" * 129), "BAD_ID"),
        (an_item(value=b"x" * (1 << 20)), "TOO_LARGE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_bad_item_does_not_refuse_the_others(item, reason, publish, publisher):
    assert ["", reason, ""] == publish(an_item(), item, an_item())
    assert 2 == len(publisher.published)


def test_unknown_stream_is_not_found(publish):
    with pytest.raises(NotFound, match="STREAM_UNKNOWN"):
        publish(an_item(), stream="no.such")


def test_empty_batch_is_refused(publish):
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        publish()


def test_too_many_items_are_refused(publish, publisher):
    with pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        publish(*[an_item()] * 1_001)
    assert [] == publisher.published


def test_too_many_bytes_are_refused(publish, publisher):
    with pytest.raises(Busy, match="MESSAGE_TOO_LARGE"):
        publish(*[an_item(value=b"x" * 1_000_000)] * 5)
    assert [] == publisher.published


def test_undelivered_batch_is_not_answered(publish, publisher):
    publisher.errors = [Unavailable("DELIVERY_UNKNOWN", topic="t")]

    with pytest.raises(Unavailable, match="DELIVERY_UNKNOWN"):
        publish(an_item())
