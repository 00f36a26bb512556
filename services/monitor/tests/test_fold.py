# SPDX-License-Identifier: Apache-2.0
"""The join of predictions with outcomes, and the counters, one batch at a time."""

import pytest

from headrace import topics
from headrace.inference.v1 import inference_events_pb2 as inference_pb
from headrace_kit import json_strict
from headrace_kit.kafka import Record
from headrace_kit.state_store import MemoryStateStore
from headrace_monitor import testing
from headrace_monitor.adapters import conversions
from headrace_monitor.domain import layout
from headrace_monitor.domain.prediction import decided_rows
from headrace_monitor.domain.watch import SECOND_US
from headrace_monitor.handlers import fold
from headrace_monitor.handlers.batch import Batch
from headrace_monitor.handlers.facts import note
from headrace_monitor.handlers.forms import WINDOW
from headrace_monitor.handlers.quality_report import QualityReport
from headrace_monitor.handlers.turn import take_turn
from headrace_monitor.testing import Scene, at_us

SCENE = Scene()
a_prediction, an_arrival = SCENE.a_prediction, SCENE.an_arrival
ENTITY_KEYS, TENSORS = inference_pb.DOOR_ENTITY_KEYS, inference_pb.DOOR_TENSORS


def as_record(message) -> Record:
    return Record(message.topic, 0, 0, message.key, message.value, dict(message.headers), 0)


class Folding:
    """A monitor's state; each call is one stored batch."""

    def __init__(self) -> None:
        self.store, self.watch = MemoryStateStore(), SCENE.a_watch()

    def __call__(self, step, *arguments) -> None:
        batch = Batch(self.store)
        turn = take_turn(self.watch, batch)
        step(turn, *arguments)
        turn.end()
        batch.commit({})

    def predictions(self, *messages) -> None:
        rows = [conversions.predictions(as_record(one))[0] for one in messages]
        self(fold.fold_predictions, [row for found in rows for row in found])

    def labels(self, *messages) -> None:
        records = [as_record(one) for one in messages]
        found = [
            fold.LabelRecord(
                topics.INGEST_RECORDS.part_of(record.topic),
                conversions.known_us(record, json_strict.decode(record.value)),
                json_strict.decode(record.value),
            )
            for record in records
        ]
        self(fold.fold_labels, found)

    def known(self, hour: float) -> None:
        self(fold.decide_absences, at_us(hour))
        self(fold.forget, at_us(hour))

    def facts(self, *messages) -> None:
        batch = Batch(self.store)
        for message in messages:
            for fact in conversions.facts(as_record(message)):
                note(fact, batch=batch)
        batch.commit({})

    def outcomes(self, endpoint: str = "delay") -> list[tuple[float, int]]:
        chunks = [
            chunk
            for key, chunk in self.store.scan(*layout.span(layout.all_decided(b"delay")))
            if layout.decided_parts(b"delay", key)[2] == endpoint
        ]
        rows = decided_rows(chunks)
        return sorted(zip(rows["score"].tolist(), rows["outcome"].tolist(), strict=True))

    def counts(self, end_hour: float, version: int) -> list[int] | None:
        import numpy as np

        stored = self.store.get(layout.counters(b"delay", at_us(end_hour), version))
        return None if stored is None else np.frombuffer(stored, np.int64).tolist()

    def window(self, end_hour: float):
        stored = self.store.get(layout.window(b"delay", at_us(end_hour)))
        return None if stored is None else WINDOW.validate_json(stored)


@pytest.fixture
def folding() -> Folding:
    return Folding()


@pytest.mark.parametrize(("delay", "outcome"), [(15.5, 1), (15.0, 0), (-3.0, 0)])
def test_label_above_the_limit_is_a_positive_outcome(folding, delay, outcome):
    folding.predictions(a_prediction("f", 0, score=0.25))
    folding.labels(an_arrival("f", 2, delay))

    assert [(0.25, outcome)] == folding.outcomes()


