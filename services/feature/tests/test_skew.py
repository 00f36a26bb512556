# SPDX-License-Identifier: Apache-2.0
"""The skew proof: a right answer passes, a planted one is found, a late fold is told apart."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from feature_world import HOUR, START, Event, World, a_bench, a_catalogue, a_view, checked_skew
from test_archive_waits import Context, an_api
from test_training_set import LATER, an_ask, an_end, complete

from headrace.errors import Busy, Unavailable
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace_feature.adapters import grpc_api
from headrace_feature.adapters.memory_archive import MemoryArchive
from headrace_feature.domain.online_query import GetOnlineFeatures
from headrace_feature.domain.served_sample import SAMPLES_MAX, Served, ServedSample
from headrace_feature.skew_handlers import check_skew

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


def whole(sample):
    with sample.taken(sample.seen()) as taken:
        return taken


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


def test_answers_by_a_bool_that_equal_the_archive_pass():
    counting = {"count": {"aggregate": "count", "window": "1h"}}
    world = World(a_catalogue(a_view(counting, entity=("night",))))
    rides = [replace(ride, night=True) for ride in RIDES]
    world.fold(*rides)
    query = GetOnlineFeatures(("zone:count",), {"night": ["true"]}, np.array([START]))
    [sample] = served(world, query)

    assert [2.0] == sample.answer.tolist()
    assert (1, []) == ((skew := checked(world, [sample], *rides)).checked, skew.mismatches)


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

    zones = {each.query.columns["zone"][0] for each in whole(sample)}
    assert SAMPLES_MAX == len(zones)
    assert any(int(zone) >= 2 * SAMPLES_MAX for zone in zones)
    assert [] == whole(sample)


def test_every_so_many_reads_are_due():
    sample = ServedSample(every_reads=3)

    assert [False, False, True] * 2 == [sample.due() for _ in range(6)]


def test_row_of_a_moment_to_come_is_not_in_the_sample():
    sample = ServedSample()
    for as_of in (START, START + 1):
        sample.offer(a_query(as_of=as_of), np.zeros((1, 3), np.float32), now_us=START)

    assert [START] == [each.query.as_of_us[0] for each in whole(sample)]


def a_sample(*zones):
    sample = ServedSample()
    for zone in zones:
        sample.offer(a_query(zone), np.zeros((1, 3), np.float32), now_us=START)
    return sample


def failed_check(sample, meanwhile):
    with suppress(Busy), sample.taken(sample.seen()):
        meanwhile()
        raise Busy("QUEUE_FULL", queue="any")


def zones_of(rows):
    return [each.query.columns["zone"][0] for each in rows]


def test_sample_of_a_check_that_fails_comes_again_with_what_came_since():
    sample = a_sample("a")
    later = a_query("b"), np.zeros((1, 3), np.float32)
    failed_check(sample, lambda: sample.offer(*later, now_us=START))

    assert ["a", "b"] == zones_of(whole(sample))


def test_sample_of_a_check_that_fails_does_not_come_again_once_an_entity_was_erased():
    sample = a_sample("a")
    failed_check(sample, sample.forget)

    assert [] == whole(sample)


def test_what_came_after_the_look_is_left_for_the_next_check():
    sample = a_sample("a")
    seen = sample.seen()
    sample.offer(a_query("b"), np.zeros((1, 3), np.float32), now_us=START)
    with sample.taken(seen) as taken:
        assert ["a"] == zones_of(taken)

    assert ["b"] == zones_of(whole(sample))


class ArchiveThatCalls(MemoryArchive):
    """Calls before it answers."""

    def __init__(self, rows_by_stream):
        super().__init__(rows_by_stream)
        self.call = lambda: None

    def snapshots(self, *asked, **more):
        self.call()
        return super().snapshots(*asked, **more)


@pytest.fixture
def archive():
    return ArchiveThatCalls(complete(rides=RIDES, asks=[an_ask()], ends=[an_end()]))


def test_check_that_finds_the_place_taken_keeps_the_sample(tmp_path, archive):
    sample = a_sample("none")
    api = an_api(tmp_path, archive, sample=sample)
    asked = wire.CreateTrainingSetRequest(recipe="late", known_until_us=LATER)
    training_set = api.CreateTrainingSet(asked, Context())
    next(training_set)
    with pytest.raises(Busy, match="QUEUE_FULL"):
        api.CheckSkew(wire.CheckSkewRequest(), Context())
    list(training_set)

    assert 1 == api.CheckSkew(wire.CheckSkewRequest(), Context()).checked


def test_check_that_waits_in_vain_keeps_the_sample(tmp_path, archive):
    api = an_api(tmp_path, archive, sample=a_sample("none"))

    def behind():
        raise Unavailable("RECORDS_BEHIND", stream="rides")

    archive.call = behind
    with pytest.raises(Unavailable):
        api.CheckSkew(wire.CheckSkewRequest(), Context())
    archive.call = lambda: None

    assert 1 == api.CheckSkew(wire.CheckSkewRequest(), Context()).checked


def test_row_of_an_entity_that_is_erased_while_the_archive_is_waited_for_is_not_checked(
    tmp_path, archive
):
    """The answer was right when it was given, and is not in the archive any more."""
    sample = a_sample("a")
    archive.call = sample.forget
    found = an_api(tmp_path, archive, sample=sample).CheckSkew(wire.CheckSkewRequest(), Context())

    assert (0, []) == (found.checked, list(found.mismatches))


def test_check_that_an_erasure_overtakes_finds_nothing(tmp_path, archive, monkeypatch):
    sample = a_sample("a")

    def overtaken(*asked, **more):
        sample.forget()
        return check_skew(*asked, **more)

    monkeypatch.setattr(grpc_api, "check_skew", overtaken)
    found = an_api(tmp_path, archive, sample=sample).CheckSkew(wire.CheckSkewRequest(), Context())

    assert (0, []) == (found.checked, list(found.mismatches))


def test_rows_of_a_feature_that_is_no_more_are_left_out_and_the_others_checked(tmp_path, archive):
    sample = ServedSample()
    for features in (("gone:count",), FEATURES, (FEATURES[0], "gone:count")):
        query = GetOnlineFeatures(features, {"zone": ["none"]}, np.array([START]))
        sample.offer(query, np.full((1, len(features)), 9, np.float32), now_us=START)
    found = an_api(tmp_path, archive, sample=sample).CheckSkew(wire.CheckSkewRequest(), Context())

    assert (1, {*FEATURES}) == (found.checked, {each.feature for each in found.mismatches})
    assert [] == sample.seen()
