# SPDX-License-Identifier: Apache-2.0
"""A view's observations from the archive, ready to be asked for many rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.point_in_time import Join, Questions, build_history
from headrace_feature.domain.records import (
    Entities,
    Numbers,
    Records,
    Texts,
    numbers_of,
    texts_of,
)
from headrace_feature.domain.training_set import Batch
from headrace_feature.domain.views import Kind, WindowPart


class OfflineView:
    """`records`: of the view's stream, all or those of some entities."""

    def __init__(self, part: WindowPart, records: Records) -> None:
        self.part, layout = part, part.layout
        self._entities = Entities([texts_of(records.columns[name]) for name in layout.entity])
        numbers = self._entities.numbers
        # A dictionary may name entities of which no record is here.
        self._held = np.zeros(self._entities.count + 1, dtype=np.bool_)
        self._held[numbers], self._held[-1] = True, False
        kinds = zip(layout.columns, layout.kinds, strict=True)
        history = build_history(
            numbers,
            records.event_us,
            records.known_us,
            records.rank_ids,
            [_values(records.columns[name], kind) for name, kind in kinds],
        )
        self._join = Join(history)
        self._join.prepare(part.asked)

    def answers(self, batch: Batch) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """[rows] whether the row's entity is among ours, and [rows, features]."""
        texts = [texts_of(batch.column(name)) for name in self.part.layout.entity]
        entity = self._entities.numbers_of(texts)
        questions = Questions(entity, batch.as_of_us)
        return self._held[entity], self._join.answers(questions, self.part.asked)


def _values(column: Texts | Numbers, kind: Kind) -> Numbers:
    """Texts are the numbers of different ones where these are counted, else they are absent."""
    if isinstance(column, Texts) and kind == "text":
        return Numbers(column.codes, column.codes >= 0)
    return numbers_of(column)
