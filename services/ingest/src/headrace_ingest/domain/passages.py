# SPDX-License-Identifier: Apache-2.0
"""Texts of a stream's column as vectors, so that what means alike lies near.

The embedder that ships counts hashed runs of characters: it knows no language, needs no model, and
gives the same vector everywhere. Another one takes its place behind the port.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
RUNS = (3, 4)
TEXT_CHARACTERS_MAX = 8_192
_FACTORS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F], np.uint64)
_MIX = np.uint64(0xFF51AFD7ED558CCD)  # of MurmurHash3's finalizer


@dataclass(frozen=True, slots=True)
class Passage:
    """A text of a column, and the event that it is of."""

    event_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Match:
    """A passage near a query; `similarity` is the cosine, 1 for the same."""

    event_id: str
    text: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Indexed:
    """How far an index is: it holds all that the table held at `version`, -1 for nothing.

    `epoch` counts how often it was dropped: what was read before that is taken in no more. `begun`
    is the version at which it was begun, -1 before: until it holds all of one, it may hold rows of
    any version since.
    """

    version: int = -1
    epoch: int = 0
    begun: int = -1

    @property
    def since(self) -> int:
        """It may hold rows of no version before this one; -1 where it holds none."""
        return self.begun if self.version < 0 else self.version


class Place(NamedTuple):
    """Of a passage among others. An offset alone is none: a topic may be made again."""

    partition: int
    offset: int
    event_id: str


class HashedEmbedder:
    """Embedder by signed feature hashing (Weinberger et al. 2009) of runs of UTF-8 bytes."""

    name = "hashed-3-4"
    dimensions = 256

    def embed(self, texts: Sequence[str]) -> Vectors:
        """[texts, dimensions] float32 of length 1; a text without a run is all zero."""
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        for place, text in enumerate(texts):
            rows[place] = self._counts(text)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)

    def _counts(self, text: str) -> NDArray[np.float64]:
        plain = f" {' '.join(text[:TEXT_CHARACTERS_MAX].lower().split())} "
        data = np.frombuffer(plain.encode(), np.uint8).astype(np.uint64) + np.uint64(1)
        hashes = np.concatenate([_run_hashes(data, length) for length in RUNS])
        signs = np.where(hashes >> np.uint64(63), 1.0, -1.0)
        buckets = (hashes % np.uint64(self.dimensions)).astype(np.int64)
        counts = np.bincount(buckets, weights=signs, minlength=self.dimensions)
        return np.asarray(np.sign(counts) * np.sqrt(np.abs(counts)))


def _run_hashes(data: NDArray[np.uint64], length: int) -> NDArray[np.uint64]:
    """A hash of each run of so many bytes."""
    count = max(0, len(data) - length + 1)
    sums = np.zeros(count, np.uint64)
    for place in range(length):
        sums = (sums ^ (data[place : place + count] * _FACTORS[place])) * _MIX
    return sums ^ (sums >> np.uint64(33))
