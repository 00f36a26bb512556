# SPDX-License-Identifier: Apache-2.0
"""ModelVersions over the registry's gRPC: what each version's manifest says that it read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import grpc

from headrace.registry.v1 import registry_service_pb2 as registry
from headrace.registry.v1 import registry_service_pb2_grpc as registry_grpc
from headrace_ingest.adapters.registry_pages import registry_pages
from headrace_ingest.domain.erasures import TrainedVersion
from headrace_kit.grpc_client import call

# Names alone: who asks has 5 s, and can do without.
NAMES_TIMEOUT_S = 1.0
READ = "delta_version:"


class GrpcModelVersions:
    """Reads the registry."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._registry = registry_grpc.RegistryServiceStub(channel)

    def features_of(self, model: str, version: int) -> Sequence[str]:
        request = registry.ResolveModelRequest(reference=f"models:/{model}/{version}")
        found = call(
            self._registry.ResolveModel, request, service="registry", timeout_s=NAMES_TIMEOUT_S
        )
        return tuple(found.version.trained.features)

    def trained_on(
        self, models: Collection[str], streams: Mapping[str, int]
    ) -> list[TrainedVersion]:
        found = []
        for model in models if streams else ():
            for each in self._versions(model):
                read = tuple(_read(each.trained, streams))
                if read:
                    found.append(TrainedVersion(model, each.version, read))
        return found

    def _versions(self, model: str) -> Iterator[Any]:
        request = registry.ListVersionsRequest(model=model)
        for page in registry_pages(self._registry.ListVersions, request):
            yield from page.versions


def _read(trained: Any, known_since_us: Mapping[str, int]) -> Iterator[str]:
    """The streams that a training set read when something was known that is asked about."""
    for entry in sorted(trained.manifest):
        stream = entry.removeprefix(READ)
        since_us = known_since_us.get(stream) if entry.startswith(READ) else None
        if since_us is not None and since_us <= trained.trained_until_us:
            yield stream
