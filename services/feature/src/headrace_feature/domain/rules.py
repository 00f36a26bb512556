# SPDX-License-Identifier: Apache-2.0
"""What is made of the windows' values before they are an answer: ttl, defaults, ratios.

One step after the other on `answers` [rows, slots] float64, NaN absent; the online read and the
training set take the same steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Stale:
    """Absent where no record was counted within the ttl."""

    slots: tuple[int, ...]
    counted: int

    def apply(self, answers: NDArray[np.float64]) -> None:
        stale = answers[:, self.counted] == 0
        for slot in self.slots:
            answers[stale, slot] = np.nan


@dataclass(frozen=True, slots=True)
class Default:
    """A value for what is absent."""

    slot: int
    value: float

    def apply(self, answers: NDArray[np.float64]) -> None:
        answers[np.isnan(answers[:, self.slot]), self.slot] = self.value


@dataclass(frozen=True, slots=True)
class Ratio:
    """One value divided by another, absent where that is 0 or one of them is absent.

    What leaves float64 is its largest number.
    """

    slot: int
    above: int
    below: int

    def apply(self, answers: NDArray[np.float64]) -> None:
        above, below = answers[:, self.above], answers[:, self.below]
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            answers[:, self.slot] = np.where(below == 0, np.nan, above / below)


@dataclass(frozen=True, slots=True)
class Later:
    """The later of two moments, absent where one of them is."""

    slot: int
    one: int
    other: int

    def apply(self, answers: NDArray[np.float64]) -> None:
        answers[:, self.slot] = np.maximum(answers[:, self.one], answers[:, self.other])


Rule = Stale | Default | Ratio | Later


def apply_rules(rules: Sequence[Rule], answers: NDArray[np.float64]) -> None:
    for rule in rules:
        rule.apply(answers)