@pytest.mark.parametrize(("key", "entity"), [(5.0, "5"), (2.5, "2.5"), (7, "7"), (True, "true")])
def test_label_is_of_the_entity_that_its_key_names(folding, key, entity):
    folding.predictions(a_prediction(entity, 0, score=0.25))
    columns = {SCENE.entity_key: key, "delay": 60}
    folding(fold.fold_labels, [fold.LabelRecord(SCENE.arrived, at_us(2), columns)])

    assert [(0.25, 1)] == folding.outcomes()


def test_label_that_comes_before_its_prediction_waits_for_it(folding):
    folding.labels(an_arrival("f", 2, 60))
    folding.predictions(a_prediction("f", 0, score=0.25))

    assert [(0.25, 1)] == folding.outcomes()


def test_prediction_that_is_logged_again_counts_once(folding):
    folding.predictions(a_prediction("f", 0), a_prediction("f", 0))
    folding.labels(an_arrival("f", 2, 60))
    folding.predictions(a_prediction("f", 0))

    assert [(0.5, 1)] == folding.outcomes()


def test_two_predictions_of_one_entity_both_get_the_outcome(folding):
    again = a_prediction("f", 0.5, prediction_id="other", score=0.75)
    folding.predictions(a_prediction("f", 0, score=0.25), again)
    folding.labels(an_arrival("f", 2, 0))

    assert [(0.25, 0), (0.75, 0)] == folding.outcomes()


def test_first_label_counts_and_a_null_is_no_label(folding):
    folding.predictions(a_prediction("f", 0))
    folding.labels(an_arrival("f", 1.2, None), an_arrival("f", 1.5, 60))
    folding.labels(an_arrival("f", 1.6, 0))

    assert [(0.5, 1)] == folding.outcomes()


def test_absent_label_is_a_positive_outcome_once_it_cannot_come(folding):
    folding.predictions(a_prediction("f", 0))
    folding.known(3)  # matures at 0 + 1 + 2 hours; a label known at that very moment would count
    assert [] == folding.outcomes()

    folding.known(3.001)
    assert [(0.5, 1)] == folding.outcomes()


def test_label_that_comes_too_late_changes_nothing(folding):
    folding.predictions(a_prediction("f", 0))
    folding.labels(an_arrival("f", 3.1, 0))
    assert [] == folding.outcomes()

    folding.known(4)
    assert [(0.5, 1)] == folding.outcomes()


def test_label_known_at_the_last_moment_counts(folding):
    folding.predictions(a_prediction("f", 0))
    folding.labels(an_arrival("f", 3, 0))
    folding.known(4)

    assert [(0.5, 0)] == folding.outcomes()


def test_label_read_after_its_absence_was_decided_is_late(folding):
    """A partition that was empty so far can bring an old record; what is decided stays."""
    folding.predictions(a_prediction("f", 0))
    folding.known(4)
    folding.labels(an_arrival("f", 2, 0))

    assert [(0.5, 1)] == folding.outcomes()


def test_prediction_that_comes_after_its_maturity_gets_its_outcome_at_once(folding):
    folding.labels(an_arrival("f", 2, 0))
    folding.known(9)
    folding.predictions(a_prediction("f", 0), a_prediction("g", 0, score=0.75))

    assert [(0.5, 0), (0.75, 1)] == folding.outcomes()


def test_only_entity_keys_count_at_the_own_endpoint_and_any_key_elsewhere(folding):
    static = {"endpoint": "delay-static", "door": TENSORS}
    folding.predictions(
        a_prediction("f", 0),
        a_prediction("f", 0, prediction_id="t", door=TENSORS),
        a_prediction("f", 0, **static),
        a_prediction("", 0, prediction_id="u", **static),
    )
    folding.labels(an_arrival("f", 2, 60))

    assert [(0.5, 1)] == folding.outcomes()
    assert [(0.5, 1)] == folding.outcomes("delay-static")


def test_entity_key_of_any_length_and_letter_is_joined(folding):
    for key in ("ü/\x00" * 40, "x" * 5_000, "a/b"):
        folding.predictions(a_prediction(key, 0))
        folding.labels(an_arrival(key, 2, 60))

    assert 3 == len(folding.outcomes())


def test_predictions_of_one_entity_are_bounded(folding):
    cap = fold.ASKED_PER_ENTITY_MAX
    folding.predictions(*(a_prediction("f", 0, prediction_id=str(i)) for i in range(cap + 5)))
    folding.labels(an_arrival("f", 2, 60))

    assert cap == len(folding.outcomes())


