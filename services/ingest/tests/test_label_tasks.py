# SPDX-License-Identifier: Apache-2.0
"""Which predictions people see, and when their answers are the truth."""

from __future__ import annotations

import json
from functools import partial

import pytest

from headrace.application import parse_definition
from headrace.errors import Conflict, Invalid, NotFound, Unavailable
from headrace.ingest.v1 import label_service_pb2 as pb
from headrace.labels import features_of
from headrace.monitor.v1 import monitor_events_pb2 as events
from headrace.prediction_log import one_row_record
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.label_api import LabelApi
from headrace_ingest.adapters.label_book import AppliedLabels
from headrace_ingest.adapters.prediction_sampler import OpenIncidents, PredictionSampler
from headrace_ingest.adapters.sql_task_store import (
    ANSWERS,
    ERASED,
    ITEMS,
    LEASES,
    MIGRATIONS,
    POSITIONS,
    TASKS,
    SqlTaskStore,
)
from headrace_ingest.domain.agreement import krippendorff_alpha
from headrace_ingest.domain.label_tasks import Bin, Drift, Served, TaskState, task_of
from headrace_ingest.handlers import erased_tasks, label_tasks
from headrace_ingest.handlers.erased_tasks import TaskEraser
from headrace_ingest.testing import a_contract
from headrace_kit.erased_entities import Entity, ErasedEntities, entity_key_digest, entity_sha256
from headrace_kit.kafka import Partition
from headrace_kit.sql import OUTBOX, connect, transaction
from headrace_kit.testing import FixedClock, a_batch, a_record

LABEL, ENDPOINT = "late", "delay"
POSTGRES = pytest.param("postgres", marks=pytest.mark.integration)
EVERY = {"random": 1.0}


def a_label(rules=None, **queue):
    return parse_definition(
        {
            "kind": "label",
            "name": LABEL,
            "description": "Was it late?",
            "stream": "flights.departed",
            "key": "flight",
            "value": "origin = 'EWR'",
            "window": "2h",
            "origin": "verdict",
            "queue": {
                "endpoint": ENDPOINT,
                "answer": "origin",
                "choices": ["EWR", "JFK"],
                "rules": rules or EVERY,
            }
            | queue,
        }
    )


def served(number=0, **changes):
    given = {
        "prediction_id": f"p{number}",
        "endpoint": ENDPOINT,
        "entity_key": f"UA{number}",
        "as_of_us": 1_357_000_000_000_000,
        "version": 1,
        "score": 0.2,
        "other_score": None,
    }
    return Served(**(given | changes))


def rule(prediction, rules, *, drifted=False):
    task = task_of(prediction, a_label(rules), drifted=drifted)
    return task and task.rule


def test_uncertain_score_is_put_and_a_sure_one_is_not():
    rules = {"uncertain": {"near": 0.5, "within": 0.1}}

    assert ["uncertain", None] == [rule(served(score=s), rules) for s in (0.45, 0.2)]


def test_arms_on_two_sides_disagree():
    rules = {"disagreement": {"threshold": 0.5}}

    found = [rule(served(score=0.4, other_score=o), rules) for o in (0.6, 0.3, None)]
    assert ["disagreement", None, None] == found


def test_drifted_rows_are_put_and_others_are_not():
    rules = {"drifted": {"share": 1.0}}

    assert ["drifted", None] == [rule(served(), rules, drifted=d) for d in (True, False)]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("bins", "values"),
    [
        ([Bin(at_least=1.0, below=2.0)], [1.0, 1.5]),
        ([Bin(below=1.0)], [-INF, 0.5]),
        ([Bin(at_least=2.0)], [2.0, INF]),
        ([Bin(absent=True)], [NAN]),
        ([Bin(below=1.0), Bin(at_least=2.0)], [-INF, 0.5, 2.0, INF]),
    ],
)
def test_drift_holds_the_rows_of_its_bins(bins, values):
    drift, everything = Drift(ENDPOINT, 1, {1: bins}), [-INF, 0.5, 1.0, 1.5, 2.0, INF, NAN]

    found = [value for value in everything if drift.holds(served(features=(0.0, value)))]
    assert str(values) == str(found)


