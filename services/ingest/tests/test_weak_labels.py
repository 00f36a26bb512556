# SPDX-License-Identifier: Apache-2.0
"""Functions vote, their votes are combined and kept, and nothing passes for what it is not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.application import parse_definition
from headrace.errors import Busy, Invalid
from headrace.label_definition import WeakLabels
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.label_book import AppliedLabels
from headrace_ingest.adapters.memory_archive import MemoryArchive
from headrace_ingest.adapters.memory_rows import MemoryRows
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.judging import judge
from headrace_ingest.domain.weak_labels import combine, names_of
from headrace_ingest.handlers import weak_labels
from headrace_ingest.handlers.weak_labels import ApplyWeakLabels, apply_weak_labels
from headrace_ingest.testing import NOW_US, a_contract, a_raw
from headrace_kit.json_strict import decode
from headrace_kit.testing import FixedClock, MemoryPublisher, a_batch

NO = -1


def weak_of(*labels, combine="majority", **changes):
    functions = {f"f{n}": {"when": "true", "label": label} for n, label in enumerate(labels)}
    given = {"stream": "s", "key": "k", "answer": "a", "votes": "v", "functions": functions}
    return WeakLabels(**(given | {"combine": combine} | changes))


def labels_of(votes, weak):
    names = names_of(weak)
    return [names[each] if each >= 0 else "" for each in combine(np.array(votes), weak).labels]


def test_majority_wins_and_a_tie_gets_no_label():
    weak = weak_of("a", "b", "b")

    assert ["b", "a", "", ""] == labels_of([[0, 1, 1], [0, NO, NO], [0, 1, NO], [NO, NO, NO]], weak)


def test_figures_are_shares_of_all_records():
    weak = weak_of("a", "b")
    figures = combine(np.array([[0, 1], [0, NO], [0, NO], [NO, NO]]), weak).figures

    first, second = figures["f0"], figures["f1"]
    assert (0.75, 0.25, 0.25, None) == (
        first.coverage,
        first.overlap,
        first.conflict,
        first.accuracy,
    )
    assert (0.25, 0.25, 0.25) == (second.coverage, second.overlap, second.conflict)


def test_accuracies_are_found_without_a_truth():
    chance = np.random.default_rng(5)
    truth = chance.integers(0, 2, 4_000)
    wanted = [0.9, 0.8, 0.7, 0.6]
    votes = np.stack([np.where(chance.random(4_000) < p, truth, 1 - truth) for p in wanted], axis=1)
    votes[chance.random(votes.shape) < 0.2] = NO
    weak = weak_of("a", "b", "a", "b", combine="weighted")
    combined = combine(votes, weak)

    found = [each.accuracy for each in combined.figures.values()]
    assert wanted == pytest.approx(found, abs=0.05)
    by_majority = combine(votes, weak_of("a", "b", "a", "b")).labels
    assert (combined.labels == truth).sum() > (by_majority == truth).sum()


def test_one_good_function_outweighs_two_poor_ones():
    chance = np.random.default_rng(7)
    truth = chance.integers(0, 2, 3_000)
    wanted = [0.95, 0.95, 0.55, 0.55]
    votes = np.stack([np.where(chance.random(3_000) < p, truth, 1 - truth) for p in wanted], axis=1)
    weak = weak_of("a", "b", "a", "b", combine="weighted")

    [label] = combine(np.vstack([votes, [[0, NO, 1, 1]]]), weak).labels[-1:]
    assert 0 == label


def test_function_that_never_votes_beside_another_keeps_what_is_supposed_of_it():
    weak = weak_of("a", "b", combine="weighted")
    combined = combine(np.array([[0, NO]] * 5 + [[NO, 1]] * 5), weak)

    assert [0.7, 0.7] == pytest.approx([each.accuracy for each in combined.figures.values()])
    assert [0] * 5 + [1] * 5 == combined.labels.tolist()


def test_lone_vote_never_turns_into_its_opposite():
    """Cheap and many overlap by chance, dear and cheap never: many and dear agree on all."""
    chance = np.random.default_rng(1)
    amount, quantity = chance.lognormal(3.5, 1.2, 2_000), chance.integers(1, 8, 2_000)
    weak = weak_of("fraud", "fine", "fraud", combine="weighted")
    fine, fraud = range(2)
    voted = [(amount > 300, fraud), (amount < 20, fine), (quantity > 5, fraud)]
    votes = np.stack([np.where(when, name, NO) for when, name in voted], axis=1)
    combined = combine(votes, weak)
    lone = (votes[:, 1] == fine) & (votes[:, 2] == NO)

    assert lone.sum() > 100
    assert {NO} == {*combined.labels[lone].tolist()}
    assert [False, True, False] == [each.at_chance for each in combined.figures.values()]
    assert 0.5 == combined.figures["f1"].accuracy


@st.composite
def any_votes(draw):
    labels = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=5))
    names = sorted({*labels})
    own = [st.sampled_from([NO, names.index(label)]) for label in labels]
    rows = draw(st.lists(st.tuples(*own), min_size=1, max_size=40))
    times = draw(st.lists(st.integers(1, 200), min_size=len(rows), max_size=len(rows)))
    return labels, np.repeat(np.array(rows), times, axis=0)


@given(any_votes(), st.sampled_from(["majority", "weighted"]))
def test_record_never_gets_a_name_that_no_function_voted_for(given_votes, rule):
    labels, votes = given_votes
    combined = combine(votes, weak_of(*labels, combine=rule))
    chosen = combined.labels[:, None]

    assert ((chosen == NO) | (chosen == votes).any(axis=1, keepdims=True)).all()


@given(any_votes())
def test_accuracy_is_never_below_chance(given_votes):
    labels, votes = given_votes
    weak = weak_of(*labels, combine="weighted")
    chance = 1 / max(2, len(names_of(weak)))

    for figures in combine(votes, weak).figures.values():
        assert chance <= figures.accuracy < 1
        assert figures.at_chance == (figures.accuracy == chance)


def test_lone_votes_say_nothing_of_accuracies():
    weak = weak_of("a", "b", "a", combine="weighted")
    beside = [[0, 1, 0]] * 20 + [[0, 1, NO]] * 5
    accuracy, with_lone = (
        [each.accuracy for each in combine(np.array(votes), weak).figures.values()]
        for votes in (beside, [*beside, *[[NO, 1, NO]] * 500])
    )

    assert accuracy == with_lone


def test_weighted_tie_and_votes_at_chance_get_no_label():
    weak = weak_of("a", "b", "a", combine="weighted")
    outvoted = [[0, 1, 0]] * 50
    combined = combine(np.array([*outvoted, [NO, 1, NO], [0, 1, NO], [NO, NO, NO]]), weak)

    assert [NO, 0, NO] == combined.labels[-3:].tolist()
    assert combined.figures["f1"].at_chance

    even = combine(np.array([[0, 1]] * 50), weak_of("a", "b", combine="weighted"))
    assert {NO} == {*even.labels.tolist()}


def test_no_records_give_no_labels():
    weak = weak_of("a", "b", combine="weighted")

    assert [] == combine(np.empty((0, 2), dtype=np.int64), weak).labels.tolist()


class World:
    """Archived departures, and a label whose functions look at them."""

    def __init__(self, **changes):
        columns = a_contract().stream.model_dump(mode="json", exclude_none=True)["columns"]
        names = ("verdict", "origin_of_label", "votes")
        texts = {name: {"type": "string"} for name in names}
        self.contract = a_contract(columns=columns | texts)
        self.publisher, self.contracts = MemoryPublisher(), AppliedContracts()
        self.archive, self.labels = MemoryArchive(), AppliedLabels()
        self.contracts.put(self.contract)
        self.labels.put(a_label(**changes))
        self.archive.open(self.contract, "t", [0], ids_max=1)
        records = [
            a_raw(1, delay=60.0), a_raw(2, delay=-3.0), a_raw(3, delay=10.0), a_raw(4, delay=None)
        ]  # fmt: skip
        rows = judge(a_batch(records), self.contract, decode=decode).rows
        self.archive.append(self.contract, rows, {0: Account()}, {0: Account(4)})

    def apply(self, from_us=0, until_us=NOW_US + 1, **options):
        return apply_weak_labels(
            ApplyWeakLabels("late", from_us, until_us, **options),
            labels=self.labels,
            contracts=self.contracts,
            records=MemoryRows(self.archive),
            publisher=self.publisher,
            clock=FixedClock(NOW_US),
        )

    def values(self):
        return [json.loads(message.value) for message in self.publisher.published]


def a_label(**changes):
    weak = {
        "stream": "flights.departed",
        "key": "flight",
        "answer": "verdict",
        "votes": "votes",
        "functions": {
            "long": {"when": "delay > 30", "label": "late"},
            "early": {"when": "delay < 0", "label": "on-time"},
            "some": {"when": "delay > 5", "label": "late"},
        },
    }
    return parse_definition(
        {
            "kind": "label",
            "name": "late",
            "description": "Was it late?",
            "stream": "flights.departed",
            "key": "flight",
            "value": "verdict = 'late'",
            "window": "2h",
            "origin": "origin_of_label",
            "weak": weak | changes,
        }
    )


def test_weak_labels_say_so_and_keep_their_votes():
    world = World()
    report = world.apply()

    assert (4, 3) == (report.records, report.labelled)
    assert [("late", "weak"), ("on-time", "weak"), ("late", "weak")] == [
        (value["verdict"], value["origin_of_label"]) for value in world.values()
    ]
    assert {"long": "late", "some": "late"} == json.loads(world.values()[0]["votes"])
    assert {0.25, 0.5} == {each.coverage for each in report.figures.values()}


def test_functions_name_the_entity_of_a_float64_column_by_its_digits():
    world = World(key="delay")
    world.apply()

    assert ["60", "-3", "10"] == [each["flight"] for each in world.values()]


def test_functions_applied_again_publish_the_same_ids_and_others_new_ones():
    world = World()
    world.apply()
    world.apply()
    world.labels.put(a_label(combine="weighted"))
    world.apply()
    ids = [value["event_id"] for value in world.values()]

    assert ids[:3] == ids[3:6]
    assert not {*ids[:3]} & {*ids[6:]}


def test_new_labels_are_counted_in_a_dry_run_too():
    world = World()

    assert [3, 3] == [world.apply(dry_run=dry_run).added for dry_run in (True, False)]


def test_dry_run_publishes_nothing():
    world = World()

    assert 3 == world.apply(dry_run=True).labelled
    assert [] == world.publisher.published


def test_only_records_of_the_time_are_looked_at(monkeypatch):
    world = World()

    assert 0 == world.apply(until_us=NOW_US).records
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        world.apply(from_us=5, until_us=5)
    monkeypatch.setattr(weak_labels, "ROWS_MAX", 3)
    with pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        world.apply()


def test_label_without_functions_is_told_so():
    world = World()
    world.labels.put(a_label().model_copy(update={"weak": None}))

    with pytest.raises(Invalid, match="has no weak functions"):
        world.apply()
