# SPDX-License-Identifier: Apache-2.0
"""The one way to read a record of `registry.definitions`: a definition, or that one was taken back.

Every reader reads the whole topic at each start. What one of them cannot read it must skip, or it
would never start again; and all of them must mean the same by a tombstone.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from headrace.application import Definition, parse_definition_json
from headrace.errors import Invalid
from headrace.registry.v1 import registry_events_pb2 as pb


@dataclass(frozen=True, slots=True)
class AppliedDefinition:
    """What is applied now under this kind and name; no `definition`: it was taken back."""

    kind: str
    name: str
    version: int
    definition: Definition | None


def read_applied(key: bytes | None, value: bytes | None) -> AppliedDefinition:
    """Reads a record; raises Invalid DECODE_ERROR, KEY_MISMATCH, or BAD_DEFINITION."""
    kind, name = _kind_and_name(key)
    if value is None:
        return AppliedDefinition(kind, name, 0, None)
    try:
        message = pb.Definition.FromString(value)
    except DecodeError as err:
        raise Invalid("DECODE_ERROR", message="Definition", kind=kind, name=name) from err
    definition = parse_definition_json(message.spec_json)
    if (definition.kind, definition.name) != (kind, name):
        raise Invalid("KEY_MISMATCH", key=f"{kind}/{name}", value=_key(definition))
    return AppliedDefinition(kind, name, message.version, definition)


def _kind_and_name(key: bytes | None) -> tuple[str, str]:
    """The two parts of `<kind>/<name>`."""
    try:
        kind, slash, name = (key or b"").decode().partition("/")
    except UnicodeDecodeError as err:
        raise Invalid("DECODE_ERROR", field="key") from err
    if not (kind and slash and name):
        raise Invalid("DECODE_ERROR", field="key", problem="is not <kind>/<name>")
    return kind, name


def _key(definition: Definition) -> str:
    return f"{definition.kind}/{definition.name}"
