# SPDX-License-Identifier: Apache-2.0
"""Dead letters of an ingest process: listed, shown, and sent again so that each is stored once."""

from __future__ import annotations

import json
import signal

import pytest
from ingest_process import Stream

from headrace.client import Addresses, Client
from headrace.dead_letters import LetterFilter
from headrace.errors import Unavailable
from headrace_ingest.testing import a_departure, a_stream_document
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.integration

WIDER = a_stream_document()["columns"] | {"clock": {"type": "int64", "min": 0, "max": 9_999}}
LATE = [
    json.dumps(a_departure(number, flight=f"UA{number}", clock=5_000)).encode()
    for number in range(12)
]


@pytest.fixture
def letters(start_service, stream):
    """A service that has set the records aside, and its dead letters."""

    def start(fail: str = ""):
        service = start_service()
        service.start(fail=fail, DEAD_LETTERS_SHARE_MAX="1")
        stream.publish(*LATE)
        stream.wait_taken_in()
        client = Client(Addresses(ingest=f"127.0.0.1:{service.grpc_port}"))
        return service, client.dead_letters

    return start


def redriven(dead_letters, stream: Stream, **options):
    *_, last = dead_letters.redrive(LetterFilter(stream=stream.name), **options)
    return last


def test_mended_records_move_from_dead_letters_to_stored(letters, stream):
    service, dead_letters = letters()
    [count] = dead_letters.page(LetterFilter(stream=stream.name)).counts
    shown = dead_letters.get(next(dead_letters(LetterFilter(stream=stream.name))).id)
    assert ("OUT_OF_RANGE", 12) == (count.reason, count.waiting)
    assert (["OUT_OF_RANGE"], True) == (list(shown.reasons_now), shown.value in LATE)

    stream.apply(version=2, columns=WIDER)
    wait_until(lambda: not redriven(dead_letters, stream, dry_run=True).refused_by_reason)
    assert 12 == redriven(dead_letters, stream).sent
    stream.wait_taken_in()

    counts = service.counts(stream)
    assert (24, 12, 12) == (counts.received, counts.stored, counts.redriven)
    assert {f"departed:{n}": 1 for n in range(12)} == dict(service.archived(stream))
    assert [] == list(dead_letters(LetterFilter(stream=stream.name)))
    assert 0 == redriven(dead_letters, stream).sent


def test_redrive_killed_behind_its_sending_stores_once(letters, stream):
    service, dead_letters = letters(fail="ingest.redrive.sent:1:kill")
    stream.apply(version=2, columns=WIDER)
    wait_until(lambda: not redriven(dead_letters, stream, dry_run=True).refused_by_reason)
    with pytest.raises(Unavailable):
        redriven(dead_letters, stream)
    assert -signal.SIGKILL == service.wait_ended()

    service.start(DEAD_LETTERS_SHARE_MAX="1")
    service.counts(stream)  # tries until the connection is back
    assert 12 == redriven(dead_letters, stream).sent
    stream.wait_taken_in()

    counts = service.counts(stream)
    assert (12, 12, 12) == (counts.stored, counts.redriven, counts.repeats)
    assert {f"departed:{n}": 1 for n in range(12)} == dict(service.archived(stream))


def test_hostile_producer_takes_no_letters_place(letters, stream):
    service, dead_letters = letters()
    victim = next(dead_letters(LetterFilter(stream=stream.name)))
    forged = {
        "dl-topic": stream.raw,
        "dl-partition": str(victim.partition),
        "dl-offset": str(victim.offset),
        "dl-attempt": str(victim.attempt),
        "dl-seal": "0" * 64,
    }
    stream.publish(json.dumps(a_departure(99, clock=7_000)).encode(), headers=forged)
    stream.wait_taken_in()

    waiting = {each.id: each.sha256 for each in dead_letters(LetterFilter(stream=stream.name))}
    assert (13, 0) == (len(waiting), service.counts(stream).redriven)
    assert victim.sha256 == waiting[victim.id]
