# SPDX-License-Identifier: Apache-2.0
"""Model versions: what a run made, under a number of its own, with the verdict of its gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace_registry.domain.gate import Gate


@dataclass(frozen=True, slots=True)
class ReferenceHistogram:
    """The reference window of one feature: counts between `edges`, then one for NaN."""

    feature: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    # Independent rows that a window of the monitor is worth; 0: not measured.
    effective_rows: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model that a run made, with the evidence that its gate reads."""

    model: str
    digest: str
    features: tuple[str, ...]
    trained_until_us: int
    metrics: Mapping[str, float]
    champion_version: int
    reference: tuple[ReferenceHistogram, ...]
    manifest: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RunCompleted:
    """A training run ended with a model; `ce_id` names the event over all its repeats."""

    ce_id: str
    run_id: str
    recipe: str
    incident_id: str
    trained: TrainedModel


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """An immutable numbered artifact of a model."""

    version: int
    run_id: str
    recipe: str
    incident_id: str
    trained: TrainedModel
    gate: Gate
    registered_at_us: int

    @property
    def model(self) -> str:
        return self.trained.model

    @property
    def digest(self) -> str:
        return self.trained.digest

    def made_by(self, run: RunCompleted) -> bool:
        """Whether `run` tells the same as the run that this version was registered from."""
        return (self.run_id, self.recipe, self.incident_id) == (
            run.run_id,
            run.recipe,
            run.incident_id,
        ) and _content(self.trained) == _content(run.trained)


def _content(trained: TrainedModel) -> str:
    """Text, because two NaN differ as numbers; maps come in any order."""
    metrics, manifest = sorted(trained.metrics.items()), sorted(trained.manifest.items())
    others = (trained.model, trained.digest, trained.features, trained.trained_until_us)
    return repr((*others, metrics, trained.champion_version, trained.reference, manifest))
