# SPDX-License-Identifier: Apache-2.0
"""The skew proof: a right answer passes, a planted one is found, a late fold is told apart."""

from dataclasses import replace

import numpy as np
from feature_world import HOUR, START, Event, World, a_bench, checked_skew

from headrace_feature.adapters.memory_archive import MemoryArchive
from headrace_feature.domain.online_query import GetOnlineFeatures
from headrace_feature.domain.served_sample import SAMPLES_MAX, Served, ServedSample

FEATURES = ("zone:count_1h", "zone:sum_fare_1h", "zone:mean_riders_3h")
AFTER = Event("after-all", START + HOUR, START + HOUR, zone=None)


def a_query(zone="a", as_of=START):
    return GetOnlineFeatures(FEATURES, {"zone": [zone]}, np.array([as_of]))


def read(world, query):
    return world.read_columns(query.features, query.columns, query.as_of_us)


def served(world, *queries):
    return [Served(query, read(world, query)[0]) for query in queries]


def checked(world, sample, *archived):
    archive = MemoryArchive({"rides": [ride.row() for ride in (*archived, AFTER)]})
    with a_bench() as bench:
        return checked_skew(sample, world, archive, bench)


def a_world(*rides):
    world = World()
    world.fold(*rides)
    return world


RIDES = (Event("one", START, START), Event("two", START - 1, START, fare=0.1))


def test_answers_that_equal_the_archive_pass():
    world = a_world(*RIDES)
    skew = checked(
        world, served(world, a_query(), a_query("none"), a_query(as_of=START - 1)), *RIDES
    )

    assert (3, []) == (skew.checked, skew.mismatches)


def test_planted_mismatch_is_found_by_feature_and_moment():
    world = a_world(*RIDES)
    right, other = served(world, a_query(), a_query("none"))
    planted = replace(right, answer=right.answer + np.array([0, 1, 0], np.float32))
    skew = checked(world, [other, planted], *RIDES)

    assert [("zone:sum_fare_1h", START)] == [(e.feature, e.as_of_us) for e in skew.mismatches]
    assert [np.float32(1.1)] == [np.float32(each.recomputed) for each in skew.mismatches]


def test_record_that_is_missing_online_is_a_mismatch():
    world = a_world(RIDES[0])
    skew = checked(world, served(world, a_query()), *RIDES)

    assert [False] == list({each.settled for each in skew.mismatches})
    assert {"zone:count_1h", "zone:sum_fare_1h"} <= {each.feature for each in skew.mismatches}


def test_record_that_was_folded_after_the_answer_settles_it():
    world = a_world(RIDES[0])
    sample = served(world, a_query())
    world.fold(RIDES[1])
    skew = checked(world, sample, *RIDES)

    assert [True] == list({each.settled for each in skew.mismatches})


def test_empty_sample_is_checked():
    assert 0 == checked(World(), []).checked


def test_sample_is_bounded_and_begins_anew_when_taken():
    sample = ServedSample(seed=1)
    for number in range(3 * SAMPLES_MAX):
        sample.offer(a_query(str(number)), np.zeros((1, 3), np.float32), now_us=START)

    zones = {each.query.columns["zone"][0] for each in sample.taken()}
    assert SAMPLES_MAX == len(zones)
    assert any(int(zone) >= 2 * SAMPLES_MAX for zone in zones)
    assert [] == sample.taken()


def test_every_so_many_reads_are_due():
    sample = ServedSample(every_reads=3)

    assert [False, False, True] * 2 == [sample.due() for _ in range(6)]


def test_row_of_a_moment_to_come_is_not_in_the_sample():
    sample = ServedSample()
    for as_of in (START, START + 1):
        sample.offer(a_query(as_of=as_of), np.zeros((1, 3), np.float32), now_us=START)

    assert [START] == [each.query.as_of_us[0] for each in sample.taken()]
