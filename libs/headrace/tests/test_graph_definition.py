# SPDX-License-Identifier: Apache-2.0
"""What a graph may say: every misfit is refused when it is applied, with the key of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace import graph_check
from headrace.application import (
    Graph,
    build_application,
    definition_digest,
    definition_json,
    parse_definition,
    parse_definition_json,
)
from headrace.errors import Invalid
from headrace.graph_check import NESTED_GRAPHS_MAX, check_versions
from headrace.graph_definition import (
    STEPS_MAX,
    BranchCase,
    BranchStep,
    ExpressionStep,
    TensorType,
)
from headrace.graph_plan import Called, Plan, plan_graph
from headrace.graph_signature import RegisteredTensor, RegisteredTensors, Signature
from headrace.loader import load_application
from headrace.model_definition import Model
from headrace.model_reference import ModelReference

ROOT = Path(__file__).resolve().parents[3]
STREAM = {
    "kind": "stream",
    "name": "rides",
    "description": "Rides.",
    "owner": "tests",
    "key": "id",
    "id": "id",
    "event_time": "at",
    "lateness_allowed": "1h",
    "columns": {
        "id": {"type": "string"},
        "riders": {"type": "int64"},
        "km": {"type": "float64"},
        "at": {"type": "timestamp"},
    },
}
VIEW = {
    "kind": "view",
    "name": "ask",
    "description": "The question.",
    "features": {
        "riders": {"transform": "value", "column": "riders"},
        "km": {"transform": "value", "column": "km"},
    },
}
RECIPE: dict[str, Any] = {
    "kind": "recipe",
    "name": "late",
    "description": "Late?",
    "model": "late",
    "spine": {"stream": "rides", "entity_key": "id", "time": "at", "offset": "0s"},
    "label": {"stream": "rides", "key": "id", "column": "riders", "above": 1, "absent_after": "1h"},
    "features": ["ask:riders", "ask:km"],
    "network": {
        "hidden": [8],
        "dropout": 0,
        "learning_rate": 0.01,
        "weight_decay": 0,
        "batch_rows": 8,
        "epochs_max": 1,
        "members": 1,
        "embedding_size": 2,
        "seed": 1,
    },
    "gate": {"holdout": "1d", "auc_min": 0.5, "champion_margin": 0.1},
}
SHORT = {**RECIPE, "name": "short", "model": "short", "features": ["ask:km"]}
MODEL = {"kind": "model", "name": "fraud", "description": "From elsewhere."}
# Everything that a graph can do, on tensors that callers send.
TENSORS: dict[str, Any] = {
    "kind": "graph",
    "name": "guard",
    "description": "Checks payments.",
    "inputs": {"amount": "float32", "country": "string", "seen": "float32[2]"},
    "steps": {
        "scaled": {"expression": "LN(amount + 1) / 10"},
        "home": {"expression": "country IN ('DE', 'FR')"},
        "risk": {
            "model": "fraud@champion",
            "inputs": {"x": ["scaled", "seen"]},
            "outputs": {"chances": "float32[2]", "label": "int64"},
        },
        "rule": {"expression": "CASE WHEN amount > 1000 THEN 0.9 ELSE 0.1 END"},
        "likely": {"expression": '"risk.chances_2"'},
        "both": {"ensemble": "weighted", "of": ["likely", "rule"], "weights": [3, 1]},
        "chosen": {"branch": [{"when": "home", "then": "likely"}], "otherwise": "both"},
    },
    "outputs": {"score": "chosen", "label": "risk.label"},
}
# Of features, as a recipe's versions are.
FEATURES: dict[str, Any] = {
    "kind": "graph",
    "name": "guarded",
    "description": "Asks two models.",
    "recipe": "late",
    "steps": {
        "all": {"model": "late@champion"},
        "far": {"model": "short/3"},
        "chosen": {"branch": [{"when": '"ask:km" > 10', "then": "far"}], "otherwise": "all"},
    },
    "outputs": {"score": "chosen"},
}
ENDPOINT: dict[str, Any] = {
    "kind": "endpoint",
    "name": "guarded",
    "description": "Ask.",
    "model": "guarded",
    "entity_key": "id",
    "columns": {"id": "string", "riders": "int64", "km": "float64"},
    "rollout": {"canary_percent": 20, "outcomes_min": 1, "outcomes_max": 2, "alpha": 0.05},
}
MONITOR: dict[str, Any] = {
    "kind": "monitor",
    "name": "guarded",
    "description": "Watches.",
    "endpoint": "guarded",
    "recipe": "late",
    "window": "1d",
    "drift": {"q": 0.01, "psi_floor": 0.2, "rows_min": 1, "windows_bad": 1, "windows": 1},
    "quality": {"auc_drop": 0.1, "labelled_min": 1, "windows": 1},
    "policy": {"cooldown": "1d", "runs_max": 1, "budget": "1d"},
}


def build(*documents: dict[str, Any]) -> None:
    whole = [STREAM, VIEW, RECIPE, SHORT, MODEL, *documents]
    build_application("tests", [parse_definition(each) for each in whole])


def with_steps(graph: dict[str, Any] = TENSORS, **steps: object) -> dict[str, Any]:
    return {**graph, "steps": {**graph["steps"], **steps}}


def graph_of(document: dict[str, Any]) -> Graph:
    graph = parse_definition(document)
    assert isinstance(graph, Graph)
    return graph


def a_plan(document: dict[str, Any]) -> Plan:
    return plan_graph(graph_of(document), (), {})


def test_graphs_of_tensors_and_of_features_are_taken() -> None:
    build(TENSORS, FEATURES, ENDPOINT, MONITOR)


def test_graph_reads_back_equal() -> None:
    for document in (TENSORS, FEATURES):
        graph = graph_of(document)
        again = parse_definition_json(definition_json(graph))
        assert graph == again
        assert definition_digest(graph) == definition_digest(again)


def test_graph_in_yaml_is_the_graph_in_python(tmp_path) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "model.yaml").write_text("{kind: model, name: fraud, description: From elsewhere.}")
    (folder / "graph.yaml").write_text(
        """
