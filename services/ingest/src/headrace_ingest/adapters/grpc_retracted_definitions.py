# SPDX-License-Identifier: Apache-2.0
"""RetractedDefinitions over the registry's gRPC: its rows stay when a definition is taken back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from headrace.application import Endpoint, Graph, Recipe, Stream, parse_definition_json
from headrace.feature_view import RequestView, StreamView
from headrace.label_definition import LabelDefinition
from headrace.registry.v1 import registry_service_pb2 as registry
from headrace.registry.v1 import registry_service_pb2_grpc as registry_grpc
from headrace_ingest.adapters.registry_pages import registry_pages
from headrace_ingest.domain.contract import Contract
from headrace_ingest.ports.definitions import Retracted


class GrpcRetractedDefinitions:
    """Asks the registry each time: seldom, and an old answer could miss an archive."""

    def __init__(self, channel: grpc.Channel, *, pii_key: bytes | None) -> None:
        self._registry = registry_grpc.RegistryServiceStub(channel)
        self._pii_key = pii_key

    def look_up(self) -> Retracted:
        contracts, views, models = [], [], set[str]()
        labels, entity_columns = [], set[str]()
        for each in self._listed():
            found = parse_definition_json(each.spec_json)
            if isinstance(found, Stream):
                contracts.append(Contract(found, each.version, self._pii_key))
            elif isinstance(found, StreamView | RequestView):
                views.append(found)
            elif isinstance(found, Recipe):
                models.add(found.model)
            elif isinstance(found, Graph):
                models.add(found.name)
            elif isinstance(found, LabelDefinition):
                labels.append(found)
            elif isinstance(found, Endpoint) and found.entity_key:
                entity_columns.add(found.entity_key)
        return Retracted(contracts, views, sorted(models), labels, entity_columns)

    def _listed(self) -> Iterator[Any]:
        request = registry.ListDefinitionsRequest(retracted=True)
        for page in registry_pages(self._registry.ListDefinitions, request):
            yield from page.definitions
