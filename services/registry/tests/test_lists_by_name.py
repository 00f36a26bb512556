# SPDX-License-Identifier: Apache-2.0
"""Definitions, models, aliases and rollouts come in pages by name, over every store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from headrace.errors import Invalid
from headrace_registry.domain.page import DEFINITIONS, MODELS, ROLLOUTS, ListByName, aliases_of
from headrace_registry.handlers.aliases import set_alias
from headrace_registry.handlers.queries import (
    list_aliases,
    list_definitions,
    list_models,
    list_rollouts,
)
from headrace_registry.testing import DEFINITIONS as DOCUMENTS
from headrace_registry.testing import ENDPOINT, a_set_alias

List = Callable[[int, str], tuple[tuple[str, ...], str]]
# PostgreSQL's collation puts "a-z" between "a" and "B", which no page may depend on.
NAMES = ["a", "a-z", "b", "delay"]


def lists(registry: Any) -> dict[str, List]:
    """Names and the next token, by list."""

    def models(size: int, token: str) -> tuple[tuple[str, ...], str]:
        page = list_models(ListByName(MODELS, size, token), store=registry.store)
        return tuple(each.name for each in page.models), page.next_page_token

    def definitions(size: int, token: str) -> tuple[tuple[str, ...], str]:
        found, after = list_definitions(ListByName(DEFINITIONS, size, token), store=registry.store)
        return tuple(f"{each.kind} {each.name}" for each in found), after

    def aliases(size: int, token: str) -> tuple[tuple[str, ...], str]:
        query = ListByName(aliases_of("delay"), size, token)
        found, after = list_aliases("delay", query, store=registry.store)
        return tuple(each.alias for each in found), after

    def rollouts(size: int, token: str) -> tuple[tuple[str, ...], str]:
        found, after = list_rollouts(ListByName(ROLLOUTS, size, token), store=registry.store)
        return tuple(each.endpoint for each in found), after

    return {"models": models, "definitions": definitions, "aliases": aliases, "rollouts": rollouts}


@pytest.fixture
def filled(registry: Any) -> Any:
    """With four endpoints, four aliases and one model more."""
    named = [{**ENDPOINT, "name": name} for name in NAMES[:-1]]
    other = {**ENDPOINT, "name": "other", "model": "other"}
    recipe = {**DOCUMENTS[2], "name": "other", "model": "other"}
    registry.apply(*DOCUMENTS, *named, recipe, other, request_id="more")
    registry.complete_runs(0.75)
    for name in NAMES[:-1]:
        command = a_set_alias(1, alias=name, generation_expected=0, request_id=f"set {name}")
        set_alias(command, caller="tests", store=registry.store, clock=registry.clock)
    return registry


WHOLE = {
    "models": ["delay", "other"],
    "definitions": [
        "stream flights", "view origin-delay", "recipe delay", "recipe other",
        *(f"endpoint {name}" for name in (*NAMES, "other")),
    ],
    "aliases": ["a", "a-z", "b", "champion"],
    "rollouts": NAMES,
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_pages_join_to_the_whole_list(filled: Any, name: str, size: int) -> None:
    page, token = lists(filled)[name](size, "")
    joined = [*page]
    while token:
        assert size == len(page)
        page, token = lists(filled)[name](size, token)
        joined += page

    assert WHOLE[name] == joined


@pytest.mark.parametrize("name", WHOLE)
def test_negative_size_and_foreign_token_are_refused(filled: Any, name: str) -> None:
    other = "models" if name == "rollouts" else "rollouts"
    _, token = lists(filled)[other](1, "")

    for size, shown in ((-1, ""), (1, token), (1, "x")):
        with pytest.raises(Invalid, match="BAD_REQUEST"):
            lists(filled)[name](size, shown)
