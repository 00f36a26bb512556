# SPDX-License-Identifier: Apache-2.0
"""A definition that is taken back, over every store: refused while needed, told, applied again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from headrace.errors import Conflict, Invalid, NotFound
from headrace.registry.v1 import registry_events_pb2 as events
from headrace_kit.sql import OUTBOX
from headrace_registry.domain import definition as domain
from headrace_registry.domain.definition import Definition, RetractDefinition, check_room
from headrace_registry.domain.page import ListByName, ListChanges
from headrace_registry.handlers.definitions import retract_definition
from headrace_registry.handlers.queries import list_changes, list_definitions, list_retracted
from headrace_registry.testing import (
    DEFINITIONS,
    ENDPOINT,
    FLIGHTS,
    MODEL,
    RECIPE,
    TENSORS_ENDPOINT,
    VIEW,
    a_run,
)


def take_back(registry: Any, kind: str, name: str, *, request_id: str = "") -> Definition:
    command = RetractDefinition(request_id or f"retract-{kind}-{name}", kind, name, "not needed")
    return retract_definition(command, caller="ann", store=registry.store, clock=registry.clock)


def names(registry: Any) -> list[str]:
    found, _ = list_definitions(ListByName("", 0, ""), store=registry.store)
    return [f"{each.kind} {each.name}" for each in found]


def retracted(registry: Any) -> list[tuple[str, int]]:
    found, _ = list_retracted(ListByName("", 0, ""), store=registry.store)
    return [(each.name, each.version) for each in found]


def test_definition_that_is_taken_back_is_listed_no_more(registry):
    was = take_back(registry, "endpoint", "delay")

    assert ("endpoint", "delay", 1) == (was.kind, was.name, was.version)
    assert ["stream flights", "view origin-delay", "recipe delay"] == names(registry)


def test_it_is_listed_as_taken_back_until_it_is_applied_again(registry):
    assert [] == retracted(registry)
    take_back(registry, "endpoint", "delay")
    assert [("delay", 1)] == retracted(registry)

    registry.apply(request_id="again")
    assert [] == retracted(registry)


def test_it_is_told_by_a_record_without_a_value(sql):
    take_back(sql, "endpoint", "delay")

    with sql.engine.begin() as connection:
        row = connection.execute(select(OUTBOX).order_by(OUTBOX.c.id.desc())).first()
    headers = json.loads(row.headers)
    assert (b"endpoint/delay", None) == (row.key, row.value)
    assert "definition/endpoint/delay/1/retracted" == headers["ce_id"]
    assert events.Definition.DESCRIPTOR.full_name == headers["ce_type"]


@pytest.mark.parametrize(
    ("kind", "name", "needed_by"),
    [
        ("stream", "flights", "view origin-delay, recipe delay"),
        ("view", "origin-delay", "recipe delay"),
        ("recipe", "delay", "endpoint delay"),
    ],
)
def test_what_others_need_is_refused_and_they_are_named(registry, kind, name, needed_by):
    before = registry.published()

    with pytest.raises(Conflict, match="DEFINITION_NEEDED") as refused:
        take_back(registry, kind, name)

    assert needed_by == refused.value.metadata["needed_by"]
    assert before == registry.published()
    assert f"{kind} {name}" in names(registry)


def test_whole_application_is_taken_back_from_its_end(registry):
    for each in reversed(DEFINITIONS):
        take_back(registry, each["kind"], each["name"])

    assert [] == names(registry)


@pytest.mark.parametrize(
    ("kind", "name", "error", "reason"),
    [
        ("endpoint", "none", NotFound, "DEFINITION_UNKNOWN"),
        ("view", "delay", NotFound, "DEFINITION_UNKNOWN"),
        ("banana", "delay", Invalid, "BAD_REQUEST"),
        ("endpoint", "No Name", Invalid, "BAD_NAME"),
    ],
)
def test_what_is_not_there_is_refused(registry, kind, name, error, reason):
    with pytest.raises(error, match=reason):
        take_back(registry, kind, name, request_id="wrong")


def test_second_time_is_refused_and_a_repeat_is_answered_as_before(registry):
    first = take_back(registry, "endpoint", "delay", request_id="once")

    assert first == take_back(registry, "endpoint", "delay", request_id="once")
    with pytest.raises(NotFound, match="DEFINITION_UNKNOWN"):
        take_back(registry, "endpoint", "delay", request_id="twice")


def test_name_that_is_applied_again_goes_on_with_the_next_version(registry):
    take_back(registry, "endpoint", "delay")

    applied = registry.apply(ENDPOINT, request_id="again")
    unchanged = registry.apply(ENDPOINT, request_id="and-again")

    assert [2, 2] == [found.definitions[0].version for found in (applied, unchanged)]
    told = [each for each in registry.published("definitions") if "endpoint/delay" in each]
    assert [
        "definition/endpoint/delay/1",
        "definition/endpoint/delay/1/retracted",
        "definition/endpoint/delay/2",
    ] == told


def test_name_that_is_taken_back_may_go_to_another_application(registry):
    registry.apply(MODEL, request_id="ours")
    take_back(registry, "model", "fraud")

    applied = registry.apply(MODEL, request_id="theirs", application="others")

    assert [("others", 2)] == [(each.application, each.version) for each in applied.definitions]


def test_records_of_before_bind_the_contract_that_is_applied_again(registry):
    for each in reversed(DEFINITIONS):
        take_back(registry, each["kind"], each["name"])
    columns = {**FLIGHTS["columns"], "delay": {"type": "int64"}}

    with pytest.raises(Conflict, match="CONTRACT_INCOMPATIBLE"):
        registry.apply({**FLIGHTS, "columns": columns}, request_id="narrow")


def test_endpoint_that_is_applied_again_goes_on_with_its_rollout(registry):
    registry.complete_runs(0.75)
    before = registry.rollout()
    take_back(registry, "endpoint", "delay")

    registry.apply(ENDPOINT, request_id="again")

    assert before == registry.rollout()


def test_endpoint_without_a_definition_follows_the_champion_and_starts_no_canary(registry):
    registry.complete_runs(0.75)
    take_back(registry, "endpoint", "delay")
    for number in (2, 3):
        registry.complete(a_run(f"run-{number}", auc=0.8))

    assert (1, None) == (registry.rollout().champion.version, registry.rollout().canary)


def test_endpoint_that_is_applied_again_serves_a_champion_that_came_meanwhile(registry):
    take_back(registry, "endpoint", "delay")
    registry.complete_runs(0.75)

    registry.apply(ENDPOINT, request_id="again")

    assert (1, 1) == (registry.rollout().champion.version, registry.rollout().generation)


def test_graph_may_have_the_name_of_a_recipe_that_was_taken_back(registry):
    for kind, name in (("endpoint", "delay"), ("recipe", "delay")):
        take_back(registry, kind, name)
    graph = {
        "kind": "graph",
        "name": "delay",
        "description": "Adds one.",
        "inputs": {"x": "float32"},
        "steps": {"a": {"expression": "x + 1"}},
        "outputs": {"y": "a"},
    }

    assert 1 == registry.apply(graph, request_id="graph").definitions[0].version


def test_model_has_versions_as_long_as_something_makes_them(registry):
    second = {**RECIPE, "name": "delay-b"}
    registry.apply(second, request_id="second")

    take_back(registry, "recipe", "delay")

    with pytest.raises(Conflict, match="DEFINITION_NEEDED"):
        take_back(registry, "recipe", "delay-b")


def test_it_is_in_the_audit_with_who_and_why(registry):
    take_back(registry, "endpoint", "delay")

    newest = list_changes(ListChanges("", 1, ""), store=registry.store).changes[0]
    assert ("ann", "retract_definition", "endpoint delay", "not needed") == (
        newest.caller,
        newest.action,
        newest.subject,
        newest.reason,
    )


def test_no_more_are_applied_than_there_may_be(registry, monkeypatch):
    monkeypatch.setattr(domain, "DEFINITIONS_MAX", 5)
    registry.apply(MODEL, request_id="fifth")

    with pytest.raises(Conflict, match="TOO_MANY_DEFINITIONS"):
        registry.apply(TENSORS_ENDPOINT, request_id="sixth")

    registry.apply({**VIEW, "description": "Of those."}, request_id="known")
    take_back(registry, "endpoint", "delay")
    registry.apply(TENSORS_ENDPOINT, request_id="instead")


def test_registry_that_holds_too_many_already_takes_changes_and_no_more(monkeypatch):
    held = [Definition("model", f"m{number}", "tests", 1, "{}", str(number)) for number in range(3)]
    monkeypatch.setattr(domain, "DEFINITIONS_MAX", 2)

    check_room(held, [replace(held[0], version=2)])
    with pytest.raises(Conflict, match="TOO_MANY_DEFINITIONS"):
        check_room(held, [replace(held[0], name="m3")])