kind: graph
name: guard
description: Checks.
inputs: {amount: float32}
steps:
  high: {expression: amount > 10}
  score: {expression: amount / 100}
  none: {expression: amount * 0}
  chosen: {branch: [{when: high, then: score}], otherwise: none}
outputs: {score: chosen}
""",
    )
    in_python = Graph(
        name="guard",
        description="Checks.",
        inputs={"amount": TensorType("float32")},
        steps={
            "high": ExpressionStep(expression="amount > 10"),
            "score": ExpressionStep(expression="amount / 100"),
            "none": ExpressionStep(expression="amount * 0"),
            "chosen": BranchStep(branch=(BranchCase(when="high", then="score"),), otherwise="none"),
        },
        outputs={"score": "chosen"},
    )

    assert in_python == load_application(folder).graphs["guard"]
    model = Model(name="fraud", description="From elsewhere.")
    assert build_application("tests", [model, in_python]).graphs["guard"] == in_python


def test_steps_are_put_in_the_order_in_which_they_read() -> None:
    steps = TENSORS["steps"]
    backwards = {**TENSORS, "steps": {name: steps[name] for name in reversed(steps)}}

    order = [step.name for step in a_plan(backwards).steps]

    assert order.index("scaled") < order.index("risk") < order.index("likely")
    assert order.index("both") < order.index("chosen")


def test_long_chain_is_planned_in_any_order() -> None:
    chain = {f"s{n}": {"expression": f"s{n - 1} + 1"} for n in range(63, 0, -1)}
    steps = {**chain, "s0": {"expression": "amount"}}
    graph = {**TENSORS, "steps": steps, "outputs": {"score": "s63"}}

    assert [f"s{n}" for n in range(64)] == [step.name for step in a_plan(graph).steps]


def test_values_have_the_types_that_they_are_made_of() -> None:
    more = with_steps(
        wide={"expression": "seen * 2"},
        whole={"expression": "COALESCE(CAST(amount AS int64), 0)", "type": "int64"},
        exact={"expression": "amount", "type": "float64"},
        most={"ensemble": "max", "of": ["seen", "wide"]},
        agreed={"ensemble": "vote", "of": ["home", "home"]},
        word={"expression": "CASE WHEN home THEN 'ours' ELSE country END"},
    )
    types = {name: str(value.type) for name, value in a_plan(more).values.items()}

    assert {
        "home": "bool",
        "scaled": "float32",
        "wide": "float32[2]",
        "wide_2": "float32",
        "whole": "int64",
        "exact": "float64",
        "most": "float32[2]",
        "agreed": "bool",
        "word": "string",
        "risk.chances": "float32[2]",
        "risk.chances_1": "float32",
    }.items() <= types.items()


def test_model_of_a_recipe_gets_its_features_by_their_names() -> None:
    late = Signature(
        {"features": TensorType("float32", 2)},
        {"score": TensorType("float32")},
        ("ask:km", "ask:riders"),
    )
    graph = with_steps(FEATURES, far={"expression": '"ask:km"'})

    plan = plan_graph(graph_of(graph), ("ask:riders", "ask:km"), {"all": late})

    (called,) = [step for step in plan.steps if isinstance(step, Called)]
    given = called.inputs["features"]
    assert isinstance(given, tuple)
    assert [1, 0] == [value.column for value in given]


def a_circle(*names: str) -> dict[str, Any]:
    reads = zip(names, [*names[1:], names[0]], strict=True)
    return {name: {"expression": f"{read} + 1"} for name, read in reads}


@pytest.mark.parametrize(
    ("document", "key", "problem"),
    [
        (with_steps(a={"expression": "a + 1"}), "steps.a", "a reads a"),
        (with_steps(**a_circle("a", "b", "c")), "steps.c", "a reads b reads c reads a"),
        (with_steps(a={"expression": "nosuch + 1"}), "steps.a.expression", "nosuch is unknown"),
        (with_steps(a={"expression": "amount +"}), "steps.a.expression", "is no expression"),
        (with_steps(a={"expression": "1 + 1"}), "steps.a.expression", "reads no value"),
        (with_steps(a={"expression": "LOWER(country)"}), "steps.a.expression", "LOWER of texts"),
        (with_steps(a={"expression": "country < 'x'"}), "steps.a.expression", "LESS of texts"),
        (
            with_steps(a={"expression": "TIMESTAMP '2013-01-31T09:15:00Z' IS NULL OR home"}),
            "steps.a.expression",
            "a timestamp",
        ),
        (with_steps(a={"expression": "home", "type": "int64"}), "steps.a.type", "a bool"),
        (
            with_steps(a={"expression": "CAST(amount AS int64)", "type": "int64"}),
            "steps.a.type",
            "COALESCE",
        ),
        (with_steps(a={"expression": "amount", "type": "int64"}), "steps.a.type", "CAST"),
        (
            {**with_steps(a={"expression": "seen + more"}),
             "inputs": {**TENSORS["inputs"], "more": "float64[3]"}},
            "steps.a.expression",
            "vectors of 2 and 3",
        ),
        (with_steps(a={"nothing": 1}), "steps.a", "one of: expression, model, ensemble, branch"),
        (with_steps(a={"expression": "amount", "typ": "int64"}), "steps.a.typ", "Extra inputs"),
        (with_steps(a={"ensemble": "mean", "of": ["rule"]}), "steps.a.of", "at least 2"),
        (with_steps(a={"ensemble": "mean", "of": ["rule", "x"]}), "steps.a.of.1", "x is no input"),
        (with_steps(a={"ensemble": "mean", "of": ["rule", "seen"]}), "steps.a.of", "of one type"),
        (with_steps(a={"ensemble": "mean", "of": ["home", "home"]}), "steps.a.of", "take vote"),
        (with_steps(a={"ensemble": "vote", "of": ["rule", "rule"]}), "steps.a.of", "compare first"),
        (
            with_steps(a={"ensemble": "mean", "of": ["rule", "rule"], "weights": [1, 1]}),
            "steps.a",
            "weighted needs weights",
        ),
        (
            with_steps(a={"ensemble": "weighted", "of": ["rule", "rule"], "weights": [1]}),
            "steps.a",
            "one for each",
        ),
        (
            with_steps(a={"branch": [{"when": "amount", "then": "rule"}], "otherwise": "rule"}),
            "steps.a.branch.0.when",
            "a condition is needed",
        ),
        (
            with_steps(a={"branch": [{"when": "home", "then": "seen"}], "otherwise": "rule"}),
            "steps.a",
            "of one type",
        ),
        (
            with_steps(a={"branch": [{"when": "seen > 1", "then": "rule"}], "otherwise": "rule"}),
            "steps.a.branch.0.when",
            "decides by column",
        ),
        (with_steps(a={"model": "fraud"}), "steps.a.model", "NAME@ALIAS"),
        (with_steps(a={"model": "nosuch/1", "outputs": {"y": "int64"}}), "steps.a.model", "nosuch"),
        (with_steps(a={"model": "fraud/1"}), "steps.a.outputs", "declare it"),
        (
            with_steps(a={"model": "fraud/1", "outputs": {"y": "float16"}}),
            "steps.a.outputs.y",
            "float32[3]",
        ),
        (
            with_steps(a={"model": "fraud/1", "inputs": {"x": 1}, "outputs": {"y": "bool"}}),
            "steps.a.inputs.x",
            "name of a value",
        ),
        (
            with_steps(
                a={"model": "fraud/1", "inputs": {"x": ["rule", "home"]}, "outputs": {"y": "bool"}}
            ),
            "steps.a.inputs.x",
            "of one type",
        ),
        (
            with_steps(a={"model": "late/1", "inputs": {"features": "amount"}}),
            "steps.a.inputs.features",
            "takes float32[2], and is given float32",
        ),
        (with_steps(a={"model": "late/1"}), "steps.a.inputs.features", "features is no input"),
        (
            with_steps(a={"model": "late/1", "inputs": {"x": "amount", "features": "seen"}}),
            "steps.a.inputs.x",
            "takes features float32[2]",
        ),
        (
            with_steps(
                a={"model": "late/1", "inputs": {"features": "seen"}, "outputs": {"p": "float32"}}
            ),
            "steps.a.outputs.p",
            "gives score float32",
        ),
        (with_steps(seen_1={"expression": "amount"}), "steps.seen_1", "two values"),
        (with_steps(amount={"expression": "seen"}), "steps.amount", "two values"),
        ({**TENSORS, "outputs": {"y": "nosuch"}}, "outputs.y", "no input and no step"),
        ({**TENSORS, "outputs": {"amount": "rule"}}, "outputs.amount", "name of an input"),
        ({**TENSORS, "outputs": {"prediction_id": "rule"}}, "", "prediction_id is what"),
        ({**TENSORS, "recipe": "late"}, "", "either recipe"),
        ({**FEATURES, "recipe": None}, "", "either recipe"),
        ({**FEATURES, "recipe": "nosuch"}, "recipe", "nosuch is unknown"),
        ({**FEATURES, "gate": {"approval": True}}, "", "recipe's gate"),
        ({**TENSORS, "gate": {"metrics": {"auc": {"min": 0.5}}}}, "", "nothing is measured"),
        ({**FEATURES, "outputs": {"score": "features"}}, "outputs", "score float32 alone"),
        ({**FEATURES, "outputs": {"p": "chosen"}}, "outputs", "score float32 alone"),
        ({**FEATURES, "name": "late"}, "name", "a recipe's too"),
        ({**TENSORS, "name": "fraud"}, "name", "versions from elsewhere"),
        (
            with_steps(FEATURES, a={"model": "guarded@champion"}),
            "steps.a.model",
            "a step of itself",
        ),
    ],
)  # fmt: skip
def test_misfit_is_refused_with_its_key(document: dict, key: str, problem: str) -> None:
    with pytest.raises(Invalid, match="BAD_DEFINITION") as refused:
        build(document)

    told = refused.value.metadata
    assert (document["name"], key) == (told["name"], told.get("key"))
    assert problem in told["problem"]


def test_model_must_find_its_features_among_the_graphs() -> None:
    graph = {**FEATURES, "recipe": "short"}

    with pytest.raises(Invalid, match="ask:riders is no input"):
        build(graph)


def test_graphs_that_are_steps_of_each_other_are_refused() -> None:
    one = with_steps(FEATURES, more={"model": "other@champion"})
    other = {**with_steps(FEATURES, more={"model": "guarded@champion"}), "name": "other"}

    with pytest.raises(Invalid, match="step of itself"):
        build(one, other)


def test_circle_of_graphs_is_told_at_a_step_of_it() -> None:
    circle = [a_nest(f"g{n}", {"ask": f"g{(n + 1) % 3}"}) for n in range(3)]

    with pytest.raises(Invalid, match="step of itself") as refused:
        build(*circle, a_nest("outer", {"a": "g0"}))

    told = refused.value.metadata
    inner = (int(told["name"].removeprefix("g")) + 1) % 3
    assert told["key"] == "steps.ask.model"
    assert told["problem"] == f"graph g{inner} would be a step of itself"


@pytest.fixture
def planned(monkeypatch) -> Counter[str]:
    """How often each graph was planned."""
    counted: Counter[str] = Counter()

    def counting(graph: Graph, *known: Any) -> Plan:
        counted[graph.name] += 1
        return plan_graph(graph, *known)

    monkeypatch.setattr(graph_check, "plan_graph", counting)
    return counted


def test_chain_of_graphs_is_planned_once_each(planned: Counter[str]) -> None:
    build(*a_chain(300))

    assert Counter(f"g{n}" for n in range(300)) == planned


def test_graph_of_many_steps_is_planned_once(planned: Counter[str]) -> None:
    fans = [a_nest("g0", {})]
    for level in range(1, 5):
        fans.append(a_nest(f"g{level}", {f"s{n}": f"g{level - 1}" for n in range(STEPS_MAX)}))

    build(*reversed(fans))

    assert Counter(f"g{n}" for n in range(5)) == planned


def test_too_deep_nest_of_graphs_is_refused_before_it_is_planned(planned: Counter[str]) -> None:
    build(*a_chain(NESTED_GRAPHS_MAX))
    planned.clear()

    with pytest.raises(Invalid, match="nests more than 512 graphs in one another") as refused:
        build(*a_chain(NESTED_GRAPHS_MAX + 1))

    told = refused.value.metadata
    assert (f"g{NESTED_GRAPHS_MAX}", "steps.inner.model") == (told["name"], told["key"])
    assert not planned


def a_nest(name: str, graph_by_step: dict[str, str]) -> dict[str, Any]:
    """A graph whose steps are these graphs, or one expression."""
    steps = {step: {"model": f"{graph}@champion"} for step, graph in graph_by_step.items()}
    last = next(reversed(steps), "sum")
    return {
        "kind": "graph",
        "name": name,
        "description": "Nests.",
        "inputs": {"x": "float32"},
        "steps": steps or {"sum": {"expression": "x + 1"}},
        "outputs": {"y": last},
    }


def a_chain(graphs: int) -> list[dict[str, Any]]:
    """The outermost first; the last alone computes."""
    chain = [a_nest(f"g{n}", {"inner": f"g{n - 1}"} if n else {}) for n in range(graphs)]
    return chain[::-1]


def test_graph_may_be_a_step_of_another() -> None:
    build(FEATURES, {**with_steps(FEATURES, more={"model": "guarded@champion"}), "name": "outer"})


def test_endpoint_by_entity_keys_needs_a_graph_of_features() -> None:
    with pytest.raises(Invalid, match="reads no features"):
        build(TENSORS, {**ENDPOINT, "model": "guard"})


def test_monitor_watches_a_graph_by_the_recipe_it_is_measured_by() -> None:
    with pytest.raises(Invalid, match="recipe short trains short"):
        build(FEATURES, ENDPOINT, {**MONITOR, "recipe": "short"})


def versions_are(tensors: RegisteredTensors | None) -> None:
    """Checks TENSORS while its model's champion takes and gives these."""
    whole = [STREAM, VIEW, RECIPE, SHORT, MODEL, TENSORS]
    application = build_application("tests", [parse_definition(each) for each in whole])
    check_versions(["guard"], application, lambda _: tensors)


