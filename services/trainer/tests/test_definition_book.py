# SPDX-License-Identifier: Apache-2.0
"""What the applied definitions say about a recipe."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace.application import definition_json
from headrace.errors import Invalid, NotFound
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace_kit.testing import a_record
from headrace_trainer.adapters.definition_book import DefinitionBook
from headrace_trainer.testing import a_graph, a_recipe

WAIT_S = 30.0


def a_monitor(name: str, window: str, recipe: str = "delay"):
    spec = {
        "kind": "monitor",
        "name": name,
        "description": "Watches.",
        "endpoint": "delay",
        "recipe": recipe,
        "window": window,
        "drift": {"q": 0.01, "psi_floor": 0.2, "rows_min": 1, "windows_bad": 1, "windows": 1},
        "quality": {"auc_drop": 0.1, "labelled_min": 1, "windows": 1},
        "policy": {"cooldown": "1d", "runs_max": 1, "budget": "1d"},
    }
    definition = Definition(kind="monitor", name=name, spec_json=json.dumps(spec).encode())
    return a_record(definition.SerializeToString(), key=f"monitor/{name}".encode())


def a_recipe_record(value: bytes | None = None):
    return a_record(value, key=b"recipe/delay")


def a_recipe_value() -> bytes:
    spec_json = definition_json(a_recipe())
    return Definition(kind="recipe", name="delay", spec_json=spec_json).SerializeToString()


def test_window_is_the_shortest_in_which_the_recipe_is_watched() -> None:
    book = DefinitionBook()
    assert book.window_s(a_recipe()) is None

    for record in (a_monitor("a", "7d"), a_monitor("b", "1d"), a_monitor("c", "1h", "other")):
        book.follow(record)
    assert 86_400 == book.window_s(a_recipe())

    book.follow(a_monitor("b", "14d"))
    assert 7 * 86_400 == book.window_s(a_recipe())


def test_recipe_that_comes_meanwhile_is_waited_for() -> None:
    book = DefinitionBook()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(book.trainee, "delay", wait_s=WAIT_S)
        book.follow(a_monitor("a", "7d"))
        book.follow(a_recipe_record(a_recipe_value()))

        assert a_recipe() == found.result(WAIT_S)


def test_recipe_that_does_not_come_in_time_is_unknown() -> None:
    with pytest.raises(NotFound, match="DEFINITION_UNKNOWN"):
        DefinitionBook().trainee("delay", wait_s=0.01)


def test_recipe_that_was_taken_back_is_unknown() -> None:
    book = DefinitionBook()
    book.follow(a_recipe_record(a_recipe_value()))
    assert a_recipe() == book.recipe("delay")

    book.follow(a_recipe_record(None))
    with pytest.raises(NotFound, match="DEFINITION_UNKNOWN"):
        book.recipe("delay")


def test_undecodable_definition_is_invalid_and_changes_nothing() -> None:
    book = DefinitionBook()
    book.follow(a_recipe_record(a_recipe_value()))

    with pytest.raises(Invalid, match="DECODE_ERROR"):
        book.follow(a_recipe_record(b"\xff\xff"))
    assert a_recipe() == book.recipe("delay")


def test_request_may_name_a_graph() -> None:
    book = DefinitionBook()
    book.follow(a_recipe_record(a_recipe_value()))
    spec_json = definition_json(a_graph())
    value = Definition(kind="graph", name="delay-guarded", spec_json=spec_json).SerializeToString()
    book.follow(a_record(value, key=b"graph/delay-guarded"))

    assert a_graph() == book.trainee("delay-guarded")
    assert a_recipe() == book.trainee("delay")
    with pytest.raises(NotFound, match="DEFINITION_UNKNOWN"):
        book.trainee("nobody")
