# SPDX-License-Identifier: Apache-2.0
"""ModelVersions over the registry's gRPC: what each version's manifest says that it read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import grpc

from headrace.errors import NotFound
from headrace.registry.v1 import registry_service_pb2 as registry
from headrace.registry.v1 import registry_service_pb2_grpc as registry_grpc
from headrace_ingest.adapters.registry_pages import registry_pages
from headrace_ingest.domain.trained_versions import Training
from headrace_kit.grpc_client import call

# Names alone: who asks has 5 s, and can do without.
NAMES_TIMEOUT_S = 1.0
# Entries of a manifest: a table that was read, and what a graph is made of.
READ = "delta_version:"
COMPONENT = re.compile(r"component:models:/([^/@]+)/([0-9]+)")


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

    def trainings(self, models: Collection[str], after: Mapping[str, int]) -> Iterator[Training]:
        for model in models:
            for each in self._versions(model):
                if each.version <= after.get(model, 0):
                    break
                yield _training(each)

    def _versions(self, model: str) -> Iterator[Any]:
        """Newest first."""
        request = registry.ListVersionsRequest(model=model)
        try:
            for page in registry_pages(self._registry.ListVersions, request):
                yield from page.versions
        except NotFound as err:
            # Its recipe was taken back before it ever made one.
            if err.reason != "MODEL_UNKNOWN":
                raise


def _training(version: Any) -> Training:
    trained, manifest = version.trained, version.trained.manifest
    read = {
        entry.removeprefix(READ): _table_version(at)
        for entry, at in manifest.items()
        if entry.startswith(READ)
    }
    components = (COMPONENT.fullmatch(entry) for entry in sorted(manifest))
    inside = tuple((part[1], int(part[2])) for part in components if part is not None)
    return Training(version.model, version.version, trained.trained_until_us, read, inside)


def _table_version(at: str) -> int:
    """One that cannot be read may be any, and counts as the oldest."""
    return int(at) if at.isdecimal() else -1
