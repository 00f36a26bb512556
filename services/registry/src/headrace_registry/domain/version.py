# SPDX-License-Identifier: Apache-2.0
"""Model versions: what a run made or somebody registered, under a number of its own, and its gate.

A version that was trained elsewhere has no run, no features and no reference: it takes the tensors
that its signature names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.errors import Conflict
from headrace_registry.domain.description import Description
from headrace_registry.domain.gate import Gate
from headrace_registry.domain.signature import Signature
from headrace_registry.domain.signing import UNSIGNED, Signing


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
class RegisterVersion:
    """Make an uploaded file, trained elsewhere, the next version of a model."""

    request_id: str
    model: str
    digest: str
    metrics: Mapping[str, float]
    description: Description
    reason: str = field(default="", repr=False)

    @property
    def trained(self) -> TrainedModel:
        return TrainedModel(self.model, self.digest, (), 0, self.metrics, 0, (), {})


@dataclass(frozen=True, slots=True)
class ApproveVersion:
    """Open the gate of a version that awaits it."""

    request_id: str
    model: str
    version: int
    approver: str
    reason: str


@dataclass(frozen=True, slots=True)
class RetractVersion:
    """Shut the gate of a version for good, so that nothing points to it any more."""

    request_id: str
    model: str
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class DescribeVersion:
    """Change what is said of a version; no card leaves the one that is there."""

    request_id: str
    model: str
    version: int
    tags_set: Mapping[str, str]
    tags_removed: tuple[str, ...]
    card: str | None
    reason: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """An immutable numbered artifact of a model; `run_id` is empty for one trained elsewhere."""

    version: int
    run_id: str
    recipe: str
    incident_id: str
    trained: TrainedModel
    gate: Gate
    registered_at_us: int
    signature: Signature
    description: Description
    signing: Signing = UNSIGNED

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


def gate_settled(version: ModelVersion) -> Conflict:
    """Of what somebody is not asked about this version."""
    named = {"model": version.model, "version": version.version}
    return Conflict("GATE_SETTLED", **named, gate=version.gate.state.value)


@dataclass(frozen=True, slots=True)
class GateOpened:
    """The gate of this version, once somebody approved it."""

    version: ModelVersion


@dataclass(frozen=True, slots=True)
class VersionRetracted:
    """This version was taken back."""

    version: ModelVersion


@dataclass(frozen=True, slots=True)
class VersionSigned:
    """Who vouches for this version now, and its gate after that."""

    version: ModelVersion


@dataclass(frozen=True, slots=True)
class VersionDescribed:
    """What is said of this version now."""

    version: ModelVersion


def _content(trained: TrainedModel) -> str:
    """Text, because two NaN differ as numbers; maps come in any order."""
    metrics, manifest = sorted(trained.metrics.items()), sorted(trained.manifest.items())
    others = (trained.model, trained.digest, trained.features, trained.trained_until_us)
    return repr((*others, metrics, trained.champion_version, trained.reference, manifest))
