# SPDX-License-Identifier: Apache-2.0
"""Which versions an endpoint serves, and which of the two arms answers an entity.

The arm is a hash of the entity key, so that an entity stays with its arm for as long as the canary
runs. The canary's version salts the hash: another canary tries other entities.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from hashlib import sha256


class Arm(Enum):
    """The two sides of a rollout."""

    CHAMPION = "champion"
    CANARY = "canary"

    # Enum's own is Python, and an arm is looked up for every request.
    __hash__ = object.__hash__

    @property
    def other(self) -> Arm:
        return Arm.CANARY if self is Arm.CHAMPION else Arm.CHAMPION


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A model version: the bytes with this digest, fed with these features in this order."""

    version: int
    digest: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """An endpoint's `generation`-th state: complete in itself."""

    endpoint: str
    model: str
    generation: int
    champion: ServedVersion
    canary: ServedVersion | None = None
    canary_percent: int = 0
    stopped: bool = False

    def digests(self) -> set[str]:
        return {each.digest for each in (self.champion, self.canary) if each is not None}

    def routes_as(self, other: Rollout) -> bool:
        """Whether the same versions answer the same callers."""
        return (self.champion, self.canary, self.canary_percent) == (
            other.champion,
            other.canary,
            other.canary_percent,
        )

    def arm_of(self, sticky_key: str) -> Arm:
        if self.canary is None:
            return Arm.CHAMPION
        salted = f"{self.endpoint}\n{self.canary.version}\n{sticky_key}".encode()
        bucket = int.from_bytes(sha256(salted).digest()[:8], "big") % 100
        return Arm.CANARY if bucket < self.canary_percent else Arm.CHAMPION
