# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from headrace import topics
from headrace.errors import Invalid
from headrace_kit.kafka import Partition
from headrace_kit.testing import a_record
from headrace_registry.adapters.event_consumer import EventConsumer
from headrace_registry.testing import a_file, a_run, run_record

RUNS = Partition(topics.TRAINER_RUNS.name, 0)
VERDICTS = Partition(topics.MONITOR_VERDICTS.name, 0)


@pytest.fixture
def consumer(registry) -> EventConsumer:
    return EventConsumer(
        runs=topics.TRAINER_RUNS.name,
        verdicts=topics.MONITOR_VERDICTS.name,
        store=registry.store,
        artifacts=registry.artifacts,
        acceptor=registry.acceptor,
        spool=a_file,
        clock=registry.clock,
    )


def test_first_start_is_at_the_beginning(consumer) -> None:
    assert {} == consumer.positions([RUNS, VERDICTS])


def test_position_follows_the_records(consumer, registry) -> None:
    consumer.handle([run_record(a_run("run-1"), offset=4), run_record(a_run("run-2"), offset=6)])

    assert {RUNS: 7} == consumer.positions([RUNS, VERDICTS])
    assert [2, 1] == [each.version for each in registry.versions()]


def test_records_that_come_again_have_no_effect(consumer, registry) -> None:
    records = [run_record(a_run(f"run-{n}"), offset=n) for n in range(3)]
    consumer.handle(records)
    before = registry.published()

    consumer.handle(records)

    assert before == registry.published()


def test_topics_that_were_made_again_are_read_from_their_beginning(consumer, registry) -> None:
    consumer.follow_topics({RUNS.topic: "1st", VERDICTS.topic: "1st"})
    consumer.handle([run_record(a_run("run-1"), offset=4)])
    consumer.handle([a_record(b"\x0a\x01x", topic=VERDICTS.topic, offset=9)])

    consumer.follow_topics({RUNS.topic: "2nd", VERDICTS.topic: "1st"})
    assert {VERDICTS: 10} == consumer.positions([RUNS, VERDICTS])
    before = registry.published()
    consumer.handle([run_record(a_run("run-1"))])  # published again: its ce_id is known
    assert before == registry.published()
    consumer.handle([run_record(a_run("run-2"), offset=1)])
    assert [2, 1] == [each.version for each in registry.versions()]
    assert {RUNS: 2, VERDICTS: 10} == consumer.positions([RUNS, VERDICTS])


def test_good_records_before_a_bad_one_are_kept(consumer, registry) -> None:
    good, bad = run_record(a_run("run-1")), replace(run_record(a_run("run-2")), value=b"\xff")
    with pytest.raises(Invalid, match="DECODE_ERROR"):
        consumer.handle([good, bad])

    consumer.handle([good])
    assert [1] == [each.version for each in registry.versions()]


def test_record_that_was_set_aside_is_not_read_again(consumer) -> None:
    consumer.handle([run_record(a_run("run-1"), offset=4)])

    consumer.set_aside(run_record(a_run("run-2"), offset=5))

    assert {RUNS: 6} == consumer.positions([RUNS])


def test_verdict_of_another_kind_moves_the_position_only(consumer, registry) -> None:
    before = registry.published()

    consumer.handle([a_record(b"\x0a\x01x", topic=VERDICTS.topic, offset=9)])

    assert {VERDICTS: 10} == consumer.positions([VERDICTS])
    assert before == registry.published()