def a_version(x: RegisteredTensor, *outputs: RegisteredTensor) -> RegisteredTensors:
    return RegisteredTensors((x,), outputs)


X = RegisteredTensor("x", "FP32", (-1, 3))
CHANCES = RegisteredTensor("chances", "FP32", (-1, 2))
LABEL = RegisteredTensor("label", "INT64", (-1,))


def test_version_is_asked_for_once_and_stands_for_its_graph(planned: Counter[str]) -> None:
    pinned = {**a_nest("g2", {}), "outputs": {"y": "a"}}
    pinned["steps"] = {step: {"model": "g1/7"} for step in ("a", "b", "c")}
    outer = a_nest("g3", {"a": "g2", "b": "g2"})
    whole = [*a_chain(2), pinned, outer]
    application = build_application("tests", [parse_definition(each) for each in whole])
    planned.clear()
    asked: list[str] = []
    version = RegisteredTensors(
        (RegisteredTensor("x", "FP32", (-1,)),), (RegisteredTensor("y", "FP32", (-1,)),)
    )

    def registered(reference: ModelReference) -> RegisteredTensors:
        asked.append(str(reference))
        return version

    check_versions(["g2", "g3"], application, registered)

    assert asked == ["models:/g1/7"]
    assert Counter(["g2", "g3"]) == planned


