# SPDX-License-Identifier: Apache-2.0
"""The gRPC doors of ingest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc

from headrace.errors import HeadraceError
from headrace.ingest.v1 import ingest_service_pb2_grpc
from headrace_ingest.adapters import conversions
from headrace_ingest.handlers.counts import list_stream_counts
from headrace_ingest.handlers.publish import publish_records
from headrace_ingest.ports import Archive, ContractBook, TopicCatalogue
from headrace_kit.grpc_server import remaining_s
from headrace_kit.kafka import Publisher

PUBLISH_S_MAX = 10.0


class IngestApi(ingest_service_pb2_grpc.IngestServiceServicer):
    """Publishes for programs without a Kafka client."""

    def __init__(self, *, contracts: ContractBook, publisher: Publisher) -> None:
        self._contracts, self._publisher = contracts, publisher

    def Publish(self, request: Any, context: grpc.ServicerContext) -> Any:
        reasons = publish_records(
            conversions.to_command(request),
            contracts=self._contracts,
            publisher=self._publisher,
            timeout_s=remaining_s(context, cap_s=PUBLISH_S_MAX),
        )
        return conversions.to_publish_response(reasons)


class DatasetApi(ingest_service_pb2_grpc.DatasetServiceServicer):
    """Answers what the archive holds."""

    def __init__(
        self,
        *,
        contracts: ContractBook,
        catalogue: TopicCatalogue,
        archive: Archive,
        stopped: Callable[[], Mapping[str, HeadraceError]],
    ) -> None:
        self._contracts, self._catalogue, self._archive = contracts, catalogue, archive
        self._stopped = stopped

    def ListStreamCounts(self, request: Any, context: grpc.ServicerContext) -> Any:
        counts = list_stream_counts(
            contracts=self._contracts, catalogue=self._catalogue, archive=self._archive
        )
        return conversions.to_counts_response(counts, self._stopped())
