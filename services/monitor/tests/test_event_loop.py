# SPDX-License-Identifier: Apache-2.0
"""The batch handler: one stored batch, what is sent because of it, and bad records."""

import json
from dataclasses import replace
from itertools import count

import pytest

from headrace import topics
from headrace.errors import Invalid, Unavailable
from headrace.inference.v1 import inference_events_pb2 as inference_pb
from headrace.monitor.v1 import monitor_events_pb2 as events_pb
from headrace_kit.kafka import Partition, Record
from headrace_kit.state_store import MemoryStateStore
from headrace_kit.testing import FixedClock, MemoryPublisher
from headrace_monitor import testing
from headrace_monitor.adapters.event_loop import EventLoop
from headrace_monitor.app import FACT_TOPICS, topics_of
from headrace_monitor.handlers import queries
from headrace_monitor.handlers.judge import NONFINITE_MAX

SCENE = testing.Scene()

PREDICTIONS = topics.INFERENCE_PREDICTIONS.of("delay")


class Loop:
    """An EventLoop with all partitions 0, and records numbered per topic."""

    def __init__(self) -> None:
        self.store, self.publisher = MemoryStateStore(), MemoryPublisher()
        self.watch = SCENE.a_watch()
        self.watches = {"delay": self.watch}
        self.offsets = {topic: count() for topic in topics_of([self.watch])}
        self.ends = dict.fromkeys((Partition(topic, 0) for topic in self.offsets), 0)
        self.start()

    def start(self) -> None:
        self.handler = EventLoop(
            fact_topics=FACT_TOPICS,
            store=self.store,
            publisher=self.publisher,
            watches=lambda: self.watches,
            end_offsets=lambda wanted: {p: n for p, n in self.ends.items() if p.topic in wanted},
            clock=FixedClock(),
            monotonic_s=lambda: 0.0,
        )

    def records(self, *messages) -> list[Record]:
        records = []
        for message in messages:
            offset = next(self.offsets[message.topic])
            self.ends[Partition(message.topic, 0)] = offset + 1
            headers = dict(message.headers)
            records.append(Record(message.topic, 0, offset, message.key, message.value, headers, 0))
        return records

    def handle(self, *messages) -> None:
        self.handler.handle(self.records(*messages))

    def drifting(self) -> list:
        """Two hours of rows that are far from the reference, and time passing after them."""
        quiet = [-2.0] * 8 + [-0.5] * 17 + [0.5] * 17 + [2.0] * 8
        rows = [
            SCENE.a_prediction(f"{hour}-{i}", hour + i / 50, features=[9.0, wind])
            for hour in (0, 1)
            for i, wind in enumerate(quiet)
        ]
        passed = [SCENE.a_schedule("x", 2.5), SCENE.an_arrival("x", 2.5, 0)]
        return [SCENE.a_registered_version(1), SCENE.a_rollout(1, 1), *rows, *passed]

    def sent(self, topic) -> list:
        return [each for each in self.publisher.published if each.topic == topic.name]


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_alarm_sends_verdicts_one_incident_and_one_request(loop):
    loop.handle(*loop.drifting())

    verdicts = [events_pb.VerdictReached.FromString(v.value)
                for v in loop.sent(topics.MONITOR_VERDICTS)]  # fmt: skip
    assert [False, True] == [one.drift.alarmed for one in verdicts]
    assert [["flight:hour"]] * 2 == [[f.feature for f in one.drift.features] for one in verdicts]
    assert verdicts[1].drift.evidence.endswith("in 2 of 3 windows: flight:hour")
    [incident] = loop.sent(topics.MONITOR_INCIDENTS)
    [drifted] = events_pb.Incident.FromString(incident.value).drifted
    assert ("flight:hour", 0) == (drifted.feature, drifted.place)
    assert [events_pb.DriftedBin(at_least=1.0)] == [*drifted.bins]
    assert 1 == len(loop.sent(topics.TRAINER_REQUESTS))


def test_same_records_again_send_nothing_more(loop):
    records = loop.records(*loop.drifting())
    loop.handler.handle(records)
    sent = len(loop.publisher.published)
    loop.start()
    loop.handler.handle(records)
    loop.handler.idle()

    assert sent == len(loop.publisher.published)


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_what_could_not_be_sent_goes_out_with_the_same_ids_first(loop, failures):
    whole = Loop()
    whole.handle(*whole.drifting())
    loop.publisher.errors = [Unavailable("DELIVERY_UNKNOWN")] * failures
    records = loop.records(*loop.drifting())
    for _ in range(failures):
        with pytest.raises(Unavailable):
            loop.handler.handle(records)
    assert [] == loop.publisher.published
    assert not queries.get_loop(loop.watch, store=loop.store).settled

    loop.start()
    loop.handler.positions([Partition(PREDICTIONS, 0)])
    assert loop.publisher.published == whole.publisher.published


