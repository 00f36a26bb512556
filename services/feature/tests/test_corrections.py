# SPDX-License-Identifier: Apache-2.0
"""A record that comes after features were served tells which predictions it belongs into."""

from itertools import chain

import numpy as np
import pytest
from feature_cluster import Cluster, Neighbours
from feature_world import (
    HOUR,
    MINUTE,
    START,
    Event,
    World,
    a_catalogue,
    a_request_view,
    a_view,
    a_window_view,
    bits,
    event_lists,
    tell_erased,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import Busy, HeadraceError, Invalid, Unavailable
from headrace.feature.v1.feature_events_pb2 import FeaturesCorrected
from headrace_feature import correction_handlers
from headrace_feature.adapters.served_notes import ServedNotes
from headrace_feature.correction_handlers import ENTITY_BYTES_MAX
from headrace_feature.domain.corrections import PART_PREDICTIONS_MAX
from headrace_feature.domain.online_query import ID_BYTES_MAX, GetOnlineFeatures
from headrace_feature.handlers import get_online_features
from headrace_kit.kafka import MESSAGE_BYTES_MAX

COUNT, RATIO, RULE = "zone:count", "zone:share", "ask:rule"
VIEWS = (
    a_view(
        {
            "count": {"aggregate": "count", "window": "1h"},
            "day": {"aggregate": "sum", "column": "riders", "window": "1d"},
            "share": {"ratio": ["count", "day"]},
            "whole": {"aggregate": "count", "window": "1h", "tumbling": True},
        }
    ),
    a_request_view({"rule": {"expression": '"zone:count" > 1'}}),
    a_window_view("zone-kind", ("zone", "kind"), "90m"),
)


def a_world(**more) -> World:
    return World(catalogue=a_catalogue(*VIEWS), **more)


def a_ride(id: str, at: int, **more) -> Event:
    return Event(id, at, more.pop("known", at), **more)


def serve(world, *rows, features=(COUNT,), notes=None) -> np.ndarray:
    """rows: (prediction id, zone, as_of). What FeatureApi does."""
    query = GetOnlineFeatures(
        tuple(features),
        {"zone": [zone for _, zone, _ in rows], "kind": np.ones(len(rows), dtype=np.int64)},
        np.array([as_of for *_, as_of in rows], dtype=np.int64),
        prediction_ids=tuple(named for named, *_ in rows),
    )
    query = noted(notes or notes_of(world), query)
    return get_online_features(query, world.online()).values


def noted(notes, query) -> GetOnlineFeatures:
    """As the call: it is refused with the reason."""
    [found] = notes.noted({0: query}).values()
    if isinstance(found, HeadraceError):
        raise found
    return found


def notes_of(world, neighbours=None) -> ServedNotes:
    class Nobody:
        def address_by_partition(self, stream):
            return {}

    return ServedNotes(
        catalogue=lambda: world.catalogue,
        served=world.served,
        store=world.store,
        owners=neighbours or Nobody(),
        peers=neighbours or Nobody(),
        clock=world.clock,
    )


def told(world) -> list[FeaturesCorrected]:
    return [FeaturesCorrected.FromString(each.value) for each in world.publisher.published]


def ids_told(world) -> list[list[str]]:
    return [list(each.prediction_ids) for each in told(world)]


def test_late_record_tells_the_prediction_that_was_made_without_it():
    world = a_world()
    world.fold(a_ride("before", START))
    serve(world, ("p-1", "a", START + 30 * MINUTE))
    world.fold(a_ride("late", START + 20 * MINUTE, known=START + HOUR))

    (correction,) = told(world)
    assert ("zone", {"zone": "a"}) == (correction.view, dict(correction.entity))
    assert ("rides", "late") == (correction.stream, correction.event_id)
    assert [COUNT] == list(correction.features)
    assert ["p-1"] == list(correction.prediction_ids)
    served = START + 30 * MINUTE
    assert (served, served) == (correction.served_from_us, correction.served_until_us)
    times = START + 20 * MINUTE, START + HOUR
    assert times == (correction.event_time_us, correction.known_time_us)
    (message,) = world.publisher.published
    assert b"zone/a" == message.key
    assert correction.correction_id.encode() == dict(message.headers)["ce_id"]


def test_record_tells_nobody_beyond_its_windows():
    world = a_world()
    rows = [("early", "a", START - 1), ("gone", "a", START + HOUR), ("other", "b", START)]
    serve(world, *rows, ("first", "a", START), ("last", "a", START + HOUR - 1))
    world.fold(a_ride("late", START))

    assert [["first", "last"]] == ids_told(world)


def test_only_the_features_whose_windows_hold_it_are_named():
    world = a_world()
    serve(world, ("p", "a", START + 2 * HOUR), features=(COUNT, "zone:day", RATIO, RULE))
    world.fold(a_ride("late", START))
    assert [["zone:day", RATIO]] == [list(each.features) for each in told(world)]

    serve(world, ("q", "b", START), features=(RULE,))
    world.fold(a_ride("later", START, zone="b"))
    assert [RULE] == list(told(world)[-1].features)


def test_tumbling_window_is_corrected_once_it_is_complete():
    world = a_world()
    hour = START - START % HOUR
    moments = [hour + HOUR - 1, hour + HOUR, hour + 2 * HOUR - 1, hour + 2 * HOUR]
    rows = [(f"p-{number}", "a", moment) for number, moment in enumerate(moments)]
    serve(world, *rows, features=("zone:whole",))
    world.fold(a_ride("late", hour + MINUTE))

    assert [["p-1", "p-2"]] == ids_told(world)


def test_record_that_was_there_when_it_was_served_corrects_nothing():
    world = a_world()
    world.fold(a_ride("there", START))
    serve(world, ("p", "a", START))
    world.fold(a_ride("there", START))  # ingest may repeat one after a crash

    assert [] == told(world)


def test_read_that_names_no_predictions_is_not_remembered():
    world = a_world()
    world.read_columns([COUNT], {"zone": ["a"]}, [START])
    world.fold(a_ride("late", START))

    assert [] == told(world)


def test_each_view_is_corrected_for_its_own_entity():
    world = a_world()
    serve(world, ("p", "a", START), features=(COUNT, "zone-kind:count_90m"))
    world.fold(a_ride("late", START), a_ride("other-kind", START, kind=2))

    found = {(each.event_id, each.view): dict(each.entity) for each in told(world)}
    both = {("late", "zone"): {"zone": "a"}, ("other-kind", "zone"): {"zone": "a"}}
    assert both | {("late", "zone-kind"): {"zone": "a", "kind": "1"}} == found
    assert 3 == len({each.correction_id for each in told(world)})


def test_many_predictions_are_told_in_parts():
    world = a_world(served_rows_max=10_000)
    rows = [(f"p-{number:05}", "a", START) for number in range(PART_PREDICTIONS_MAX + 1)]
    serve(world, *rows)
    world.fold(a_ride("late", START))

    assert [1, 2] == [each.part for each in told(world)]
    assert [named for named, *_ in rows] == [*chain(*ids_told(world))]
    assert 2 == len({each.correction_id for each in told(world)})


def test_part_of_the_longest_ids_and_entity_fits_a_message():
    world = a_world(served_rows_max=10_000)
    zone = "\u00e5" * (ENTITY_BYTES_MAX // 2)
    ids = [f"{number:0{ID_BYTES_MAX}}" for number in range(PART_PREDICTIONS_MAX)]
    serve(world, *((each, zone, START) for each in ids))
    world.fold(a_ride("late", START, zone=zone))

    (message,) = world.publisher.published
    assert [ids] == ids_told(world)
    assert MESSAGE_BYTES_MAX > 1.5 * (len(message.key) + len(message.value))


def test_entity_that_is_too_long_to_be_remembered_is_refused_where_predictions_are_named():
    world, zone = a_world(), "\u00e5" * (ENTITY_BYTES_MAX // 2) + "a"
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        serve(world, ("p-1", "a", START), ("p-2", zone, START))

    assert 0 == len(world.served)
    assert 1 == len(world.read_columns([COUNT], {"zone": [zone]}, [START]))


def test_predictions_beyond_what_one_batch_may_name_are_counted(monkeypatch):
    monkeypatch.setattr(correction_handlers, "NAMED_MAX", 3)
    world = a_world()
    serve(world, *((f"p-{zone}{n}", zone, START + n) for zone in "abc" for n in range(2)))
    world.fold(*(a_ride(f"late-{zone}", START, zone=zone) for zone in "abc"))

    assert [0, 0, 2] == sorted(map(len, ids_told(world)))
    for correction in told(world):
        served = correction.served_from_us, correction.served_until_us
        assert (2, START, START + 1) == (correction.rows, *served)


def test_oldest_rows_are_forgotten_and_it_is_said_since_when_all_are_remembered():
    world = a_world(served_rows_max=2)
    for number in range(3):
        world.clock.advance(1)
        serve(world, (f"p-{number}", "a", START))
    world.fold(a_ride("late", START))

    assert [["p-1", "p-2"]] == ids_told(world)
    assert START + 1 == told(world)[0].remembered_since_us


def test_undelivered_correction_is_sent_again_as_it_was():
    world = a_world()
    serve(world, ("p", "a", START))
    world.publisher.errors.append(Unavailable("DELIVERY_UNKNOWN", topic="t"))
    with pytest.raises(Unavailable):
        world.fold(a_ride("late", START))
    world.restart()
    world.teller.send()
    assert [["p"]] == ids_told(world)

    world.restart()  # before it was noted that it is delivered
    world.loop_handler.idle()
    world.loop_handler.idle()
    first, again = world.publisher.published
    assert first == again

    world.restart()
    world.loop_handler.idle()
    assert 2 == len(told(world))


def test_what_was_served_is_remembered_over_a_restart():
    world = a_world()
    serve(world, ("p-1", "a", START))
    world.fold(a_ride("one", START - 2 * HOUR))
    serve(world, ("p-2", "a", START))
    world.loop_handler.idle()
    world.restart()
    serve(world, ("p-3", "a", START))
    world.fold(a_ride("late", START))

    assert [["p-1", "p-2", "p-3"]] == ids_told(world)


def test_forgotten_rows_leave_the_store():
    world = a_world(served_rows_max=2)
    for number in range(5):
        serve(world, (f"p-{number}", "a", START))
        world.loop_handler.idle()
    world.restart()
    world.fold(a_ride("late", START))

    assert [["p-3", "p-4"]] == ids_told(world)
    assert 2 == len(list(world.state_store.scan(b"s", b"t")))


def test_erased_entity_is_remembered_no_more_here_or_in_the_store():
    world = a_world()
    world.fold(a_ride("1", START), a_ride("2", START, zone="b"))
    serve(world, ("p-1", "a", START + 30 * MINUTE), ("p-2", "b", START + 30 * MINUTE))
    world.loop_handler.idle()
    tell_erased(world.told, [], "zone", "a", START + HOUR)
    world.follow_erasures()
    stored = b"".join(value for _, value in world.state_store.scan(b"s", b"t"))
    assert (False, True) == (b"p-1" in stored, b"p-2" in stored)

    world.restart()
    late = [a_ride(f"late-{zone}", START + MINUTE, zone=zone, known=START + HOUR) for zone in "ab"]
    world.fold(*late)
    assert [["p-2"]] == ids_told(world)


def test_row_that_is_noted_while_a_batch_is_stored_is_told():
    """A read that begins before the batch is readable, and is noted after it was looked at."""
    world = a_world()
    commit = world.store.commit

    def noted_meanwhile(batch, **beside):
        serve(world, ("p-1", "a", START))
        commit(batch, **beside)

    serve(world, ("p-0", "a", START))
    world.store.commit = noted_meanwhile
    world.fold(a_ride("late", START))

    assert [["p-0"], ["p-1"]] == ids_told(world)
    assert [1, 2] == [each.part for each in told(world)]
    assert 2 == len({each.correction_id for each in told(world)})


def test_correction_for_which_the_state_was_full_is_told_when_the_batch_comes_again():
    world = a_world()
    commit, put = world.store.commit, world.state_store.commit

    def full(puts, deletes, offsets):
        world.state_store.commit = put
        raise Busy("STATE_FULL", path="state", bytes_max=1)

    def noted_meanwhile(batch, **beside):
        world.store.commit = commit
        serve(world, ("p", "a", START))
        commit(batch, **beside)
        world.state_store.commit = full

    world.store.commit = noted_meanwhile
    with pytest.raises(Busy):
        world.fold(a_ride("late", START))
    world.offsets.clear()
    world.fold(a_ride("late", START))

    assert [["p"]] == ids_told(world)


def test_refilled_view_corrects_nothing():
    world = a_world()
    world.fold(a_ride("old", START))
    world.catalogue = world.catalogue.with_definition(
        a_view({"long": {"aggregate": "count", "window": "2h"}}, name="new")
    )
    world.offsets.clear()
    world.place()
    with pytest.raises(Unavailable, match="RESTORING"):
        serve(world, ("p", "a", START), features=("new:long",))
    world.fold(a_ride("old", START))

    assert [] == told(world)


@pytest.mark.parametrize(
    "ids", [("p",), ("p", "q", "r"), ("p", ""), ("p", "x" * 129), ("p", "\u00e5" * 65)]
)
def test_prediction_ids_must_name_each_row(ids):
    query = GetOnlineFeatures(
        (COUNT,), {"zone": ["a", "b"]}, np.empty(0, np.int64), prediction_ids=ids
    )
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        noted(notes_of(a_world()), query)


def test_worker_that_folds_tells_what_another_served(tmp_path):
    cluster = Cluster(tmp_path)
    workers = [cluster.worker(), cluster.worker()]
    for number, worker in enumerate(workers):
        worker.place(number)
    neighbours = Neighbours(workers)
    asked, folding = (each.world for each in workers)
    query = GetOnlineFeatures(
        ("zone:count_1h",), {"zone": ["a"]}, np.array([START]), prediction_ids=("p",)
    )
    noted(notes_of(asked, neighbours), query)
    cluster.log[1].append(a_ride("late", START))
    workers[1].read_on()

    assert [["p"]] == ids_told(folding)


class Away:
    """Other workers, who count what they are told, and may not answer."""

    def __init__(self, *, answers=True):
        self.answers, self.told = answers, []

    def address_by_partition(self, stream):
        return {2: "one", 3: "two"}

    def note(self, addresses, query):
        self.told.append((addresses, query.prediction_ids))
        if not self.answers:
            raise Unavailable("SERVICE_UNAVAILABLE", service="feature")


def a_query(*ids, features=(COUNT,)):
    return GetOnlineFeatures(
        features, {"zone": ["a"] * len(ids)}, np.full(len(ids), START), prediction_ids=ids
    )


def test_queries_that_ask_alike_are_noted_elsewhere_by_one_call():
    others = Away()
    queries = {0: a_query("p"), 1: a_query("q", features=("zone:day",)), 2: a_query("r", "s")}
    found = notes_of(a_world(), others).noted(queries)

    assert [({"one", "two"}, ("p", "r", "s")), ({"one", "two"}, ("q",))] == others.told
    assert [("p",), ("q",), ("r", "s")] == [found[n].prediction_ids for n in range(3)]


def test_query_that_cannot_be_noted_keeps_no_other_one_from_it():
    others = Away()
    found = notes_of(a_world(), others).noted({0: a_query("p"), 1: a_query("x" * 129)})

    assert isinstance(found[1], Invalid)
    assert [({"one", "two"}, ("p",))] == others.told


def test_no_query_is_answered_while_another_worker_cannot_be_told():
    found = notes_of(a_world(), Away(answers=False)).noted({0: a_query("p"), 1: a_query("q")})

    assert ["SERVICE_UNAVAILABLE"] * 2 == [each.reason for each in found.values()]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), events=event_lists())
def test_prediction_whose_features_would_differ_is_told(data, events):
    """The read is done again with all known: where it differs, a late record must have told it."""
    features = (COUNT, "zone:day", RATIO, "zone:whole", RULE, "zone-kind:sum_fare_90m")
    world = a_world()
    served = {}
    for number, event in enumerate(events):
        if data.draw(st.booleans()):
            row = (f"p-{number}", data.draw(st.sampled_from("ab")), START + number * HOUR // 3)
            served[row] = serve(world, row, features=features)
        if data.draw(st.integers(0, 4)) == 0:
            world.loop_handler.idle()
            world.restart()
        # What is known then changes no answer that was given: it changes the truth about it.
        known_from_the_start = Event(event.id, event.at, 0, event.zone, event.kind, event.riders)
        world.fold(known_from_the_start)

    named = {each for ids in ids_told(world) for each in ids}
    for row, values in served.items():
        now = get_online_features(_query(features, row), world.online()).values
        if bits(now) != bits(values):
            assert row[0] in named


def _query(features, row):
    columns = {"zone": [row[1]], "kind": np.ones(1, dtype=np.int64)}
    return GetOnlineFeatures(features, columns, np.array([row[2]], dtype=np.int64))
