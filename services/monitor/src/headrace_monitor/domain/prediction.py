# SPDX-License-Identifier: Apache-2.0
"""A prediction as it was logged, and the rows in which it waits for its outcome and keeps it.

Rows have a fixed size and lie side by side in a byte string: the state holds millions of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_ASKED = struct.Struct("<16sqfi?ifq")
_DECIDED = struct.Struct("<qfB")
_DECIDED_TYPE = np.dtype([("as_of_us", "<i8"), ("score", "<f4"), ("outcome", "u1")])
_PAIRED = struct.Struct("<ffB")
_PAIRED_TYPE = np.dtype([("champion", "<f4"), ("canary", "<f4"), ("outcome", "u1")])

Rows = NDArray[np.void]


class Door(Enum):
    """How the caller asked."""

    ENTITY_KEYS = "entity keys"
    TENSORS = "tensors"


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answered row; `shadow_version` 0: the other arm did not score it."""

    prediction_id: str
    endpoint: str
    model: str
    version: int
    entity_key: str
    as_of_us: int
    features: Sequence[float]
    score: float
    canary_answered: bool
    door: Door
    generation: int
    shadow_version: int
    shadow_score: float

    @property
    def champion(self) -> int:
        """The champion of its generation; 0 when the row does not say."""
        return self.shadow_version if self.canary_answered else self.version

    @property
    def canary(self) -> int:
        """The canary of its generation; 0 when there was none."""
        return self.version if self.canary_answered else self.shadow_version

    def asked(self) -> Asked:
        return Asked(
            id_hash=_id_hash(self.prediction_id),
            as_of_us=self.as_of_us,
            score=self.score,
            version=self.version,
            canary_answered=self.canary_answered,
            shadow_version=self.shadow_version,
            shadow_score=self.shadow_score,
            generation=self.generation,
        )


@dataclass(frozen=True, slots=True)
class Nonfinite:
    """A request that an arm said NaN or infinity to."""

    prediction_id: str
    endpoint: str
    as_of_us: int
    canary: bool
    generation: int

    def id_hash(self) -> bytes:
        return _id_hash(self.prediction_id)


class Asked(NamedTuple):
    """A prediction that waits for its outcome, or is kept so that a repeat is known."""

    id_hash: bytes
    as_of_us: int
    score: float
    version: int
    canary_answered: bool
    shadow_version: int
    shadow_score: float
    generation: int

    def row(self) -> bytes:
        return _ASKED.pack(*self)

    def decided(self, outcome: int) -> bytes:
        """The row that quality is computed from."""
        return _DECIDED.pack(self.as_of_us, self.score, outcome)

    def paired(self, outcome: int) -> bytes:
        """The row that the canary is judged by; only with a shadow."""
        pair = (self.score, self.shadow_score)
        return _PAIRED.pack(*(pair[::-1] if self.canary_answered else pair), outcome)


def _id_hash(prediction_id: str) -> bytes:
    return blake2b(prediction_id.encode(), digest_size=16).digest()


def asked_rows(data: bytes) -> Iterator[Asked]:
    return map(Asked._make, _ASKED.iter_unpack(data))


def decided_rows(chunks: Iterable[bytes]) -> Rows:
    """Fields `as_of_us`, `score`, `outcome`, in the order in which they were decided."""
    return np.frombuffer(b"".join(chunks), _DECIDED_TYPE)


def paired_rows(chunks: Iterable[bytes]) -> Rows:
    """Fields `champion` and `canary` (scores) and `outcome`."""
    return np.frombuffer(b"".join(chunks), _PAIRED_TYPE)
