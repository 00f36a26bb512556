# SPDX-License-Identifier: Apache-2.0
"""Snapshots: what is lost or moves comes back, and is what it would have been."""

import threading
from dataclasses import replace

import pytest
from feature_cluster import PARTITIONS, STEPS, Cluster, take_step
from feature_world import (
    HOUR,
    START,
    TOPIC,
    VIEWS,
    Event,
    World,
    a_catalogue,
    a_window_view,
    event_lists,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import Unavailable
from headrace_feature.adapters import run_tiers, state_snapshots
from headrace_feature.domain.manifest import Manifest, RunCopy, furthest, outdated
from headrace_feature.readable import WarmUp
from headrace_kit.kafka import Partition
from headrace_kit.objects import MemoryObjectStore
from headrace_kit.testing import wait_until

DAY_MS = 86_400_000


@pytest.fixture
def small_tiers(monkeypatch):
    monkeypatch.setattr(run_tiers, "ROWS_SMALL_MAX", 12)
    monkeypatch.setattr(run_tiers, "TIER_ROWS", 1)
    monkeypatch.setattr(run_tiers, "PIECE_ROWS", 4)


@pytest.fixture
def cluster(tmp_path, small_tiers):
    return Cluster(tmp_path)


EVENTS = [
    Event(f"ride-{n}", START + n * HOUR // 64, START + n * HOUR // 64, zone=f"zone-{n % 50}")
    for n in range(200)
]


def fold_one_by_one(worker, events=EVENTS):
    for number, event in enumerate(events):
        worker.cluster.log[number % 2].append(event)
        worker.read_on()
    for _ in range(100):
        worker.handler.idle()


def folded_once(events=EVENTS):
    world = World()
    world.fold(*events)
    return world.state()


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(data=st.data(), events=event_lists(events_max=50))
def test_state_is_the_same_whatever_moves_or_is_lost(tmp_path_factory, small_tiers, data, events):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    workers = [cluster.worker(), cluster.worker()]
    workers[0].place(*PARTITIONS)
    steps = st.sampled_from(STEPS)
    for event in events:
        cluster.log[data.draw(st.sampled_from(PARTITIONS))].append(event)
        which = data.draw(st.integers(0, 1))
        take_step(data.draw(steps), which, workers, cluster, data.draw)
    for worker in workers:
        worker.copy()
    last = cluster.worker()
    last.place(*PARTITIONS)
    last.read_on()

    assert folded_once(events) == last.state()


def test_lost_disk_is_fetched_and_nothing_is_copied_twice(cluster):
    worker = cluster.worker()
    worker.place(*PARTITIONS)
    fold_one_by_one(worker)
    worker.copy()
    copied = set(cluster.stored())
    fresh = cluster.worker()
    fresh.place(*PARTITIONS)

    assert {0: 100, 1: 100} == fresh.next
    assert folded_once() == fresh.state()
    fresh.copy()
    added = set(cluster.stored()) - copied
    assert added
    assert all("/manifests/" in key for key in added)


def test_nothing_of_a_topic_that_was_made_again_is_kept_or_fetched(cluster):
    worker = cluster.worker()
    worker.place(*PARTITIONS)
    fold_one_by_one(worker)
    worker.copy()

    cluster.log, others = {n: [] for n in PARTITIONS}, EVENTS[:30]
    cluster.topic_ids["rides"] = "second"
    for number, event in enumerate(others):
        cluster.log[number % 2].append(event)
    worker.place(*PARTITIONS)
    fresh = cluster.worker()
    fresh.place(*PARTITIONS)

    assert {0: 0, 1: 0} == worker.next == fresh.next
    assert {} == worker.state() == fresh.state()
    for each in (worker, fresh):
        each.read_on()
        assert folded_once(others) == each.state()
    worker.copy()
    last = cluster.worker()
    last.place(*PARTITIONS)
    assert {0: 15, 1: 15} == last.next
    assert folded_once(others) == last.state()


def test_state_of_a_topic_that_was_made_again_is_left_at_the_next_start(cluster):
    worker = cluster.worker()
    worker.place(*PARTITIONS)
    fold_one_by_one(worker)
    before = worker.state()
    worker.restart()
    assert before == worker.state()

    cluster.log = {n: [EVENTS[n]] * 150 for n in PARTITIONS}  # longer than what was read
    cluster.topic_ids["rides"] = "second"
    worker.restart()
    assert {0: 0, 1: 0} == worker.next
    worker.read_on()
    assert folded_once(EVENTS[:2]) == worker.state()


class AwayObjects(MemoryObjectStore):
    """Answers nothing while it is away."""

    away = False

    def keys(self, folder=""):
        if self.away:
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", error="away")
        return super().keys(folder)


def test_new_views_wait_alone_while_the_object_store_is_away(cluster):
    cluster.objects = AwayObjects()
    worker = cluster.worker()
    worker.world.catalogue = a_catalogue(VIEWS[0])
    worker.place(*PARTITIONS)
    fold_one_by_one(worker, EVENTS[:100])

    cluster.objects.away = True
    worker.world.catalogue = a_catalogue(*VIEWS, a_window_view("more", ("kind",), "2h"))
    old, *new = worker.world.catalogue.layouts().values()
    asked = [Partition(TOPIC, number) for number in PARTITIONS]
    worker.restorer.start()
    wait_until(lambda: worker.handler.positions(asked) and not worker.handler.restoring())
    fold_one_by_one(worker, EVENTS[100:])
    assert {0: 100, 1: 100} == worker.world.store.next_by_partition(old)
    assert [{*PARTITIONS}] * 2 == [worker.world.store.restoring(each) for each in new]
    warm = WarmUp(
        lambda: worker.world.catalogue, worker.world.store, waits_for_archive=lambda _: False
    )
    assert not warm()  # what is put off may have been held by another worker
    assert 0 == worker.placed_anew

    cluster.objects.away = False
    wait_until(lambda: worker.placed_anew == len(new))
    worker.place(*PARTITIONS)
    worker.restorer.stop(10.0)
    worker.read_on()
    assert [{0: 100, 1: 100}] * 3 == [
        worker.world.store.next_by_partition(each) for each in (old, *new)
    ]


class WatchedObjects(MemoryObjectStore):
    """Knows the size of each object of a large run that was read, and how many were at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes, self.reading, self.most = [], 0, 0
        self.counting = threading.Lock()

    def get(self, key):
        self._count(+1)
        stored = super().get(key)
        if "/runs/" in key and not key.endswith("/run.0"):
            self.sizes.append(len(stored))
        self._count(-1)
        return stored

    def _count(self, more):
        with self.counting:
            self.reading += more
            self.most = max(self.most, self.reading)


def test_large_runs_are_fetched_a_few_pieces_at_a_time(cluster, monkeypatch):
    monkeypatch.setattr(state_snapshots, "PIECE_BYTES", 256)
    cluster.objects = WatchedObjects()
    worker = cluster.worker()
    worker.place(*PARTITIONS)
    fold_one_by_one(worker)
    worker.copy()
    fresh = cluster.worker()
    fresh.place(*PARTITIONS)

    assert 256 == max(cluster.objects.sizes)
    assert cluster.objects.most <= state_snapshots.PIECES_AT_ONCE
    assert folded_once() == fresh.state()


def test_snapshot_that_the_stream_has_left_behind_is_passed_over(cluster):
    worker = cluster.worker()
    worker.place(*PARTITIONS)
    fold_one_by_one(worker)
    worker.copy()
    cluster.begins = {0: 100, 1: 101}
    fresh = cluster.worker()
    fresh.place(*PARTITIONS)

    assert {0: 100, 1: 0} == fresh.next


def test_restart_copies_no_large_run_again(cluster):
    worker = cluster.worker()
    worker.place(*PARTITIONS)
    fold_one_by_one(worker)
    worker.copy()
    large = {key for key in cluster.stored() if key.endswith("/matrix.0")}
    worker.restart()
    worker.copy()

    assert large
    assert large == {key for key in cluster.stored() if key.endswith("/matrix.0")}


def test_rows_of_a_partition_that_left_go_when_their_runs_are_merged(cluster):
    worker = cluster.worker()
    worker.place(*PARTITIONS)
    fold_one_by_one(worker)
    worker.give_up(1)
    later = [
        Event(f"later-{n}", START + n * HOUR // 64, START + n * HOUR // 64, zone=f"zone-{n % 50}")
        for n in range(3_000)
    ]
    cluster.log[0] += later
    worker.read_on(50)
    while worker.next[0] < len(cluster.log[0]):
        worker.read_on(50)
        for _ in range(50):
            worker.handler.idle()

    for layout in worker.world.catalogue.layouts().values():
        rows = sum(map(len, worker.world.store.runs(layout)))
        assert 3_100 <= rows < 3_200


def test_damaged_copy_makes_way_for_the_stream(cluster, caplog):
    worker = cluster.worker()
    worker.place(*PARTITIONS)
    fold_one_by_one(worker)
    worker.copy()
    for key in cluster.stored():
        if key.endswith("/matrix.0"):
            cluster.objects.delete(key)
            cluster.objects.put_if_absent(key, b"damaged")
    fresh = cluster.worker()
    fresh.place(*PARTITIONS)
    fresh.read_on()

    assert folded_once() == fresh.state()


def test_collection_leaves_what_the_newest_manifests_name(cluster):
    worker = cluster.worker()
    worker.place(*PARTITIONS)
    for first in range(0, 200, 20):
        fold_one_by_one(worker, EVENTS[first : first + 20])
        worker.copy()
        cluster.clock.advance(1_000_000)
    before = cluster.stored()
    layouts = list(worker.world.catalogue.layouts())
    for layout in layouts:
        worker.snapshots.collect(layout)
    assert before == cluster.stored()

    cluster.clock.advance(2 * HOUR)
    for layout in layouts:
        worker.snapshots.collect(layout)
    assert len(layouts) == sum("/manifests/" in key for key in cluster.stored())
    fresh = cluster.worker()
    fresh.place(*PARTITIONS)
    assert {0: 100, 1: 100} == fresh.next
    assert folded_once() == fresh.state()


def test_state_of_a_layout_that_nobody_has_goes_after_a_while(cluster):
    worker = cluster.worker()
    worker.place(*PARTITIONS)
    fold_one_by_one(worker, EVENTS[:10])
    worker.copy()
    for layout in worker.snapshots.layouts():
        worker.snapshots.drop(layout, idle_ms=DAY_MS)
    assert cluster.stored()

    cluster.clock.advance(25 * HOUR)
    for layout in worker.snapshots.layouts():
        worker.snapshots.drop(layout, idle_ms=DAY_MS)
    assert [] == cluster.stored()


def test_copy_that_may_be_collected_is_made_again(cluster):
    worker = cluster.worker()
    worker.place(*PARTITIONS)
    fold_one_by_one(worker)
    layout = worker.world.catalogue.layout_by_view["zone"]
    worker.writer._copied(layout, worker.world.store.content(layout).held)
    begun = set(cluster.stored())
    cluster.clock.advance(1_000 * state_snapshots.GRACE_MS)
    worker.writer.write(layout)

    named = {run.name for each in worker.snapshots.manifests(layout.id) for run in each.runs}
    assert not named & {key.split("/")[-2] for key in begun}


def a_manifest(name, **positions):
    numbered = {int(partition[1:]): at for partition, at in positions.items()}
    return Manifest(name, numbered, 0, (RunCopy("1-a", b"", {"run": ("0" * 64,)}),))


def test_manifest_comes_back_from_its_bytes():
    manifest = a_manifest("7-x", p0=5, p12=7)

    assert manifest == Manifest.from_json("7-x", manifest.to_json())
    later = manifest.to_json().replace(b'"version": 1', b'"version": 2')
    assert Manifest.from_json("7-x", later) is None


def test_furthest_manifest_of_each_partition_is_kept():
    old, new, other = (
        a_manifest("1-a", p0=5, p1=9),
        a_manifest("2-b", p0=6),
        a_manifest("3-c", p0=6),
    )

    assert other == furthest([old, new, other], 0)
    assert old == furthest([old, new, other], 1)
    assert furthest([old], 2) is None
    assert [new] == outdated([old, new, other])


def test_manifests_of_a_topic_that_was_before_go():
    first, second = (
        replace(a_manifest("1-a", p0=9), topic_id="first"),
        replace(a_manifest("2-b", p0=1), topic_id="second"),
    )

    assert [first] == outdated([first, second])
    silent = a_manifest("3-c", p0=0)  # of a worker of an older version
    assert [first, silent] == outdated([first, second, silent])
    assert first == Manifest.from_json("1-a", first.to_json())
    assert a_manifest("0-x", p0=1).of_topic("any")  # of a version that did not say
