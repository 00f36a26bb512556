# SPDX-License-Identifier: Apache-2.0
"""What is served is noted when it is read; a record that comes late finds whom it touches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from headrace.errors import Invalid
from headrace_feature.domain.corrections import Correction, corrections_of
from headrace_feature.domain.gathering import Wanted, ranges_of
from headrace_feature.domain.observations import EVENT, ID_HASH, AnyRun
from headrace_feature.domain.online_query import GetOnlineFeatures
from headrace_feature.domain.reach import Reach, reaches_of
from headrace_feature.domain.request_features import Column, spelled
from headrace_feature.domain.served_rows import Budget, ServedRow, ServedRows, Touched
from headrace_feature.domain.views import Catalogue
from headrace_feature.ports import Folded, ObservationStore

NAMED_MAX = 262_144  # of one look at a batch
ENTITY_BYTES_MAX = 1_024  # of a value in UTF-8: rows are kept by number, and a message is bounded


def note_served(
    query: GetOnlineFeatures, *, catalogue: Catalogue, served: ServedRows, now_us: int
) -> None:
    """To be called before the read, with the moments named.

    Raises what the read would: Invalid BAD_REQUEST, Busy BATCH_TOO_LARGE, NotFound FEATURE_UNKNOWN;
    and Invalid BAD_REQUEST where a value of an entity is longer than ENTITY_BYTES_MAX.
    """
    if query.rows and query.prediction_ids:
        reaches = reaches_of(catalogue, query.features)
        served.note([row for reach in reaches for row in _rows(query, reach, now_us)])


def _rows(query: GetOnlineFeatures, reach: Reach, now_us: int) -> Iterator[ServedRow]:
    """None where a column of the entity is missing: the read refuses that."""
    if not query.columns.keys() >= {*reach.entity}:
        return
    texts = (_texts(name, query.columns[name]) for name in reach.entity)
    moments_us = query.as_of_us.tolist()
    for entity, as_of_us, named in zip(
        zip(*texts, strict=True), moments_us, query.prediction_ids, strict=True
    ):
        if None not in entity:
            yield ServedRow(reach, entity, as_of_us, named, now_us)


def _texts(name: str, column: Column) -> list[str | None]:
    texts = spelled(column)
    if any(text and len(text.encode()) > ENTITY_BYTES_MAX for text in texts):
        problem = f"has at most {ENTITY_BYTES_MAX} bytes where predictions are named"
        raise Invalid("BAD_REQUEST", field=name, problem=problem)
    return texts


@dataclass(frozen=True, slots=True, eq=False)
class Addition:
    """What a batch adds to a layout, and what the layout held before."""

    folded: Folded
    held: Sequence[AnyRun]


def additions(batch: Sequence[Folded], store: ObservationStore) -> list[Addition]:
    """Before the batch is stored: what is new to whoever read before."""
    return [
        Addition(folded, store.runs(folded.layout)) for folded in batch if _caught_up(folded, store)
    ]


def _caught_up(folded: Folded, store: ObservationStore) -> bool:
    placed = store.next_by_partition(folded.layout)
    furthest = store.furthest_by_partition(folded.layout.stream)
    return all(placed.get(n, 0) >= furthest.get(n, 0) for n in folded.next_by_partition)


def find_corrections(
    added: Sequence[Addition],
    numbers: range,
    *,
    served: ServedRows,
    told: Sequence[Correction] = (),
) -> list[Correction]:
    """What these correct of the rows with these numbers. `told`: what they do of other rows.

    Corrections beyond NAMED_MAX rows name no predictions.
    """
    budget = Budget(NAMED_MAX)
    last_part = {each.place: each.part for each in told}
    found: list[Correction] = []
    for addition in added:
        layout, run = addition.folded.layout, addition.folded.run
        touches = served.touched(layout.id, run, numbers, budget)
        for touched in _new(touches, addition) if touches else ():
            found += corrections_of(
                touched,
                run,
                stream=layout.stream,
                remembered_since_us=served.remembered_since_us(),
                last_part=last_part,
            )
    return found


def _new(touches: Sequence[Touched], addition: Addition) -> Iterator[Touched]:
    """Those whose record was not held already: ingest may repeat one after a crash."""
    run = addition.folded.run
    records = np.array([each.record for each in touches])
    event_us, named = run.matrix[records, EVENT], run.matrix[records, ID_HASH]
    entities = run.entities[:, run.starts.searchsorted(records, "right") - 1]
    known = np.zeros(len(touches), dtype=np.bool_)
    for ranges in ranges_of(addition.held, Wanted(entities, event_us - 1, event_us)):
        found = ranges.found()
        held = found.run.rows(found.rows)
        same = (held[:, EVENT] == event_us[found.slots]) & (held[:, ID_HASH] == named[found.slots])
        known[found.slots[same]] = True
    return compress(touches, ~known)
