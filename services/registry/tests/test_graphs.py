# SPDX-License-Identifier: Apache-2.0
"""Graphs in the registry, over every store: how they are applied, judged and traced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from headrace import graph_check
from headrace.errors import Invalid, NotFound
from headrace.graph_plan import Plan, plan_graph
from headrace_registry.domain.gate import GateState
from headrace_registry.domain.lineage import Source
from headrace_registry.domain.page import MODELS, GetLineage, ListByName
from headrace_registry.handlers.lineage import get_lineage
from headrace_registry.handlers.queries import list_models
from headrace_registry.testing import (
    DIGEST,
    ENDPOINT,
    MODEL,
    TENSORS_ENDPOINT,
    a_run,
    a_trained_model,
)

# Of the registered model: x FP32 [-1, 2] to y FP32 [-1], as the small file has it.
GRAPH: dict[str, Any] = {
    "kind": "graph",
    "name": "guard",
    "description": "Cuts what the model says.",
    "inputs": {"x": "float32[2]"},
    "steps": {
        "said": {"model": "fraud@champion", "outputs": {"y": "float32"}},
        "cut": {"expression": "LEAST(said, 0.9)"},
    },
    "outputs": {"score": "cut"},
}
FEATURES_GRAPH: dict[str, Any] = {
    "kind": "graph",
    "name": "delay-cut",
    "description": "Cuts what the delay model says.",
    "recipe": "delay",
    "steps": {"said": {"model": "delay@champion"}, "cut": {"expression": "LEAST(said, 0.9)"}},
    "outputs": {"score": "cut"},
}
COMPONENT = "component:models:/delay/1"


def with_said(**changes: object) -> dict[str, Any]:
    said = {**GRAPH["steps"]["said"], **changes}
    return {**GRAPH, "steps": {**GRAPH["steps"], "said": said}}


def a_graph_run(graph: dict[str, Any], **changes: Any) -> Any:
    features = ("origin-delay:mean_1h",) if "recipe" in graph else ()
    manifest = {"graph": "de7", "code": "c0de", COMPONENT: DIGEST}
    trained = replace(a_trained_model(features=features), model=graph["name"], manifest=manifest)
    run = a_run(f"run-{graph['name']}")
    return replace(run, recipe=graph["name"], trained=replace(trained, **changes))


@pytest.fixture
def declared(registry: Any) -> Any:
    registry.apply(MODEL, TENSORS_ENDPOINT, request_id="declare")
    return registry


def test_graphs_model_is_listed_before_it_has_a_version(declared: Any) -> None:
    declared.apply(GRAPH, request_id="graph")

    models = list_models(ListByName(MODELS, 0, ""), store=declared.store).models
    assert {"delay", "fraud", "guard"} == {each.name for each in models}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"outputs": {"y": "float32[2]"}}, "steps.said.outputs.y"),
        ({"outputs": {"z": "float32"}}, "steps.said.outputs.z"),
        ({"inputs": {"features": "x"}}, "steps.said.inputs.features"),
        ({"outputs": {"y": "int64"}, "model": "fraud@champion"}, "steps.said.outputs.y"),
    ],
)
def test_graph_must_fit_the_version_that_it_names(declared: Any, changes: dict, key: str) -> None:
    declared.register()

    with pytest.raises(Invalid, match="BAD_DEFINITION") as refused:
        declared.apply(with_said(**{"model": "fraud/1", **changes}), request_id="graph")

    assert key == refused.value.metadata["key"]


def test_graph_that_fits_is_taken_with_and_without_a_version(declared: Any) -> None:
    declared.apply(GRAPH, request_id="before")
    declared.register()
    declared.apply(with_said(model="fraud/1"), request_id="after")


@pytest.mark.parametrize("model", ["fraud/2", "models:/fraud/2"])
def test_graph_of_a_version_that_is_not_there_is_refused(declared: Any, model: str) -> None:
    declared.register()

    with pytest.raises(NotFound, match="VERSION_UNKNOWN") as refused:
        declared.apply(with_said(model=model), request_id="graph")

    assert {
        "kind": "graph", "name": "guard", "key": "steps.said.model", "model": "fraud",
        "version": "2",
    } == refused.value.metadata  # fmt: skip


@pytest.mark.parametrize("model", ["delay", "delay-cut"])
def test_version_that_is_trained_here_must_be_there_too(declared: Any, model: str) -> None:
    declared.apply(FEATURES_GRAPH, request_id="inside")
    outer = {**FEATURES_GRAPH, "name": "outer"}
    outer["steps"] = {**FEATURES_GRAPH["steps"], "said": {"model": f"{model}/1"}}

    with pytest.raises(NotFound, match="VERSION_UNKNOWN"):
        declared.apply(outer, request_id="outer")


def test_graph_that_is_unchanged_is_not_looked_at_again(declared: Any) -> None:
    misfit = with_said(outputs={"y": "float32[2]"})
    misfit["steps"]["cut"] = {"expression": "LEAST(said_1, 0.9)"}
    declared.apply(misfit, request_id="before")
    declared.register()

    declared.apply(misfit, request_id="again")


@pytest.fixture
def while_planning(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something done once, in the middle of the next plan."""

    def once(act: Callable[[], object]) -> None:
        def planned(*graph: Any) -> Plan:
            monkeypatch.setattr(graph_check, "plan_graph", plan_graph)
            act()
            return plan_graph(*graph)

        monkeypatch.setattr(graph_check, "plan_graph", planned)

    return once


