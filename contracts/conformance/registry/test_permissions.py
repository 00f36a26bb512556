# SPDX-License-Identifier: Apache-2.0
"""Tokens: a stranger is told nothing, a reader changes nothing, and the audit names the caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from contracts.conformance.registry.asking import CALL_S, Registry, an_onnx_file, refused
from google.protobuf import descriptor_pool

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


def test_no_method_answers_a_stranger(stranger):
    """Whichever reflection would list: a new one is closed too."""
    for path, method in methods().items():
        assert UNKNOWN == refused(asked_nothing(stranger, path, method)), path


def test_reader_may_call_no_method_but_those_that_read(reader):
    found = methods()
    assert {method.name for method in found.values()} > READS

    for path, method in found.items():
        if method.name not in READS:
            assert FORBIDDEN == refused(asked_nothing(reader, path, method)), path


def methods() -> dict[str, Any]:
    """All that the registry's file declares, by path."""
    file = descriptor_pool.Default().FindFileByName("headrace/registry/v1/registry_service.proto")
    return {
        f"/{service.full_name}/{method.name}": method
        for service in file.services_by_name.values()
        for method in service.methods
    }


def asked_nothing(registry: Registry, path: str, method: Any) -> Callable[[], object]:
    """Calls the method with an empty message."""
    kind = "stream" if method.server_streaming else "unary"
    ask = getattr(registry.channel, f"stream_{kind}")(path)

    def answer() -> list[object]:
        given = ask(iter([b""]), timeout=CALL_S, metadata=registry.metadata)
        return [*given] if isinstance(given, grpc.RpcContext) else [given]

    return answer
