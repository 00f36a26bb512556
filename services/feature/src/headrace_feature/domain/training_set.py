# SPDX-License-Identifier: Apache-2.0
"""What features are wanted for, and what was made: rows, and the manifest that makes them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.records import Numbers, Texts


class Batch(Protocol):
    """Some of the rows, in order."""

    @property
    def data(self) -> Any:
        """The rows as they are stored and sent."""

    @property
    def as_of_us(self) -> NDArray[np.int64]:
        """[rows]"""

    def column(self, name: str) -> Texts | Numbers:
        """Raises Invalid BAD_REQUEST when the rows have no such column."""


class Rows(Protocol):
    """Rows on disk that features are wanted for, in order; they can be read again."""

    @property
    def count(self) -> int:
        """Of all batches together."""

    @property
    def schema(self) -> Any:
        """Their columns, as they are stored and sent."""

    def batches(self) -> Iterator[Batch]:
        """Each as large as one step of the work may be."""


@dataclass(frozen=True, slots=True)
class Round:
    """Rows of a feature table that are made together: all up to a moment."""

    rows: Rows
    until_us: int


@dataclass(frozen=True, slots=True)
class SpineTally:
    """What a recipe's rows are made from: the records of its spine's stream that were known then,
    the first and the last by event time, and of how many of them no row came, by reason."""

    stream: str
    records: int
    first_us: int
    last_us: int
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RawOffsets:
    """Where the records of a stream lay in a partition of its raw topic: the first and the last."""

    stream: str
    partition: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Historical:
    """Rows and what was answered: `answered` gives [rows, features] float32, NaN where absent.

    It is read once. `definitions`: the digest of the definitions that say what the features are.
    `spine`: of a training set that has few rows; `raw_offsets`: of one, what it was read from.
    """

    features: tuple[str, ...]
    rows: int
    known_until_us: int | None
    version_by_stream: Mapping[str, int]
    definitions: str
    answered: Iterator[tuple[Batch, NDArray[np.float32]]]
    spine: SpineTally | None = None
    raw_offsets: tuple[RawOffsets, ...] = ()