def test_drift_holds_no_row_of_another_endpoint_version_or_width():
    drift = Drift(ENDPOINT, 1, {1: [Bin()]})

    assert drift.holds(served(features=(0.0, 0.0)))
    assert not drift.holds(served(features=(0.0, 0.0), version=2))
    assert not drift.holds(served(features=(0.0, 0.0), endpoint="other"))
    assert not drift.holds(served(features=(0.0,)))


def test_drift_whose_bins_are_not_told_holds_every_row_of_its_endpoint():
    drift = Drift(ENDPOINT, 1, {})

    assert drift.holds(served(version=2))
    assert not drift.holds(served(endpoint="other"))


def test_random_share_is_kept_and_the_same_in_every_replay():
    found = [bool(rule(served(n), {"random": 0.2})) for n in range(5_000)]

    assert 900 < sum(found) < 1_100
    assert found == [bool(rule(served(n), {"random": 0.2})) for n in range(5_000)]


def test_prediction_without_an_entity_is_no_task_of_an_entity_label():
    assert rule(served(entity_key=""), EVERY) is None


def test_alpha_of_the_published_example():
    # Krippendorff (2011), section C: 12 units, 4 observers, nominal alpha 0.743.
    units = [
        "111", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", "555", "11", "3",
    ]  # fmt: skip

    assert 0.743 == pytest.approx(krippendorff_alpha(units), abs=0.0005)


def test_alpha_of_nothing_to_compare_is_none():
    assert krippendorff_alpha([["a"], []]) is None
    assert krippendorff_alpha([["a", "a"]]) is None


class World:
    """A store, and people who answer."""

    def __init__(self, engine, label):
        self.clock = FixedClock()
        self.engine, self.tasks = engine, SqlTaskStore(engine, clock=self.clock)
        self.labels, self.contracts = AppliedLabels(), AppliedContracts()
        columns = a_contract().stream.model_dump(mode="json", exclude_none=True)["columns"]
        self.contracts.put(a_contract(columns=columns | {"verdict": {"type": "string"}}))
        self.labels.put(label)
        self.erased = ErasedEntities()

    def put(self, *predictions, position=1):
        return label_tasks.put_to_people(
            predictions,
            {("t", 0): position},
            labels=self.labels,
            drifted=lambda served: False,
            tasks=self.tasks,
            erased=self.erased,
        )

    def claim(self, labeller):
        task, _ = label_tasks.claim_task(LABEL, labeller, labels=self.labels, tasks=self.tasks)
        return task.task_id

    def submit(self, task_id, labeller, choice="EWR", *, claimed=True):
        task, self.new = label_tasks.submit_label(
            task_id,
            labeller,
            choice,
            labels=self.labels,
            contracts=self.contracts,
            tasks=self.tasks,
            clock=self.clock,
            claimed=claimed,
        )
        return task

    def answer(self, labeller, choice="EWR"):
        return self.submit(self.claim(labeller), labeller, choice)

    def published(self):
        with transaction(self.engine) as connection:
            rows = connection.execute(OUTBOX.select().order_by(OUTBOX.c.id)).all()
        return [(row.topic, row.key, json.loads(row.value)) for row in rows]


@pytest.fixture(params=["sqlite", POSTGRES])
def make(request, tmp_path):
    """make(**queue) gives a world whose label has this queue."""
    sqlite = request.param == "sqlite"
    uri = f"sqlite:///{tmp_path}/x.db" if sqlite else request.getfixturevalue("postgres_server")
    engine = connect(uri, schema="ingest")
    MIGRATIONS.upgrade(engine)
    with transaction(engine) as connection:
        for table in (TASKS, ANSWERS, LEASES, ITEMS, ERASED, POSITIONS, OUTBOX):
            connection.execute(table.delete())
    yield lambda rules=None, **queue: World(engine, a_label(rules, **queue))
    engine.dispose()


