# SPDX-License-Identifier: Apache-2.0
"""Each request is taken once: its position is kept beside its run, and behind dead letters too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace import topics
from headrace.errors import Invalid, Unavailable
from headrace.trainer.v1.trainer_events_pb2 import TrainingRequest
from headrace_kit.kafka import Partition, Record
from headrace_kit.testing import FixedClock, a_record
from headrace_trainer.adapters.memory_run_store import MemoryRunStore
from headrace_trainer.adapters.request_consumer import RequestConsumer
from headrace_trainer.testing import OneRecipe

REQUESTS = Partition(topics.TRAINER_REQUESTS.name, 0)


@pytest.fixture
def consumer(runs: MemoryRunStore, clock: FixedClock) -> RequestConsumer:
    return RequestConsumer(runs=runs, recipes=OneRecipe(), clock=clock)


def a_request_record(offset: int, recipe: str = "delay", age_s: int = 0) -> Record:
    request = TrainingRequest(request_id=f"run-{offset}", recipe=recipe, known_until_us=10**15)
    timestamp_ms = FixedClock().now_us() // 1_000 - age_s * 1_000
    return a_record(
        request.SerializeToString(),
        topic=REQUESTS.topic,
        offset=offset,
        timestamp_ms=timestamp_ms,
    )


def test_first_start_is_at_the_beginning(consumer: RequestConsumer) -> None:
    assert {} == consumer.positions([REQUESTS])


def test_position_follows_the_requests(consumer: RequestConsumer, runs: MemoryRunStore) -> None:
    consumer.handle([a_request_record(3), a_request_record(4)])

    assert {REQUESTS: 5} == consumer.positions([REQUESTS])
    assert ["run-4", "run-3"] == [run.run_id for run in runs.newest(9)]


def test_requests_of_a_topic_that_was_made_again_are_read_from_its_beginning(
    consumer: RequestConsumer, runs: MemoryRunStore
) -> None:
    consumer.follow_topics({REQUESTS.topic: "1st"})
    consumer.handle([a_request_record(3), a_request_record(4)])
    consumer.follow_topics({REQUESTS.topic: "1st"})
    assert {REQUESTS: 5} == consumer.positions([REQUESTS])

    consumer.follow_topics({REQUESTS.topic: "2nd"})
    assert {} == consumer.positions([REQUESTS])
    taken, _ = runs.claim()
    published_again = replace(a_request_record(3), offset=1)
    consumer.handle([a_request_record(0), published_again])
    assert {REQUESTS: 2} == consumer.positions([REQUESTS])
    assert ["run-0", "run-4", "run-3"] == [run.run_id for run in runs.newest(9)]
    assert "run-3" == taken.run_id
    assert ["run-4", "run-0"] == [runs.claim()[1].run_id for _ in range(2)]
    assert runs.claim() is None


def test_request_that_was_set_aside_is_not_read_again(consumer: RequestConsumer) -> None:
    consumer.handle([a_request_record(3)])
    bad = a_record(b"\xff", topic=REQUESTS.topic, offset=4)
    with pytest.raises(Invalid, match="DECODE_ERROR"):
        consumer.handle([bad])

    consumer.set_aside(bad)

    assert {REQUESTS: 5} == consumer.positions([REQUESTS])


def test_request_that_overtook_its_recipe_waits_at_its_position(consumer: RequestConsumer) -> None:
    consumer.handle([a_request_record(3)])

    with pytest.raises(Unavailable, match="DEFINITION_AWAITED"):
        consumer.handle([a_request_record(4, recipe="coming", age_s=2)])

    assert {REQUESTS: 4} == consumer.positions([REQUESTS])
