# SPDX-License-Identifier: Apache-2.0
"""Rollouts: which versions an endpoint serves. Each change is a new generation, whole in itself.

A canary is judged against the champion that it started beside, so a move of the champion ends it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from headrace.errors import Conflict, Invalid
from headrace.tensor_changes import tensor_changes, told_changes
from headrace_registry.domain.name import check_name, check_text
from headrace_registry.domain.signature import Signature
from headrace_registry.domain.version import ModelVersion

PERCENT_MAX = 100


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A version and what a server must know to load and feed it."""

    version: int
    digest: str
    features: tuple[str, ...]
    signature: Signature


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
    judged: bool = False
    """Verdicts promote the canary or roll it back."""
    stopped: bool = False
    """Answers nobody."""


@dataclass(frozen=True, slots=True)
class SetRollout:
    """What shall stand beside the champion (`canary_version` 0: nothing), and whether to answer."""

    request_id: str
    endpoint: str
    generation_expected: int
    canary_version: int
    canary_percent: int
    judged: bool
    stopped: bool
    reason: str

    def check(self) -> None:
        """Raises Invalid BAD_REQUEST, BAD_NAME."""
        check_name("endpoint", self.endpoint)
        check_text("reason", self.reason)
        if not 0 <= self.canary_percent <= PERCENT_MAX:
            problem = f"is 0 to {PERCENT_MAX}"
            raise Invalid("BAD_REQUEST", field="canary_percent", problem=problem)
        if not self.canary_version and (self.canary_percent or self.judged):
            problem = "is needed for a percentage, and for verdicts"
            raise Invalid("BAD_REQUEST", field="canary_version", problem=problem)


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
    stopped = before is not None and before.stopped
    champion = served(version)
    if before is not None and (changed := what_callers_meet(before.champion, champion)):
        change += f"; callers by tensors must change: {changed}"
    return Rollout(
        endpoint, version.model, generation, champion, None, 0, change, now_us, stopped=stopped
    )


def with_canary(before: Rollout, version: ModelVersion, percent: int, *, now_us: int) -> Rollout:
    """The version answers for `percent` of the entities; it takes the place of another canary."""
    change = f"canary started: v{version.version} beside v{before.champion.version}"
    if before.canary is not None:
        change += f", instead of v{before.canary.version}"
    return replace(
        before,
        generation=before.generation + 1,
        canary=served(version),
        canary_percent=percent,
        change=change,
        changed_at_us=now_us,
        judged=True,
    )


def as_set(
    before: Rollout, command: SetRollout, canary: ModelVersion | None, *, now_us: int
) -> Rollout:
    """The state that somebody wants by hand."""
    return replace(
        before,
        generation=command.generation_expected + 1,
        canary=None if canary is None else served(canary),
        canary_percent=command.canary_percent,
        change=_said(before, command),
        changed_at_us=now_us,
        judged=command.judged,
        stopped=command.stopped,
    )


def check_callers(before: Rollout, command: SetRollout, canary: ModelVersion) -> None:
    """Raises Conflict TENSORS_DIFFER where it would take the place of the champion for callers
    whose tensors it does not take.

    What stands there already may stay: an endpoint can be stopped, whatever is beside its champion.
    """
    now = (before.canary and before.canary.version, before.canary_percent, before.judged)
    if now == (command.canary_version, command.canary_percent, command.judged):
        return
    changed = what_callers_meet(before.champion, served(canary))
    if changed:
        raise Conflict(
            "TENSORS_DIFFER",
            endpoint=before.endpoint,
            model=before.model,
            version=canary.version,
            champion=before.champion.version,
            changes=changed,
        )


def what_stands_there(rollout: Rollout) -> str:
    """Why no new version takes the place beside the champion; empty where one may."""
    if rollout.canary is None or rollout.judged:
        return ""
    role = "split" if rollout.canary_percent else "shadow"
    return f"v{rollout.canary.version} is a {role} there, set by hand, until that is ended"


def what_callers_meet(champion: ServedVersion, other: ServedVersion) -> str:
    """What callers of the champion would have to change for the other version; empty if nothing.

    Features are read for them, other ones too. Of a version of before acceptance nothing is known.
    """
    if champion.features and other.features:
        return ""
    if champion.features or other.features:
        return f"v{(champion if champion.features else other).version} alone takes features"
    if not champion.signature.inputs or not other.signature.inputs:
        return ""
    return told_changes(tensor_changes(champion.signature, other.signature))


def _said(before: Rollout, command: SetRollout) -> str:
    """What changes in a word or two, and why."""
    said = []
    if before.stopped != command.stopped:
        said.append("stopped" if command.stopped else "started")
    if command.canary_version:
        kind = "canary" if command.judged else "split" if command.canary_percent else "shadow"
        said.append(f"{kind} v{command.canary_version} at {command.canary_percent} %")
    elif before.canary is not None:
        said.append(f"v{before.canary.version} ended")
    return f"{', '.join(said) or 'set'} by request: {command.reason}"


def without_canary(before: Rollout, *, change: str, now_us: int) -> Rollout:
    """The champion serves alone again."""
    return replace(
        before,
        generation=before.generation + 1,
        canary=None,
        canary_percent=0,
        change=change,
        changed_at_us=now_us,
        judged=False,
    )


def judged_now(rollout: Rollout | None, verdict: CanaryJudged) -> bool:
    """Whether the verdict is about what the endpoint serves now; a stale one has no effect."""
    return (
        rollout is not None
        and rollout.canary is not None
        and rollout.judged
        and rollout.model == verdict.model
        and rollout.generation == verdict.rollout_generation
        and rollout.canary.version == verdict.canary_version
    )


def served(version: ModelVersion) -> ServedVersion:
    features = version.trained.features
    return ServedVersion(version.version, version.digest, features, version.signature)
