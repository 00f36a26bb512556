# SPDX-License-Identifier: Apache-2.0
"""A recipe's gate: what it may ask of a version, and that what it does not ask changes nothing."""

from __future__ import annotations

import math

import pytest

from headrace.application import GateRule, definition_json, parse_definition
from headrace.errors import Invalid

GATE = {"holdout": "1d", "auc_min": 0.6, "champion_margin": 0}
RECIPE = {
    "kind": "recipe",
    "name": "late",
    "description": "Late?",
    "model": "late",
    "spine": {"stream": "rides", "entity_key": "ride", "time": "at", "offset": "0s"},
    "label": {
        "stream": "rides",
        "key": "ride",
        "column": "late",
        "above": 0,
        "absent_after": "1d",
    },
    "features": ["request:zone"],
    "network": {
        "hidden": [4],
        "dropout": 0,
        "learning_rate": 0.1,
        "weight_decay": 0,
        "batch_rows": 8,
        "epochs_max": 1,
        "members": 1,
        "embedding_size": 1,
        "seed": 1,
    },
}


def test_gate_without_a_latency_budget_is_written_as_before() -> None:
    assert b"latency" not in definition_json(parse_definition({**RECIPE, "gate": GATE}))


def test_latency_budget_is_kept() -> None:
    recipe = parse_definition({**RECIPE, "gate": {**GATE, "latency_ms_max": 2.5}})

    assert recipe == parse_definition(recipe.model_dump(mode="json", by_alias=True))
    assert GateRule(**GATE, latency_ms_max=2.5) == recipe.gate


@pytest.mark.parametrize("budget", [0, -1, math.inf, math.nan, "fast"])
def test_latency_budget_that_is_none_is_refused_with_its_key(budget: object) -> None:
    with pytest.raises(Invalid, match="BAD_DEFINITION") as refused:
        parse_definition({**RECIPE, "gate": {**GATE, "latency_ms_max": budget}})

    assert "gate.latency_ms_max" == refused.value.metadata["key"]
