# SPDX-License-Identifier: Apache-2.0
"""A label is what the first record known in its window says."""

from __future__ import annotations

import pytest

from headrace.application import parse_definition
from headrace.errors import Busy, Invalid, NotFound
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.label_book import AppliedLabels
from headrace_ingest.adapters.memory_archive import MemoryArchive
from headrace_ingest.adapters.memory_rows import MemoryRows
from headrace_ingest.domain import labels as labels_of
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.judging import judge
from headrace_ingest.domain.labels import LabelState, Target
from headrace_ingest.handlers.look_up_labels import LookUpLabels, look_up_labels
from headrace_ingest.testing import NOW_US, a_contract, a_raw
from headrace_kit.json_strict import decode
from headrace_kit.testing import a_batch

HOUR_US = 3_600 * 1_000_000
ASKED = (Target("UA1", NOW_US),)
LATER = NOW_US + 10 * HOUR_US


def a_label(**changes):
    return parse_definition(
        {
            "kind": "label",
            "name": "late",
            "description": "Was it late?",
            "stream": "flights.departed",
            "key": "flight",
            "value": "delay > 15",
            "window": "2h",
            "origin": "origin",
        }
        | changes
    )


def a_fact(number, *, delay=20.0, event_h=0, known_h=0, **changes):
    times = {"departed_at": NOW_US + event_h * HOUR_US, "known_at": NOW_US + known_h * HOUR_US}
    timestamp_ms = (NOW_US + known_h * HOUR_US) // 1_000
    record = {"timestamp_ms": timestamp_ms, "key": changes.get("flight", "UA1").encode()}
    return a_raw(number, record=record, delay=delay, **{**times, **changes})


@pytest.fixture
def look_up():
    """look_up(records, label, targets, ...) gives the labels."""

    def call(records, label, targets=ASKED, known_until_us=LATER, **options):
        contract = a_contract(columns=a_columns())
        archive, contracts, labels = MemoryArchive(), AppliedContracts(), AppliedLabels()
        contracts.put(contract)
        labels.put(label)
        archive.open(contract, "t", [0], ids_max=1)
        rows = judge(a_batch(records), contract, decode=decode).rows
        archive.append(contract, rows, {0: Account()}, {0: Account(1)})
        command = LookUpLabels(label.name, targets, known_until_us, **options)
        return look_up_labels(
            command, labels=labels, contracts=contracts, records=MemoryRows(archive)
        )

    return call


def a_columns():
    columns = a_contract().stream.model_dump(mode="json", exclude_none=True)["columns"]
    return columns | {"origin": {"type": "string"}}


def test_first_known_record_of_the_window_counts(look_up):
    facts = [
        a_fact(1, delay=99.0, known_h=3),
        a_fact(2, delay=0.0, known_h=1),
        a_fact(3, delay=99.0, event_h=-1, known_h=0),
        a_fact(4, delay=99.0, event_h=3, known_h=0),
    ]

    [found] = look_up(facts, a_label())

    assert (LabelState.KNOWN, False, "departed:2") == (found.state, found.value, found.event_id)


def test_what_became_known_later_does_not_count(look_up):
    [found] = look_up([a_fact(1, known_h=3)], a_label(), known_until_us=NOW_US + HOUR_US)

    assert LabelState.PENDING == found.state


def test_entity_of_a_float64_column_is_found_by_its_digits(look_up):
    facts = [a_fact(1, delay=5.0, diverted=True), a_fact(2, delay=2.5, diverted=False)]
    label = a_label(key="delay", value="diverted")
    targets = [Target(key, NOW_US) for key in ("5", "2.5", "5.0")]

    assert [True, False, None] == [each.value for each in look_up(facts, label, targets)]


def test_absent_rule_gives_the_value_once_its_time_is_over(look_up):
    label = a_label(absent={"after": "2h", "value": True})
    late = [a_fact(1, delay=0.0, known_h=3)]

    [before] = look_up([], label, known_until_us=NOW_US + HOUR_US)
    [after] = look_up(late, label)

    assert LabelState.PENDING == before.state
    assert (LabelState.ABSENT, True) == (after.state, after.value)


def test_prediction_is_found_by_its_id_whenever_the_label_comes(look_up):
    label = a_label(by="prediction", key="event_id")
    facts = [a_fact(1, event_h=9, known_h=9)]

    [found, other] = look_up(facts, label, [Target("departed:1", 0), Target("no such", 0)])

    assert (True, LabelState.PENDING) == (found.value, other.state)


def test_weak_label_stands_in_only_when_asked_for(look_up):
    facts = [a_fact(1, origin="weak"), a_fact(2, delay=0.0, origin="human", known_h=1)]

    assert LabelState.PENDING == look_up(facts[:1], a_label())[0].state
    assert "weak" == look_up(facts[:1], a_label(), with_weak=True)[0].origin
    assert "human" == look_up(facts, a_label(), with_weak=True)[0].origin


def test_record_without_value_says_nothing(look_up):
    [found] = look_up([a_fact(1, delay=None), a_fact(2, known_h=1)], a_label())

    assert "departed:2" == found.event_id


def test_targets_are_answered_in_their_order(look_up):
    facts = [a_fact(1), a_fact(2, flight="UA2", delay=0.0)]
    targets = [Target("UA2", NOW_US), Target("UA9", NOW_US), Target("UA1", NOW_US)]

    assert [False, None, True] == [each.value for each in look_up(facts, a_label(), targets)]


def test_targets_of_one_entity_are_looked_at_some_at_a_time(look_up, monkeypatch):
    joined, first_said = [], labels_of._first_said

    def counted(rule, asked, said):
        joined.append(len(asked))
        return first_said(rule, asked, said)

    monkeypatch.setattr(labels_of, "PAIRS_MAX", 6)
    monkeypatch.setattr(labels_of, "_first_said", counted)
    facts = [a_fact(n, event_h=3 * n, known_h=3 * n, delay=20.0 * (n % 2)) for n in range(3)]
    hours = [0, 3, 6, 9, 6, 3, 0]
    targets = [Target("UA1", NOW_US + hour * HOUR_US) for hour in hours]

    found = look_up(facts, a_label(), [*targets, Target("UA9", NOW_US)])

    assert [False, True, False, None, False, True, False, None] == [each.value for each in found]
    assert [2, 2, 2, 1] == joined


def test_unknown_label_and_too_many_targets_are_refused(look_up):
    with pytest.raises(NotFound, match="LABEL_UNKNOWN"):
        AppliedLabels().get("late")
    with pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        look_up([], a_label(), [Target("UA1", 0)] * 1_001)
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        look_up([], a_label(), [])


def test_of_weak_labels_the_last_known_counts(look_up):
    facts = [a_fact(1, origin="weak"), a_fact(2, origin="weak", delay=0.0, known_h=1)]

    assert "departed:2" == look_up(facts, a_label(), with_weak=True)[0].event_id
