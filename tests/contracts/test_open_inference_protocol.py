# SPDX-License-Identifier: Apache-2.0
"""Our copy of the Open Inference Protocol says what the published client of Triton says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from headrace.oip import grpc_predict_v2_pb2 as oip

THEIRS = service_pb2.DESCRIPTOR.pool
SERVICE = "GRPCInferenceService"
# Their configuration describes what this server has not: of these messages a part is declared.
PART = frozenset(model_config_pb2.DESCRIPTOR.message_types_by_name)


def messages(file: Any) -> Iterator[Any]:
    waiting = list(file.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        waiting += message.nested_types
        yield message


def field(one: Any) -> tuple[object, ...]:
    kind = one.message_type or one.enum_type
    oneof = one.containing_oneof.name if one.containing_oneof else None
    return one.number, one.type, one.is_repeated, kind and kind.full_name, oneof


def fields(message: Any) -> dict[str, tuple[object, ...]]:
    return {one.name: field(one) for one in message.fields}


def methods(file: Any) -> dict[str, tuple[object, ...]]:
    return {
        method.name: (
            method.input_type.full_name,
            method.output_type.full_name,
            method.client_streaming,
            method.server_streaming,
        )
        for method in file.services_by_name[SERVICE].methods
    }


def enums(file: Any) -> Iterator[Any]:
    yield from file.enum_types_by_name.values()
    for message in messages(file):
        yield from message.enum_types


def root(message: Any) -> str:
    return str(message.full_name.split(".")[1])


def test_every_method_of_theirs_is_declared_and_no_other() -> None:
    assert methods(service_pb2.DESCRIPTOR) == methods(oip.DESCRIPTOR)


def test_every_message_of_the_service_is_declared() -> None:
    theirs = {message.full_name for message in messages(service_pb2.DESCRIPTOR)}

    assert set() == theirs - {message.full_name for message in messages(oip.DESCRIPTOR)}


@pytest.mark.parametrize(
    "message", list(messages(oip.DESCRIPTOR)), ids=lambda message: message.full_name
)
def test_message_has_the_fields_of_theirs(message: Any) -> None:
    theirs = fields(THEIRS.FindMessageTypeByName(message.full_name))
    ours = fields(message)

    if root(message) in PART:
        theirs = {name: theirs.get(name) for name in ours}
    assert theirs == ours


@pytest.mark.parametrize("enum", list(enums(oip.DESCRIPTOR)), ids=lambda enum: enum.full_name)
def test_enum_has_the_values_of_theirs(enum: Any) -> None:
    theirs = THEIRS.FindEnumTypeByName(enum.full_name)

    assert {v.name: v.number for v in theirs.values} == {v.name: v.number for v in enum.values}
