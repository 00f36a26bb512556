# SPDX-License-Identifier: Apache-2.0
"""Definitions as the registry keeps them: canonical JSON, a digest, and a version of their own.

A change is a new digest; the same digest keeps its version. References are checked over everything
that the application would hold afterwards, so that a stored definition never points to nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from headrace import application as app
from headrace.errors import Conflict, Invalid
from headrace.graph_check import Registered, check_versions
from headrace.model_definition import Model
from headrace_registry.domain.compatibility import differences, told

PARSED_MAX = 4_096
# Streams first, so that a reader of the topic meets no reference before its target.
KINDS = ("stream", "view", "recipe", "model", "graph", "endpoint", "monitor", "label")
# What a run is asked for by name.
TRAINED_KINDS = ("recipe", "graph")


@dataclass(frozen=True, slots=True)
class SentDefinition:
    """One definition of a command; `kind` and `name` are empty or repeat those in the JSON."""

    kind: str
    name: str
    spec_json: bytes


@dataclass(frozen=True, slots=True)
class ApplyDefinitions:
    """Store these definitions of an application, all or none."""

    request_id: str
    application: str
    definitions: tuple[SentDefinition, ...]


@dataclass(frozen=True, slots=True)
class Definition:
    """A definition as stored; `digest` is the sha256 of `spec_json`."""

    kind: str
    name: str
    application: str
    version: int
    spec_json: str
    digest: str

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.name

    def parsed(self) -> app.Definition:
        return _parsed(self.spec_json)


@lru_cache(PARSED_MAX)
def _parsed(spec_json: str) -> app.Definition:
    """Kept, for each move of an alias looks through the endpoints; definitions are frozen."""
    return app.parse_definition_json(spec_json.encode())


@dataclass(frozen=True, slots=True)
class AppliedDefinitions:
    """The answer to ApplyDefinitions: what was sent, as stored now."""

    definitions: tuple[Definition, ...]


def order_of(definition: Definition) -> tuple[int, str]:
    return KINDS.index(definition.kind), definition.name


def merge(
    application: str,
    stored: Sequence[Definition],
    parsed: Sequence[app.Definition],
    registered: Registered = lambda _: None,
) -> list[Definition]:
    """The parsed definitions as they are to be stored, in the order of KINDS.

    `stored` holds what concerns them, `registered` tells the tensors of versions that exist. Raises
    Invalid BAD_DEFINITION for one that points to nothing, belongs to another application or moves
    an endpoint to another model; NotFound VERSION_UNKNOWN for a graph of a version that is not
    there; Conflict CONTRACT_INCOMPATIBLE for a stream that would refuse older records.
    """
    by_key = {each.key: each for each in stored}
    given = {(each.kind, each.name) for each in parsed}
    kept = [each for each in stored if each.application == application and each.key not in given]
    whole = app.build_application(application, [*(each.parsed() for each in kept), *parsed])
    for each in parsed:
        _check_one_meaning(each, by_key)
    merged = [_next(application, by_key.get((each.kind, each.name)), each) for each in parsed]
    changed = [each for each in parsed if _changed(each, by_key.get((each.kind, each.name)))]
    graphs = [each.name for each in changed if isinstance(each, app.Graph)]
    check_versions(graphs, whole, registered)
    return sorted(merged, key=order_of)


def parse_sent(sent: Sequence[SentDefinition]) -> list[app.Definition]:
    """Raises Invalid BAD_DEFINITION for one that cannot be parsed, or is sent as another."""
    return [_parse(each) for each in sent]


def concerning(
    application: str, parsed: Sequence[app.Definition], stored: Sequence[Definition]
) -> list[Definition]:
    """All of the application, and those that have a name of it already."""
    names = {each.name for each in parsed}
    return [each for each in stored if each.application == application or each.name in names]


def _parse(sent: SentDefinition) -> app.Definition:
    parsed = app.parse_definition_json(sent.spec_json)
    for key, said, meant in (("kind", sent.kind, parsed.kind), ("name", sent.name, parsed.name)):
        if said not in ("", meant):
            raise Invalid("BAD_DEFINITION", key=key, problem=f"{said} was sent with {meant}")
    return parsed


def _changed(parsed: app.Definition, before: Definition | None) -> bool:
    return before is None or before.digest != app.definition_digest(parsed)


def _next(application: str, before: Definition | None, parsed: app.Definition) -> Definition:
    spec_json = app.definition_json(parsed)
    digest = hashlib.sha256(spec_json).hexdigest()
    if before is not None:
        _check_heir(application, before, parsed)
        if before.digest == digest:
            return before
    version = 1 if before is None else before.version + 1
    return Definition(parsed.kind, parsed.name, application, version, spec_json.decode(), digest)


def _check_one_meaning(parsed: app.Definition, by_key: Mapping[tuple[str, str], object]) -> None:
    """Recipes and graphs of all applications are trained by their names."""
    for kind in TRAINED_KINDS:
        if parsed.kind in TRAINED_KINDS and kind != parsed.kind and (kind, parsed.name) in by_key:
            problem = f"a {kind} has this name, and headrace train would mean both"
            raise Invalid("BAD_DEFINITION", kind=parsed.kind, name=parsed.name, problem=problem)


def _check_heir(application: str, before: Definition, parsed: app.Definition) -> None:
    if before.application != application:
        problem = f"belongs to application {before.application} (the name of its folder)"
        raise Invalid("BAD_DEFINITION", kind=before.kind, name=before.name, problem=problem)
    was = before.parsed()
    if isinstance(was, app.Endpoint) and isinstance(parsed, app.Endpoint):
        _check_endpoint(was, parsed)
    if isinstance(was, app.Stream) and isinstance(parsed, app.Stream):
        _check_stream(was, parsed, before.version)


def _check_endpoint(was: app.Endpoint, now: app.Endpoint) -> None:
    if was.model != now.model:
        # Its roll-out is a story of versions of one model; another model is another address.
        problem = f"serves {was.model} for good; give another model its own endpoint"
        raise Invalid("BAD_DEFINITION", kind="endpoint", name=was.name, key="model",
                      problem=problem)  # fmt: skip


def _check_stream(was: app.Stream, now: app.Stream, version: int) -> None:
    if changes := differences(was, now):
        raise Conflict(
            "CONTRACT_INCOMPATIBLE", stream=was.name, version=version, changes=told(changes)
        )


def endpoints_of(model: str, definitions: Sequence[Definition]) -> list[app.Endpoint]:
    """The endpoints that serve the model."""
    parsed = [each.parsed() for each in definitions if each.kind == "endpoint"]
    return [each for each in parsed if isinstance(each, app.Endpoint) and each.model == model]


def model_of(name: str, definitions: Sequence[Definition]) -> Model | None:
    """The model of this name whose versions are registered; None where there is none."""
    for each in definitions:
        if each.key == ("model", name) and isinstance(parsed := each.parsed(), Model):
            return parsed
    return None


def model_names(definitions: Sequence[Definition]) -> set[str]:
    """Every model that is declared, or trained by a recipe or a graph."""
    declared = {each.name for each in definitions if each.kind in ("model", "graph")}
    return declared | {recipe.model for recipe in recipes_of(definitions)}


def graph_of(name: str, definitions: Sequence[Definition]) -> app.Graph | None:
    """The graph of this name; None where there is none."""
    for each in definitions:
        if each.key == ("graph", name) and isinstance(parsed := each.parsed(), app.Graph):
            return parsed
    return None


def recipes_of(definitions: Sequence[Definition]) -> list[app.Recipe]:
    """Every recipe among the definitions."""
    parsed = [each.parsed() for each in definitions if each.kind == "recipe"]
    return [each for each in parsed if isinstance(each, app.Recipe)]