def test_positions_are_those_of_the_stored_effects(loop):
    loop.handle(SCENE.a_prediction("f", 0), SCENE.a_prediction("g", 0))
    asked = [Partition(PREDICTIONS, 0), Partition(PREDICTIONS, 1)]

    assert {asked[0]: 2} == loop.handler.positions(asked)


def test_topic_that_was_made_again_is_folded_from_its_beginning(loop):
    kept, again = Partition(topics.REGISTRY_ROLLOUTS.name, 0), Partition(PREDICTIONS, 0)
    ids = {kept.topic: "a", again.topic: "b"}
    loop.handle(SCENE.a_rollout(1, 1), SCENE.a_prediction("f", 0), SCENE.a_prediction("g", 0))
    loop.handler.follow_topics(ids)  # of a version that did not say: the topic that is there
    assert {kept: 1, again: 2} == loop.handler.positions([kept, again])

    loop.start()
    loop.handler.follow_topics(ids | {again.topic: "other"})
    assert {kept: 1} == loop.handler.positions([kept, again])
    loop.offsets[PREDICTIONS] = count()
    loop.handle(SCENE.a_prediction("f", 0), SCENE.a_prediction("h", 0))
    assert 3 == queries.get_progress(loop.watch, store=loop.store).predictions


def bad(loop, topic: str, value: bytes) -> list[Record]:
    offset = next(loop.offsets[topic])
    loop.ends[Partition(topic, 0)] = offset + 1
    return [Record(topic, 0, offset, b"k", value, {}, 0)]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\xff\xff\xff", "DECODE_ERROR"),
        (b"", "MISSING_FIELD"),
        (SCENE.a_prediction("f", 0, score=float("nan")).value, "NONFINITE"),
        (SCENE.a_prediction("f", 0, version=-1).value, "OUT_OF_RANGE"),
        (SCENE.a_prediction("f", 0, as_of_us=1 << 62).value, "BAD_TIMESTAMP"),
        (SCENE.a_prediction("f", 0, as_of_us=-1).value, "BAD_TIMESTAMP"),
    ],
)
def test_bad_prediction_is_refused_with_its_reason(loop, value, reason):
    with pytest.raises(Invalid, match=reason):
        loop.handler.handle(bad(loop, PREDICTIONS, value))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", "DECODE_ERROR"),
        (b'{"delay": NaN}', "BAD_TYPE"),
        (b"{}", "BAD_TIMESTAMP"),
        (b'{"_known_us": "soon"}', "BAD_TIMESTAMP"),
        (b'{"_known_us": 999999999999999999}', "BAD_TIMESTAMP"),
    ],
)
def test_bad_label_is_refused_with_its_reason(loop, value, reason):
    topic = topics.INGEST_RECORDS.of(SCENE.arrived)
    with pytest.raises(Invalid, match=reason):
        loop.handler.handle(bad(loop, topic, value))


def test_label_without_key_or_value_changes_nothing(loop):
    topic = topics.INGEST_RECORDS.of(SCENE.arrived)
    for columns in ({}, {"flight_id": None, "delay": 3}, {"flight_id": "f", "delay": "x"}):
        value = json.dumps({"_known_us": 1, **columns}).encode()
        loop.handler.handle(bad(loop, topic, value))

    assert 0 == queries.get_progress(loop.watch, store=loop.store).labelled


def test_record_that_is_set_aside_does_not_hold_its_window_open(loop):
    loop.handle(*loop.drifting()[:-2])
    with pytest.raises(Invalid):
        loop.handler.handle(bad(loop, PREDICTIONS, b"\xff"))
    loop.handle(SCENE.a_schedule("x", 2.5), SCENE.an_arrival("x", 2.5, 0))

    assert 1 == len(loop.sent(topics.TRAINER_REQUESTS))


def test_idle_stores_nothing_when_nothing_is_due(loop):
    loop.handle(SCENE.a_prediction("f", 0))
    before = dict(loop.store.scan(b"", b"\xff"))
    loop.store.commit = None  # any use would fail
    loop.handler.idle()

    assert before == dict(loop.store.scan(b"", b"\xff"))


def test_settled_while_nothing_that_was_asked_for_is_under_way(loop):
    def settled() -> bool:
        return queries.get_loop(loop.watch, store=loop.store).settled

    assert settled()
    loop.handle(*loop.drifting())
    assert not settled()
    run_id = queries.list_incidents(loop.watch, store=loop.store)[0].run_id

    loop.handle(SCENE.a_registered_version(2, run_id=run_id), SCENE.a_gate(2, passed=True))
    assert not settled()
    loop.handle(SCENE.a_rollout(2, 1, 2))
    assert settled()


def test_settled_after_the_run_or_the_gate_failed():
    for failure in ("run", "gate"):
        loop = Loop()
        loop.handle(*loop.drifting())
        run_id = queries.list_incidents(loop.watch, store=loop.store)[0].run_id
        if failure == "run":
            loop.handle(SCENE.a_failed_run(run_id))
        else:
            loop.handle(SCENE.a_registered_version(2, run_id=run_id), SCENE.a_gate(2, passed=False))
        assert queries.get_loop(loop.watch, store=loop.store).settled


