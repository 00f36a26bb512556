# SPDX-License-Identifier: Apache-2.0
"""Functions are asked again: what they do not give any more is taken back, and nothing else."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from weak_world import LATE, REVIEWED, WeakWorld, a_label

from headrace.errors import Unavailable
from headrace_ingest.adapters.delta_archive import DeltaArchive
from headrace_ingest.adapters.delta_rows import DeltaRows
from headrace_ingest.adapters.memory_archive import MemoryArchive
from headrace_ingest.adapters.memory_rows import MemoryRows
from headrace_ingest.domain.standing_labels import KNOWN_AT
from headrace_ingest.testing import NOW_US, never_read
from headrace_kit.testing import a_record

ALL_LATE, NONE = {"all": {"when": "true", "label": "late"}}, {"no": {**LATE, "when": "false"}}
NOTHING = (None, "")


@pytest.fixture(params=["memory", "delta"])
def stores(request, tmp_path):
    """An archive, and what reads its records."""
    if request.param == "memory":
        archive = MemoryArchive()
        return archive, MemoryRows(archive)
    uri = tmp_path.as_uri()
    return DeltaArchive(uri, {}, was_read=never_read), DeltaRows(uri, {}, was_read=never_read)


def test_records_are_told_up_to_the_last_moment_there_is(stores):
    world = WeakWorld(*stores)

    rows = world.records.between(world.departed, from_us=0, until_us=2**63 - 1, rows_max=9)

    assert 3 == len(rows)


def test_labels_of_an_archive_that_is_gone_are_not_taken_for_none(tmp_path):
    """All would be published anew, and stored twice once the archive is back."""
    uri = tmp_path.as_uri()
    world = WeakWorld(
        DeltaArchive(uri, {}, was_read=never_read), DeltaRows(uri, {}, was_read=never_read)
    )
    gone = DeltaRows((tmp_path / "away").as_uri(), {}, was_read=lambda _: True)

    with pytest.raises(Unavailable, match="ARCHIVE_MISSING"):
        gone.of_keys(world.reviewed, ["flight"], key="flight", keys=["UA1"])


@pytest.fixture
def world(stores):
    return WeakWorld(*stores)


def values(world):
    return [json.loads(each.value) for each in world.publisher.published]


def a_human_label(world, verdict="on-time"):
    value = {"id": "task", "flight": "UA1", "asked_at": NOW_US, "verdict": verdict}
    record = json.dumps(value | {"origin": "human", "known_at": NOW_US}).encode()
    world.store(world.reviewed, [a_record(record, key=b"UA1", timestamp_ms=NOW_US // 1_000)])


def test_label_that_the_functions_do_not_give_any_more_is_taken_back(world):
    assert (3, 0) == world.apply(ALL_LATE)
    assert [(True, "weak")] * 3 == world.look_up("UA1", "UA2", "UA3")

    assert (2, 1) == world.apply({"long": LATE})
    [back] = [value for value in values(world) if value["votes"] == "{}"]

    assert ("UA3", NOW_US, "weak") == (back["flight"], back["asked_at"], back["origin"])
    assert "verdict" not in back
    assert [(True, "weak")] * 2 + [NOTHING] == world.look_up("UA1", "UA2", "UA3")


def test_what_was_known_before_stays_as_it_was_known(world):
    world.apply(ALL_LATE)
    before_us = world.clock.us
    world.apply(NONE)

    assert [NOTHING] == world.look_up("UA1")
    assert [(True, "weak")] == world.look_up("UA1", known_until_us=before_us)


def test_label_of_a_person_is_never_taken_back(world):
    world.apply(ALL_LATE)
    a_human_label(world)

    assert (0, 3) == world.apply(NONE)
    assert [(False, "human"), NOTHING] == world.look_up("UA1", "UA2")
    assert (0, 0) == world.apply(NONE)


def test_functions_applied_again_take_nothing_back_twice(world):
    world.apply(ALL_LATE)
    assert (2, 1) == world.apply({"long": LATE})

    assert (2, 0) == world.apply({"long": LATE})
    assert [(True, "weak"), NOTHING] == world.look_up("UA1", "UA3")


def test_functions_applied_again_publish_nothing(world):
    world.apply(ALL_LATE)
    world.apply({"long": LATE})
    world.apply({"long": LATE})

    assert [] == world.publisher.published


def test_labels_that_stand_already_are_not_counted_as_new(world):
    world.apply({"long": LATE})
    first = world.report
    world.apply({"long": LATE})

    assert [(2, 2), (2, 0)] == [(each.labelled, each.added) for each in (first, world.report)]
    assert "flights.reviewed" == first.stream


def test_label_published_again_before_it_is_archived_is_no_other_payload_of_its_id(world):
    """A caller that hears nothing asks again at once, and the known time has moved on."""
    twice = []
    for _ in range(2):
        world.apply(ALL_LATE, archived=False)
        twice += values(world)

    assert 6 == len(twice)
    assert [1] * len(twice) == [*Counter(value["id"] for value in twice).values()]


def test_label_that_was_archived_without_its_known_time_in_its_id_stands(world):
    """As ids were until then."""
    world.apply(ALL_LATE, archived=False)
    old = [value | {"id": value["id"].partition(KNOWN_AT)[0]} for value in values(world)]
    world.archive_reviews([json.dumps(value).encode() for value in old])
    world.apply(ALL_LATE)

    assert [] == world.publisher.published


def test_label_comes_back_with_the_functions_that_gave_it(world):
    for functions, label in ((ALL_LATE, (True, "weak")), (NONE, NOTHING)) * 3:
        world.apply(functions)
        assert [label] * 2 == world.look_up("UA1", "UA3")


def test_other_answer_comes_back_with_the_functions_that_gave_it(world):
    all_on_time = {"all": {"when": "true", "label": "on-time"}}
    for functions, late in ((ALL_LATE, True), (all_on_time, False)) * 2:
        assert (3, 0) == world.apply(functions)
        assert [(late, "weak")] == world.look_up("UA1")


def test_contract_that_requires_an_answer_takes_what_takes_it_back(stores):
    columns = REVIEWED["columns"]
    required = columns | {"verdict": {**columns["verdict"], "required": True}}
    world = WeakWorld(*stores, columns=required)
    world.apply(ALL_LATE)
    world.apply(NONE)

    assert {("late", "{}")} == {(value["verdict"], value["votes"]) for value in values(world)}
    assert [NOTHING] == world.look_up("UA1")


def test_label_of_another_definitions_functions_stays(world):
    """It has the same origin, and its votes in a column of its own."""
    world.apply(ALL_LATE)
    value = {"id": "other", "flight": "UA1", "asked_at": NOW_US, "verdict": "on-time"}
    record = json.dumps(value | {"origin": "weak", "known_at": NOW_US}).encode()
    world.store(world.reviewed, [a_record(record, key=b"UA1", timestamp_ms=NOW_US // 1_000)])
    world.apply(NONE)

    assert [(False, "weak"), NOTHING] == world.look_up("UA1", "UA2")


@pytest.mark.parametrize("origin", [{"origin": "origin"}, {}])
def test_what_functions_took_back_is_gone_for_a_definition_without_functions_too(world, origin):
    world.labels.put(a_label("plain", **origin))
    world.apply(ALL_LATE)
    before_us = world.clock.us
    world.apply({"long": LATE})

    found = world.look_up("UA1", "UA3", label="plain")
    assert [True, None] == [value for value, _ in found]
    assert True is world.look_up("UA3", label="plain", known_until_us=before_us)[0][0]
