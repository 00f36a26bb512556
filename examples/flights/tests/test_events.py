# SPDX-License-Identifier: Apache-2.0
"""The replay holds every flight and observation once, in order of known time, plus counted dirt."""

from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta

import numpy as np
import orjson
import pytest
from flights_example import ARRIVED, DEPARTED, SCHEDULED, STREAMS, WEATHER, event_batches
from flights_example.dirt import HOUR_US, LATE, REASON_BY_KIND

DAY = timedelta(days=1)
YEAR = (date(2012, 12, 31), date(2014, 1, 3))
WEEK = (date(2013, 2, 25), date(2013, 3, 4))


def records(batches: Iterator, stream: str) -> list[tuple[bytes, str, int, int, bytes]]:
    found = []
    for batch in batches:
        part = batch.by_stream[stream]
        times = (part.event_times_us.tolist(), part.known_times_us.tolist())
        found += zip(part.keys, part.event_ids, *times, part.values, strict=True)
    return found


@pytest.fixture(scope="module")
def clean_year():
    return list(event_batches(*YEAR, step=DAY, dirt=False))


@pytest.fixture(scope="module")
def dirty_year():
    return list(event_batches(*YEAR, step=DAY))


@pytest.mark.parametrize(
    ("stream", "total"),
    [(SCHEDULED, 336_776), (DEPARTED, 328_521), (ARRIVED, 327_346), (WEATHER, 26_115)],
)
def test_clean_year_holds_every_fact_of_the_package_once(clean_year, stream, total):
    ids = [record[1] for record in records(clean_year, stream)]

    assert total == len(ids) == len(set(ids))


@pytest.mark.parametrize("stream", STREAMS)
def test_dirty_records_are_counted_and_added_to_all_real_ones(clean_year, dirty_year, stream):
    counts = Counter()
    for batch in dirty_year:
        counts.update(batch.by_stream[stream].dirt_by_kind)
    real = {record[1] for record in records(clean_year, stream)}
    found = records(dirty_year, stream)
    kinds = set(REASON_BY_KIND) - (set() if stream in (DEPARTED, WEATHER) else {LATE})

    assert dict.fromkeys(kinds, round(len(real) / 1000)) == counts
    assert real <= {record[1] for record in found}
    assert len(real) + counts.total() - counts[LATE] == len(found)


@pytest.mark.parametrize("stream", STREAMS)
def test_known_time_never_falls_and_stays_in_its_batch(dirty_year, stream):
    for batch in dirty_year:
        known = batch.by_stream[stream].known_times_us
        assert np.all(np.diff(known) >= 0)
        assert np.all((batch.from_us <= known) & (known < batch.until_us))


@pytest.mark.parametrize("stream", STREAMS)
def test_no_event_is_known_before_it_happened(clean_year, dirty_year, stream):
    assert all(event == known for _, _, event, known, _ in records(clean_year, stream))
    real = [record for record in records(dirty_year, stream) if not record[1].startswith("dirt:")]
    assert all(event <= known for _, _, event, known, _ in real)


def test_flight_is_announced_before_it_departs_before_it_arrives(clean_year):
    moments = {
        stream: {record[0]: record[2] for record in records(clean_year, stream)}
        for stream in (SCHEDULED, DEPARTED, ARRIVED)
    }

    assert all(moments[SCHEDULED][key] < at for key, at in moments[DEPARTED].items())
    assert all(moments[DEPARTED][key] < at for key, at in moments[ARRIVED].items())


def test_value_carries_the_envelope_and_the_raw_columns():
    week = event_batches(date(2013, 3, 1), date(2013, 3, 2), step=DAY, dirt=False)
    key, event_id, event_us, known_us, value = records(week, DEPARTED)[5]

    assert orjson.loads(value) == {
        "event_id": event_id,
        "flight_id": key.decode(),
        "carrier": "US",
        "flight": 2114,
        "tailnum": "N749US",
        "origin": "LGA",
        "dest": "BOS",
        "scheduled_at": 1362135600000000,
        "dep_time": 549,
        "dep_delay": -11,
        "departed_at": event_us,
        "known_at": known_us,
    }


def test_arrival_is_local_time_of_the_destination_in_utc(clean_year):
    flights = {record[0]: record[2] for record in records(clean_year, ARRIVED)}

    # 2013-01-01 HA 51 landed in Honolulu (UTC-10) at 15:16, UA 15 of July in Hawaii as well.
    honolulu = np.datetime64(flights[b"2013-01-01:HA:51:JFK"], "us")
    assert np.datetime64("2013-01-02T01:16") == honolulu


def test_dirt_of_the_data_itself_stays(clean_year):
    departures = [orjson.loads(record[4]) for record in records(clean_year, DEPARTED)]
    schedules = [orjson.loads(record[4]) for record in records(clean_year, SCHEDULED)]
    weather = [orjson.loads(record[4]) for record in records(clean_year, WEATHER)]
    hours = Counter((w["origin"], w["month"], w["day"], w["hour"]) for w in weather)

    assert 29 == sum(departure["dep_time"] == 2400 for departure in departures)
    assert 2512 == sum(schedule["tailnum"] is None for schedule in schedules)
    assert 3 == sum(count == 2 for count in hours.values())
    assert any(w["wind_gust"] is None for w in weather)


@pytest.mark.parametrize("stream", STREAMS)
def test_step_and_dates_do_not_change_the_records(stream):
    week = records(event_batches(*WEEK, step=DAY), stream)
    by_hours = records(event_batches(*WEEK, step=timedelta(hours=7)), stream)
    halves = [(WEEK[0], date(2013, 3, 1)), (date(2013, 3, 1), WEEK[1])]

    assert week == by_hours
    assert week == [r for half in halves for r in records(event_batches(*half, step=DAY), stream)]


def test_seed_chooses_the_dirt():
    same, again, other = (
        records(event_batches(*WEEK, step=DAY, seed=seed), DEPARTED) for seed in (1, 1, 2)
    )

    assert same == again
    assert same != other


@pytest.mark.parametrize("stream", STREAMS)
def test_repeats_follow_their_originals(dirty_year, stream):
    first, repeats, conflicts = {}, 0, 0
    for _, event_id, _, _, value in records(dirty_year, stream):
        if event_id in first:
            repeats += value == first[event_id]
            conflicts += value != first[event_id]
        first.setdefault(event_id, value)
    share = round(len([i for i in first if not i.startswith("dirt:")]) / 1000)

    assert (share, share) == (repeats, conflicts)


def test_late_records_are_hours_to_days_behind(clean_year, dirty_year):
    on_time = {record[1]: record for record in records(clean_year, DEPARTED)}
    late = [
        (event, known)
        for _, event_id, event, known, _ in records(dirty_year, DEPARTED)
        if event_id in on_time and known - event > HOUR_US
    ]

    assert 329 == len(late)
    assert all(2 * HOUR_US <= known - event <= 72 * HOUR_US for event, known in late)


def test_malformed_json_does_not_parse(dirty_year):
    bad = [r for r in records(dirty_year, ARRIVED) if r[1].startswith("dirt:malformed_json:")]

    assert 327 == len(bad)
    for record in bad:
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(record[4])
