# SPDX-License-Identifier: Apache-2.0
"""A training set's rows and labels, by facts known at a moment and not one more.

A row is a record of the spine that was itself known when it is asked. Its label is the first known
value for its key; where none was known within `absent_after` of the row's time, the outcome did not
come: 1, known at that moment. A row whose label is not known yet is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.application import Label, Recipe
from headrace_feature.domain.records import Records, numbered, once_each

SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Rows:
    """Spine records in order of (as_of, id), with the moment asked and the label of each."""

    spine: Records
    as_of_us: NDArray[np.int64]
    label: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """`values`: [rows, features] float32, NaN where absent; `label`: 0 or 1."""

    features: tuple[str, ...]
    entity_keys: list[str]
    as_of_us: NDArray[np.int64]
    label: NDArray[np.float32]
    values: NDArray[np.float32]
    known_until_us: int
    version_by_stream: dict[str, int]


def build_rows(recipe: Recipe, spine: Records, labels: Records, known_until_us: int) -> Rows:
    """`spine` and `labels` hold what was known at `known_until_us`."""
    spine, labels = once_each(spine), once_each(labels)
    asked = spine.numbers(recipe.spine.time)
    as_of_us = asked.values.astype(np.int64) + recipe.spine.offset_s * SECOND_US
    label, known_us = _labels(recipe, spine, labels, asked.values.astype(np.int64))
    taken = (
        asked.present
        & (spine.texts(recipe.spine.entity_key).codes >= 0)
        & (spine.known_us <= as_of_us)
        & (np.maximum(as_of_us, known_us) <= known_until_us)
    )
    rows = np.flatnonzero(taken)
    rows = rows[np.lexsort((spine.id_rank[rows], as_of_us[rows]))]
    return Rows(spine.taken(rows), as_of_us[rows], label[rows])


def _labels(
    recipe: Recipe, spine: Records, labels: Records, asked_us: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Per spine record, its label and when that became known."""
    absent_us = asked_us + recipe.label.absent_after_s * SECOND_US
    entity, key = numbered([spine.texts(recipe.spine.entity_key)], [labels.texts(recipe.label.key)])
    first = _first_known(recipe.label, labels, key)
    place = np.full(max(entity.max(initial=-1), key.max(initial=-1)) + 2, -1, dtype=np.int64)
    place[key[first]] = first
    place[-1] = -1
    found = place[entity]
    late = found < 0
    late[~late] = labels.known_us[found[~late]] > absent_us[~late]
    label, known_us = np.ones(len(entity), dtype=np.float32), absent_us.copy()
    values = labels.numbers(recipe.label.column).values[found[~late]]
    label[~late] = values > recipe.label.above
    known_us[~late] = labels.known_us[found[~late]]
    return label, known_us


def _first_known(rule: Label, labels: Records, key: NDArray[np.int64]) -> NDArray[np.intp]:
    """The label record of each key: of those with a value, the first known."""
    usable = np.flatnonzero(labels.numbers(rule.column).present & (key >= 0))
    order = usable[
        np.lexsort(
            (labels.id_rank[usable], labels.event_us[usable], labels.known_us[usable], key[usable])
        )
    ]
    _, first = np.unique(key[order], return_index=True)
    return order[first]
