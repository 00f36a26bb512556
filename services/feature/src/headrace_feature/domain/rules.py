# SPDX-License-Identifier: Apache-2.0
"""What is made of values before they are an answer: ttl, defaults, ratios, expressions.

One step after the other on `answers` [rows, slots] float64, NaN absent; the online read and the
training set take the same steps. An expression is computed by polars, as everywhere else: what it
means has one home.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.expression import Expression
from headrace_kit.expressions import to_polars


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
    """The later of two moments; where one is absent, the other."""

    slot: int
    one: int
    other: int

    def apply(self, answers: NDArray[np.float64]) -> None:
        answers[:, self.slot] = np.fmax(answers[:, self.one], answers[:, self.other])


@dataclass(frozen=True, slots=True)
class Computed:
    """An expression over other slots, by name; absent is null to it."""

    slot: int
    expression: Expression
    sources: tuple[tuple[str, int], ...]

    def apply(self, answers: NDArray[np.float64]) -> None:
        columns = {name: answers[:, slot] for name, slot in self.sources}
        # A column of its own, so that what reads no column has a row for each.
        frame = pl.DataFrame({"": answers[:, self.slot], **columns}, nan_to_null=True)
        made = frame.with_columns(to_polars(self.expression).alias("")).to_series(0)
        answers[:, self.slot] = made.cast(pl.Float64).fill_null(np.nan).to_numpy()


Rule = Stale | Default | Ratio | Later | Computed


def apply_rules(rules: Sequence[Rule], answers: NDArray[np.float64]) -> None:
    for rule in rules:
        rule.apply(answers)
