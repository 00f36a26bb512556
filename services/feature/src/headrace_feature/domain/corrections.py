# SPDX-License-Identifier: Apache-2.0
"""A correction: a record that came late belongs into features that predictions were made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter

from headrace_feature.domain.observations import EVENT, KNOWN, Run
from headrace_feature.domain.served_rows import Touched

PART_PREDICTIONS_MAX = 4_096  # of ID_BYTES_MAX each: half of a message's bytes
Place = tuple[str, tuple[str, ...], str]


@dataclass(frozen=True, slots=True)
class Correction:
    """One part of what an event touches in a view; see `FeaturesCorrected`.

    `entity`: its values by column, in the order of the view's.
    """

    view: str
    entity: Mapping[str, str]
    features: tuple[str, ...]
    stream: str
    event_id: str
    event_us: int
    known_us: int
    prediction_ids: tuple[str, ...]
    served_from_us: int
    served_until_us: int
    remembered_since_us: int
    part: int
    rows: int

    @property
    def place(self) -> Place:
        """All parts have it in common."""
        return self.view, tuple(self.entity.values()), self.event_id

    @property
    def id(self) -> str:
        named = json.dumps([*self.place, self.part])
        return hashlib.sha256(named.encode()).hexdigest()[:32]


def corrections_of(
    touched: Touched,
    run: Run,
    *,
    stream: str,
    remembered_since_us: int,
    last_part: Mapping[Place, int],
) -> Iterator[Correction]:
    """In parts, so that each fits a message; a prediction that was read for twice is one."""
    event_id, reach = run.ids[touched.record].decode(), touched.reach
    part = last_part.get((reach.view, touched.entity, event_id), 0)
    by_id = {row.prediction_id: row for row in touched.named}
    rows = sorted(by_id.values(), key=attrgetter("as_of_us", "prediction_id"))
    for first in range(0, max(len(rows), 1), PART_PREDICTIONS_MAX):
        some, part = rows[first : first + PART_PREDICTIONS_MAX], part + 1
        yield Correction(
            view=reach.view,
            entity=dict(zip(reach.entity, touched.entity, strict=True)),
            features=touched.features,
            stream=stream,
            event_id=event_id,
            event_us=int(run.matrix[touched.record, EVENT]),
            known_us=int(run.matrix[touched.record, KNOWN]),
            prediction_ids=tuple(row.prediction_id for row in some),
            served_from_us=some[0].as_of_us if some else touched.from_us,
            served_until_us=some[-1].as_of_us if some else touched.until_us,
            remembered_since_us=remembered_since_us,
            part=part,
            rows=touched.count,
        )
