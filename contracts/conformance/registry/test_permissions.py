# SPDX-License-Identifier: Apache-2.0
"""Tokens: a stranger is told nothing, a reader changes nothing, and the audit names the caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from contracts.conformance.registry.asking import CALL_S, Registry, an_onnx_file, refused
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from headrace.registry.v1 import registry_service_pb2 as pb

UNKNOWN = (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_UNKNOWN")
READS = {
    "DownloadArtifact", "GetLineage", "ListAliases", "ListAliasMoves", "ListChanges",
    "ListDefinitions", "ListModels", "ListRollouts", "ListVersions", "ResolveModel",
}  # fmt: skip
FORBIDDEN = (grpc.StatusCode.PERMISSION_DENIED, "ACTION_FORBIDDEN")


def asks(registry: Registry, model: str) -> dict:
    return {
        "ApplyDefinitions": lambda: registry.apply(),
        "RetractDefinition": lambda: registry.retract("endpoint", f"{model}-1"),
        "RegisterVersion": lambda: registry.register(model, "0" * 64),
        "SetAlias": lambda: registry.move(model, 1, 1),
        "SetRollout": lambda: registry.roll(f"{model}-1", 1),
        "UploadArtifact": lambda: registry.upload(an_onnx_file()),
    }


def test_stranger_is_refused_whatever_is_asked(registry, stranger):
    model = registry.registered()
    reads = {
        "ListModels": lambda: stranger.call("ListModels", pb.ListModelsRequest()),
        "DownloadArtifact": lambda: stranger.download("0" * 64),
    }

    for name, ask in (asks(stranger, model) | reads).items():
        assert UNKNOWN == refused(ask), name


def test_token_that_nobody_has_is_refused(stranger):
    guessed = Registry(stranger.channel, "x" * 43)

    assert UNKNOWN == refused(lambda: guessed.call("ListModels", pb.ListModelsRequest()))


def test_reader_reads_and_changes_nothing(registry, reader):
    model = registry.registered()

    assert 1 == reader.resolve(f"models:/{model}@champion").version.version
    for name, ask in asks(reader, model).items():
        assert FORBIDDEN == refused(ask), name
    assert 1 == registry.alias(model).generation


@pytest.mark.usefixtures("stranger")
def test_change_is_told_with_the_name_of_its_caller(registry):
    changes = registry.changes(registry.registered())

    assert changes
    assert all(each.caller for each in changes)


def test_no_method_answers_a_stranger(registry, stranger):
    """All that reflection lists: a new one is closed too. Health is open, to be asked by probes."""
    for path, method in methods(registry).items():
        if not path.startswith("/grpc.health."):
            assert UNKNOWN == refused(asked_nothing(stranger, path, method)), path


def test_reader_may_call_no_method_but_those_that_read(registry, reader):
    ours = {path: each for path, each in methods(registry).items() if path.startswith("/headrace.")}
    assert {method.name for method in ours.values()} > READS

    for path, method in ours.items():
        if method.name not in READS:
            assert FORBIDDEN == refused(asked_nothing(reader, path, method)), path


def methods(registry: Registry) -> dict[str, Any]:
    """All that the registry serves, as its reflection tells it, by path."""
    (listed,) = reflected(registry, [{"list_services": ""}])
    names = [each.name for each in listed.list_services_response.service]
    told = reflected(registry, [{"file_containing_symbol": name} for name in names])
    files = [
        FileDescriptorProto.FromString(each)
        for answer in told
        for each in answer.file_descriptor_response.file_descriptor_proto
    ]
    return {
        f"/{name}/{method.name}": method
        for file in files
        for service in file.service
        if (name := f"{file.package}.{service.name}") in names
        for method in service.method
    }


def reflected(registry: Registry, asked: list[dict[str, str]]) -> list[Any]:
    """Its answer to each of these questions."""
    stub = reflection_pb2_grpc.ServerReflectionStub(registry.channel)
    questions = (reflection_pb2.ServerReflectionRequest(**each) for each in asked)
    told = stub.ServerReflectionInfo(questions, timeout=CALL_S, metadata=registry.metadata)
    return [*told]


def asked_nothing(registry: Registry, path: str, method: Any) -> Callable[[], object]:
    """Calls the method with an empty message."""
    kind = "stream" if method.server_streaming else "unary"
    ask = getattr(registry.channel, f"stream_{kind}")(path)

    def answer() -> list[object]:
        given = ask(iter([b""]), timeout=CALL_S, metadata=registry.metadata)
        return [*given] if isinstance(given, grpc.RpcContext) else [given]

    return answer
