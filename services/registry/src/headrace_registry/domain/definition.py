# SPDX-License-Identifier: Apache-2.0
"""Definitions as the registry keeps them: canonical JSON, a digest, and a version of their own.

A change is a new digest; the same digest keeps its version. References are checked over everything
that the application would hold afterwards, so that a stored definition never points to nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from headrace import application as app
from headrace.errors import Conflict, Invalid
from headrace_registry.domain.compatibility import differences, told

# Streams first, so that a reader of the topic meets no reference before its target.
KINDS = ("stream", "view", "recipe", "endpoint", "monitor", "label")


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
        return app.parse_definition_json(self.spec_json.encode())


@dataclass(frozen=True, slots=True)
class AppliedDefinitions:
    """The answer to ApplyDefinitions: what was sent, as stored now."""

    definitions: tuple[Definition, ...]


def order_of(definition: Definition) -> tuple[int, str]:
    return KINDS.index(definition.kind), definition.name


def merge(
    application: str, stored: Sequence[Definition], sent: Sequence[SentDefinition]
) -> list[Definition]:
    """The sent definitions as they are to be stored, in the order of KINDS.

    `stored` holds the definitions of all applications. Raises Invalid BAD_DEFINITION for one that
    cannot be parsed, points to nothing, belongs to another application or moves an endpoint to
    another model; Conflict CONTRACT_INCOMPATIBLE for a stream that would refuse older records.
    """
    parsed = [_parse(each) for each in sent]
    by_key = {each.key: each for each in stored}
    given = {(each.kind, each.name) for each in parsed}
    kept = [each for each in stored if each.application == application and each.key not in given]
    app.build_application(application, [*(each.parsed() for each in kept), *parsed])
    merged = [_next(application, by_key.get((each.kind, each.name)), each) for each in parsed]
    return sorted(merged, key=order_of)


def _parse(sent: SentDefinition) -> app.Definition:
    parsed = app.parse_definition_json(sent.spec_json)
    for key, said, meant in (("kind", sent.kind, parsed.kind), ("name", sent.name, parsed.name)):
        if said not in ("", meant):
            raise Invalid("BAD_DEFINITION", key=key, problem=f"{said} was sent with {meant}")
    return parsed


def _next(application: str, before: Definition | None, parsed: app.Definition) -> Definition:
    spec_json = app.definition_json(parsed)
    digest = hashlib.sha256(spec_json).hexdigest()
    if before is not None:
        _check_heir(application, before, parsed)
        if before.digest == digest:
            return before
    version = 1 if before is None else before.version + 1
    return Definition(parsed.kind, parsed.name, application, version, spec_json.decode(), digest)


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


def recipes_of(definitions: Sequence[Definition]) -> list[app.Recipe]:
    """Every recipe among the definitions."""
    parsed = [each.parsed() for each in definitions if each.kind == "recipe"]
    return [each for each in parsed if isinstance(each, app.Recipe)]
