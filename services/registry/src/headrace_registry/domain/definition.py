# SPDX-License-Identifier: Apache-2.0
"""Definitions as the registry keeps them: canonical JSON, a digest, and a version of their own.

A change is a new digest; the same digest keeps its version. References are checked over everything
that the application would hold afterwards, so that a stored definition never points to nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from headrace import application as app
from headrace.errors import Conflict, Invalid, NotFound
from headrace.graph_check import Registered, check_versions
from headrace.model_definition import Model
from headrace_registry.domain.compatibility import differences, told
from headrace_registry.domain.name import check_name, check_text
from headrace_registry.domain.needs import Key, needed_by

# Every follower holds all of them, and each move of an alias looks through them.
DEFINITIONS_MAX = 4_096
# A record of the topic holds one, with room for what it is wrapped in.
SPEC_BYTES_MAX = 512 << 10
# An error carries 512 bytes in one value, and a name may have 128.
NAMES_TOLD_MAX = 3
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
    reason: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class RetractDefinition:
    """Take this definition back."""

    request_id: str
    kind: str
    name: str
    reason: str

    def check(self) -> None:
        """Raises Invalid BAD_REQUEST, BAD_NAME."""
        if self.kind not in KINDS:
            raise Invalid("BAD_REQUEST", field="kind", problem=f"is one of {', '.join(KINDS)}")
        check_name("name", self.name)
        check_text("reason", self.reason)


@dataclass(frozen=True, slots=True)
class Definition:
    """A definition as stored; `digest` is the sha256 of `spec_json`.

    One that was taken back stays, for its next version has to follow it.
    """

    kind: str
    name: str
    application: str
    version: int
    spec_json: str
    digest: str
    retracted: bool = False

    @property
    def key(self) -> Key:
        return self.kind, self.name

    def parsed(self) -> app.Definition:
        return _parsed(self.spec_json)


@lru_cache(DEFINITIONS_MAX)
def _parsed(spec_json: str) -> app.Definition:
    """Kept, for each move of an alias looks through the endpoints; definitions are frozen."""
    return app.parse_definition_json(spec_json.encode())


@dataclass(frozen=True, slots=True)
class DefinitionRetracted:
    """The definition as it was last; from now on it is not applied."""

    definition: Definition


@dataclass(frozen=True, slots=True)
class AppliedDefinitions:
    """The answer to ApplyDefinitions: what was sent, as stored now, and if any is new."""

    definitions: tuple[Definition, ...]
    changed: bool = True  # the answers of before do not tell


def order_of(definition: Definition) -> tuple[int, str]:
    return KINDS.index(definition.kind), definition.name


def merge(
    application: str,
    stored: Sequence[Definition],
    parsed: Sequence[app.Definition],
    registered: Registered = lambda _: None,
) -> list[Definition]:
    """The parsed definitions as they are to be stored, in the order of KINDS.

    `stored` holds what concerns them and was ever applied, `registered` tells the tensors of
    versions that exist. Raises Invalid BAD_DEFINITION for one that points to nothing, belongs to
    another application or moves an endpoint to another model; NotFound VERSION_UNKNOWN for a graph
    of a version that is not there; Conflict CONTRACT_INCOMPATIBLE for a stream that would refuse
    older records.
    """
    by_key = {each.key: each for each in stored}
    given = {(each.kind, each.name) for each in parsed}
    kept = [
        each
        for each in applied(stored)
        if each.application == application and each.key not in given
    ]
    whole = app.build_application(application, [*(each.parsed() for each in kept), *parsed])
    names = {each.key for each in applied(stored)}
    for each in parsed:
        _check_one_meaning(each, names)
    merged = [_next(application, by_key.get((each.kind, each.name)), each) for each in parsed]
    _check_streams(parsed, by_key)
    changed = [each for each in parsed if _changed(each, by_key.get((each.kind, each.name)))]
    graphs = [each.name for each in changed if isinstance(each, app.Graph)]
    check_versions(graphs, whole, registered)
    return sorted(merged, key=order_of)


def applied(ever: Sequence[Definition]) -> list[Definition]:
    """Those of all that were ever applied that still are."""
    return [each for each in ever if not each.retracted]


def check_room(ever: Sequence[Definition], merged: Sequence[Definition]) -> None:
    """Raises Conflict TOO_MANY_DEFINITIONS where more would be applied than there may be."""
    keys = {each.key for each in applied(ever)}
    held = len(keys.union(each.key for each in merged))
    if held > max(DEFINITIONS_MAX, len(keys)):  # an older registry may have taken more
        raise Conflict("TOO_MANY_DEFINITIONS", wanted=held, max=DEFINITIONS_MAX)


def retract(command: RetractDefinition, ever: Sequence[Definition]) -> DefinitionRetracted:
    """Raises NotFound DEFINITION_UNKNOWN, Conflict DEFINITION_NEEDED with those that need it."""
    by_key = {each.key: each for each in applied(ever)}
    found = by_key.pop((command.kind, command.name), None)
    if found is None:
        raise NotFound("DEFINITION_UNKNOWN", kind=command.kind, name=command.name)
    others = [e.parsed() for e in by_key.values() if e.application == found.application]
    if needing := needed_by(found.parsed(), others):
        named = {"kind": command.kind, "name": command.name, "application": found.application}
        raise Conflict("DEFINITION_NEEDED", **named, needed_by=_listed(needing))
    return DefinitionRetracted(replace(found, retracted=True))


def _listed(names: Sequence[str]) -> str:
    """Short enough for an error."""
    shown, left = ", ".join(names[:NAMES_TOLD_MAX]), len(names) - NAMES_TOLD_MAX
    return f"{shown} and {left} more" if left > 0 else shown


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
    """Whether it is to be stored; one that was taken back is, though its words are the same."""
    return before is None or before.retracted or before.digest != app.definition_digest(parsed)


def _next(application: str, before: Definition | None, parsed: app.Definition) -> Definition:
    spec_json = app.definition_json(parsed)
    digest = hashlib.sha256(spec_json).hexdigest()
    if before is not None:
        _check_heir(application, before, parsed)
        if before.digest == digest and not before.retracted:
            return before
    _check_size(parsed, spec_json)
    version = 1 if before is None else before.version + 1
    return Definition(parsed.kind, parsed.name, application, version, spec_json.decode(), digest)


def _check_size(parsed: app.Definition, spec_json: bytes) -> None:
    """Only of what is to be stored: an older registry may have taken more."""
    if len(spec_json) > SPEC_BYTES_MAX:
        problem = f"is {len(spec_json)} bytes of JSON; {SPEC_BYTES_MAX} are taken at most"
        raise Invalid("BAD_DEFINITION", kind=parsed.kind, name=parsed.name, problem=problem)


def _check_one_meaning(parsed: app.Definition, names: Collection[Key]) -> None:
    """Recipes and graphs of all applications are trained by their names."""
    for kind in TRAINED_KINDS:
        if parsed.kind in TRAINED_KINDS and kind != parsed.kind and (kind, parsed.name) in names:
            problem = f"a {kind} has this name, and headrace train would mean both"
            raise Invalid("BAD_DEFINITION", kind=parsed.kind, name=parsed.name, problem=problem)


def _check_heir(application: str, before: Definition, parsed: app.Definition) -> None:
    """What was taken back may be of another application next; its records and versions stay."""
    if before.application != application and not before.retracted:
        problem = f"belongs to application {before.application} (the name of its folder)"
        raise Invalid("BAD_DEFINITION", kind=before.kind, name=before.name, problem=problem)
    was = before.parsed()
    if isinstance(was, app.Endpoint) and isinstance(parsed, app.Endpoint):
        _check_endpoint(was, parsed)


def _check_endpoint(was: app.Endpoint, now: app.Endpoint) -> None:
    if was.model != now.model:
        # Its roll-out is a story of versions of one model; another model is another address.
        problem = f"serves {was.model} for good; give another model its own endpoint"
        raise Invalid("BAD_DEFINITION", kind="endpoint", name=was.name, key="model",
                      problem=problem)  # fmt: skip


def _check_streams(parsed: Sequence[app.Definition], by_key: Mapping[Key, Definition]) -> None:
    """Tells all changes of all contracts at once, so that they can be mended together."""
    found: dict[Definition, list[str]] = {}
    for now in parsed:
        before = by_key.get((now.kind, now.name))
        was = None if before is None else before.parsed()
        if before and isinstance(was, app.Stream) and isinstance(now, app.Stream):
            found[before] = differences(was, now)
    refused = {before: changes for before, changes in found.items() if changes}
    if refused:
        lines = [
            change if len(refused) == 1 else f"{before.name}: {change}"
            for before, changes in refused.items()
            for change in changes
        ]
        named, versions = (
            ", ".join(str(getattr(each, of)) for each in refused) for of in ("name", "version")
        )
        raise Conflict("CONTRACT_INCOMPATIBLE", stream=named, version=versions, changes=told(lines))


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
