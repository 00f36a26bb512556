# SPDX-License-Identifier: Apache-2.0
"""Publish answers per item, and accepted means delivered (FAULTS 8.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import Busy, Conflict, Invalid, NotFound, Unavailable
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.domain.faults import leading
from headrace_ingest.domain.judging import judge
from headrace_ingest.domain.recent_ids import RecentIds
from headrace_ingest.handlers.publish import (
    PublishDoor,
    PublishItem,
    PublishRecords,
    publish_records,
    publish_stream,
)
from headrace_ingest.testing import a_contract, a_raw
from headrace_kit.json_strict import decode
from headrace_kit.testing import MemoryPublisher, a_batch

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

    door = PublishDoor(contracts=contracts, publisher=publisher, ids=RecentIds())

    def call(*items, stream=STREAM):
        """The reason of each item; "repeat" for one."""
        found = publish_records(PublishRecords(stream, items), door=door, timeout_s=1.0)
        repeats = dict.fromkeys(found.repeats, "repeat")
        return [(found.refused | repeats).get(index, "") for index in range(found.items)]

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
        (an_item(key=b"", value=b"x" * ((1 << 20) + 1)), "TOO_LARGE"),
        (an_item(key=b"\xff"), "BAD_ID"),
        (an_item(key=b"../UA1"), "BAD_ID"),
        (an_item(key=b"x" * 129), "BAD_ID"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_bad_item_does_not_refuse_the_others(item, reason, publish, publisher):
    assert ["", reason, ""] == publish(an_item(), item, an_item())
    assert 2 == len(publisher.published)


KEYS = st.sampled_from([b"", b"UA1", b"\xff", b"a/b", b"x" * 128, b"x" * 129, "\u202e".encode()])
IDS = st.sampled_from(["", "mine", "..", "%2e", "y" * 129])
SIZES = st.sampled_from([-1, 0, (1 << 20) - 200, (1 << 20) - 8, (1 << 20) - 3, 1 << 20])


@given(key=KEYS, event_id=IDS, size=SIZES)
def test_both_doors_give_a_record_the_same_answer(key, event_id, size):
    """Published by Kafka, the sink says what the door said, or what needs the contract."""
    padding = size - len(a_raw().value)
    padded = a_raw().value + b" " * max(0, padding)
    value = b"" if size < 0 else padded
    publisher, contracts = MemoryPublisher(), AppliedContracts()
    contracts.put(a_contract())
    door = PublishDoor(contracts=contracts, publisher=publisher, ids=RecentIds())
    command = PublishRecords(STREAM, [an_item(event_id, key, value), an_item()])
    answer = publish_records(command, door=door, timeout_s=1.0).refused.get(0)
    headers = {"ce_id": event_id.encode()} if event_id else {}
    raw = a_raw(record={"key": key, "value": value, "headers": headers})
    judged = judge(a_batch([raw]), a_contract(), decode=decode).refused.get(0)

    by_kafka = None if judged is None else leading(judged)
    assert answer == (None if by_kafka == "KEY_MISMATCH" else by_kafka)


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


def test_batch_of_nothing_but_bad_items_fails_by_the_first_reason(publish):
    with pytest.raises(Invalid, match="EMPTY") as raised:
        publish(an_item(value=b""), an_item(key=b""))
    assert "items[0]" == raised.value.metadata["field"]


def test_same_id_with_the_same_value_is_a_repeat_and_is_sent_once(publish, publisher):
    assert [""] == publish(an_item("a", value=b"1"))
    assert ["repeat", ""] == publish(an_item("a", value=b"1"), an_item("b", value=b"1"))
    assert 2 == len(publisher.published)


def test_same_id_with_another_value_is_a_conflict(publish, publisher):
    publish(an_item("a", value=b"1"))

    assert ["DUPLICATE_CONFLICT", ""] == publish(an_item("a", value=b"2"), an_item("b"))
    with pytest.raises(Conflict, match="DUPLICATE_CONFLICT"):
        publish(an_item("a", value=b"2"))


def test_id_twice_in_a_batch_is_a_repeat_or_a_conflict(publish):
    items = [an_item("a", value=b"1"), an_item("a", value=b"1"), an_item("a", value=b"2")]

    assert ["", "repeat", "DUPLICATE_CONFLICT"] == publish(*items)


def test_id_that_the_value_alone_holds_is_left_to_the_sink(publish, publisher):
    first, other = a_raw(1).value, a_raw(1, delay=9.0).value

    assert [["", ""], [""]] == [
        publish(an_item(value=first), an_item(value=first)),
        publish(an_item(value=other)),
    ]
    assert [first, first, other] == [each.value for each in publisher.published]


def test_id_that_was_not_delivered_is_not_known(publish, publisher):
    publisher.errors = [Unavailable("DELIVERY_UNKNOWN", topic="t")]
    with pytest.raises(Unavailable):
        publish(an_item("a", value=b"1"))

    assert [""] == publish(an_item("a", value=b"2"))


def test_ids_of_two_streams_do_not_meet():
    ids = RecentIds()
    ids.remember("a", {"1": b"x"})

    assert (b"x", None) == (ids.digest("a", "1"), ids.digest("b", "1"))


def test_oldest_ids_are_forgotten():
    ids = RecentIds(2)
    for number in range(4):
        ids.remember("a", {str(number): b"x"})

    assert [None, None, b"x", b"x"] == [ids.digest("a", str(number)) for number in range(4)]


@pytest.fixture
def stream(publisher):
    contracts = AppliedContracts()
    contracts.put(a_contract())
    door = PublishDoor(contracts=contracts, publisher=publisher, ids=RecentIds())

    def call(*batches, check=lambda: None):
        commands = (PublishRecords(STREAM, items) for items in batches)
        return publish_stream(commands, door=door, check=check)

    return call


def test_batches_of_a_stream_are_answered_in_order(stream, publisher):
    found = list(stream(*([an_item(value=b"%d" % n)] * (n % 3 + 1) for n in range(20))))

    assert [n % 3 + 1 for n in range(20)] == [each.items for each in found]
    assert sum(each.items for each in found) == len(publisher.published)


def test_bad_items_do_not_end_a_stream(stream):
    first, second = stream([an_item(value=b"")], [an_item()])

    assert ({0: "EMPTY"}, {}) == (first.refused, second.refused)


def test_bad_batch_ends_a_stream_behind_the_answers_before_it(stream):
    answers = stream([an_item()], [an_item()], [])

    assert [1, 1] == [next(answers).items, next(answers).items]
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        next(answers)


def test_undelivered_batch_of_a_stream_is_not_answered(stream, publisher):
    publisher.errors = [Unavailable("DELIVERY_UNKNOWN", topic="t")]

    with pytest.raises(Unavailable, match="DELIVERY_UNKNOWN"):
        list(stream([an_item()]))


def test_stream_ends_when_the_service_drains(stream):
    def draining():
        raise Unavailable("SERVICE_UNAVAILABLE", state="draining")

    with pytest.raises(Unavailable, match="draining"):
        list(stream([an_item()], check=draining))