def test_prediction_that_comes_again_is_one_task(make):
    world = make()

    assert [2, 0] == [world.put(served(1), served(2)), world.put(served(1), served(2))]


def test_position_moves_with_the_tasks_and_never_back(make):
    world = make()
    world.put(served(1), position=7)
    world.put(position=3)

    assert {("t", 0): 7} == dict(world.tasks.positions())


def test_position_in_a_topic_that_was_made_again_is_forgotten(make):
    world = make()
    world.tasks.follow_topics({"t": "1st"})
    world.put(served(1), position=7)
    world.tasks.follow_topics({"t": "2nd"})
    assert {} == dict(world.tasks.positions())

    assert [0, 1] == [world.put(served(1), position=1), world.put(served(2), position=2)]
    assert {("t", 0): 2} == dict(world.tasks.positions())


def test_full_queue_takes_no_more_until_a_task_is_settled(make):
    world = make(tasks_max=2)

    assert 2 == world.put(*map(served, range(5)))
    world.answer("ann")
    assert 1 == world.put(*map(served, range(5, 9)))


def test_accepted_answer_is_a_record_of_the_labels_stream(make):
    world = make()
    world.put(served(1))
    task = world.answer("ann")

    assert (TaskState.ACCEPTED, "EWR") == (task.state, task.value)
    [(topic, key, value)] = world.published()
    assert ("raw.flights.departed.v1", b"UA1") == (topic, key)
    assert {
        "event_id": task.task_id,
        "flight": "UA1",
        "departed_at": task.as_of_us,
        "known_at": world.clock.now_us(),
        "origin": "EWR",
        "verdict": "human",
    } == value


def test_several_labellers_must_agree(make):
    world = make(labellers=2, agreement=0.6)
    world.put(served(1))

    assert TaskState.OPEN == world.answer("ann", "EWR").state
    assert (TaskState.OPEN, 3) == (lambda t: (t.state, t.wanted))(world.answer("bob", "JFK"))
    assert (TaskState.ACCEPTED, "JFK") == (lambda t: (t.state, t.value))(world.answer("cy", "JFK"))
    assert 1 == len(world.published())


def test_task_that_nobody_agrees_on_is_disputed_and_publishes_nothing(make):
    world = make(labellers=2, agreement=1.0)
    world.put(served(1))
    answers = [
        world.answer(who, choice) for who, choice in zip("abcd", ["EWR", "JFK"] * 2, strict=True)
    ]

    assert TaskState.DISPUTED == answers[-1].state
    assert [] == world.published()


def test_claims_do_not_hand_out_more_places_than_answers_are_wanted(make):
    world = make()
    world.put(served(1), served(2))

    assert 2 == len({world.claim("ann"), world.claim("bob")})
    with pytest.raises(NotFound, match="NO_TASK"):
        world.claim("cy")


def test_labeller_who_claims_again_holds_the_same_task(make):
    world = make()
    world.put(served(1), served(2))

    assert world.claim("ann") == world.claim("ann")


def test_lease_that_ended_frees_the_task_and_takes_no_answer(make):
    world = make(lease="60s")
    world.put(served(1))
    task_id = world.claim("ann")
    world.clock.advance(61_000_000)

    assert task_id == world.claim("bob")
    with pytest.raises(Conflict, match="LEASE_LOST"):
        world.submit(task_id, "ann")


def test_zero_byte_names_no_task_and_no_labeller(make):
    world = make()
    world.put(served(1))

    with pytest.raises(Invalid, match="labeller"):
        world.claim("a\0b")
    with pytest.raises(NotFound, match="TASK_UNKNOWN"):
        world.submit("a\0b", "ann")
    with pytest.raises(NotFound, match="TASK_UNKNOWN"):
        label_tasks.skip_task("a\0b", "ann", tasks=world.tasks)


