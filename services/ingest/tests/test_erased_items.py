# SPDX-License-Identifier: Apache-2.0
"""What people are shown of predictions goes with an entity of any column that records tell of."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dataset_world import STREAM, World, rows
from eraser_of import eraser_of

from headrace.application import definition_json, parse_definition
from headrace.label_definition import LabelDefinition
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace_ingest.adapters.label_book import AppliedLabels
from headrace_ingest.adapters.sql_task_store import ERASED, KEEP_US, MIGRATIONS, SqlTaskStore
from headrace_ingest.domain.label_tasks import Item, Task
from headrace_ingest.handlers.erased_tasks import TaskEraser
from headrace_ingest.handlers.erasures import SETTLE_US, EraseEntity
from headrace_ingest.ports.definitions import Retracted
from headrace_ingest.testing import NOW_US
from headrace_kit.erased_entities import entity_key_digest
from headrace_kit.failpoints import FailpointRaised, arm
from headrace_kit.kafka import Record
from headrace_kit.sql import connect, transaction
from headrace_kit.sql_migrations import NOTHING
from headrace_kit.testing import FixedClock, a_record

ENDPOINT = parse_definition(
    {
        "kind": "endpoint",
        "name": "delay",
        "description": "Will it be late?",
        "model": "delay",
        "entity_key": "flight",
        "columns": {"flight": "string", "origin": "string"},
        "rollout": {
            "canary_percent": 20,
            "outcomes_min": 10,
            "outcomes_max": 40,
            "alpha": 0.05,
        },
    }
)

LATE = LabelDefinition(
    name="late", description="Was it late?", stream=STREAM, key="flight", value="delay", window="1d"
)


def applied(definition) -> Record:
    message = Definition(
        kind=definition.kind,
        name=definition.name,
        version=1,
        spec_json=definition_json(definition),
    )
    key = f"{definition.kind}/{definition.name}".encode()
    return a_record(message.SerializeToString(), key=key)


class Registry:
    def trainings(self, models, after):
        return iter(())


class Desk(World):
    """An archive with flights that left from JFK and EWR, and people who label predictions."""

    def __init__(self, folder, engine):
        super().__init__(folder / "spill")
        self.clock, self.engine = FixedClock(NOW_US), engine
        self.labels, self.tasks = AppliedLabels(), SqlTaskStore(engine, clock=self.clock)
        self.labels.take(applied(ENDPOINT))
        for flight, origin in (("UA7", "JFK"), ("UA8", "EWR")):
            record = {"key": flight.encode()}
            made = rows(100 + int(flight[2:]), flight=flight, origin=origin, record=record)
            self.tables.append(STREAM, made)
        self.told = []
        tasks = TaskEraser(self.labels, self.tasks)
        self.eraser = eraser_of(self, models=Registry(), news=self, tasks=tasks)

    def tell(self, erasure):
        """Nobody else is here."""

    def tell_events(self, events):
        self.told += events.ids

    def put(self, *flights, as_of_us=NOW_US):
        tasks = [(a_task(flight, as_of_us), an_item(flight)) for flight in flights]
        self.tasks.add(tasks, {"late": 100}, {})

    def erase(self, column, value):
        self.eraser.erase(EraseEntity(column, value), f"{column} {value}", timeout_s=60.0)

    def shown(self, *flights, as_of_us=NOW_US):
        ids = {a_task(flight, as_of_us).task_id: flight for flight in flights}
        return sorted(ids[each] for each in self.tasks.items_of(ids))


def a_task(flight, as_of_us, target=""):
    named = f"{flight} {as_of_us}"
    predicted = f"p {named}"
    return Task(named, "late", predicted, target or predicted, as_of_us, 1, 0.5, "random", 1)


def an_item(flight):
    return Item("delays", 7, (0.5,), 0, 0, 0.0, entity_key_digest(flight))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def desk(request, tmp_path):
    sqlite = request.param == "sqlite"
    uri = f"sqlite:///{tmp_path}/x.db" if sqlite else request.getfixturevalue("postgres_server")
    engine = connect(uri, schema="erased_items")
    MIGRATIONS.upgrade(engine)
    yield Desk(tmp_path, engine)
    MIGRATIONS.downgrade(engine, NOTHING)
    engine.dispose()


@pytest.fixture(autouse=True)
def unarmed():
    yield
    arm(None)


def test_item_goes_whose_entity_a_record_of_the_erased_one_names(desk):
    desk.put("UA7", "UA8")
    desk.erase("origin", "JFK")

    assert ["UA8"] == desk.shown("UA7", "UA8")
    assert ["departed:107"] == desk.told


@pytest.mark.parametrize("taken_back", [False, True])
def test_item_goes_whose_entity_no_stream_names(desk, taken_back):
    if taken_back:
        desk.retracted.answer = Retracted(entity_columns={"ticket"})
    else:
        ticket = {
            **ENDPOINT.model_dump(by_alias=True),
            "entity_key": "ticket",
            "columns": {"ticket": "string"},
        }
        desk.labels.take(applied(ENDPOINT.model_validate(ticket)))
    desk.put("t7", "t8")
    desk.erase("ticket", "t7")

    assert ["t8"] == desk.shown("t7", "t8")
    desk.clock.advance(SETTLE_US + 1)
    list(desk.eraser.go_on(60.0))
    assert [] == list(desk.eraser.erasures.unsettled())


def test_item_goes_though_the_endpoint_was_taken_back_before_a_restart(desk):
    desk.put("UA7", "UA8")
    desk.labels = AppliedLabels()
    desk.eraser = replace(desk.eraser, tasks=TaskEraser(desk.labels, desk.tasks))
    desk.retracted.answer = Retracted(entity_columns={"flight"})
    desk.erase("origin", "JFK")

    assert ["UA8"] == desk.shown("UA7", "UA8")


def test_task_of_a_label_that_was_taken_back_goes_with_its_entity(desk):
    desk.tasks.add([(a_task("UA7", NOW_US, target="UA7"), an_item("UA7"))], {"late": 100}, {})
    desk.retracted.answer = Retracted(labels=[LATE])
    desk.erase("flight", "UA7")

    assert [] == desk.tasks.targets("late", after="", targets_max=9)


@pytest.mark.parametrize("step", ["events_told", "deleted"])
def test_item_goes_though_the_erasure_broke_off_when_the_record_was_gone(desk, step):
    desk.put("UA7", "UA8")
    arm(f"ingest.erase.{step}:1:raise")
    with pytest.raises(FailpointRaised):
        desk.erase("origin", "JFK")
    arm(None)
    list(desk.eraser.go_on(60.0))

    assert ["UA8"] == desk.shown("UA7", "UA8")


def test_item_of_a_prediction_that_is_read_behind_the_erasure_is_not_kept(desk):
    desk.erase("origin", "JFK")
    desk.put("UA7", "UA8")
    desk.put("UA7", as_of_us=NOW_US + 1)

    assert ["UA8"] == desk.shown("UA7", "UA8")
    assert ["UA7"] == desk.shown("UA7", as_of_us=NOW_US + 1)


def test_of_two_erasures_that_name_an_entity_the_later_one_counts(desk):
    desk.tasks.note_erased(["e"], until_us=5)
    desk.tasks.note_erased(["e", "f"], until_us=4)

    with transaction(desk.engine) as connection:
        noted = {row.entity: row.until_us for row in connection.execute(ERASED.select())}
    assert {"e": 5, "f": 4} == noted


def test_whom_an_erasure_named_is_forgotten_with_the_tasks_of_then(desk):
    desk.erase("origin", "JFK")
    desk.clock.advance(KEEP_US + 1)
    desk.put("UA8")

    with transaction(desk.engine) as connection:
        assert [] == connection.execute(ERASED.select()).all()
