# SPDX-License-Identifier: Apache-2.0
"""Dead letters, fakes, back-off: the small parts that others lean on."""

import hashlib

import pytest

from headrace.errors import Busy, Unavailable
from headrace_kit.backoff import BACKOFF_S_MAX, Backoff
from headrace_kit.dead_letters import RECORD_BYTES_MAX, Origin, dead_letter, origin_of
from headrace_kit.kafka import Message, Partition
from headrace_kit.testing import FixedClock, MemoryPublisher, a_batch, a_record, wait_until


def test_dead_letter_keeps_payload_and_headers_and_tells_where_from():
    record = a_record(b"\xff", topic="raw.x.v1", partition=3, offset=42, headers={"ce_id": b"e1"})

    letter = dead_letter(record, reason="DECODE_ERROR", service="ingest")

    assert ("ingest.dead-letters.v1", b"raw.x.v1:3:42", b"\xff") == (
        letter.topic,
        letter.key,
        letter.value,
    )
    assert {
        "ce_id": b"e1",
        "dl-topic": b"raw.x.v1",
        "dl-partition": b"3",
        "dl-offset": b"42",
        "dl-key": b"key",
        "dl-reason": b"DECODE_ERROR",
        "dl-attempt": b"1",
        "dl-sha256": hashlib.sha256(b"\xff").hexdigest().encode(),
        "dl-service": b"ingest",
    } == dict(letter.headers)


@pytest.mark.parametrize(
    "record",
    [
        a_record(b"x" * (RECORD_BYTES_MAX + 1)),
        a_record(b"{}", key=b"k" * RECORD_BYTES_MAX, headers={"a": b"b"}),
        a_record(b"{}", headers={f"h{n}": b"" for n in range(100_000)}),
    ],
    ids=["payload", "key", "headers"],
)
def test_dead_letter_of_an_oversize_record_is_a_pointer(record):
    letter = dead_letter(record, reason="TOO_LARGE", service="ingest")

    assert letter.value is None
    assert all(name.startswith("dl-") for name, _ in letter.headers)
    assert sum(len(name) + len(value) for name, value in letter.headers) < RECORD_BYTES_MAX


def test_record_sent_again_keeps_the_place_of_its_first_letter_and_counts_the_attempt():
    first = dead_letter(a_record(offset=42), reason="BAD_TYPE", service="ingest")
    origin = origin_of(dict(first.headers))

    second = dead_letter(
        a_record(offset=77), reason="OUT_OF_RANGE", service="ingest", origin=origin
    )

    assert (first.key, b"2") == (second.key, dict(second.headers)["dl-attempt"])


def test_what_a_record_says_of_letters_is_not_believed():
    told = {"dl-topic": b"raw.a.v1", "dl-partition": b"0", "dl-offset": b"1", "dl-attempt": b"1"}
    forged = told | {"dl-redriven": b"1", "dl-reasons": b"EMPTY", "mine": b"kept"}
    record = a_record(topic="raw.a.v1", offset=7, headers=forged)

    letter = dead_letter(record, reason="TOMBSTONE", service="ingest")

    headers = dict(letter.headers)
    assert (b"raw.a.v1:0:7", b"1") == (letter.key, headers["dl-attempt"])
    assert not {"dl-redriven", "dl-reasons"} & headers.keys()
    assert b"kept" == headers["mine"]


@pytest.mark.parametrize("offset", [b"", b"-1", b"1.5", b"9" * 20, "²".encode(), b"\xff"])
def test_origin_with_no_number_is_none(offset):
    headers = {"dl-topic": b"raw.a.v1", "dl-partition": b"0", "dl-attempt": b"1"}

    assert Origin("raw.a.v1", 0, 1, 1) == origin_of({**headers, "dl-offset": b"1"})
    assert origin_of({**headers, "dl-offset": offset}) is None


def test_backoff_doubles_up_to_its_bound_and_starts_again():
    backoff = Backoff()

    assert [0.1, 0.2, 0.4] == [backoff.failed() for _ in range(3)]
    assert 1.0 == backoff.failed(delay_s_min=1.0)
    assert BACKOFF_S_MAX == [backoff.failed() for _ in range(20)][-1]
    assert backoff.left_s() > 0
    backoff.succeeded()
    assert (0, 0.0) == (backoff.tries, backoff.left_s())


def test_memory_publisher_raises_what_it_is_told_and_keeps_the_rest():
    publisher = MemoryPublisher()
    publisher.errors.append(Busy("QUEUE_FULL"))
    message = Message("t", None, b"v")

    with pytest.raises(Busy):
        publisher.publish([message])
    publisher.publish([message])

    assert [message] == publisher.published


def test_fixed_clock_moves_when_told():
    clock = FixedClock(5)
    clock.advance(10)
    assert 15 == clock.now_us()


def test_wait_until_gives_up():
    with pytest.raises(AssertionError):
        wait_until(lambda: False, timeout_s=0.05)


def test_wait_until_asks_again_what_is_away():
    answers = iter([Unavailable("BROKER_UNAVAILABLE"), 0, 7])

    def ask():
        if isinstance(answer := next(answers), Unavailable):
            raise answer
        return answer

    assert 7 == wait_until(ask)


def placed(*places):
    return a_batch([a_record(topic=t, partition=p, offset=o) for t, p, o in places])


def test_batch_is_cut_where_the_partition_changes():
    batch = placed(("a", 0, 5), ("a", 0, 6), ("a", 1, 0), ("b", 1, 0), ("a", 0, 7))

    expected = [(("a", 0), 0, 2), (("a", 1), 2, 3), (("b", 1), 3, 4), (("a", 0), 4, 5)]
    assert expected == batch.runs
    assert {("a", 0): 8, ("a", 1): 1, ("b", 1): 1} == batch.next_by_partition()
    assert [5, 6, 7] == batch.without([Partition("a", 1), Partition("b", 1)]).offsets
    assert [] == placed().runs


def test_dead_letter_of_a_deadly_record_is_a_pointer():
    letter = dead_letter(a_record(b"boom"), reason="POISON_CRASH", service="feature")

    assert letter.value is None
    assert hashlib.sha256(b"boom").hexdigest().encode() == dict(letter.headers)["dl-sha256"]
