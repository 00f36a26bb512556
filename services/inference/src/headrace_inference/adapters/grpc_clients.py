# SPDX-License-Identifier: Apache-2.0
"""The services that this one calls: features by entity keys, artifacts by digest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grpc
import numpy as np

from headrace.feature.v1 import feature_service_pb2_grpc as feature_grpc
from headrace.registry.v1 import registry_service_pb2 as registry_pb
from headrace.registry.v1 import registry_service_pb2_grpc as registry_grpc
from headrace_inference.adapters import conversions
from headrace_inference.domain.request import Batch
from headrace_inference.domain.serving import Floats
from headrace_kit.grpc_client import call, error_of
from headrace_kit.telemetry import histogram

DOWNLOAD_TIMEOUT_S = 60.0
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
    ) -> Floats:
        request = conversions.features_request(features, batch, prediction_ids)
        with seconds.time():
            response = call(
                self._service.GetOnlineFeatures,
                request,
                timeout_s=timeout_s,
                retries_max=READ_RETRIES_MAX,
            )
        return np.frombuffer(response.values, dtype="<f4").reshape(batch.rows, len(features))


class GrpcArtifactSource:
    """ArtifactSource on the registry's ArtifactService."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._service = registry_grpc.ArtifactServiceStub(channel)

    def chunks(self, digest: str) -> Iterator[bytes]:
        request = registry_pb.DownloadArtifactRequest(digest=digest)
        try:
            for response in self._service.DownloadArtifact(request, timeout=DOWNLOAD_TIMEOUT_S):
                yield response.chunk
        except grpc.RpcError as err:
            raise error_of(err) from err
