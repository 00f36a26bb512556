# SPDX-License-Identifier: Apache-2.0
"""The replay holds every flight and observation once, in order of known time, plus counted dirt."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
import orjson
import pytest

from flights_example import (
    ARRIVED,
    DEPARTED,
    SCHEDULED,
    STREAMS,
    WEATHER,
    EventBatch,
    event_batches,
)
from flights_example.dirt import HOUR_US, LATE, REASON_BY_KIND

DAY = timedelta(days=1)
YEAR = (date(2012, 12, 31), date(2014, 1, 3))
WEEK = (date(2013, 2, 25), date(2013, 3, 4))


class Record(NamedTuple):
    key: bytes
    event_id: str
    event_us: int
    known_us: int
    value: bytes


def by_stream(batches: Iterable[EventBatch]) -> dict[str, list[Record]]:
    found = defaultdict(list)
    for batch in batches:
        for stream, part in batch.by_stream.items():
            times = (part.event_times_us.tolist(), part.known_times_us.tolist())
            found[stream] += map(Record, part.keys, part.event_ids, *times, part.values)
    return found


@pytest.fixture(scope="module")
def clean():
    return by_stream(event_batches(*YEAR, step=DAY, dirt=False))


@pytest.fixture(scope="module")
def dirty_batches():
    return list(event_batches(*YEAR, step=DAY))


@pytest.fixture(scope="module")
def dirty(dirty_batches):
    return by_stream(dirty_batches)


@pytest.fixture(scope="module")
def week():
    return by_stream(event_batches(*WEEK, step=DAY))


@pytest.mark.parametrize(
    ("stream", "total"),
    [(SCHEDULED, 336_776), (DEPARTED, 328_521), (ARRIVED, 327_346), (WEATHER, 26_115)],
)
def test_clean_year_holds_every_fact_of_the_package_once(clean, stream, total):
    ids = [record.event_id for record in clean[stream]]

    assert total == len(ids) == len(set(ids))


@pytest.mark.parametrize("stream", STREAMS)
def test_dirty_records_are_counted_and_added_to_all_real_ones(clean, dirty, dirty_batches, stream):
    counts = Counter()
    for batch in dirty_batches:
        counts.update(batch.by_stream[stream].dirt_by_kind)
    real = {record.event_id for record in clean[stream]}
    kinds = set(REASON_BY_KIND) - (set() if stream in (DEPARTED, WEATHER) else {LATE})

    assert dict.fromkeys(kinds, round(len(real) / 1000)) == counts
    assert real <= {record.event_id for record in dirty[stream]}
    assert len(real) + counts.total() - counts[LATE] == len(dirty[stream])


@pytest.mark.parametrize("stream", STREAMS)
def test_known_time_never_falls_and_stays_in_its_batch(dirty_batches, stream):
    for batch in dirty_batches:
        known = batch.by_stream[stream].known_times_us
        assert np.all(np.diff(known) >= 0)
        assert np.all((batch.from_us <= known) & (known < batch.until_us))


@pytest.mark.parametrize("stream", STREAMS)
def test_no_event_is_known_before_it_happened(clean, dirty, stream):
    real = [record for record in dirty[stream] if not record.event_id.startswith("dirt:")]

    assert all(record.event_us == record.known_us for record in clean[stream])
    assert all(record.event_us <= record.known_us for record in real)


def test_flight_is_announced_before_it_departs_before_it_arrives(clean):
    scheduled, departed, arrived = (
        {record.key: record.event_us for record in clean[stream]}
        for stream in (SCHEDULED, DEPARTED, ARRIVED)
    )

    assert all(scheduled[key] < moment for key, moment in departed.items())
    assert all(departed[key] < moment for key, moment in arrived.items())


def test_value_carries_the_envelope_and_the_raw_columns(clean):
    record = next(r for r in clean[DEPARTED] if r.key == b"2013-03-01:US:2114:LGA")

    assert orjson.loads(record.value) == {
        "event_id": "departed:2013-03-01:US:2114:LGA",
        "flight_id": "2013-03-01:US:2114:LGA",
        "carrier": "US",
        "flight": 2114,
        "tailnum": "N749US",
        "origin": "LGA",
        "dest": "BOS",
        "scheduled_at": 1362135600000000,
        "dep_time": 549,
        "dep_delay": -11,
        "departed_at": 1362134940000000,
        "known_at": 1362134940000000,
    }


def test_arrival_clock_is_read_at_the_destination(clean):
    honolulu = next(r for r in clean[ARRIVED] if r.key == b"2013-01-01:HA:51:JFK")

    assert 1516 == orjson.loads(honolulu.value)["arr_time"]
    assert np.datetime64("2013-01-02T01:16") == np.datetime64(honolulu.event_us, "us")


def test_dirt_of_the_data_itself_stays(clean):
    departures, schedules, weather = (
        [orjson.loads(record.value) for record in clean[stream]]
        for stream in (DEPARTED, SCHEDULED, WEATHER)
    )
    hours = Counter((w["origin"], w["month"], w["day"], w["hour"]) for w in weather)

    assert 29 == sum(departure["dep_time"] == 2400 for departure in departures)
    assert 2512 == sum(schedule["tailnum"] is None for schedule in schedules)
    assert 3 == sum(count == 2 for count in hours.values())
    assert any(w["wind_gust"] is None for w in weather)


def test_step_does_not_change_the_records(week):
    assert week == by_stream(event_batches(*WEEK, step=timedelta(hours=7)))


def test_runs_that_meet_at_a_date_make_one_run(week):
    halves = [(WEEK[0], date(2013, 3, 1)), (date(2013, 3, 1), WEEK[1])]
    batches = [batch for half in halves for batch in event_batches(*half, step=DAY)]

    assert week == by_stream(batches)


def test_other_seed_chooses_other_dirt(week):
    assert week != by_stream(event_batches(*WEEK, step=DAY, seed=14))


@pytest.mark.parametrize("stream", STREAMS)
def test_repeats_follow_their_originals(clean, dirty, stream):
    originals = {record.event_id: record for record in clean[stream]}
    first, repeats, conflicts = {}, 0, 0
    for record in dirty[stream]:
        original = first.setdefault(record.event_id, record)
        if original is not record:
            repeats += record.value == original.value
            conflicts += record.value != original.value
            assert originals[record.event_id] == original
    share = round(len(originals) / 1000)

    assert (share, share) == (repeats, conflicts)


def test_late_records_are_hours_to_days_behind(clean, dirty):
    on_time = {record.event_id for record in clean[DEPARTED]}
    behind = [r.known_us - r.event_us for r in dirty[DEPARTED] if r.event_id in on_time]
    late = [us for us in behind if us > HOUR_US]

    assert 329 == len(late)
    assert 2 * HOUR_US <= min(late)
    assert max(late) <= 72 * HOUR_US


def test_malformed_json_does_not_parse(dirty):
    bad = [r for r in dirty[ARRIVED] if r.event_id.startswith("dirt:malformed_json:")]

    assert 327 == len(bad)
    for record in bad:
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(record.value)