def test_answer_without_a_claim_is_refused(make):
    world = make()
    world.put(served(1))
    [(_, task)] = world.tasks.listed(LABEL, TaskState.OPEN, after=(0, ""), tasks_max=5)

    with pytest.raises(Conflict, match="LEASE_LOST"):
        world.submit(task.task_id, "ann")


def test_same_answer_again_changes_nothing_and_another_is_refused(make):
    world = make()
    world.put(served(1))
    task = world.answer("ann")

    assert world.new
    assert task == world.submit(task.task_id, "ann")
    assert not world.new
    with pytest.raises(Conflict, match="TASK_ANSWERED"):
        world.submit(task.task_id, "ann", "JFK")
    assert 1 == len(world.published())


def test_skipped_task_goes_to_others_only(make):
    world = make()
    world.put(served(1))
    task_id = world.claim("ann")
    label_tasks.skip_task(task_id, "ann", tasks=world.tasks)

    with pytest.raises(NotFound, match="NO_TASK"):
        world.claim("ann")
    assert task_id == world.claim("bob")


def skip(world, task_id, labeller="ann"):
    label_tasks.skip_task(task_id, labeller, tasks=world.tasks)


def test_task_that_is_not_held_cannot_be_skipped(make):
    world = make(labellers=2, lease="60s")
    world.put(served(1), served(2), served(3))
    answered, late = world.answer("ann").task_id, world.claim("ann")
    world.clock.advance(61_000_000)

    for task_id in (answered, late):
        with pytest.raises(Conflict, match="LEASE_LOST"):
            skip(world, task_id)
    assert {answered: [("ann", "EWR")]} == dict(world.tasks.answers_of([answered, late]))


def test_task_that_is_not_there_is_told_as_unknown(make):
    world = make()

    for attempt in (
        world.tasks.get,
        partial(skip, world),
        lambda task_id: world.submit(task_id, "ann"),
    ):
        with pytest.raises(NotFound, match="TASK_UNKNOWN"):
            attempt("none")


def test_skip_whose_answer_was_lost_may_be_sent_again(make):
    world = make(labellers=2)
    world.put(served(1))
    task_id = world.claim("ann")

    skip(world, task_id)
    skip(world, task_id)
    assert task_id == world.claim("bob")


def test_task_that_was_answered_elsewhere_while_held_cannot_be_skipped(make):
    world = make(labellers=2)
    world.put(served(1))
    task_id = world.claim("ann")
    world.submit(task_id, "ann", claimed=False)

    with pytest.raises(Conflict, match="LEASE_LOST"):
        skip(world, task_id)


def test_answer_after_a_skip_needs_another_claim(make):
    """Nobody answered otherwise."""
    world = make()
    world.put(served(1))
    task_id = world.claim("ann")
    skip(world, task_id)

    with pytest.raises(Conflict, match="LEASE_LOST"):
        world.submit(task_id, "ann")


def test_answer_that_was_given_elsewhere_counts_after_a_skip(make):
    world = make()
    world.put(served(1))
    task_id = world.claim("ann")
    skip(world, task_id)

    assert TaskState.ACCEPTED == world.submit(task_id, "ann", claimed=False).state
    assert world.new
    assert {task_id: [("ann", "EWR")]} == dict(world.tasks.answers_of([task_id]))


def test_choice_that_is_none_of_the_queues_is_refused(make):
    world = make()
    world.put(served(1))

    with pytest.raises(Invalid, match=r"BAD_REQUEST.*task_id=.*choice=LGA"):
        world.answer("ann", "LGA")
    with pytest.raises(Invalid, match="labeller"):
        world.claim("")


def test_agreement_is_told_with_what_became_of_the_tasks(make):
    world = make(labellers=2)
    world.put(served(1), served(2))
    for choice in ("EWR", "JFK"):
        world.answer("ann", choice)
    for choice in ("EWR", "JFK"):
        world.answer("bob", choice)
    found = label_tasks.get_agreement(LABEL, labels=world.labels, tasks=world.tasks)

    assert (1.0, 2, {TaskState.ACCEPTED: 2}) == (
        found.alpha,
        found.tasks,
        dict(found.count_by_state),
    )


