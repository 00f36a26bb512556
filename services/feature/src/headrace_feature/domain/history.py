# SPDX-License-Identifier: Apache-2.0
"""The archive's observations in order, each once: what the offline windows are ranges of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.records import Contents, Numbers, RankIds
from headrace_feature.domain.sorted_places import Ints, Line


@dataclass(frozen=True, slots=True)
class History:
    """Observations by (entity, event time, id), each once.

    `rows`: which record each is; `entity`: a number; `event_us`, `known_us`: [observations];
    `columns`: as the layout has them.
    """

    rows: NDArray[np.intp]
    entity: Ints
    event_us: Ints
    known_us: Ints
    columns: Sequence[Numbers]


def build_history(
    entity: Ints,
    event_us: Ints,
    known_us: Ints,
    rank_ids: RankIds,
    columns: Sequence[Numbers],
    contents: Contents,
) -> History:
    """Drops observations without entity (-1) and repeats of an id: the first known stays, of
    several the lowest of `contents`."""
    order = Line(entity, event_us).order
    order = order[np.searchsorted(entity[order], 0) :]
    order = _settled(order, entity, event_us, known_us, rank_ids, contents)
    return History(
        rows=order,
        entity=entity[order],
        event_us=event_us[order],
        known_us=known_us[order],
        columns=[Numbers(each.values[order], each.present[order]) for each in columns],
    )


def _settled(
    order: NDArray[np.intp],
    entity: Ints,
    event_us: Ints,
    known_us: Ints,
    rank_ids: RankIds,
    contents: Contents,
) -> NDArray[np.intp]:
    """Equal event times of an entity in the order of their ids, the first known of an id once."""
    tied = np.zeros(len(order) + 1, dtype=np.bool_)
    tied[1:-1] = (np.diff(entity[order]) == 0) & (np.diff(event_us[order]) == 0)
    doubtful = np.flatnonzero(tied[:-1] | tied[1:])
    if not len(doubtful):
        return order
    rows, group = order[doubtful], np.cumsum(~tied[doubtful], dtype=np.int64)
    rank = rank_ids(rows)
    by_id = np.lexsort((known_us[rows], rank, group))
    alike = _alike(by_id, group, rank, known_us[rows])
    if alike.any():
        twins = np.flatnonzero(np.append(alike, False) | np.append(False, alike))
        number = np.cumsum(~np.append(False, alike))[twins]
        by_content = np.lexsort((*contents(rows[by_id[twins]]), number))
        by_id[twins] = by_id[twins][by_content]
    order = order.copy()
    order[doubtful] = rows[by_id]
    return np.delete(order, doubtful[1:][_alike(by_id, group, rank)])


def _alike(order: NDArray[np.intp], *columns: Ints) -> NDArray[np.bool_]:
    """[rows - 1]: whether a row equals the one before in all of them."""
    equal = np.ones(len(order) - 1, dtype=np.bool_)
    for column in columns:
        equal &= np.diff(column[order]) == 0
    return equal
