# SPDX-License-Identifier: Apache-2.0
"""What the handlers need from outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace_inference.domain.prediction import Prediction
from headrace_inference.domain.request import Batch
from headrace_inference.domain.rollout import ServedVersion
from headrace_inference.domain.serving import Floats, Model


class Clock(Protocol):
    def now_us(self) -> int:
        """Microseconds since the epoch."""


class FeatureReader(Protocol):
    def read(
        self,
        features: Sequence[str],
        batch: Batch,
        *,
        prediction_ids: Sequence[str],
        timeout_s: float,
    ) -> Floats:
        """Features [rows, features] of the batch's columns, each row as known at its `as_of_us`.

        NaN is an absent value. `prediction_ids` (one for each row) are told when a record comes
        late. Raises Unavailable SERVICE_UNAVAILABLE, and what the feature service answers:
        NotFound FEATURE_UNKNOWN, Unavailable SERVICE_UNAVAILABLE.
        """


class PredictionLog(Protocol):
    def append(self, prediction: Prediction, *, timeout_s: float) -> None:
        """Returns when each row's record is delivered.

        Raises Busy QUEUE_FULL, Unavailable DELIVERY_UNKNOWN.
        """


class ArtifactStore(Protocol):
    def get(self, digest: str) -> bytes:
        """The bytes that hash to the digest (P8).

        Raises Corrupt DIGEST_MISMATCH, NotFound ARTIFACT_UNKNOWN, Busy ARTIFACT_TOO_LARGE,
        Unavailable SERVICE_UNAVAILABLE.
        """


class ModelRuntime(Protocol):
    def load(self, onnx: bytes, served: ServedVersion) -> Model:
        """The model, warm. Raises Invalid FORMAT unless it takes the version's features."""