def test_tasks_are_listed_oldest_first_page_after_page(make):
    world = make()
    for number in range(3):
        world.put(served(number))
        world.clock.advance(1)
    first = world.tasks.listed(LABEL, TaskState.OPEN, after=(0, ""), tasks_max=2)
    last_us, last = first[-1]
    second = world.tasks.listed(LABEL, TaskState.OPEN, after=(last_us, last.task_id), tasks_max=2)

    assert ["UA0", "UA1", "UA2"] == [task.target for _, task in [*first, *second]]


def test_old_tasks_are_forgotten(make):
    world = make()
    world.put(served(1))
    world.clock.advance(91 * 86_400 * 1_000_000)
    world.put(served(2))

    listed = world.tasks.listed(LABEL, TaskState.OPEN, after=(0, ""), tasks_max=5)
    assert ["UA2"] == [task.target for _, task in listed]


def test_old_tasks_are_looked_for_once_an_hour(make):
    world = make()
    world.clock.advance(60_000_000)
    world.put(served(1))
    world.clock.advance(90 * 86_400 * 1_000_000 - 60_000_000)
    world.put(served(2))
    world.clock.advance(120_000_000)
    world.put(served(3))

    listed = world.tasks.listed(LABEL, TaskState.OPEN, after=(0, ""), tasks_max=5)
    assert ["UA1", "UA2", "UA3"] == [task.target for _, task in listed]


def test_of_racing_claims_one_wins_each_task(make):
    from concurrent.futures import ThreadPoolExecutor

    world = make()
    world.put(*map(served, range(8)))

    def claim(labeller):
        try:
            return world.claim(labeller)
        except NotFound:
            return None

    with ThreadPoolExecutor(8) as people:
        found = list(people.map(claim, [f"who{n}" for n in range(12)]))
    claimed = [each for each in found if each]
    assert len(claimed) == len(set(claimed))


def a_sampler(world, incidents):
    return PredictionSampler(
        labels=world.labels, incidents=incidents, tasks=world.tasks, erased=world.erased
    )


def test_sampler_puts_the_rows_in_the_bins_of_an_open_incident(make):
    world, incidents = make({"drifted": {"share": 1.0}}), OpenIncidents()
    sampler = a_sampler(world, incidents)
    incident = events.Incident(incident_id="i", endpoint=ENDPOINT, kind="drift", state=1, version=1)
    feature = incident.drifted.add(feature="windy", place=1)
    feature.bins.add(at_least=30.0)
    incidents.take(a_record(incident.SerializeToString()))
    winds = {"UA1": 29.5, "UA2": 30.0, "UA3": NAN}
    records = [
        a_record(
            one_row_record(
                prediction_id=f"p{number}",
                endpoint=ENDPOINT,
                version=1,
                entity_key=flight,
                features=[99.0, wind],
            ).SerializeToString(),
            topic="inference.predictions.delay.v1",
            offset=number,
        )
        for number, (flight, wind) in enumerate(winds.items())
    ]

    sampler.handle(a_batch(records))
    listed = world.tasks.listed(LABEL, TaskState.OPEN, after=(0, ""), tasks_max=5)
    assert ["UA2"] == [task.target for _, task in listed]


