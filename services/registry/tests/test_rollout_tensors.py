# SPDX-License-Identifier: Apache-2.0
"""No version stands beside a champion whose callers it cannot answer, over every store."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from headrace.errors import Conflict
from headrace_registry.domain.artifact import artifact_key
from headrace_registry.domain.page import ListChanges
from headrace_registry.domain.rollout import ServedVersion, what_callers_meet
from headrace_registry.domain.signature import Signature, TensorSignature
from headrace_registry.handlers.aliases import set_alias
from headrace_registry.handlers.queries import list_changes
from headrace_registry.handlers.rollouts import judge_canary, set_rollout
from headrace_registry.testing import (
    ENDPOINT,
    MODEL,
    TENSORS_ENDPOINT,
    a_run,
    a_set_alias,
    a_set_rollout,
    a_value,
    a_verdict,
    an_onnx_file,
)

# Beside `x` FP32 [-1, 2] and `y` FP32 [-1], which the small file takes and gives.
WIDER = an_onnx_file(inputs=[a_value("x", 1, ("rows", 3))])
NAMED_SIZES = an_onnx_file(inputs=[a_value("x", 1, ("rows", 2))])
CHANGED = "input x FP32 [-1, 2] is FP32 [-1, 3] now"


@pytest.fixture
def served(registry: Any) -> Any:
    """`fraud` serves the small file as version 1; canaries start by themselves."""
    endpoint = {**TENSORS_ENDPOINT, "rollout": ENDPOINT["rollout"]}
    registry.apply(MODEL, endpoint, request_id="declare")
    registry.register("first")
    return registry


def register(registry: Any, data: bytes, request_id: str = "second") -> int:
    digest = hashlib.sha256(data).hexdigest()
    registry.artifacts.put_if_absent(artifact_key(digest), data)
    return registry.register(request_id, digest=digest).version


def roll(registry: Any, version: int, **wanted: Any) -> Any:
    command = a_set_rollout(version, endpoint="fraud", **wanted)
    return set_rollout(command, caller="tests", store=registry.store, clock=registry.clock)


def newest_change(registry: Any) -> Any:
    """But for that of the registration."""
    return list_changes(ListChanges("fraud", 0, ""), store=registry.store).changes[1]


@pytest.mark.parametrize(
    "wanted",
    [{}, {"canary_percent": 20, "judged": True}, {"canary_percent": 50}],
    ids=["shadow", "canary", "split"],
)
def test_version_that_takes_other_tensors_is_refused_beside_the_champion(served, wanted):
    version, before = register(served, WIDER), served.rollout("fraud")

    with pytest.raises(Conflict, match="TENSORS_DIFFER") as refused:
        roll(served, version, **wanted)

    assert (CHANGED, "1", "2") == tuple(
        refused.value.metadata[name] for name in ("changes", "champion", "version")
    )
    assert before == served.rollout("fraud")


def test_version_whose_open_sizes_have_names_stands_beside_the_champion(served):
    assert register(served, NAMED_SIZES) == served.rollout("fraud").canary.version


def test_registered_version_that_takes_other_tensors_starts_no_canary_and_the_audit_says_so(served):
    register(served, WIDER)

    assert None is served.rollout("fraud").canary
    told = newest_change(served)
    assert ("registry", "start_no_canary", "endpoint fraud: models:/fraud/2", CHANGED) == (
        told.caller,
        told.action,
        told.subject,
        told.reason,
    )


def test_canary_that_runs_stays_when_a_version_with_other_tensors_comes(served):
    register(served, NAMED_SIZES)
    register(served, WIDER, "third")

    assert 2 == served.rollout("fraud").canary.version


def test_champion_moved_by_hand_to_other_tensors_says_what_callers_meet(served):
    command = a_set_alias(register(served, WIDER), model="fraud")
    set_alias(command, caller="tests", store=served.store, clock=served.clock)

    assert f"set to v2 by request; callers by tensors must change: {CHANGED}" == (
        served.rollout("fraud").change
    )


def test_champion_moved_by_hand_to_the_same_tensors_says_no_more(served):
    command = a_set_alias(register(served, NAMED_SIZES), model="fraud")
    set_alias(command, caller="tests", store=served.store, clock=served.clock)

    assert "set to v2 by request" == served.rollout("fraud").change


def of_before_the_rule(registry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 2 stands beside the champion though it takes other tensors."""
    with monkeypatch.context() as before:
        before.setattr("headrace_registry.handlers.rollouts.what_callers_meet", lambda *_: "")
        register(registry, WIDER)
    assert 2 == registry.rollout("fraud").canary.version


def test_verdict_promotes_no_canary_that_takes_other_tensors(served, monkeypatch):
    of_before_the_rule(served, monkeypatch)
    verdict = a_verdict(endpoint="fraud", model="fraud")
    judge_canary(verdict, store=served.store, clock=served.clock)

    rollout = served.rollout("fraud")
    assert (1, None, f"rolled back v2: {CHANGED}") == (
        rollout.champion.version,
        rollout.canary,
        rollout.change,
    )


def test_endpoint_is_stopped_whatever_is_beside_its_champion(served, monkeypatch):
    of_before_the_rule(served, monkeypatch)

    after = roll(served, 2, canary_percent=20, judged=True, stopped=True, generation_expected=2)

    assert (2, True) == (after.canary.version, after.stopped)
    with pytest.raises(Conflict, match="TENSORS_DIFFER"):
        roll(served, 2, canary_percent=50, generation_expected=3, request_id="more")


def test_version_that_takes_other_features_becomes_a_canary(registry):
    registry.complete_runs(0.75)
    registry.complete(a_run("run-2", auc=0.76, features=("origin-delay:mean_1h", "other:one")))

    assert 2 == registry.rollout().canary.version


def a_served_version(version: int, *, features: tuple[str, ...] = (), known: bool = True) -> Any:
    tensors = (TensorSignature("x", "FP32", (-1, version)),) if known else ()
    return ServedVersion(version, "", features, Signature(tensors, tensors))


def test_features_and_own_tensors_are_of_no_same_callers():
    fed, own = a_served_version(1, features=("view:one",)), a_served_version(2)

    assert "v1 alone takes features" == what_callers_meet(fed, own) == what_callers_meet(own, fed)


def test_of_a_version_of_before_acceptance_nothing_is_known():
    unknown, own = a_served_version(1, known=False), a_served_version(2)

    assert "" == what_callers_meet(unknown, own) == what_callers_meet(own, unknown)
