# SPDX-License-Identifier: Apache-2.0
"""Once a minute a stream's quality is told, of what was delivered, by columns."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format

from headrace.errors import Unavailable
from headrace_ingest.adapters.kafka_quality_log import quality_proto
from headrace_ingest.domain import quality
from headrace_ingest.domain.batch import sort_out
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.dedup import DedupIndex
from headrace_ingest.domain.quality import MINUTE_US, Minute, StreamQuality
from headrace_ingest.handlers.quality import QualityWatch
from headrace_ingest.testing import (
    NOW_US,
    MemoryQualityLog,
    SetClock,
    a_contract,
    a_raw,
    a_stream_document,
)
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.json_strict import decode
from headrace_kit.testing import a_batch

CONTRACT = a_contract()
LONG_AGO_US = 1_300_000_000_000_000


class TroubledLog(MemoryQualityLog):
    away = False

    def tell(self, quality: StreamQuality) -> None:
        if self.away:
            raise Unavailable("BROKER_UNAVAILABLE")
        super().tell(quality)


class World:
    def __init__(self) -> None:
        self.log, self.clock = TroubledLog(), SetClock()
        self.watch = QualityWatch(self.log, self.clock)

    def take(self, *records: Any, contract: Contract = CONTRACT) -> None:
        batch = a_batch(list(records))
        indexes = {number: DedupIndex(ids_max=100) for number in (0, 1)}
        sorted_out = sort_out(batch, contract, indexes, decode=decode, erased=ErasedEntities())
        self.watch.take(contract, batch, sorted_out)

    def told(self) -> list[StreamQuality]:
        """What is told a minute later."""
        self.clock.us += MINUTE_US
        self.watch.tell_due()
        return self.log.told


@pytest.fixture
def world() -> World:
    return World()


def test_nothing_is_told_before_the_minute_ends(world):
    world.take(a_raw(0))
    world.watch.tell_due()

    assert [] == world.log.told


def test_clock_that_is_put_back_ends_the_minute(world):
    world.take(a_raw(0))
    world.clock.us -= 60 * MINUTE_US
    world.watch.tell_due()

    assert [1] == [quality.received for quality in world.log.told]


def test_minute_counts_what_became_of_its_records(world):
    world.take(
        a_raw(0), a_raw(0), a_raw(1, delay="late"), a_raw(2, departed_at=1_300_000_000_000_000)
    )

    [quality] = world.told()
    assert (4, 2, 1, 1) == (quality.received, quality.stored, quality.late, quality.repeats)
    assert {"BAD_TYPE": 1} == quality.refused_by_reason
    assert NOW_US - LONG_AGO_US == quality.lateness_us_max


def test_mean_lateness_of_many_records_of_long_ago_is_theirs(world):
    known_us = 7_000_000_000_000_000
    envelope = {"timestamp_ms": known_us // 1_000}
    times = {"departed_at": 1_000, "known_at": known_us}
    world.take(*(a_raw(number, record=envelope, **times) for number in range(1_400)))

    [quality] = world.told()
    assert (1_400, known_us - 1_000) == (quality.stored, quality.lateness_us_mean)


def test_columns_are_measured_over_the_batches_of_a_minute(world):
    world.take(a_raw(0, delay=3), a_raw(1, delay=None))
    world.take(a_raw(2, delay=-7, origin="JFK"))

    columns = world.told()[0].columns
    delay = columns["delay"]
    assert (1, 2, -7.0, 3.0) == (delay.nulls, delay.distinct, delay.least, delay.greatest)
    origin = columns["origin"]
    assert (2, None) == (origin.distinct, origin.least)


def test_many_distinct_values_are_estimated(world):
    for first in range(0, 5_000, 500):
        world.take(*(a_raw(number, delay=number / 10) for number in range(first, first + 500)))

    distinct = world.told()[0].columns["delay"].distinct
    assert pytest.approx(5_000, rel=0.25) == distinct


def test_estimate_of_distinct_values_is_never_above_their_number(world):
    for first in range(0, 5_000, 500):
        world.take(*(a_raw(number, delay=number / 10) for number in range(first, first + 500)))
    minute = world.told()[0]

    assert all(each.distinct <= minute.stored - each.nulls for each in minute.columns.values())


def test_range_of_personal_data_is_not_told(world):
    pii = {"category": "health", "treatment": "keep"}
    columns = a_stream_document()["columns"] | {"age": {"type": "int64", "pii": pii}}
    world.take(a_raw(0, age=30), contract=a_contract(columns=columns))

    age = world.told()[0].columns["age"]
    assert (1, None, None) == (age.distinct, age.least, age.greatest)


def test_event_id_is_that_of_the_records_and_the_minute(world):
    def told_by(*records):
        world.take(*records)
        return world.told().pop().event_id

    first = told_by(a_raw(0))
    world.clock.us = NOW_US
    again = told_by(a_raw(0))
    world.clock.us = NOW_US
    other = told_by(a_raw(1))

    assert first == again
    assert first != other


def test_what_could_not_be_told_is_told_later(world):
    world.take(a_raw(0))
    world.log.away = True
    with pytest.raises(Unavailable):
        world.told()
    world.log.away = False

    assert [1] == [quality.stored for quality in world.told()]


def test_another_contract_begins_another_measurement(world):
    world.take(a_raw(0))
    world.take(a_raw(1), contract=a_contract(version=2))

    assert [1, 2] == [quality.version for quality in world.told()]


def test_event_says_what_was_measured(world):
    world.take(a_raw(5, record={"partition": 1}), a_raw(6, record={"partition": 1}))

    event = json_format.MessageToDict(quality_proto(world.told()[0]))
    assert [{"partition": 1, "first": "5", "end": "7"}] == event["offsets"]
    assert ("flights.departed", "2") == (event["stream"], event["received"])


def test_range_below_zero_does_not_forget_a_zero(world):
    world.take(*(a_raw(number, delay=0) for number in range(5_000)))
    world.take(*(a_raw(5_000 + number, delay=-7) for number in range(5_000)))

    delay = world.told()[0].columns["delay"]
    assert (-7.0, 0.0) == (delay.least, delay.greatest)


def test_figures_are_those_of_the_records_however_they_came(world):
    records = [
        a_raw(number, delay=(number % 700) / 10 if number % 3 else None) for number in range(9_000)
    ]
    world.take(*records)
    [at_once] = world.told()
    world.log.told.clear()
    world.clock.us = NOW_US
    for first in range(0, 9_000, 50):
        world.take(*records[first : first + 50])

    assert [at_once] == world.told()


def test_large_records_are_measured_before_they_take_much_memory(world, monkeypatch):
    monkeypatch.setattr(quality, "UNMEASURED_BYTES_MAX", 4_000)
    measured = []
    measure = Minute._measure
    monkeypatch.setattr(Minute, "_measure", lambda own: (measured.append(own), measure(own)))

    for first in range(0, 400, 20):
        world.take(*(a_raw(number) for number in range(first, first + 20)))

    assert len(measured) > 1
    assert 400 == world.told()[0].stored