def test_rollout_of_a_lower_generation_is_not_taken(loop):
    loop.handle(SCENE.a_rollout(3, 2))
    loop.handle(SCENE.a_rollout(2, 1))

    assert 2 == queries.list_rollouts(store=loop.store)["delay"].champion


def test_monitor_that_is_applied_later_judges_no_part_of_a_window(loop):
    version, rollout, *rows = loop.drifting()
    later = replace(loop.watch, monitor=loop.watch.monitor.model_copy(update={"name": "later"}))
    seen = [SCENE.a_schedule("w", 0.3), SCENE.an_arrival("w", 0.3, 0)]
    loop.handle(version, rollout, *rows[:15], *seen)
    loop.watches = {"delay": loop.watch, "later": later}
    loop.handle(*rows[15:])

    judged = [events_pb.VerdictReached.FromString(v.value)
              for v in loop.sent(topics.MONITOR_VERDICTS)]  # fmt: skip
    ends_by_monitor = {
        name: [one.window_end_us for one in judged if one.monitor == name] for name in loop.watches
    }
    assert {
        "delay": [testing.at_us(1), testing.at_us(2)],
        "later": [testing.at_us(2)],
    } == ends_by_monitor


def test_topics_are_those_of_the_watched_and_of_the_facts():
    records, predictions = topics.INGEST_RECORDS, topics.INFERENCE_PREDICTIONS

    assert {
        topics.TRAINER_RUNS.name,
        topics.REGISTRY_MODEL_VERSIONS.name,
        topics.REGISTRY_ROLLOUTS.name,
    } == topics_of([])
    assert {
        records.of(SCENE.scheduled),
        records.of(SCENE.arrived),
        predictions.of("delay"),
        predictions.of("delay-static"),
    } == topics_of([SCENE.a_watch()]) - topics_of([])


def rolled_back(loop) -> list[int]:
    """Generations of the canaries that were to be taken back."""
    verdicts = [
        events_pb.VerdictReached.FromString(each.value).canary
        for each in loop.sent(topics.MONITOR_VERDICTS)
    ]
    assert all(each.decision == events_pb.CANARY_DECISION_ROLL_BACK for each in verdicts)
    return [each.rollout_generation for each in verdicts]


def test_canary_that_says_nan_is_taken_back_after_a_few_requests_of_a_window(loop):
    loop.handle(SCENE.a_rollout(1, 1, canary=2))
    loop.handle(*(SCENE.a_nonfinite(f"f-{n}", 0.1 * n) for n in range(NONFINITE_MAX - 1)))
    loop.handle(SCENE.a_nonfinite("f-0", 0.0), SCENE.a_nonfinite("next window", 1.5))
    assert [] == rolled_back(loop)

    loop.handle(SCENE.a_nonfinite("the last", 0.9))

    assert [1] == rolled_back(loop)
    loop.handle(*(SCENE.a_nonfinite(f"later-{n}", 0.5) for n in range(NONFINITE_MAX)))
    assert [1] == rolled_back(loop)


def test_nan_of_others_than_the_canary_on_trial_takes_none_back(loop):
    champion, many = inference_pb.ARM_CHAMPION, range(NONFINITE_MAX)
    loop.handle(SCENE.a_rollout(7, 1, canary=2))

    loop.handle(*(SCENE.a_nonfinite(f"c-{n}", 0.5, arm=champion, generation=7) for n in many))
    loop.handle(*(SCENE.a_nonfinite(f"before-{n}", 0.5, generation=6) for n in many))
    loop.handle(*(SCENE.a_nonfinite(f"ahead-{n}", 0.5, generation=8) for n in many))
    assert [] == rolled_back(loop)

    # What was read before its rollout counts from there.
    loop.handle(SCENE.a_rollout(8, 1, canary=3))
    assert [8] == rolled_back(loop)


def test_requests_that_were_answered_nan_count_in_no_window(loop):
    whole = Loop()
    whole.handle(*whole.drifting())
    version, rollout, *rest = loop.drifting()

    many = (SCENE.a_nonfinite(f"nan-{n}", n / 50) for n in range(100))
    loop.handle(version, rollout, *many, *rest)

    drift, expected = (
        [events_pb.VerdictReached.FromString(each.value).drift for each in sent]
        for sent in (loop.sent(topics.MONITOR_VERDICTS), whole.sent(topics.MONITOR_VERDICTS))
    )
    assert [True, True] == [each.rows > 0 for each in drift]
    assert expected == drift


def test_nonfinite_request_without_its_id_or_time_is_refused(loop):
    for broken in ({"prediction_id": ""}, {"as_of_us": -1}):
        message = SCENE.a_nonfinite("f", 0.5)
        made = inference_pb.PredictionsMade.FromString(message.value)
        for name, value in broken.items():
            setattr(made.nonfinite[0], name, value)
        with pytest.raises(Invalid):
            loop.handle(replace(message, value=made.SerializeToString()))
