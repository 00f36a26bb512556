# SPDX-License-Identifier: Apache-2.0
"""The catalogue follows the registry's topic, and no record of it ends the service."""

from __future__ import annotations

import pytest

from headrace.application import definition_json, parse_definition
from headrace.errors import Invalid
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace_feature.adapters.definition_follower import DefinitionFollower
from headrace_kit.testing import a_record

VIEW = parse_definition(
    {
        "kind": "view",
        "name": "ask",
        "description": "The question.",
        "features": {"riders": {"transform": "value", "column": "riders"}},
    }
)


def a_view_record(value: bytes | None):
    return a_record(value, key=b"view/ask")


@pytest.fixture
def follower() -> DefinitionFollower:
    made = DefinitionFollower(lambda catalogue: None)
    message = Definition(kind="view", name="ask", spec_json=definition_json(VIEW))
    made.on_record(a_view_record(message.SerializeToString()))
    return made


def test_view_is_known_until_it_is_taken_back(follower):
    assert {"ask": VIEW} == follower.catalogue().views

    follower.on_record(a_view_record(None))
    assert {} == follower.catalogue().views


@pytest.mark.parametrize("value", [b"\xff\xff", b""])
def test_undecodable_definition_is_invalid_and_changes_nothing(follower, value):
    with pytest.raises(Invalid):
        follower.on_record(a_view_record(value))
    assert {"ask": VIEW} == follower.catalogue().views
