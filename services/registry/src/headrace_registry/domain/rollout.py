# SPDX-License-Identifier: Apache-2.0
"""Rollouts: which versions an endpoint serves. Each change is a new generation, whole in itself.

A canary is judged against the champion that it started beside, so a move of the champion ends it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from headrace_registry.domain.version import ModelVersion


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A version and what a server must know to load and feed it."""

    version: int
    digest: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """What an endpoint serves since its `generation`-th change."""

    endpoint: str
    model: str
    generation: int
    champion: ServedVersion
    canary: ServedVersion | None
    canary_percent: int
    change: str
    changed_at_us: int


@dataclass(frozen=True, slots=True)
class CanaryJudged:
    """The monitor's verdict on the canary of one generation of a rollout."""

    ce_id: str
    endpoint: str
    model: str
    canary_version: int
    rollout_generation: int
    promote: bool
    evidence: str


def with_champion(
    before: Rollout | None, endpoint: str, version: ModelVersion, *, change: str, now_us: int
) -> Rollout:
    """The endpoint serves this version alone."""
    generation = 1 if before is None else before.generation + 1
    champion = _served(version)
    return Rollout(endpoint, version.model, generation, champion, None, 0, change, now_us)


def with_canary(before: Rollout, version: ModelVersion, percent: int, *, now_us: int) -> Rollout:
    """The version answers for `percent` of the entities; it takes the place of another canary."""
    change = f"canary started: v{version.version} beside v{before.champion.version}"
    if before.canary is not None:
        change += f", instead of v{before.canary.version}"
    return replace(
        before,
        generation=before.generation + 1,
        canary=_served(version),
        canary_percent=percent,
        change=change,
        changed_at_us=now_us,
    )


def without_canary(before: Rollout, *, change: str, now_us: int) -> Rollout:
    """The champion serves alone again."""
    return replace(
        before,
        generation=before.generation + 1,
        canary=None,
        canary_percent=0,
        change=change,
        changed_at_us=now_us,
    )


def judged_now(rollout: Rollout | None, verdict: CanaryJudged) -> bool:
    """Whether the verdict is about what the endpoint serves now; a stale one has no effect."""
    return (
        rollout is not None
        and rollout.canary is not None
        and rollout.model == verdict.model
        and rollout.generation == verdict.rollout_generation
        and rollout.canary.version == verdict.canary_version
    )


def _served(version: ModelVersion) -> ServedVersion:
    return ServedVersion(version.version, version.digest, version.trained.features)
