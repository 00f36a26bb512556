# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from headrace import graph_check
from headrace.errors import Conflict, Invalid
from headrace.graph_definition import Graph
from headrace.graph_plan import Plan, plan_graph
from headrace_registry.domain.definition import (
    Definition,
    SentDefinition,
    concerning,
    merge,
    parse_sent,
)
from headrace_registry.testing import DEFINITIONS, ENDPOINT, FLIGHTS, RECIPE, VIEW, an_apply


def merged(*documents: dict[str, Any]) -> list[Definition]:
    return merge("tests", [], parse_sent(an_apply(*documents).definitions))


def test_definition_is_stored_in_canonical_form_with_its_digest() -> None:
    sent = json.dumps(FLIGHTS, indent=4).encode()
    (stored,) = merge("tests", [], parse_sent([SentDefinition("", "", sent)]))

    assert '"lateness_allowed":"86400s"' in stored.spec_json
    assert hashlib.sha256(stored.spec_json.encode()).hexdigest() == stored.digest


def test_order_of_sending_does_not_matter() -> None:
    assert merged(*DEFINITIONS) == merged(*reversed(DEFINITIONS))


@pytest.mark.parametrize(
    ("documents", "problem"),
    [
        ((RECIPE,), "feature origin-delay:mean_1h is in no view"),
        ((VIEW,), "stream flights is unknown"),
        ((FLIGHTS, VIEW, ENDPOINT), "no recipe trains model delay"),
        ((FLIGHTS, FLIGHTS), "name given twice"),
        (({**FLIGHTS, "surprise": 1},), "surprise"),
        (({**FLIGHTS, "name": "No Name"},), "a name is lower-case"),
        (({**FLIGHTS, "kind": "banana"},), "must be one of"),
        (({**FLIGHTS, "lateness_allowed": 5},), "a whole number with a unit"),
    ],
)
def test_wrong_definition_is_refused_and_says_what_is_wrong(documents, problem) -> None:
    with pytest.raises(Invalid, match=problem) as refused:
        merged(*documents)

    assert "BAD_DEFINITION" == refused.value.reason


@pytest.mark.parametrize("spec", [b"", b"{", b"\xff", b"[" * 100_000, b'{"kind": NaN}', b"7"])
def test_what_is_no_definition_is_refused(spec: bytes) -> None:
    with pytest.raises(Invalid, match="BAD_DEFINITION"):
        parse_sent([SentDefinition("", "", spec)])


def test_envelope_must_name_what_the_definition_names() -> None:
    spec = json.dumps(FLIGHTS).encode()

    with pytest.raises(Invalid, match="key=name"):
        parse_sent([SentDefinition("stream", "weather", spec)])


def test_stream_that_would_refuse_older_records_is_refused_and_says_why() -> None:
    columns = {**FLIGHTS["columns"], "delay": {"type": "int64"}, "tail": {"type": "string"}}
    changed = an_apply({**FLIGHTS, "columns": columns}).definitions

    with pytest.raises(Conflict, match="CONTRACT_INCOMPATIBLE") as refused:
        merge("tests", merged(FLIGHTS), parse_sent(changed))

    assert "column delay: type was float64, is int64" == refused.value.metadata["changes"]


def test_all_changes_of_all_streams_are_told_at_once() -> None:
    columns = {
        name: {"type": "int64"} if name == "delay" else column
        for name, column in FLIGHTS["columns"].items()
        if name != "origin"
    }
    narrow = {**FLIGHTS, "columns": columns, "key": "flight_id", "lateness_allowed": "1h"}
    other = {**FLIGHTS, "name": "weather"}
    changed = an_apply(narrow, {**other, "lateness_allowed": "1h"}).definitions

    with pytest.raises(Conflict, match="CONTRACT_INCOMPATIBLE") as refused:
        merge("tests", merged(FLIGHTS, other), parse_sent(changed))

    told = refused.value.metadata
    assert ("flights, weather", "1, 1") == (told["stream"], told["version"])
    assert [
        "flights: key: was origin, is flight_id",
        "flights: lateness_allowed: was 86400s, is 3600s",
        "flights: column delay: type was float64, is int64",
        "flights: column origin: is gone",
        "weather: lateness_allowed: was 86400s, is 3600s",
    ] == told["changes"].splitlines()


def test_wider_stream_gets_the_next_version() -> None:
    columns = {**FLIGHTS["columns"], "tail": {"type": "string"}}
    wide = parse_sent(an_apply({**FLIGHTS, "columns": columns}).definitions)
    (wider,) = merge("tests", merged(FLIGHTS), wide)

    assert 2 == wider.version


def test_definitions_concern_their_application_and_their_names_elsewhere() -> None:
    ours = merged(*DEFINITIONS)
    named, other = (
        replace(ours[0], application="others", name=name) for name in ("delay", "weather")
    )
    parsed = parse_sent(an_apply(RECIPE).definitions)

    assert [*ours, named] == concerning("tests", parsed, [*ours, named, other])


def test_graphs_that_come_together_are_planned_twice_at_most(monkeypatch) -> None:
    """Once by what is declared, and once by the versions that exist."""
    planned: Counter[str] = Counter()

    def counting(graph: Graph, *known: Any) -> Plan:
        planned[graph.name] += 1
        return plan_graph(graph, *known)

    monkeypatch.setattr(graph_check, "plan_graph", counting)

    merged(*(a_nested_graph(level) for level in range(40)))

    assert Counter({f"g{level}": 2 for level in range(40)}) == planned


def a_nested_graph(level: int) -> dict[str, Any]:
    """Both of its steps name the graph of the level below."""
    inside = {"model": f"g{level - 1}@champion"}
    steps = {"a": inside, "b": inside} if level else {"a": {"expression": "x + 1"}}
    return {
        "kind": "graph",
        "name": f"g{level}",
        "description": "Nests.",
        "inputs": {"x": "float32"},
        "steps": steps,
        "outputs": {"y": "a"},
    }