def test_sampler_stores_tasks_with_the_place_behind_them(make):
    world = make({"drifted": {"share": 1.0}, "disagreement": {"threshold": 0.5}})
    incidents = OpenIncidents()
    sampler = a_sampler(world, incidents)
    topic = "inference.predictions.delay.v1"

    def read(number, **changes):
        made = one_row_record(prediction_id=f"p{number}", endpoint=ENDPOINT, **changes)
        sampler.handle(a_batch([a_record(made.SerializeToString(), topic=topic, offset=number)]))

    read(1, entity_key="UA1", score=0.4, shadow=(2, 0.6))
    read(2, entity_key="UA2", score=0.4)
    incident = events.Incident(incident_id="i", endpoint=ENDPOINT, kind="drift", state=1)
    incidents.take(a_record(incident.SerializeToString()))
    read(3, entity_key="UA3", score=0.4)
    incident.state = events.INCIDENT_STATE_RESOLVED
    incidents.take(a_record(incident.SerializeToString()))
    read(4, entity_key="UA4", score=0.4)

    listed = world.tasks.listed(LABEL, TaskState.OPEN, after=(0, ""), tasks_max=5)
    assert {("UA1", "disagreement"), ("UA3", "drifted")} == {(t.target, t.rule) for _, t in listed}
    assert {Partition(topic, 0): 5} == sampler.positions([Partition(topic, 0)])


def test_sampler_reads_a_topic_that_was_made_again_from_its_beginning(make):
    sampler, place = a_sampler(make(), OpenIncidents()), Partition("inference.predictions.x.v1", 0)
    sampler.follow_topics({place.topic: "1st"})
    made = one_row_record(prediction_id="p", endpoint=ENDPOINT, entity_key="UA1")
    sampler.handle(a_batch([a_record(made.SerializeToString(), topic=place.topic, offset=8)]))
    assert {place: 9} == sampler.positions([place])
    sampler.follow_topics({place.topic: "2nd"})

    assert {} == sampler.positions([place])


def test_prediction_that_cannot_be_read_is_invalid(make):
    world = make()
    sampler = a_sampler(world, OpenIncidents())

    with pytest.raises(Invalid, match="DECODE_ERROR"):
        sampler.handle(a_batch([a_record(b"\xff\xff\xff")]))


def test_answer_given_elsewhere_needs_no_claim_and_a_settled_task_takes_none(make):
    world = make()
    world.put(served(1))
    [(_, task)] = world.tasks.listed(LABEL, TaskState.OPEN, after=(0, ""), tasks_max=5)

    assert TaskState.ACCEPTED == world.submit(task.task_id, "ann", claimed=False).state
    with pytest.raises(Conflict, match="TASK_SETTLED"):
        world.submit(task.task_id, "bob", claimed=False)
    assert {task.task_id: [("ann", "EWR")]} == dict(world.tasks.answers_of([task.task_id]))
    assert 1 == len(world.published())


@pytest.mark.parametrize("shown", [{"target": "UA2"}, {"label": "early"}])
def test_answer_about_something_else_than_the_task_is_refused(make, shown):
    world = make()
    world.put(served(1))
    [(_, task)] = world.tasks.listed(LABEL, TaskState.OPEN, after=(0, ""), tasks_max=5)
    asked = {"task_id": task.task_id, "labeller": "ann", "choice": "EWR", "given_elsewhere": True}

    api, [field] = an_api(world, Registry()), shown
    with pytest.raises(Invalid) as refused:
        api.SubmitLabel(pb.SubmitLabelRequest(**asked, **shown), None)
    assert (field, task.task_id) == tuple(refused.value.metadata[n] for n in ("field", "task_id"))
    assert [] == world.published()

    right = {"target": "UA1", "label": LABEL}
    assert not api.SubmitLabel(pb.SubmitLabelRequest(**asked, **right), None).repeated


UA1 = entity_sha256("flight", "UA1")
AS_OF_US = served().as_of_us


def targets(world):
    listed = world.tasks.listed(LABEL, TaskState.OPEN, after=(0, ""), tasks_max=10)
    return [task.target for _, task in listed]


def erase(world, until_us=AS_OF_US, column="flight"):
    return TaskEraser(world.labels, world.tasks).erase(Entity(column, UA1, until_us))


def test_tasks_of_an_erased_entity_go_with_what_was_said_of_them(make):
    world = make(labellers=2)
    world.put(served(1), served(2))
    for person in ("ann", "ben"):
        world.submit(world.claim(person), person)
    assert 1 == erase(world)

    assert ["UA2"] == targets(world)
    [(_, left)] = world.tasks.listed(LABEL, TaskState.OPEN, after=(0, ""), tasks_max=5)
    kept = left.task_id
    with transaction(world.engine) as connection:
        for table in (ANSWERS, LEASES, ITEMS):
            rows = [row for row in connection.execute(table.select()) if row.task_id != kept]
            assert [] == rows


