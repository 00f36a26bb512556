# SPDX-License-Identifier: Apache-2.0
"""The registry's state twice: as it answers, and as its topics alone tell it. Both are the same.

Anybody who reads the topics can keep a true copy, and a database that lost a row, or a message that
never went out, shows as a difference with a name. What the registry did not write is no part of the
copy: it is told by its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError, Message

from headrace import topics
from headrace.registry.v1 import registry_events_pb2 as events
from headrace.registry.v1 import registry_service_pb2 as pb

# Asks the registry: the method's name and the request.
Ask = Callable[[str, Any], Any]
SOURCE = b"headrace/registry"


@dataclass(frozen=True, slots=True)
class Told:
    """A record of one of the registry's topics; `place` is for people."""

    topic: str
    place: str
    key: bytes | None
    headers: Mapping[str, bytes]
    value: bytes | None

    @property
    def ce_id(self) -> str:
        return self.headers.get("ce_id", b"").decode(errors="replace")


@dataclass
class RegistryState:
    """Every entry by a name that says what it is: `version delay/7`, `alias delay@champion`.

    `strangers`: the places of records that the registry did not write, and what tells it.
    """

    entries: dict[str, Message] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)

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


def told_state(records: Iterable[Told]) -> RegistryState:
    """Folds the records of the registry's topics, each topic in its order.

    A record that comes again has the same `ce_id` and no effect.
    """
    state, seen = RegistryState(), dict[tuple[str, str], bytes | None]()
    for record in records:
        try:
            message = _read(record)
            if _first(record, seen):
                _FOLDS[record.topic](state, record, message)
        except _StrangerError as err:
            state.strangers.append(f"{record.place}: {err}")
    return state


class _StrangerError(Exception):
    """The registry did not write this record; the text says what tells it."""


def _first(record: Told, seen: dict[tuple[str, str], bytes | None]) -> bool:
    named = (record.topic, record.ce_id)
    if named not in seen:
        seen[named] = record.value
        return True
    if seen[named] != record.value:
        raise _StrangerError(f"a record before it has its ce_id, {record.ce_id}, and other content")
    return False


def _read(record: Told) -> Any:
    """The message of a record that the registry wrote; None of a definition taken back."""
    kind, key_of = _WRITTEN[record.topic]
    headers, name = record.headers, kind.DESCRIPTOR.full_name
    if headers.get("ce_source") != SOURCE or headers.get("ce_type") != name.encode():
        raise _StrangerError(f"its headers do not name the registry and {name}")
    if not record.ce_id:
        raise _StrangerError("it has no ce_id")
    if record.value is None and kind is events.Definition:
        return None
    try:
        message = kind.FromString(record.value or b"")
    except DecodeError:
        raise _StrangerError(f"its value is no {name}") from None
    key = key_of(message)
    if key is not None and record.key != key.encode():
        raise _StrangerError(f"its key is not that of its value, {key or 'empty'}")
    return message


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


def _fold_definition(state: RegistryState, record: Told, message: Any) -> None:
    """Without a value it was taken back: its key alone says which."""
    if message is None:
        state.entries.pop(f"definition {(record.key or b'').decode(errors='replace')}", None)
    else:
        _put_definition(state, message)


def _fold_version(state: RegistryState, _: Told, event: events.ModelVersionEvent) -> None:
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
_FOLDS: dict[str, Callable[[RegistryState, Told, Any], None]] = {
    topics.REGISTRY_DEFINITIONS.name: _fold_definition,
    topics.REGISTRY_MODEL_VERSIONS.name: _fold_version,
    topics.REGISTRY_ROLLOUTS.name: lambda state, _, rollout: _put_rollout(state, rollout),
}


def _model_of(event: events.ModelVersionEvent) -> str | None:
    """None of a kind that is newer than this reader."""
    kind = event.WhichOneof("event")
    if kind == "version_registered":
        return event.version_registered.version.model
    if kind == "alias_moved":
        return event.alias_moved.alias.model
    return None if kind is None else str(getattr(event, kind).model)


# The message of each topic, and the key that its record has.
_WRITTEN: dict[str, tuple[Any, Callable[[Any], str | None]]] = {
    topics.REGISTRY_DEFINITIONS.name: (events.Definition, lambda told: f"{told.kind}/{told.name}"),
    topics.REGISTRY_MODEL_VERSIONS.name: (events.ModelVersionEvent, _model_of),
    topics.REGISTRY_ROLLOUTS.name: (events.Rollout, lambda told: told.endpoint),
}
TOPICS = tuple(_FOLDS)
