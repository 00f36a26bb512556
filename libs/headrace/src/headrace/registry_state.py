# SPDX-License-Identifier: Apache-2.0
"""The registry's state twice: as it answers, and as its topics alone tell it. Both are the same.

Anybody who reads the topics can keep a true copy, and a database that lost a row, or a message that
never went out, shows as a difference with a name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from google.protobuf.message import Message

from headrace import topics
from headrace.registry.v1 import registry_events_pb2 as events
from headrace.registry.v1 import registry_service_pb2 as pb

# Asks the registry: the method's name and the request.
Ask = Callable[[str, Any], Any]


class Told(NamedTuple):
    """A message of one of the registry's topics."""

    topic: str
    ce_id: str
    key: bytes | None
    value: bytes | None


@dataclass
class RegistryState:
    """Every entry by a name that says what it is: `version delay/7`, `alias delay@champion`."""

    entries: dict[str, Message] = field(default_factory=dict)

    def digest(self) -> str:
        """The same for the same entries, however they came."""
        digest = hashlib.sha256()
        for name in sorted(self.entries):
            value = self.entries[name].SerializeToString(deterministic=True)
            digest.update(f"{name} {len(value)}\n".encode() + value)
        return digest.hexdigest()

    def differences(self, other: RegistryState) -> list[str]:
        """Names of entries that only one has, or that are not equal."""
        names = self.entries.keys() | other.entries.keys()
        return sorted(name for name in names if self.entries.get(name) != other.entries.get(name))


def answered_state(ask: Ask) -> RegistryState:
    """What the registry says when it is asked for everything."""
    state = RegistryState()
    for definition in _all(ask, "ListDefinitions", pb.ListDefinitionsRequest(), "definitions"):
        _put_definition(state, definition)
    for model in _all(ask, "ListModels", pb.ListModelsRequest(), "models"):
        for alias in model.aliases:
            _put_alias(state, alias)
        listed = pb.ListVersionsRequest(model=model.name)
        for version in (
            _all(ask, "ListVersions", listed, "versions") if model.newest_version else ()
        ):
            name = f"{version.model}/{version.version}"
            asked = pb.ResolveModelRequest(reference=f"models:/{name}")
            state.entries[f"version {name}"] = ask("ResolveModel", asked).version
    for rollout in _all(ask, "ListRollouts", pb.ListRolloutsRequest(), "rollouts"):
        _put_rollout(state, rollout)
    return state


def told_state(messages: Iterable[Told]) -> RegistryState:
    """Folds the registry's topics, each topic in its order.

    A message that comes again has the same `ce_id` and no effect.
    """
    state, seen = RegistryState(), set[tuple[str, str]]()
    for message in messages:
        if (message.topic, message.ce_id) not in seen:
            seen.add((message.topic, message.ce_id))
            _FOLDS[message.topic](state, message)
    return state


def _all(ask: Ask, method: str, request: Any, entries: str) -> Iterable[Any]:
    while True:
        page = ask(method, request)
        yield from getattr(page, entries)
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _put_definition(state: RegistryState, definition: events.Definition) -> None:
    state.entries[f"definition {definition.kind}/{definition.name}"] = definition


def _put_alias(state: RegistryState, alias: events.Alias) -> None:
    state.entries[f"alias {alias.model}@{alias.alias}"] = alias


def _put_rollout(state: RegistryState, rollout: events.Rollout) -> None:
    state.entries[f"rollout {rollout.endpoint}"] = rollout


def _fold_definition(state: RegistryState, message: Told) -> None:
    """Without a value it was taken back: its key alone says which."""
    if message.value is None:
        state.entries.pop(f"definition {(message.key or b'').decode()}", None)
    else:
        _put_definition(state, events.Definition.FromString(message.value))


def _fold_version(state: RegistryState, message: Told) -> None:
    event = events.ModelVersionEvent.FromString(message.value or b"")
    kind = event.WhichOneof("event")
    if kind == "version_registered":
        version = event.version_registered.version
        state.entries[f"version {version.model}/{version.version}"] = version
    elif kind == "alias_moved":
        _put_alias(state, event.alias_moved.alias)
    elif kind is not None:
        change = getattr(event, kind)
        # Of one whose registration never went out this is all that is told: it differs.
        untold = events.ModelVersion(model=change.model, version=change.version)
        name = f"version {change.model}/{change.version}"
        _CHANGES[kind](state.entries.setdefault(name, untold), change)


def _evaluate_gate(version: Any, change: events.GateEvaluated) -> None:
    version.gate.CopyFrom(change.gate)


def _describe(version: Any, change: events.VersionDescribed) -> None:
    version.tags.clear()
    version.tags.update(change.tags)
    version.card = change.card


def _sign(version: Any, change: events.VersionSigned) -> None:
    version.gate.CopyFrom(change.gate)
    version.bundle_digest, version.signer = change.bundle_digest, change.signer


_CHANGES: dict[str, Callable[[Any, Any], None]] = {
    "gate_evaluated": _evaluate_gate,
    "version_described": _describe,
    "version_signed": _sign,
}
_FOLDS: dict[str, Callable[[RegistryState, Told], None]] = {
    topics.REGISTRY_DEFINITIONS.name: _fold_definition,
    topics.REGISTRY_MODEL_VERSIONS.name: _fold_version,
    topics.REGISTRY_ROLLOUTS.name: lambda state, message: _put_rollout(
        state, events.Rollout.FromString(message.value or b"")
    ),
}
TOPICS = tuple(_FOLDS)