def test_task_as_of_a_later_moment_or_by_another_column_stays(make):
    world = make()
    world.put(served(1))

    assert (0, 0) == (erase(world, AS_OF_US - 1), erase(world, column="origin"))
    assert ["UA1"] == targets(world)


def test_prediction_about_an_erased_entity_is_put_to_nobody(make):
    world = make()
    world.erased.take(Entity("flight", UA1, AS_OF_US))
    world.put(served(1), served(2), served(1, prediction_id="p9", as_of_us=AS_OF_US + 1))

    assert ["UA1", "UA2"] == sorted(targets(world))


def test_every_page_of_targets_is_looked_through(make, monkeypatch):
    monkeypatch.setattr(erased_tasks, "PAGE_TARGETS", 2)
    world = make()
    world.put(*(served(n) for n in (5, 4, 3, 2, 1)))

    assert 1 == erase(world)


class Registry:
    """What it says of versions, and how often it was asked; `down`: it does not answer."""

    def __init__(self, names=("wind:mean", "delay:last")):
        self.names, self.asked, self.down = names, [], False

    def features_of(self, model, version):
        self.asked.append((model, version))
        if self.down:
            raise Unavailable("SERVICE_UNAVAILABLE", service="registry")
        return self.names


def logged(number=1, **changes):
    given = {
        "features": (1.5, NAN),
        "model": "delays",
        "served_at_us": 7,
        "other_version": 2,
        "other_score": 0.75,
    }
    return served(number, **(given | changes))


def an_api(world, registry):
    return LabelApi(
        labels=world.labels,
        contracts=world.contracts,
        records=None,
        tasks=world.tasks,
        publisher=None,
        clock=world.clock,
        models=registry,
    )


def claimed(world, registry, labeller="ann"):
    request = pb.ClaimTaskRequest(label=LABEL, labeller=labeller)
    return an_api(world, registry).ClaimTask(request, None).task


def test_claimed_task_says_what_was_asked_and_answered(make):
    world = make()
    world.put(logged())

    item = claimed(world, Registry()).item

    assert ("delays", 7, 2, 0.75) == (
        item.model,
        item.served_at_us,
        item.other_version,
        item.other_score,
    )
    assert {"wind:mean": 1.5, "delay:last": None} == features_of(item)


def test_task_is_shown_by_places_while_the_registry_does_not_answer(make):
    world, registry = make(), Registry()
    world.put(logged())
    api = an_api(world, registry)
    request = pb.ListTasksRequest(label=LABEL, with_items=True)

    registry.down = True
    [task] = api.ListTasks(request, None).tasks
    assert {"feature 0": 1.5, "feature 1": None} == features_of(task.item)
    registry.down = False
    [task] = api.ListTasks(request, None).tasks
    assert {"wind:mean": 1.5, "delay:last": None} == features_of(task.item)


def test_version_that_nobody_can_tell_keeps_no_other_nameless(make):
    class Some(Registry):
        def features_of(self, model, version):
            if version < 4:
                raise NotFound("VERSION_UNKNOWN", model=model, version=version)
            return super().features_of(model, version)

    world = make()
    world.put(logged(1), logged(2, version=4))
    request = pb.ListTasksRequest(label=LABEL, with_items=True)

    tasks = an_api(world, Some()).ListTasks(request, None).tasks
    shown = {task.version: features_of(task.item) for task in tasks}
    assert {"wind:mean": 1.5, "delay:last": None} == shown.pop(4)
    assert [{"feature 0": 1.5, "feature 1": None}] == list(shown.values())


