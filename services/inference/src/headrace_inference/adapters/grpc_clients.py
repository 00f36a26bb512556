# SPDX-License-Identifier: Apache-2.0
"""The services that this one calls: features by entity keys, artifacts by digest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grpc

from headrace.artifacts import download_chunks
from headrace.feature.v1 import feature_service_pb2_grpc as feature_grpc
from headrace.registry.v1 import registry_service_pb2_grpc as registry_grpc
from headrace_inference.adapters import conversions
from headrace_inference.domain.request import Batch, FeatureRows
from headrace_kit.grpc_client import call, calls_to
from headrace_kit.telemetry import histogram

# Who loads models tries again by itself, and has others to load meanwhile.
CUTS_IN_A_ROW_MAX = 2
READ_RETRIES_MAX = 2

seconds = histogram("inference", "features_seconds", "Reading the features of a request.")


class GrpcFeatureReader:
    """FeatureReader on the feature service."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._service = feature_grpc.FeatureServiceStub(channel)

    def read(
        self,
        features: Sequence[str],
        batch: Batch,
        *,
        prediction_ids: Sequence[str],
        timeout_s: float,
    ) -> FeatureRows:
        request = conversions.features_request(features, batch, prediction_ids)
        with seconds.time():
            response = call(
                self._service.GetOnlineFeatures,
                request,
                service="feature",
                timeout_s=timeout_s,
                retries_max=READ_RETRIES_MAX,
            )
        return conversions.feature_rows(response, (batch.rows, len(features)))


class GrpcArtifactSource:
    """ArtifactSource on the registry's ArtifactService."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._service = registry_grpc.ArtifactServiceStub(channel)

    def chunks(self, digest: str) -> Iterator[bytes]:
        with calls_to("registry"):
            yield from download_chunks(self._service, digest, tries_max=CUTS_IN_A_ROW_MAX)