@pytest.mark.parametrize(
    "tensors",
    [
        None,
        a_version(X, CHANCES, LABEL),
        a_version(X, LABEL, RegisteredTensor("chances", "FP32", (-1, -1))),
        a_version(X, CHANCES, LABEL, RegisteredTensor("more", "FP16", (-1, 2, 2))),
    ],
)
def test_version_that_fits_is_taken(tensors: RegisteredTensors | None) -> None:
    versions_are(tensors)


@pytest.mark.parametrize(
    ("tensors", "key"),
    [
        (a_version(X, LABEL), "steps.risk.outputs.chances"),
        (a_version(X, CHANCES, RegisteredTensor("label", "INT32", (-1,))),
         "steps.risk.outputs.label"),
        (a_version(RegisteredTensor("x", "FP32", (-1, 4)), CHANCES, LABEL), "steps.risk.inputs.x"),
        (a_version(RegisteredTensor("x", "FP64", (-1, 3)), CHANCES, LABEL), "steps.risk.inputs.x"),
        (a_version(RegisteredTensor("y", "FP32", (-1, 3)), CHANCES, LABEL), "steps.risk.inputs.x"),
        (a_version(RegisteredTensor("x", "FP32", (1, 3)), CHANCES, LABEL), "steps.risk.model"),
        (a_version(RegisteredTensor("x", "FP16", (-1, 3)), CHANCES, LABEL), "steps.risk.model"),
        (a_version(RegisteredTensor("x", "FP32", (-1, 3, 2)), CHANCES, LABEL), "steps.risk.model"),
    ],
)  # fmt: skip
def test_version_that_does_not_fit_is_refused(tensors: RegisteredTensors, key: str) -> None:
    with pytest.raises(Invalid, match="BAD_DEFINITION") as refused:
        versions_are(tensors)

    assert key == refused.value.metadata["key"]


def test_graph_of_the_docs_fits_the_example() -> None:
    section = (ROOT / "docs" / "application.md").read_text(encoding="utf-8").split("## Graph\n")[1]
    document = yaml.safe_load(section.split("```yaml\n")[1].split("```")[0])
    flights = load_application(ROOT / "examples" / "flights")

    build_application("flights", [*flights.definitions(), parse_definition(document)])