def test_registry_is_asked_once_for_a_version(make):
    world, registry = make(), Registry()
    world.put(logged(1), logged(2), logged(3, version=4))
    api = an_api(world, registry)

    for _ in range(2):
        api.ListTasks(pb.ListTasksRequest(label=LABEL, with_items=True), None)

    assert [("delays", 1), ("delays", 4)] == registry.asked


def test_items_are_listed_only_when_they_are_asked_for(make):
    world = make()
    world.put(logged())

    [task] = an_api(world, Registry()).ListTasks(pb.ListTasksRequest(label=LABEL), None).tasks

    assert not task.HasField("item")


def test_page_with_items_is_bounded_and_the_next_one_goes_on(make):
    world = make()
    world.put(*map(logged, range(150)))
    api, asked = an_api(world, Registry()), {"label": LABEL, "page_size": 500}

    first = api.ListTasks(pb.ListTasksRequest(**asked, with_items=True), None)
    asked_next = pb.ListTasksRequest(**asked, with_items=True, page_token=first.next_page_token)
    second = api.ListTasks(asked_next, None)

    assert (100, 50, "") == (len(first.tasks), len(second.tasks), second.next_page_token)
    assert 150 == len({task.task_id for task in (*first.tasks, *second.tasks)})
    assert 150 == len(api.ListTasks(pb.ListTasksRequest(**asked), None).tasks)


def test_of_many_features_the_first_are_kept_and_the_others_counted(make):
    world = make()
    world.put(logged(features=(0.5,) * 4_000))

    item = claimed(world, Registry(("a:b",) * 4_000)).item

    assert (256, 3_744) == (len(item.features), item.features_left_out)


def test_task_of_before_items_were_kept_is_claimed_without_one(make):
    world = make()
    world.put(logged())
    with transaction(world.engine) as connection:
        connection.execute(ITEMS.delete())

    task = claimed(world, Registry())

    assert ("UA1", False) == (task.target, task.HasField("item"))


def by_prediction(world):
    world.labels.put(world.labels.get(LABEL).model_copy(update={"by": "prediction"}))
    return world


def test_task_about_a_prediction_of_an_erased_entity_stays_without_its_item(make):
    world = by_prediction(make())
    world.put(logged(1), logged(2), logged(1, prediction_id="p9", as_of_us=AS_OF_US + 1))
    entity = Entity("flight", UA1, AS_OF_US, entity_key_digest("UA1"))

    TaskEraser(world.labels, world.tasks).erase(entity)

    listed = an_api(world, Registry()).ListTasks(
        pb.ListTasksRequest(label=LABEL, with_items=True), None
    )
    shown = {task.prediction_id: task.HasField("item") for task in listed.tasks}
    assert {"p1": False, "p2": True, "p9": True} == shown


def test_prediction_of_an_erased_entity_is_put_to_nobody_by_its_id_either(make):
    world = by_prediction(make())
    world.erased.take(Entity("flight", UA1, AS_OF_US))
    world.put(logged(1), logged(2))

    assert ["p2"] == targets(world)


def test_sampler_keeps_what_was_logged(make):
    world = make()
    made = one_row_record(
        prediction_id="p1",
        endpoint=ENDPOINT,
        model="delays",
        version=1,
        entity_key="UA1",
        features=[0.5, 2.0],
        served_at_us=9,
        score=0.4,
        shadow=(3, 0.25),
    )
    a_sampler(world, OpenIncidents()).handle(a_batch([a_record(made.SerializeToString())]))

    item = claimed(world, Registry()).item

    assert {"wind:mean": 0.5, "delay:last": 2.0} == features_of(item)
    assert ("delays", 9, 3, 0.25) == (
        item.model,
        item.served_at_us,
        item.other_version,
        item.other_score,
    )


def test_label_without_a_queue_is_told_so(make):
    world = make()
    world.labels.put(world.labels.get(LABEL).model_copy(update={"queue": None}))

    with pytest.raises(Invalid, match=r"BAD_REQUEST.*has no queue"):
        label_tasks.get_agreement(LABEL, labels=world.labels, tasks=world.tasks)
