# SPDX-License-Identifier: Apache-2.0
"""The audit tells each change once, with who, when and why, over every store."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from headrace.errors import Conflict, Invalid, NotFound
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace_registry.adapters import conversions
from headrace_registry.domain.alias import SetAlias
from headrace_registry.domain.page import ListAliasMoves, ListChanges
from headrace_registry.domain.request import request_of
from headrace_registry.handlers.aliases import set_alias
from headrace_registry.handlers.definitions import apply_definitions
from headrace_registry.handlers.queries import list_alias_moves, list_changes
from headrace_registry.handlers.rollouts import judge_canary
from headrace_registry.handlers.signings import sign_version
from headrace_registry.handlers.versions import describe_version, register_version
from headrace_registry.testing import (
    DIGEST,
    MODEL,
    TENSORS_ENDPOINT,
    a_file,
    a_set_alias,
    a_verdict,
)


def changes(registry, model=""):
    return list_changes(ListChanges(model, 0, ""), store=registry.store).changes


def move(registry, command: SetAlias, caller: str = "ann"):
    return set_alias(command, caller=caller, store=registry.store, clock=registry.clock)


def test_change_is_told_with_who_when_and_why(registry):
    registry.complete_runs(0.75, 0.76)

    moved = move(registry, replace(a_set_alias(2), reason="the season turned"))

    newest = changes(registry)[0]
    assert ("ann", "set_alias", "delay", "the season turned", "set-1", moved.moved_at_us) == (
        newest.caller,
        newest.action,
        newest.model,
        newest.reason,
        newest.request_id,
        newest.at_us,
    )
    assert "models:/delay@champion is version 2" == newest.subject


def asked(model="fraud", **more):
    return {"request_id": f"for {len(more)}", "model": model, "reason": "because", **more}


def test_every_command_tells_why(registry):
    definition = {"kind": "model", "name": "fraud", "spec_json": json.dumps(MODEL).encode()}
    apply = pb.ApplyDefinitionsRequest(
        request_id="apply", application="shop", definitions=[definition], reason="because"
    )
    register = pb.RegisterVersionRequest(
        **asked(digest=DIGEST, metrics={"accuracy": 0.95, "latency_ms": 2}, card="")
    )
    describe = pb.DescribeVersionRequest(**asked(version=1, tags_set={"team": "risk"}))
    sign = pb.SignVersionRequest(**asked(version=1, bundle=b"ann", request_id="sign"))
    told = {"caller": "ann", "store": registry.store, "clock": registry.clock}
    bytes_ = {"artifacts": registry.artifacts}

    apply_definitions(conversions.apply_definitions(apply), **told)
    register_version(
        conversions.register_version(register),
        acceptor=registry.acceptor,
        spool=a_file,
        **bytes_,
        **told,
    )
    describe_version(conversions.describe_version(describe), **told)
    sign_version(conversions.sign_version(sign), verifier=registry.verifier, **bytes_, **told)

    actions = ["sign_version", "describe_version", "register_version", "apply_definitions"]
    assert actions == [each.action for each in changes(registry)[:4]]
    assert ["because"] * 4 == [each.reason for each in changes(registry)[:4]]


def test_reason_of_several_lines_is_refused_and_nothing_is_changed(registry):
    request = pb.ApplyDefinitionsRequest(request_id="1", application="shop", reason="a\nb")

    with pytest.raises(Invalid, match=r"BAD_REQUEST.*reason"):
        apply_definitions(
            conversions.apply_definitions(request),
            caller="ann",
            store=registry.store,
            clock=registry.clock,
        )


def test_reason_is_no_part_of_what_a_repeat_is_known_by():
    """So that a request which the version before has answered is known after the update."""
    plain, told = (
        conversions.sign_version(pb.SignVersionRequest(request_id="1", reason=reason))
        for reason in ("", "because")
    )

    assert "reason" not in repr(told)
    assert request_of(plain, "1") == request_of(told, "1")


def test_what_events_changed_is_told_of_their_services(registry):
    registry.complete_runs(0.75, 0.76)
    for promote, number in ((False, 2),):
        judge_canary(
            a_verdict(rollout_generation=number, promote=promote),
            store=registry.store,
            clock=registry.clock,
        )

    told = [(each.caller, each.action) for each in changes(registry, "delay")]
    assert [
        ("monitor", "roll_back"),
        ("trainer", "register_version"),
        ("trainer", "register_version"),
    ] == told


def test_refused_or_repeated_command_tells_nothing_more(registry):
    registry.complete_runs(0.75, 0.76)
    move(registry, a_set_alias(2))
    before = changes(registry)

    move(registry, a_set_alias(2))
    with pytest.raises(Conflict, match="ALIAS_MOVED"):
        move(registry, a_set_alias(1, request_id="late"))

    assert before == changes(registry)


def test_apply_that_changes_nothing_is_no_change(registry):
    registry.apply(MODEL, request_id="declare")
    before = changes(registry)

    registry.apply(MODEL, request_id="declare again")
    assert before == changes(registry)

    registry.apply(MODEL, TENSORS_ENDPOINT, request_id="serve")
    assert ["serve", *(each.request_id for each in before)] == [
        each.request_id for each in changes(registry)
    ]


def test_changes_of_one_model_leave_out_those_of_others(registry):
    registry.apply(MODEL, request_id="declare")
    registry.register()
    registry.complete_runs(0.75)

    assert ["fraud"] == [each.model for each in changes(registry, "fraud")]
    assert ["delay", "fraud", "", ""] == [each.model for each in changes(registry)]


def test_model_that_is_not_there_is_told_from_one_that_nobody_changed(registry):
    assert () == changes(registry, "delay")

    with pytest.raises(NotFound, match="MODEL_UNKNOWN"):
        changes(registry, "nosuch")


def test_pages_hold_each_change_once(registry):
    registry.complete_runs(0.75, 0.76, 0.77)
    seen, token = [], ""
    while True:
        page = list_changes(ListChanges("", 1, token), store=registry.store)
        seen += page.changes
        token = page.next_page_token
        if not token:
            break

    assert changes(registry) == tuple(seen)


def test_every_generation_of_an_alias_is_told(registry):
    registry.complete_runs(0.75, 0.76)
    move(registry, a_set_alias(2))
    move(registry, a_set_alias(1, generation_expected=2, request_id="back"))

    first = list_alias_moves(ListAliasMoves("delay", "champion", 2, ""), store=registry.store)
    last = list_alias_moves(
        ListAliasMoves("delay", "champion", 2, first.next_page_token), store=registry.store
    )

    assert [(3, 1), (2, 2), (1, 1)] == [
        (each.generation, each.version) for each in (*first.moves, *last.moves)
    ]


def test_token_of_another_list_is_refused(registry):
    registry.complete_runs(0.75, 0.76)
    token = list_changes(ListChanges("", 1, ""), store=registry.store).next_page_token

    with pytest.raises(Invalid, match="page_token"):
        list_changes(ListChanges("delay", 1, token), store=registry.store)


def test_reason_is_one_plain_line(registry):
    registry.complete_runs(0.75)

    with pytest.raises(Invalid, match="reason"):
        move(registry, replace(a_set_alias(1), reason="a\nb"))
