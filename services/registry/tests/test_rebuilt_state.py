# SPDX-License-Identifier: Apache-2.0
"""Whatever happened, its topics alone give the state that the registry answers, on every store."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select, update

from headrace import topics
from headrace.errors import HeadraceError
from headrace.registry.v1 import registry_events_pb2 as events
from headrace.registry_state import RegistryState, Told, answered_state, told_state
from headrace_kit.sql import OUTBOX
from headrace_registry.adapters import sql_tables as tables
from headrace_registry.adapters.conversions import messages_of
from headrace_registry.adapters.grpc_api import RegistryApi
from headrace_registry.domain.definition import RetractDefinition
from headrace_registry.domain.signing import SignVersion
from headrace_registry.domain.version import ApproveVersion, DescribeVersion, RetractVersion
from headrace_registry.handlers.aliases import set_alias
from headrace_registry.handlers.definitions import retract_definition
from headrace_registry.handlers.rollouts import judge_canary, set_rollout
from headrace_registry.handlers.signings import sign_version
from headrace_registry.handlers.versions import (
    approve_version,
    describe_version,
    retract_version,
)
from headrace_registry.testing import (
    DEFINITIONS,
    ENDPOINT,
    MODEL,
    TENSORS_ENDPOINT,
    a_file,
    a_run,
    a_set_alias,
    a_set_rollout,
    a_verdict,
)

STEPS = 60
APPROVED = {**{key: value for key, value in MODEL.items() if key != "gate"}, "name": "approved"}


def answered(registry: Any) -> RegistryState:
    api = RegistryApi(store=registry.store, artifacts=registry.artifacts,
                      acceptor=registry.acceptor, spool=a_file,
                      verifier=registry.verifier, clock=registry.clock)  # fmt: skip
    return answered_state(lambda method, request: getattr(api, method)(request, None))


def messages(registry: Any) -> list[Told]:
    if registry.engine is None:
        sent = [each for event in registry.store.published() for each in messages_of(event)]
        return [a_told(m.topic, m.key, dict(m.headers), m.value) for m in sent]
    with registry.engine.begin() as connection:
        rows = connection.execute(select(OUTBOX).order_by(OUTBOX.c.id)).all()
    return [
        a_told(row.topic, row.key, {n: v.encode() for n, v in json.loads(row.headers).items()},
               row.value)
        for row in rows
    ]  # fmt: skip


def a_told(topic: str, key: bytes, headers: dict[str, bytes], value: bytes | None) -> Told:
    return Told(topic, f"{topic} somewhere", key, headers, value)


class History:
    """Commands and events as they come; what is refused leaves nothing."""

    def __init__(self, registry: Any, seed: int) -> None:
        self._registry, self._drawn = registry, random.Random(seed)
        self._number = 0
        registry.apply(MODEL, TENSORS_ENDPOINT, APPROVED, request_id="declare")

    def go_on(self) -> None:
        self._number += 1
        steps = [self._complete, self._register, self._approve, self._describe, self._set_alias,
                 self._set_rollout, self._judge, self._apply, self._sign,
                 self._retract, self._retract_version]  # fmt: skip
        with suppress(HeadraceError):
            self._drawn.choice(steps)(f"step-{self._number}")

    def _complete(self, name: str) -> None:
        self._registry.complete(a_run(name, auc=self._drawn.choice([0.6, 0.75, 0.9])))

    def _register(self, name: str) -> None:
        model = self._drawn.choice(["fraud", "approved"])
        self._registry.register(name, model=model, tags={"by": name})

    def _approve(self, name: str) -> None:
        self._ask(approve_version, ApproveVersion(name, "approved", self._version(), "ann", name))

    def _describe(self, name: str) -> None:
        model = self._drawn.choice(["delay", "fraud", "approved"])
        card = self._drawn.choice([None, "", name])
        told = DescribeVersion(name, model, self._version(), {"at": name}, ("by",), card)
        self._ask(describe_version, told)

    def _sign(self, name: str) -> None:
        model, signer = self._drawn.choice(["delay", "fraud"]), self._drawn.choice(["ann", "bo"])
        command = SignVersion(name, model, self._version(), signer.encode())
        put = partial(
            sign_version, artifacts=self._registry.artifacts, verifier=self._registry.verifier
        )
        self._ask(put, command)

    def _set_alias(self, name: str) -> None:
        alias, generation = self._drawn.choice(["champion", "next"]), self._drawn.randrange(4)
        command = a_set_alias(self._version(), alias=alias, generation_expected=generation,
                              request_id=name)  # fmt: skip
        self._ask(set_alias, command)

    def _set_rollout(self, name: str) -> None:
        stopped, generation = self._drawn.random() < 0.5, self._drawn.randrange(1, 8)
        command = a_set_rollout(self._version(), canary_percent=20, stopped=stopped,
                                generation_expected=generation, request_id=name)  # fmt: skip
        self._ask(set_rollout, command)

    def _judge(self, name: str) -> None:
        verdict = a_verdict(self._version(), rollout_generation=self._drawn.randrange(1, 8),
                            promote=self._drawn.random() < 0.5, ce_id=name)  # fmt: skip
        judge_canary(verdict, store=self._registry.store, clock=self._registry.clock)

    def _apply(self, name: str) -> None:
        described = [{**each, "description": name} for each in DEFINITIONS]
        more = {**ENDPOINT, "name": f"delay-{self._drawn.randrange(3)}"}
        self._registry.apply(*described, more, request_id=name)

    def _retract(self, name: str) -> None:
        kind = self._drawn.choice(["endpoint", "endpoint", "recipe", "model"])
        one = self._drawn.choice(["delay", *(f"delay-{number}" for number in range(3))])
        self._ask(retract_definition, RetractDefinition(name, kind, one, ""))

    def _retract_version(self, name: str) -> None:
        model = self._drawn.choice(["delay", "fraud", "approved"])
        self._ask(retract_version, RetractVersion(name, model, self._version(), ""))

    def _ask(self, handler: Any, command: Any) -> None:
        handler(command, caller="tests", store=self._registry.store, clock=self._registry.clock)

    def _version(self) -> int:
        return self._drawn.randrange(1, 6)


@pytest.mark.parametrize("seed", range(3))
def test_state_from_the_topics_is_the_state_that_is_answered(registry: Any, seed: int) -> None:
    history = History(registry, seed)
    for _ in range(STEPS):
        history.go_on()

    told = told_state(messages(registry))

    assert [] == answered(registry).differences(told)
    assert answered(registry).digest() == told.digest()
    kinds = {name.partition(" ")[0] for name in told.entries}
    assert {"definition", "version", "alias", "rollout"} == kinds


def test_messages_that_come_again_change_nothing(registry: Any) -> None:
    history = History(registry, 7)
    for _ in range(STEPS):
        history.go_on()
    sent = messages(registry)

    again = [*sent, *sent[len(sent) // 2 :]]

    assert answered(registry).digest() == told_state(again).digest()


def test_definition_that_was_taken_back_is_in_neither_state(registry: Any) -> None:
    registry.apply(MODEL, request_id="declare")
    command = RetractDefinition("retract", "model", "fraud", "")
    retract_definition(command, caller="tests", store=registry.store, clock=registry.clock)

    told = told_state(messages(registry))

    assert answered(registry).digest() == told.digest()
    assert "definition model/fraud" not in told.entries


def test_message_that_never_went_out_is_named(registry: Any) -> None:
    registry.complete_runs(0.75)
    sent = [each for each in messages(registry) if not each.ce_id.startswith("alias/")]

    assert ["alias delay@champion"] == answered(registry).differences(told_state(sent))


def test_version_whose_registration_never_went_out_is_named(registry: Any) -> None:
    registry.complete_runs(0.75)
    described = DescribeVersion("describe", "delay", 1, {}, (), "# Delay")
    describe_version(described, caller="tests", store=registry.store, clock=registry.clock)
    sent = [each for each in messages(registry) if not _registers(each.topic, each.value)]

    assert ["version delay/1"] == answered(registry).differences(told_state(sent))


def _registers(topic: str, value: bytes | None) -> bool:
    if topic != topics.REGISTRY_MODEL_VERSIONS.name:
        return False
    return events.ModelVersionEvent.FromString(value or b"").HasField("version_registered")


ROLLOUT = "headrace.registry.v1.Rollout"


@pytest.mark.parametrize(
    ("forged", "told"),
    [
        ({"headers": {}}, f"its headers do not name the registry and {ROLLOUT}"),
        ({"value": None}, "its key is not that of its value, empty"),
        ({"value": b"\xff"}, f"its value is no {ROLLOUT}"),
        ({"key": b"other"}, "its key is not that of its value, delay"),
        (
            {"value": events.Rollout(endpoint="delay", stopped=True).SerializeToString()},
            "a record before it has its ce_id, rollout/delay/1, and other content",
        ),
    ],
)
def test_record_that_the_registry_did_not_write_is_named_and_not_taken(
    registry: Any, forged: dict[str, Any], told: str
) -> None:
    registry.complete_runs(0.75)
    sent = messages(registry)
    (own,) = [each for each in sent if each.topic == topics.REGISTRY_ROLLOUTS.name]

    state = told_state([*sent, replace(own, place="here", **forged)])

    assert [f"here: {told}"] == state.strangers
    assert [] == answered(registry).differences(state)


def test_forged_record_with_an_id_that_is_still_to_come_hides_nothing(registry: Any) -> None:
    registry.complete_runs(0.75)
    sent = messages(registry)
    forged = [replace(each, value=b"\xff") for each in sent]

    state = told_state([*forged, *sent])

    assert len(sent) == len(state.strangers)
    assert [] == answered(registry).differences(state)


def test_row_that_somebody_changed_by_hand_is_named(sql: Any) -> None:
    sql.complete_runs(0.75)
    told = told_state(messages(sql))
    with sql.engine.begin() as connection:
        connection.execute(update(tables.VERSIONS).values(card="forged"))

    assert ["version delay/1"] == answered(sql).differences(told)
    assert answered(sql).digest() != told.digest()
