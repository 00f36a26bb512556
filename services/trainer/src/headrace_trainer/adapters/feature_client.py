# SPDX-License-Identifier: Apache-2.0
"""TrainingSetClient over FeatureService: the Arrow stream goes to a file, piece by piece."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from headrace.errors import Corrupt, Unavailable
from headrace.feature.v1 import feature_service_pb2 as feature
from headrace.feature.v1 import feature_service_pb2_grpc as feature_grpc
from headrace_kit.grpc_client import error_of
from headrace_trainer.ports import TrainingSet

TIMEOUT_S = 300.0


class GrpcTrainingSetClient:
    """Reads training sets from the feature service."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._features = feature_grpc.FeatureServiceStub(channel)
        self._call: Any = None
        self._abandoned = False

    def create(
        self, recipe: str, known_until_us: int, file: Path, *, published: bool
    ) -> TrainingSet:
        request = feature.CreateTrainingSetRequest(
            recipe=recipe, known_until_us=known_until_us, published=published
        )
        digest, manifest = hashlib.sha256(), None
        self._call, self._abandoned = None, False
        try:
            with file.open("wb") as arrow:
                self._call = self._features.CreateTrainingSet(request, timeout=TIMEOUT_S)
                if self._abandoned:  # while there was no call to cancel
                    self._call.cancel()
                for part in self._call:
                    if part.HasField("manifest"):
                        manifest = part.manifest
                    else:
                        digest.update(part.arrow_ipc)
                        arrow.write(part.arrow_ipc)
        except grpc.RpcError as err:
            raise error_of(err, service="feature") from err
        if manifest is None:
            raise Unavailable("SERVICE_UNAVAILABLE", service="feature", problem="stream cut short")
        if digest.hexdigest() != manifest.digest:
            raise Corrupt("DIGEST_MISMATCH", artifact="training set")
        return TrainingSet(
            file=file,
            features=tuple(manifest.features),
            rows=manifest.rows,
            digest=manifest.digest,
            delta_version_by_stream=dict(manifest.delta_version_by_stream),
            definitions_digest=manifest.definitions_digest,
            spine=_told(manifest) if manifest.HasField("spine") else {},
            offsets_by_stream=_offsets(manifest),
        )

    def abandon(self) -> None:
        self._abandoned = True
        if self._call is not None:
            self._call.cancel()  # of one that has ended nothing comes


def _offsets(manifest: Any) -> dict[str, str]:
    ranges: dict[str, list[str]] = {}
    for each in manifest.raw_offsets:
        ranges.setdefault(each.stream, []).append(f"{each.partition}:{each.first}-{each.last}")
    return {stream: " ".join(texts) for stream, texts in ranges.items()}


def _told(manifest: Any) -> dict[str, str | int]:
    spine, moments = manifest.spine, {"known_until": manifest.known_until_us}
    if spine.records:
        moments["first_event"] = spine.first_event_time_us
        moments["last_event"] = spine.last_event_time_us
    told = {name: _utc(time_us) for name, time_us in moments.items()}
    return {"stream": spine.stream, "records": spine.records, **told, **spine.left_out}


def _utc(time_us: int) -> str:
    return f"{datetime.fromtimestamp(time_us // 1_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}"
