# SPDX-License-Identifier: Apache-2.0
"""Versions that are taken back, over every store: their gate is shut for good."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from headrace.errors import Conflict, NotFound
from headrace_registry.domain.gate import GateState
from headrace_registry.domain.page import ListAliasMoves, ListChanges
from headrace_registry.domain.version import ApproveVersion, RetractVersion
from headrace_registry.handlers.aliases import set_alias
from headrace_registry.handlers.queries import list_alias_moves, list_changes
from headrace_registry.handlers.rollouts import set_rollout
from headrace_registry.handlers.versions import approve_version, retract_version
from headrace_registry.testing import (
    DIGEST,
    MODEL,
    TENSORS_ENDPOINT,
    a_run,
    a_set_alias,
    a_set_rollout,
)

UNDECLARED_GATE = {key: value for key, value in MODEL.items() if key != "gate"}


def retract(registry: Any, version: int, request_id: str = "", model: str = "delay") -> Any:
    command = RetractVersion(request_id or f"retract-{version}", model, version, "wrong rows")
    return retract_version(command, caller="ann", store=registry.store, clock=registry.clock)


def move(registry: Any, command: Any) -> Any:
    return set_alias(command, caller="tests", store=registry.store, clock=registry.clock)


def roll(registry: Any, command: Any) -> Any:
    return set_rollout(command, caller="tests", store=registry.store, clock=registry.clock)


@pytest.fixture
def moved_on(registry: Any) -> Any:
    """Version 1 was the champion, version 2 is it now."""
    registry.complete_runs(0.75, 0.76)
    move(registry, a_set_alias(2))
    return registry


def test_version_that_was_taken_back_serves_nothing_any_more_and_says_why(moved_on):
    retracted = retract(moved_on, 1)

    assert [moved_on.versions()[1]] == [retracted]
    assert (GateState.RETRACTED, "Taken back by ann: wrong rows") == (
        retracted.gate.state,
        retracted.gate.evidence[-1],
    )
    assert "retraction/delay/1" == moved_on.published("model-versions")[-1]
    with pytest.raises(Conflict, match="GATE_NOT_PASSED"):
        move(moved_on, a_set_alias(1, generation_expected=2, request_id="back"))
    with pytest.raises(Conflict, match="GATE_NOT_PASSED"):
        roll(moved_on, a_set_rollout(1, generation_expected=3))
    (change, *_) = list_changes(ListChanges("delay", 1, ""), store=moved_on.store).changes
    assert ("ann", "retract_version", "models:/delay/1", "wrong rows") == (
        change.caller,
        change.action,
        change.subject,
        change.reason,
    )


def test_moves_of_before_still_tell_of_it(moved_on):
    retract(moved_on, 1)

    asked = ListAliasMoves("delay", "champion", 0, "")
    moves = list_alias_moves(asked, store=moved_on.store).moves
    assert [2, 1] == [each.version for each in moves]


def test_what_an_alias_or_an_endpoint_points_to_stays(registry):
    registry.complete_runs(0.75, 0.76)
    before = registry.versions()

    for number, pointers in ((1, "alias champion, endpoint delay"), (2, "endpoint delay")):
        with pytest.raises(Conflict, match=f"VERSION_NEEDED.*needed_by={pointers}"):
            retract(registry, number)

    assert before == registry.versions()
    roll(registry, a_set_rollout(generation_expected=2))  # ends the canary
    assert GateState.RETRACTED is retract(registry, 2).gate.state


@pytest.mark.parametrize("accuracy", [0.95, 0.1])
def test_version_that_never_served_is_taken_back_too(registry, accuracy):
    declared = UNDECLARED_GATE if accuracy > 0.9 else MODEL
    registry.apply(declared, TENSORS_ENDPOINT, request_id="declare")
    registry.register(metrics={"accuracy": accuracy, "latency_ms": 1.0})

    retract(registry, 1, model="fraud")

    with pytest.raises(Conflict, match=r"GATE_SETTLED.*gate=retracted"):
        approve_version(
            ApproveVersion("approve-1", "fraud", 1, "ann", ""),
            caller="tests",
            store=registry.store,
            clock=registry.clock,
        )


def test_repeat_gets_the_first_answer_and_another_request_a_conflict(moved_on):
    first = retract(moved_on, 1)

    assert first == retract(moved_on, 1)
    with pytest.raises(Conflict, match="GATE_SETTLED"):
        retract(moved_on, 1, "retract-again")
    with pytest.raises(NotFound, match="VERSION_UNKNOWN"):
        retract(moved_on, 9)


def test_number_is_not_given_again_and_its_run_makes_no_other(moved_on):
    retract(moved_on, 1)
    moved_on.complete(a_run("run-1", auc=0.75, ce_id="told again"))
    moved_on.complete(a_run("run-3", auc=0.8))

    assert [3, 2, 1] == [each.version for each in moved_on.versions()]


def test_its_file_stays_and_may_become_another_version(registry):
    registry.apply(UNDECLARED_GATE, TENSORS_ENDPOINT, request_id="declare")
    first = registry.register("register-1")
    retract(registry, 1, model="fraud")

    again = registry.register("register-2")

    assert (2, first.digest) == (again.version, again.digest)
    assert GateState.AWAITS_APPROVAL is again.gate.state
    assert first == registry.register("register-1")


def test_of_a_retraction_and_16_moves_to_it_one_is_done(registry):
    """FAULTS row 34: P6 whoever comes first."""
    registry.complete_runs(*[0.75 + 0.001 * number for number in range(11)])
    generation = 0
    for number in range(2, 11):

        def point(racer: int, number: int = number, generation: int = generation) -> str:
            command = a_set_alias(
                number,
                alias="raced",
                generation_expected=generation,
                request_id=f"race-{number}-{racer}",
            )
            return _outcome(move, registry, command)

        with ThreadPoolExecutor(17) as pool:
            moves = [pool.submit(point, racer) for racer in range(8)]
            gone = pool.submit(_outcome, retract, registry, number)
            moves += [pool.submit(point, racer) for racer in range(8, 16)]
        told = sorted(each.result() for each in moves)

        if gone.result() == "done":
            assert {"GATE_NOT_PASSED"} == set(told)
        else:
            assert "VERSION_NEEDED" == gone.result()
            assert ["ALIAS_MOVED"] * 15 + ["done"] == told
            generation += 1


def _outcome(ask: Any, *given: Any) -> str:
    try:
        ask(*given)
    except Conflict as err:
        return err.reason
    return "done"


def test_store_refuses_it_by_itself_while_something_points_there(registry):
    registry.complete_runs(0.75)
    (version,) = registry.versions()

    with pytest.raises(Conflict, match="VERSION_NEEDED"), registry.store.transaction() as writes:
        writes.retract_version(replace(version, gate=version.gate.retracted("ann", "")))

    assert [version] == registry.versions()


@pytest.mark.parametrize(
    "statement",
    [
        "insert into aliases values ('delay', 'x', 1, :digest, 1, 0)",
        "update rollouts set champion_version = 1",
        "update rollouts set canary_version = 1, canary_digest = :digest, canary_percent = 1",
    ],
)
def test_statement_typed_by_hand_does_not_point_to_it(sql, statement):
    sql.complete_runs(0.75, 0.76)
    move(sql, a_set_alias(2))
    retract(sql, 1)
    named = {"digest": DIGEST} if ":digest" in statement else {}

    with pytest.raises(IntegrityError), sql.engine.begin() as connection:
        connection.execute(text(statement), named)
