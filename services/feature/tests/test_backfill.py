# SPDX-License-Identifier: Apache-2.0
"""Filling a view from the archive, and handing it over to the stream."""

import random
from dataclasses import replace

import pytest
from feature_lake import PARTITIONS, Lake, partition_of
from feature_world import (
    DAY,
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
from headrace_feature.adapters import backfill_job, run_tiers, staged_runs
from headrace_feature.adapters.archive_backfill import ArchiveBackfill
from headrace_feature.adapters.backfill_job import Sources
from headrace_feature.adapters.memory_restorer import NothingToRestore
from headrace_feature.adapters.run_files import to_bytes
from headrace_feature.domain.key_partitions import key_partitions
from headrace_feature.domain.log_place import LogPlace
from headrace_feature.domain.observations import Ids, merged, whole
from headrace_feature.readable import WarmUp
from headrace_feature.view_handlers import list_views
from headrace_kit.erased_entities import Entity, entity_sha256
from headrace_kit.failpoints import FailpointRaised, arm
from headrace_kit.kafka import Partition
from headrace_kit.testing import a_batch, wait_until

COUNT = "zone:count_1h"
EVENTS = [
    Event(f"ride-{n}", START + n * HOUR // 64, START + n * HOUR // 64, zone=f"zone-{n % 5}")
    for n in range(200)
]


@pytest.fixture(autouse=True)
def small_tiers(monkeypatch):
    monkeypatch.setattr(run_tiers, "ROWS_SMALL_MAX", 12)
    monkeypatch.setattr(run_tiers, "TIER_ROWS", 1)
    monkeypatch.setattr(run_tiers, "PIECE_ROWS", 4)
    monkeypatch.setattr(staged_runs, "ROWS_SMALL_MAX", 12)
    monkeypatch.setattr(backfill_job, "FILES_PER_NOTE", 2)


class Filled:
    """A worker that owns both partitions, on a lake; `restart` is a kill and a start."""

    def __init__(self, folder, lake=None, *, keep=3_650 * DAY):
        self.lake = lake or Lake(folder / "objects")
        self.folder, self.keep = folder, keep
        self.world = World(folder=folder / "runs", owner=False, keep=keep)
        self.next = {}
        self.placed_anew = 0
        self.restart()

    def restart(self):
        self.world.restart()
        sources = Sources(
            archive=self.lake.archive,
            ends=self.lake.ends,
            raw_topic=self.lake.raw_topic,
            catalogue=lambda: self.world.catalogue,
            erased=self.world.erased,
            folder=self.folder / "backfill",
            bytes_max=1 << 30,
            keep_us=self.keep,
        )
        store = self.world.store
        self.backfill = ArchiveBackfill(
            store=store,
            snapshots=NothingToRestore(),
            sources=sources,
            place_anew=self.place_anew,
        )
        self.handler = self.world.loop_handler
        self.handler._restorer = self.backfill

    def place_anew(self):
        self.placed_anew += 1

    def place_until_anew(self):
        """What was put off can be restored; and so it is."""
        wait_until(lambda: self.backfill.work(0.0) or not self.backfill._put_off)
        assert self.placed_anew
        return self.place()

    def place(self, *numbers):
        """Until it is known where to read on."""
        asked = [Partition(TOPIC, number) for number in numbers or range(PARTITIONS)]
        positions = self.handler.positions(asked)
        while self.handler.restoring():
            self.backfill._join_next(0.0)
            positions = self.handler.positions(asked)
        self.next |= {each.number: positions.get(each, 0) for each in asked}
        return self.next

    def read_on(self, count=1_000):
        for number, first in self.next.items():
            events = self.lake.log(number)[first : first + count]
            if events:
                numbered = enumerate(events, first)
                records = [e.record(partition=number, offset=o) for o, e in numbered]
                self.handler.handle(a_batch(records))
                self.next[number] = first + len(events)

    def fill(self):
        wait_until(lambda: self.backfill.work(0.0) or not self.backfill._work)
        self.handler.idle()

    def state(self):
        """By view, the bytes of all it holds."""
        store = self.world.store
        return {
            view: to_bytes(merged(_whole(store, layout), floor_us=store.floor_us(layout)))
            for view, layout in self.world.catalogue.layout_by_view.items()
            if store.runs(layout)
        }


def from_the_beginning(tmp_path, lake, **options):
    """What a worker has that read the whole stream."""
    without = Filled(tmp_path / "from-0", Lake(tmp_path / "nothing"), **options)
    without.lake.published = lake.published
    assert {0: 0, 1: 0} == without.place()
    without.read_on()
    return without.state()


@pytest.fixture
def filled(tmp_path):
    return Filled(tmp_path)


def test_keys_go_to_the_partitions_of_kafkas_clients():
    assert (479470107 % 7) == key_partitions(Ids.of([b"abc"]), 7)[0]


def test_new_view_is_filled_from_the_archive_and_reads_on_where_it_was_joined(filled, tmp_path):
    filled.lake.publish(EVENTS[:150])
    filled.lake.store()
    joined = filled.lake.ends("rides")
    assert joined == filled.place()
    filled.lake.publish(EVENTS[150:])
    filled.read_on()
    filled.fill()

    assert from_the_beginning(tmp_path, filled.lake) == filled.state()
    assert filled.lake.ends("rides") == filled.place()


def test_reads_are_refused_until_the_history_is_there(filled):
    filled.lake.publish(EVENTS)
    filled.lake.store()
    filled.place()
    filled.read_on()
    row = [("zone-0", 1, START + HOUR)]
    with pytest.raises(Unavailable, match="RESTORING"):
        filled.world.read(row, [COUNT])

    filled.fill()
    assert [[12.0]] == filled.world.read(row, [COUNT]).tolist()


def test_archive_that_lags_is_waited_for(filled, tmp_path):
    filled.lake.publish(EVENTS[:100])
    filled.lake.store(60)
    filled.place()
    filled.backfill.work(0.0)
    filled.lake.publish(EVENTS[100:])
    filled.read_on()
    filled.lake.store(60)
    filled.fill()

    assert from_the_beginning(tmp_path, filled.lake) == filled.state()


def test_archive_that_is_begun_anew_while_it_is_waited_for_is_read(filled, tmp_path):
    """Its raw topic is another one, which the lost one never accounted for."""
    filled.lake.publish(EVENTS)
    filled.lake.store(60)
    filled.place()
    filled.backfill.work(0.0)
    filled.lake.begin_anew()
    filled.lake.store()
    filled.read_on()
    filled.fill()

    assert from_the_beginning(tmp_path, filled.lake) == filled.state()


def test_other_views_are_read_and_fold_on_meanwhile(filled):
    filled.world.catalogue = a_catalogue(VIEWS[0])
    filled.lake.publish(EVENTS[:100])
    filled.place()
    filled.read_on()
    filled.lake.store()
    filled.world.catalogue = a_catalogue(*VIEWS)
    filled.place()
    filled.lake.publish(EVENTS[100:])
    filled.read_on()

    row = [("zone-0", 1, START + 3 * HOUR)]
    assert [[13.0]] == filled.world.read(row, [COUNT]).tolist()
    with pytest.raises(Unavailable, match="RESTORING"):
        filled.world.read(row, ["zone-kind:count_90m"])


def test_history_that_is_there_before_the_loop_asks_again_is_taken_in(filled, tmp_path):
    """As that of a small archive is: else it would be made again and again."""
    filled.lake.publish(EVENTS)
    filled.lake.store()
    asked = [Partition(TOPIC, number) for number in range(PARTITIONS)]
    filled.handler.positions(asked)
    for _ in filled.world.catalogue.layouts():
        filled.backfill._join_next(0.0)
    filled.fill()
    filled.handler.positions(asked)
    assert not filled.handler.restoring()
    filled.handler.idle()

    assert from_the_beginning(tmp_path, filled.lake) == filled.state()


def test_view_that_cannot_be_filled_keeps_no_other_waiting(filled, monkeypatch):
    fill_on, stuck = backfill_job.BackfillJob.fill_on, filled.world.catalogue.layout_by_view["zone"]

    def fill_others_on(job):
        if job.layout.id == stuck.id:
            raise Unavailable("OBJECT_STORE_UNAVAILABLE")
        return fill_on(job)

    monkeypatch.setattr(backfill_job.BackfillJob, "fill_on", fill_others_on)
    filled.lake.publish(EVENTS)
    filled.lake.store()
    filled.place()
    wait_until(lambda: filled.backfill.work(0.0) or len(filled.backfill._work) == 1)
    filled.handler.idle()

    row = [("zone-0", 1, START + HOUR)]
    assert 1 <= filled.world.read(row, ["zone-kind:count_90m"])[0, 0]
    with pytest.raises(Unavailable, match="RESTORING"):
        filled.world.read(row, [COUNT])


def test_stream_without_archive_is_read_from_its_beginning(filled, tmp_path):
    filled.lake.publish(EVENTS)

    assert {0: 0, 1: 0} == filled.place()
    filled.lake.store()
    filled.lake.raw_topic_there = False
    other = Filled(tmp_path / "other", filled.lake)
    assert {0: 0, 1: 0} == other.place()


def test_view_of_a_stream_whose_archive_is_gone_waits_and_is_not_begun_without_it(filled, tmp_path):
    filled.lake.publish(EVENTS)
    filled.lake.was_archived = True
    asked = [Partition(TOPIC, number) for number in range(PARTITIONS)]
    filled.handler.positions(asked)
    for _ in VIEWS:
        filled.backfill._join_next(0.0)
    filled.handler.positions(asked)
    assert asked == sorted(filled.handler.restoring())

    filled.lake.store()
    assert_filled_from_its_beginning(filled, tmp_path)


@pytest.fixture
def old(filled):
    """A view that holds its stream's first 100 records, whose archive is gone."""
    filled.world.catalogue = a_catalogue(VIEWS[0])
    filled.lake.publish(EVENTS[:100])
    filled.place()
    filled.read_on()
    filled.lake.was_archived = True
    return filled


@pytest.fixture
def added(old):
    """The same with a new view."""
    old.world.catalogue = a_catalogue(*VIEWS)
    old.place()
    return old


def assert_old_view_is_fresh_and_new_one_waits(filled):
    row = [("zone-0", 1, START + 3 * HOUR)]
    assert [[13.0]] == filled.world.read(row, [COUNT]).tolist()
    with pytest.raises(Unavailable, match="RESTORING"):
        filled.world.read(row, ["zone-kind:count_90m"])


def assert_filled_from_its_beginning(filled, tmp_path):
    filled.place_until_anew()
    filled.read_on()
    filled.fill()
    assert from_the_beginning(tmp_path, filled.lake) == filled.state()
    assert filled.lake.ends("rides") == filled.place()


@pytest.mark.parametrize("again", [False, True], ids=["running", "started again"])
def test_other_views_fold_on_while_a_new_one_waits_for_an_archive_that_is_gone(
    again, added, tmp_path
):
    if again:
        added.restart()
        added.place()
    added.lake.publish(EVENTS[100:])
    added.read_on()
    assert_old_view_is_fresh_and_new_one_waits(added)
    assert WarmUp(
        lambda: added.world.catalogue,
        added.world.store,
        waits_for_archive=added.backfill.waits_for_archive,
    )()

    added.lake.store()
    assert_filled_from_its_beginning(added, tmp_path)


def test_new_view_reads_from_the_beginning_once_its_archive_is_given_up(added, tmp_path):
    added.lake.publish(EVENTS[100:])
    added.read_on()
    added.lake.was_archived = False

    assert {0: 0, 1: 0} == added.place_until_anew()
    assert_filled_from_its_beginning(added, tmp_path)


def test_partition_that_comes_while_the_archive_is_gone_is_filled_with_the_others(old, tmp_path):
    old.world.catalogue = a_catalogue(*VIEWS)
    old.place(0)
    old.place(1)
    old.lake.publish(EVENTS[100:])
    old.read_on()
    assert_old_view_is_fresh_and_new_one_waits(old)

    old.lake.store()
    assert_filled_from_its_beginning(old, tmp_path)


def test_view_that_comes_back_while_the_archive_is_gone_is_folded_from_no_older_place(
    added, tmp_path
):
    """Where it stood before means nothing: what was before went with the view."""
    added.lake.was_archived = False
    added.place_until_anew()
    added.read_on()
    added.world.catalogue = a_catalogue(VIEWS[0])
    added.place()
    added.lake.was_archived = True
    added.world.catalogue = a_catalogue(*VIEWS)
    added.place()
    added.lake.publish(EVENTS[100:])
    added.read_on()
    assert_old_view_is_fresh_and_new_one_waits(added)
    assert [] == [*added.world.store.runs(layout_of(added, "zone-kind"))]

    added.lake.store()
    assert_filled_from_its_beginning(added, tmp_path)


def test_new_view_keeps_nobody_waiting_while_another_one_waits_for_the_archive(added):
    """What was put off is tried again later and later, what is new at once."""
    added.world.catalogue = a_catalogue(*VIEWS, a_window_view("more", ("kind",), "2h"))
    asked = [Partition(TOPIC, number) for number in range(PARTITIONS)]
    added.backfill._join_retry.failed(5.0)
    added.handler.positions(asked)
    added.backfill._join_next(0.0)
    added.handler.positions(asked)

    assert [] == [*added.handler.restoring()]


def test_view_that_is_taken_back_waits_for_no_archive_any_more(added):
    added.world.catalogue = a_catalogue(VIEWS[0])
    wait_until(lambda: added.backfill.work(0.0) or not added.backfill._put_off)
    added.lake.store()
    added.backfill.work(0.0)

    assert 0 == added.placed_anew


def layout_of(filled, view="zone"):
    return filled.world.catalogue.layout_by_view[view]


@pytest.mark.parametrize("hit", [1, 2, 5])
def test_filling_goes_on_after_a_kill_with_what_was_noted(hit, filled, tmp_path):
    filled.lake.publish(EVENTS[:150])
    for _ in range(30):
        filled.lake.store(5)
    filled.place()
    arm(f"feature.backfill.half:{hit}:raise")
    with pytest.raises(FailpointRaised):
        filled.fill()
    arm(None)
    filled.read_on()
    filled.lake.publish(EVENTS[150:])
    filled.lake.store()
    filled.restart()
    filled.place()
    filled.read_on()
    _, staged = filled.backfill._work[0]._pinned()

    assert 2 * hit == staged.files_done
    filled.fill()
    assert from_the_beginning(tmp_path, filled.lake) == filled.state()
    assert [] == list((tmp_path / "backfill").iterdir())


def test_filling_begins_again_when_its_archive_was_begun_anew_meanwhile(filled, tmp_path):
    """A version of the same number is another one: it has other files, and maybe less in them."""
    filled.lake.publish(EVENTS)
    for _ in range(20):
        filled.lake.store(10)
    filled.place()
    arm("feature.backfill.half:2:raise")
    with pytest.raises(FailpointRaised):
        filled.fill()
    arm(None)
    filled.lake.begin_anew()
    for _ in range(40):
        filled.lake.store(5)
    filled.restart()
    filled.place()
    filled.read_on()
    filled.fill()

    assert from_the_beginning(tmp_path, filled.lake) == filled.state()


def test_version_that_was_vacuumed_makes_way_for_a_newer_one(filled, tmp_path):
    filled.lake.publish(EVENTS)
    for _ in range(20):
        filled.lake.store(10)
    filled.place()
    for _ in range(5):
        filled.backfill.work(0.0)
    filled.lake.compact_and_vacuum()
    filled.fill()

    assert from_the_beginning(tmp_path, filled.lake) == filled.state()


def test_partition_that_leaves_and_comes_back_meanwhile_is_filled(filled, tmp_path):
    filled.lake.publish(EVENTS[:150])
    filled.lake.store()
    filled.place()
    filled.handler.forget([Partition(TOPIC, 1)])
    filled.lake.publish(EVENTS[150:])
    filled.place(1)
    filled.read_on()
    filled.fill()

    assert from_the_beginning(tmp_path, filled.lake) == filled.state()


@pytest.mark.parametrize("again", [False, True], ids=["running", "started again"])
def test_partition_that_comes_later_is_filled_after_the_first(again, filled, tmp_path):
    filled.lake.publish(EVENTS)
    filled.lake.store()
    filled.place(0)
    if again:
        filled.restart()
        filled.place(0)
    asked = [Partition(TOPIC, 1)]
    filled.handler.positions(asked)
    assert asked == list(filled.handler.restoring())
    filled.fill()
    assert filled.placed_anew
    filled.place()
    filled.fill()

    assert from_the_beginning(tmp_path, filled.lake) == filled.state()
    row = [("zone-0", 1, START + HOUR)]
    assert [[12.0]] == filled.world.read(row, [COUNT]).tolist()


def test_partition_that_comes_later_is_folded_by_other_views_at_once(filled, tmp_path):
    filled.world.catalogue = a_catalogue(VIEWS[0])
    filled.lake.publish(EVENTS[:100])
    filled.place()
    filled.read_on()
    filled.lake.store()
    filled.world.catalogue = a_catalogue(*VIEWS)
    filled.place(0)
    filled.place(1)
    filled.lake.publish(EVENTS[100:])
    filled.read_on()
    assert_old_view_is_fresh_and_new_one_waits(filled)

    filled.lake.store()
    filled.fill()
    assert_filled_from_its_beginning(filled, tmp_path)


def test_partition_that_leaves_while_others_are_filled_keeps_these_from_no_reader(filled):
    filled.lake.publish(EVENTS)
    filled.lake.store()
    filled.place()
    filled.handler.forget([Partition(TOPIC, 0)])
    filled.fill()

    assert frozenset() == filled.world.store.restoring(layout_of(filled))


def test_view_that_is_taken_back_meanwhile_leaves_nothing(filled, tmp_path):
    filled.lake.publish(EVENTS)
    filled.lake.store()
    filled.place()
    filled.backfill.work(0.0)
    assert [*(tmp_path / "backfill").iterdir()]
    filled.world.catalogue = filled.world.catalogue.without("view", "zone").without(
        "view", "zone-kind"
    )
    filled.place()
    filled.fill()

    assert {} == filled.state()
    assert [] == list((tmp_path / "backfill").iterdir())


def test_what_nobody_may_ask_for_is_not_filled(tmp_path):
    filled = Filled(tmp_path, keep=DAY)
    old = [replace(event, id=f"old-{event.id}", at=event.at - 30 * DAY) for event in EVENTS]
    filled.lake.publish([*old, *EVENTS])
    filled.lake.store()
    filled.place()
    filled.fill()

    layout = filled.world.catalogue.layout_by_view["zone"]
    assert 200 == sum(len(run) for run in filled.world.store.runs(layout))
    assert from_the_beginning(tmp_path, filled.lake, keep=DAY) == filled.state()


def test_erased_entity_is_not_filled(filled):
    filled.world.erased.take(Entity("zone", entity_sha256("zone", "zone-0"), START + DAY))
    filled.lake.publish(EVENTS)
    filled.lake.store()
    filled.place()
    filled.fill()

    layout, store = filled.world.catalogue.layout_by_view["zone"], filled.world.store
    assert 160 == sum(len(run) for run in store.runs(layout))
    assert LogPlace(0, "1st") == store.erased_to(layout)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(events=event_lists(events_max=40), data=st.data())
def test_state_is_the_same_wherever_the_archive_hands_over(tmp_path_factory, events, data):
    """Late and shuffled events, with repeats, any join, any lag of the archive, and kills."""
    folder = tmp_path_factory.mktemp("lake")
    view = a_window_view("zone", ("zone",), "2h")
    catalogue = a_catalogue(view.model_copy(update={"filter": "riders > 0"}), VIEWS[1])
    repeats = data.draw(st.lists(st.sampled_from(events), max_size=8)) if events else []
    sent = random.Random(data.draw(st.integers(0, 99))).sample(
        [*events, *repeats], len(events) + len(repeats)
    )
    filled = Filled(folder)
    filled.world.catalogue = catalogue
    joined = data.draw(st.integers(0, len(sent)))
    filled.lake.publish(sent[:joined])
    filled.lake.store(data.draw(st.integers(0, joined)))
    filled.place()
    filled.lake.publish(sent[joined:])
    steps = st.sampled_from(["read", "fill", "store", "restart"])
    for step in data.draw(st.lists(steps, max_size=12)):
        if step == "read":
            filled.read_on(data.draw(st.integers(1, 5)))
        elif step == "fill":
            filled.backfill.work(0.0)
            filled.handler.idle()
        elif step == "store":
            left = len(sent) - filled.lake.archived
            filled.lake.store(data.draw(st.integers(0, left)))
        else:
            filled.restart()
            filled.place()
    filled.lake.store()
    filled.read_on()
    filled.fill()
    whole = Filled(folder / "from-0", Lake(folder / "nothing"))
    whole.world.catalogue, whole.lake.published = catalogue, sent
    whole.place()
    whole.read_on()

    assert whole.state() == filled.state()
    assert filled.lake.ends("rides") == filled.next
    assert {partition_of(event) for event in sent} <= {*filled.next}


def states(filled):
    """Of the views that read rides alone."""
    found = list_views(
        catalogue=filled.world.catalogue,
        store=filled.world.store,
        progress_of=filled.backfill.progress_of,
    )
    return [each for each in found if each.view in ("zone", "zone-kind")]


def test_view_says_how_far_it_is_filled_until_it_is_ready(filled):
    filled.lake.publish(EVENTS)
    for _ in range(8):
        filled.lake.store(25)
    assert {"RESTORING"} == {each.status for each in states(filled)}
    filled.place()
    filled.backfill.work(0.0)
    begun = next(each.progress for each in states(filled) if each.progress)
    while not any(each.progress and each.progress.files_done for each in states(filled)):
        filled.backfill.work(0.0)
    some = next(each for each in states(filled) if each.progress and each.progress.files_done)
    filled.fill()
    filled.read_on()

    assert (8, 0, 0, 0.0) == (begun.files, begun.files_done, begun.rows, begun.files_per_s)
    assert "FILLING" == some.status
    assert 8 == some.progress.files
    assert 0 < some.progress.files_done <= 8
    assert 0 < some.progress.rows <= 200
    assert some.progress.files_per_s > 0
    assert {("READY", None)} == {(each.status, each.progress) for each in states(filled)}


def test_view_whose_stream_is_not_there_is_unfit(filled):
    filled.world.catalogue = filled.world.catalogue.without("stream", "rides")

    assert {"UNFIT"} == {each.status for each in states(filled)}


def test_process_is_warm_while_a_view_is_filled_from_the_archive(filled):
    filled.lake.publish(EVENTS)
    filled.lake.store()
    warm = WarmUp(
        lambda: filled.world.catalogue,
        filled.world.store,
        waits_for_archive=filled.backfill.waits_for_archive,
    )
    filled.place()

    assert warm()


def test_process_is_not_warm_before_a_view_that_was_added_has_caught_up(tmp_path):
    before = Filled(tmp_path, Lake(tmp_path / "nothing"))
    before.lake.published = EVENTS
    before.place()
    before.read_on()
    before.world.catalogue = a_catalogue(*VIEWS, a_window_view("added", ("zone",), "2h"))
    before.restart()
    warm = WarmUp(
        lambda: before.world.catalogue,
        before.world.store,
        waits_for_archive=before.backfill.waits_for_archive,
    )
    before.place()
    assert not warm()

    before.next = dict.fromkeys(before.next, 0)
    before.read_on(10)
    assert not warm()
    before.read_on()
    assert warm()


def _whole(store, layout):
    return [whole(run) for run in store.runs(layout)]