def test_others_are_served_while_a_graph_is_planned(sql: Any, while_planning: Any) -> None:
    sql.apply(MODEL, TENSORS_ENDPOINT, request_id="declare")
    other = {**MODEL, "name": "other"}

    while_planning(lambda: sql.apply(other, request_id="other", application="others"))
    sql.apply(GRAPH, request_id="graph")

    assert ["definition/model/other/1", "definition/graph/guard/1"] == sql.published("def")[-2:]


def test_graph_that_was_changed_while_it_was_planned_is_planned_again(
    sql: Any, while_planning: Any
) -> None:
    sql.apply(MODEL, TENSORS_ENDPOINT, request_id="declare")

    while_planning(lambda: sql.apply({**GRAPH, "description": "First."}, request_id="first"))
    (second,) = sql.apply(GRAPH, request_id="second").definitions

    assert 2 == second.version


def test_repeat_of_what_would_be_refused_now_has_its_first_answer(declared: Any) -> None:
    misfit = with_said(outputs={"z": "float32"})
    first = declared.apply(misfit, request_id="before")
    declared.register()
    declared.apply(GRAPH, request_id="after")

    assert first == declared.apply(misfit, request_id="before")


def test_recipe_and_graph_of_one_name_are_refused_over_applications(declared: Any) -> None:
    declared.apply(GRAPH, request_id="graph")
    other = {**GRAPH, "name": "delay", "steps": {"a": {"expression": "x * 2"}}}
    other["outputs"] = {"score": "a"}

    with pytest.raises(Invalid, match="a recipe has this name"):
        declared.apply(other, request_id="other", application="others")


def test_files_are_not_registered_for_a_graph(declared: Any) -> None:
    declared.apply(GRAPH, request_id="graph")

    with pytest.raises(Invalid, match="a recipe or a graph trains it"):
        declared.register(model="guard")


@pytest.mark.parametrize(
    ("gate", "state"),
    [
        (None, GateState.AWAITS_APPROVAL),
        ({"approval": True}, GateState.AWAITS_APPROVAL),
        ({"require_signature": True}, GateState.AWAITS_SIGNATURE),
    ],
)
def test_graph_of_tensors_waits_for_people(declared: Any, gate: Any, state: GateState) -> None:
    declared.apply({**GRAPH, **({"gate": gate} if gate else {})}, request_id="graph")

    declared.complete(a_graph_run(GRAPH, metrics={}))

    (version,) = declared.versions("guard")
    assert state is version.gate.state


@pytest.mark.parametrize(("auc", "state"), [(0.75, GateState.PASSED), (0.65, GateState.FAILED)])
def test_graph_of_features_is_judged_by_its_recipes_gate(
    declared: Any, auc: float, state: GateState
) -> None:
    served = {**ENDPOINT, "name": "delay-cut", "model": "delay-cut"}
    declared.apply(FEATURES_GRAPH, served, request_id="graph")

    declared.complete(a_graph_run(FEATURES_GRAPH, metrics={"auc": auc}))

    (version,) = declared.versions("delay-cut")
    assert state is version.gate.state
    if state is GateState.PASSED:
        champion = declared.rollout("delay-cut").champion
        assert (1, ("origin-delay:mean_1h",)) == (champion.version, champion.features)


def test_run_of_a_graph_that_nobody_applied_is_unknown(declared: Any) -> None:
    with pytest.raises(NotFound, match="DEFINITION_UNKNOWN"):
        declared.complete(a_graph_run(GRAPH))


def test_lineage_names_a_graphs_components_both_ways(declared: Any) -> None:
    declared.apply(FEATURES_GRAPH, request_id="graph")
    declared.complete_runs(0.75)
    declared.complete(a_graph_run(FEATURES_GRAPH))

    def asked(kind: str, name: str) -> Any:
        return get_lineage(GetLineage(kind, name, 0, ""), store=declared.store)[0]

    (found,) = asked("version", "models:/delay-cut@champion")
    assert Source("component", "models:/delay/1", DIGEST) in found.sources
    assert Source("graph", "delay-cut") in found.sources
    assert Source("definitions", "de7") in found.sources
    assert [found] == asked("component", "models:/delay/1")
    assert [found] == asked("graph", "delay-cut")
