# SPDX-License-Identifier: Apache-2.0
"""What the handlers need from outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace_inference.domain.prediction import Prediction
from headrace_inference.domain.request import Batch, FeatureRows
from headrace_inference.domain.rollout import ServedVersion
from headrace_inference.domain.serving import Model


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
    ) -> FeatureRows:
        """The features of the batch's columns, each row as known at its `as_of_us`.

        `prediction_ids` (one for each row) are told when a record comes
        late. Raises Unavailable SERVICE_UNAVAILABLE, and what the feature service answers:
        NotFound FEATURE_UNKNOWN, Conflict FEATURES_STALE.
        """


class PredictionLog(Protocol):
    def append(self, prediction: Prediction, *, traces: Sequence[str] = ()) -> None:
        """Takes the rows at once, to write them soon; what it cannot keep it counts as lost.

        `traces`: the `traceparent` of each request among them that is traced.
        """


class ModelStore(Protocol):
    def load(self, served: ServedVersion, *, like: Model | None) -> Model:
        """The version's model, in memory and warm; warmed too with what `like` was asked of late.

        Raises Conflict MODEL_TOO_LARGE, Busy MODEL_MEMORY_FULL, Invalid FORMAT, and what an
        artifact is refused with: Corrupt DIGEST_MISMATCH, NotFound ARTIFACT_UNKNOWN, Busy
        ARTIFACT_TOO_LARGE, Unavailable SERVICE_UNAVAILABLE.
        """
