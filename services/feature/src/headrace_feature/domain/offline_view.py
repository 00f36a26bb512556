# SPDX-License-Identifier: Apache-2.0
"""A view's observations from the archive, ready to be asked for many rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from headrace.errors import Busy
from headrace_feature.domain.entities import digests
from headrace_feature.domain.history import History, build_history
from headrace_feature.domain.observations import Ids, Ints
from headrace_feature.domain.offline_lookups import Candidates
from headrace_feature.domain.plans import WindowPart
from headrace_feature.domain.point_in_time import Join, Questions
from headrace_feature.domain.records import (
    Entities,
    Numbers,
    Records,
    Texts,
    numbers_of,
    texts_of,
)
from headrace_feature.domain.training_set import Batch
from headrace_feature.domain.views import DTYPE_BY_KIND, Kind, Layout, LookedUp

# The records of the stream that is looked into, in one piece or more, which share no key.
Others = Callable[[LookedUp], Iterable[Records]]


class OfflineView:
    """`records`: of the view's stream, all or those of some entities.

    Raises Busy BATCH_TOO_LARGE where they can look up more than `candidates_max` records.
    """

    def __init__(
        self, part: WindowPart, records: Records, others: Others, *, candidates_max: int
    ) -> None:
        self.part, layout = part, part.layout
        self._entities = Entities(_named(records, layout.entity))
        numbers = self._entities.numbers
        # A dictionary may name entities of which no record is here.
        self._held = np.zeros(self._entities.count + 1, dtype=np.bool_)
        self._held[numbers], self._held[-1] = True, False
        history = _history(records, numbers, layout)
        lookups = {}
        for each in part.lookups:
            keys = [_taken(text, history.rows) for text in _named(records, part.key_of(each))]
            found = _candidates(each, others(each), keys, history, candidates_max)
            lookups[each.place] = found
        self._join = Join(history, lookups)
        self._join.prepare(part.asked)

    def answers(self, batch: Batch) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """[rows] whether the row's entity is among ours, and [rows, features]."""
        texts = [texts_of(batch.column(name)) for name in self.part.layout.entity]
        entity = self._entities.numbers_of(texts)
        questions = Questions(entity, batch.as_of_us)
        return self._held[entity], self._join.answers(questions, self.part.asked)


def _candidates(
    looked_up: LookedUp,
    others: Iterable[Records],
    keys: Sequence[Texts],
    history: History,
    candidates_max: int,
) -> Candidates:
    """`keys`: of each observation of the history."""
    parts, count = [], 0
    for records in others:
        named = Entities(_named(records, looked_up.layout.entity))
        other = _history(records, named.numbers, looked_up.layout)
        numbers, max_age_us = named.numbers_of(keys), looked_up.max_age_us
        parts.append(Candidates.of(other, numbers, history.event_us, max_age_us=max_age_us))
        count += len(parts[-1].known_us)
        if count > candidates_max:
            raise Busy("BATCH_TOO_LARGE", lookup=looked_up.name, records_max=candidates_max)
    return Candidates.joined(parts)


def _history(records: Records, entity: NDArray[np.int64], layout: Layout) -> History:
    kinds = zip(layout.columns, layout.kinds, strict=True)
    columns = [_values(records.columns[name], kind) for name, kind in kinds]
    return build_history(
        entity,
        records.event_us,
        records.known_us,
        records.rank_ids,
        columns,
        lambda rows: _contents(records, layout, rows),
    )


def _contents(records: Records, layout: Layout, rows: NDArray[np.intp]) -> list[Ints]:
    """As the online state has it: the bits of each column, the digests of the keys, and before
    them which there are."""
    bits: list[Ints] = []
    presence = np.zeros(len(rows), dtype=np.int64)
    for name, kind in zip(layout.columns, layout.kinds, strict=True):
        column = _bits(records.columns[name], kind, rows)
        presence |= column.present.astype(np.int64) << len(bits)
        bits.append(np.where(column.present, column.values, 0))
    for key in layout.keys:
        texts = [_taken(each, rows) for each in _named(records, key)]
        named = np.logical_and.reduce([each.codes >= 0 for each in texts])
        presence |= named.astype(np.int64) << len(bits)
        halves = np.zeros((2, len(rows)), dtype=np.int64)
        spelled = ([each.values[code] for code in each.codes[named]] for each in texts)
        halves[:, named] = digests(list(zip(*spelled, strict=True))).view(np.int64)
        bits += [*halves]
    return [*bits, presence]


def _bits(column: Texts | Numbers, kind: Kind, rows: NDArray[np.intp]) -> Numbers:
    """Of these rows, as int64; of a text those of its hash."""
    if isinstance(column, Texts) and kind == "text":
        codes = column.codes[rows]
        texts = [column.values[code] if code >= 0 else "" for code in codes.tolist()]
        hashes = Ids.of([text.encode() for text in texts]).hashes()
        return Numbers(hashes.view(np.int64), codes >= 0)
    numbers = numbers_of(column)
    values = numbers.values[rows].astype(DTYPE_BY_KIND[kind])
    return Numbers(values.view(np.int64), numbers.present[rows])


def _named(records: Records, columns: Sequence[str]) -> list[Texts]:
    return [texts_of(records.columns[name]) for name in columns]


def _taken(texts: Texts, rows: NDArray[np.intp]) -> Texts:
    return Texts(texts.codes[rows], texts.values)


def _values(column: Texts | Numbers, kind: Kind) -> Numbers:
    """Texts are the numbers of different ones where these are counted, else they are absent."""
    if isinstance(column, Texts) and kind == "text":
        return Numbers(column.codes, column.codes >= 0)
    return numbers_of(column)