def test_what_matured_long_ago_is_forgotten_but_its_outcome_is_kept(folding):
    folding.predictions(a_prediction("f", 0), a_prediction("f", 50, prediction_id="later"))
    folding.labels(an_arrival("f", 2, 60), an_arrival("other", 2, 60))
    kept_h = fold.KEPT_AFTER_MATURITY_US / testing.HOUR_US

    folding.known(kept_h + 10)
    left = [key[:1] for key, _ in folding.store.scan(b"", b"\xff") if key[:1] in b"elm"]
    assert [b"e", b"m"] == left

    folding.known(kept_h + 100)
    left = [key[:1] for key, _ in folding.store.scan(b"", b"\xff") if key[:1] in b"elm"]
    assert [] == left
    assert 2 == len(folding.outcomes())


def test_outcomes_older_than_400_days_are_dropped(folding):
    folding.predictions(a_prediction("f", 0))
    folding.known(4)
    assert 1 == len(folding.outcomes())

    folding.known(fold.RESULTS_KEPT_US / SECOND_US / 3600 + 2)
    assert [] == folding.outcomes()


def test_row_counts_for_the_version_that_answered_and_for_its_shadow(folding):
    folding.facts(SCENE.a_registered_version(1), SCENE.a_registered_version(2))
    shadow = (2, 0.5)
    folding.predictions(
        a_prediction("f", 0.1, features=[-5, float("nan")], shadow=shadow),
        a_prediction("g", 0.2, features=[5, 0]),
        a_prediction("h", 1.0, features=[5, 0]),
    )

    assert [1, 0, 0, 1, 0, 0, 0, 1, 0, 1] == folding.counts(1, 1)
    assert [1, 0, 0, 0, 0, 0, 0, 0, 0, 1] == folding.counts(1, 2)
    assert [0, 0, 0, 1, 0, 0, 0, 1, 0, 0] == folding.counts(2, 1)


def test_rows_wait_for_the_reference_of_their_version(folding):
    folding.predictions(a_prediction("f", 0.1, features=[-5, 0]))
    folding.predictions(a_prediction("g", 0.1, features=[-5, 0]))
    assert folding.counts(1, 1) is None

    folding.facts(SCENE.a_registered_version(1))
    assert [2, 0, 0, 0, 0, 0, 0, 2, 0, 0] == folding.counts(1, 1)


def test_rows_of_another_width_are_not_counted(folding):
    folding.facts(SCENE.a_registered_version(1))
    folding.predictions(a_prediction("f", 0.1, features=[1.0]), a_prediction("g", 0.1, features=[]))

    assert folding.counts(1, 1) is None


def test_window_knows_the_versions_of_its_newest_generation(folding):
    shadow = (1, 0.5)
    folding.predictions(
        a_prediction("f", 0.1, rollout_generation=1, version=1),
        a_prediction(
            "g",
            0.2,
            rollout_generation=2,
            version=2,
            arm=inference_pb.ARM_CANARY,
            shadow=shadow,
        ),
        a_prediction("h", 0.3, rollout_generation=1, version=1),
    )

    window = folding.window(1)
    assert (2, 1, 2) == (window.generation, window.champion, window.canary)


def test_quality_is_told_by_version_and_month_and_over_all(folding):
    folding.predictions(
        a_prediction("f", 0, score=0.25),
        a_prediction("g", 0, score=0.75),
        a_prediction("h", 31 * 24, score=0.75, version=2),
    )
    folding.labels(an_arrival("f", 2, 0), an_arrival("g", 2, 60), an_arrival("h", 746, 60))
    found = {
        (one.period, one.version): (one.quality.labelled, one.quality.auc)
        for one in QualityReport(store=folding.store).by_month(folding.watch)
    }

    assert {
        ("", 0): (3, 1.0),
        ("", 1): (2, 1.0),
        ("", 2): (1, None),
        ("2013-03", 0): (2, 1.0),
        ("2013-03", 1): (2, 1.0),
        ("2013-04", 0): (1, None),
        ("2013-04", 2): (1, None),
    } == found
