# SPDX-License-Identifier: Apache-2.0
"""A wait for the archive ends in time, with its caller, and holds nothing that work needs."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from deltalake import DeltaTable
from feature_lake import Lake
from feature_world import DAY, MINUTE, START, Event, World
from test_training_set import LATER, an_ask, an_end, complete

from headrace.errors import Busy, Invalid, Unavailable
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace_feature.adapters.archive_waits import ArchiveWaits
from headrace_feature.adapters.delta_features import DeltaFeatureTables
from headrace_feature.adapters.duckdb_workbench import Workbench
from headrace_feature.adapters.grpc_api import FeatureApi
from headrace_feature.adapters.memory_archive import ASKED_US, MemoryArchive
from headrace_feature.domain.completeness import StoredPartition, StreamReach
from headrace_feature.domain.freshness import DelayHistogram
from headrace_feature.domain.log_place import LogPlace
from headrace_feature.domain.served_sample import ServedSample
from headrace_kit.testing import FixedClock

DEADLINE_S = 60.0


def a_look(offset, end, known=START):
    return StreamReach("rides", START, {0: StoredPartition(offset, end, known, None)}), "table"


def stay() -> bool:
    return False


def test_wait_for_what_had_been_published_ends_though_more_is_published_meanwhile():
    looks = iter([a_look(0, 10), a_look(9, 500), a_look(10, 900)])
    with ArchiveWaits(lambda _: next(looks)).admitted(stay) as wait:
        found = wait.complete("rides", START + DAY, published=True)

    assert 10 == found.reach.partitions[0].offset


def test_wait_that_is_too_long_says_for_what():
    with (
        ArchiveWaits(lambda _: a_look(7, 10), wait_s_max=0).admitted(stay) as wait,
        pytest.raises(Unavailable, match="rides: 3 published records are not archived yet"),
    ):
        wait.complete("rides", START, published=True)


def test_wait_ends_when_its_caller_goes():
    looks, gone = queue.SimpleQueue(), threading.Event()

    def look(_):
        looks.put(None)
        return a_look(0, 10)

    waits = ArchiveWaits(look)

    def waited():
        with waits.admitted(gone.is_set) as wait:
            wait.complete("rides", START, published=True)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(waited)
        looks.get(timeout=DEADLINE_S)
        gone.set()
        with pytest.raises(Unavailable, match="STREAM_STALLED"):
            waiting.result(DEADLINE_S)


def test_those_who_wait_for_a_stream_share_its_looks():
    began, go_on = queue.SimpleQueue(), threading.Event()

    def look(_):
        began.put(None)
        go_on.wait(DEADLINE_S)
        return a_look(10, 10)

    waits = ArchiveWaits(look)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(waits.since, "rides", 0.0, stay)
        began.get(timeout=DEADLINE_S)
        second = pool.submit(waits.since, "rides", 0.0, stay)
        go_on.set()

        assert first.result(DEADLINE_S) is second.result(DEADLINE_S)
    assert began.empty()


def test_no_more_wait_than_there_is_room_for():
    waits = ArchiveWaits(lambda _: a_look(10, 10), waiting_max=1)
    with waits.admitted(stay), pytest.raises(Busy, match="QUEUE_FULL"), waits.admitted(stay):
        pass
    with waits.admitted(stay) as wait:
        assert "table" == wait.complete("rides", 0, published=True).table


class ArchiveThatComes(MemoryArchive):
    """Waits for what is published until it is told that it came."""

    def __init__(self, rows_by_stream):
        super().__init__(rows_by_stream)
        self.waited_for, self.came = threading.Event(), threading.Event()

    def snapshots(self, streams, known_until_us, *, published=False, gone=stay):
        if published:
            self.waited_for.set()
            self.came.wait(DEADLINE_S)
        return super().snapshots(streams, known_until_us, published=published, gone=gone)


class Context:
    def is_active(self):
        return True


def an_api(folder, archive, *, world=None, sample=None):
    world = world or World()
    world.clock = FixedClock(ASKED_US)
    lake = (folder / "lake").as_uri()
    tables = DeltaFeatureTables(lake, {}, world.clock, world.erased, log_id=lambda: "1st")
    tables.know(LogPlace(0, "1st"))
    return FeatureApi(
        online=world.online(),
        archive=archive,
        workbench=Workbench(folder / "bench", disk_bytes_max=1 << 30, observations_max=1_000),
        sample=sample or ServedSample(),
        notes=None,
        freshness=DelayHistogram(),
        feature_tables=tables,
        progress_of=lambda layout: None,
    )


def test_training_set_that_waits_for_the_archive_lets_a_view_be_materialized(tmp_path):
    archive = ArchiveThatComes(complete(asks=[an_ask()], ends=[an_end()]))
    api = an_api(tmp_path, archive)
    waits = wire.CreateTrainingSetRequest(recipe="late", known_until_us=LATER, published=True)
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(lambda: list(api.CreateTrainingSet(waits, Context())))
        assert archive.waited_for.wait(DEADLINE_S)
        view = list(api.MaterializeView(wire.MaterializeViewRequest(view="zone"), Context()))
        archive.came.set()

        assert (1, LATER) == (made.result(DEADLINE_S)[-1].manifest.rows, view[-1].until_us)


@pytest.mark.parametrize("to_come", [ASKED_US + 6 * MINUTE, 2**62])
def test_moment_that_is_still_to_come_is_refused_at_once(tmp_path, to_come):
    api = an_api(tmp_path, MemoryArchive(complete()))
    training = wire.CreateTrainingSetRequest(recipe="late", known_until_us=to_come)
    view = wire.MaterializeViewRequest(view="zone", until_us=to_come)

    for call in (
        lambda: api.CreateTrainingSet(training, Context()),
        lambda: api.MaterializeView(view, Context()),
    ):
        with pytest.raises(Invalid, match="still to come"):
            list(call())


def test_quiet_delta_table_holds_all_up_to_when_it_was_asked(tmp_path):
    lake = Lake(tmp_path)
    lake.publish([Event("one", START, START)])
    lake.store()
    [before] = lake.archive.reaches(["rides"]).values()
    lake.clock.advance(5 * MINUTE)
    [quiet] = lake.archive.reaches(["rides"]).values()
    lake.publish([Event("two", START, START)])
    [behind] = lake.archive.reaches(["rides"]).values()

    assert [START - 1, START + 5 * MINUTE, START - 1] == [
        each.known_to_us for each in (before, quiet, behind)
    ]


def test_stream_to_which_nothing_was_ever_published_is_as_quiet_as_its_table_is_old(tmp_path):
    lake = Lake(tmp_path)
    lake.store()
    made_us = 1_000 * DeltaTable(lake.table).metadata().created_time
    lake.clock.advance(made_us - START)
    [young] = lake.archive.reaches(["rides"]).values()
    lake.clock.advance(5 * MINUTE)
    found = lake.archive.snapshots(["rides"], made_us + 5 * MINUTE)

    assert (-1, 0) == (young.known_to_us, found["rides"].observations)
