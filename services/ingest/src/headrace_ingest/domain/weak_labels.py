# SPDX-License-Identifier: Apache-2.0
"""Weak labels: functions vote on records or abstain, and the votes are combined.

Weighted: accuracies by expectation and maximisation, each function with one accuracy for all names
(A. P. Dawid, A. M. Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM
Algorithm", 1979, in its one-coin form), none below chance, as A. Ratner et al. suppose ("Data
Programming: Creating Large Training Sets, Quickly", 2016): a vote never speaks for another name.
Figures as in A. Ratner et al., "Snorkel" (2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.expression import parse_expression
from headrace.label_definition import WeakLabels
from headrace_ingest.domain.contract import Contract
from headrace_kit.expressions import to_polars

ROUNDS = 25
# What is supposed of a function, with the weight of so many votes: all that is known of one that
# never votes beside another.
ACCURACY_FIRST, SUPPOSED_VOTES = 0.7, 2
# Two posteriors that differ by less say the same: the row stays without a label.
TIE = 1e-9
# Enters the ids of labels: what a rule said before it was mended does not stand in the way of what
# it says now, as the record's one label of that id would.
MENDED = {"majority": "", "weighted": "|none below chance"}
Votes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FunctionFigures:
    """Shares of all rows: voted; voted beside another; voted against another.

    `accuracy` is estimated from the votes alone; None when they are not weighted. A function that
    is right no more often than chance is `at_chance`: its votes weigh nothing.
    """

    coverage: float
    overlap: float
    conflict: float
    accuracy: float | None
    at_chance: bool


@dataclass(frozen=True, slots=True)
class Combined:
    """`labels[i]`: index of the name of row i, -1 for none; figures by function."""

    labels: Votes
    figures: Mapping[str, FunctionFigures]


def names_of(weak: WeakLabels) -> list[str]:
    """The names that functions vote for, sorted."""
    return sorted({function.label for function in weak.functions.values()})


def votes_of(records: pl.DataFrame, weak: WeakLabels, contract: Contract) -> Votes:
    """[rows, functions]: index into `names_of`, -1 where the function abstains."""
    types = {name: column.type for name, column in contract.stream.columns.items()}
    names = names_of(weak)
    columns = [
        pl.when(to_polars(parse_expression(function.when, types)))
        .then(names.index(function.label))
        .otherwise(-1)
        .alias(name)
        for name, function in weak.functions.items()
    ]
    # A condition without a column is of one row if it is selected alone.
    votes = records.with_columns(columns).select(list(weak.functions))
    return votes.to_numpy().astype(np.int64).reshape(len(records), len(columns))


def combine(votes: Votes, weak: WeakLabels) -> Combined:
    """By the definition's rule; a tie and a row whose votes weigh nothing get no label."""
    names = len(names_of(weak))
    accuracy = _accuracies(votes, names) if weak.combine == "weighted" else None
    weights = np.ones(votes.shape[1]) if accuracy is None else _weights(accuracy, names)
    scores = _scores(votes, weights, names)
    best = scores.max(axis=1)
    alone = (scores >= best[:, None] - TIE).sum(axis=1) == 1
    labels = np.where(alone & (best > TIE), scores.argmax(axis=1), -1)
    return Combined(labels, _figures(votes, weak, accuracy, _chance(names)))


def _accuracies(votes: Votes, names: int) -> NDArray[np.float64]:
    """From rows with two votes or more: a lone vote is as likely whatever its function is worth."""
    votes = votes[(votes >= 0).sum(axis=1) > 1]
    voted = votes >= 0
    accuracy = np.full(votes.shape[1], ACCURACY_FIRST)
    for _ in range(ROUNDS):
        scores = _scores(votes, _weights(accuracy, names), names)
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        posterior = odds / odds.sum(axis=1, keepdims=True)
        right = np.take_along_axis(posterior, np.maximum(votes, 0), axis=1) * voted
        supposed = ACCURACY_FIRST * SUPPOSED_VOTES
        accuracy = (right.sum(axis=0) + supposed) / (voted.sum(axis=0) + SUPPOSED_VOTES)
        # The likelihood of each is concave, so the bound is where the best within it lies.
        accuracy = np.maximum(accuracy, _chance(names))
    return accuracy


def _chance(names: int) -> float:
    """How often a guess is right; beside the only name there is what nobody named."""
    return 1 / max(2, names)


def _weights(accuracy: NDArray[np.float64], names: int) -> NDArray[np.float64]:
    """How much a vote adds to the log-odds of its name against any other; 0 at chance."""
    wrong = (1 - accuracy) / max(1, names - 1)
    return np.log(accuracy) - np.log(wrong)


def _scores(votes: Votes, weights: NDArray[np.float64], names: int) -> NDArray[np.float64]:
    """[rows, names]"""
    return np.stack([((votes == name) * weights).sum(axis=1) for name in range(names)], axis=1)


def _figures(
    votes: Votes, weak: WeakLabels, accuracy: NDArray[np.float64] | None, chance: float
) -> dict[str, FunctionFigures]:
    voted, rows = votes >= 0, max(1, len(votes))
    figures = {}
    for place, name in enumerate(weak.functions):
        own, others = voted[:, place], np.delete(voted, place, axis=1)
        against = np.delete(votes, place, axis=1) != votes[:, [place]]
        figures[name] = FunctionFigures(
            coverage=float(own.sum() / rows),
            overlap=float((own & others.any(axis=1)).sum() / rows),
            conflict=float((own & (others & against).any(axis=1)).sum() / rows),
            accuracy=None if accuracy is None else float(accuracy[place]),
            at_chance=accuracy is not None and bool(accuracy[place] <= chance),
        )
    return figures
