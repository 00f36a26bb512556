# SPDX-License-Identifier: Apache-2.0
"""Tells `feature.corrections` whom a late record touches, at least once, and keeps who was served.

    s | number     rows that were served, from this number on, as JSON
    c | number     a correction that is not known to be delivered

Both stand in the batch of the records that they come from. What is unsent is sent at the next
start, as it was, with its id. Rows that were noted in the last moments before a kill -9 are lost.
"""

from __future__ import annotations

import json
import struct
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial

from headrace import topics
from headrace.feature.v1 import feature_events_pb2 as events
from headrace_feature.adapters.conversions import to_correction_message
from headrace_feature.correction_handlers import Addition, additions, find_corrections
from headrace_feature.domain.corrections import Correction
from headrace_feature.domain.edges import Window
from headrace_feature.domain.reach import Reach
from headrace_feature.domain.served_rows import ServedRow, ServedRows
from headrace_feature.ports import Folded, ObservationStore
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Message, Publisher
from headrace_kit.state_store import StateStore
from headrace_kit.telemetry import counter

SERVED, UNSENT = b"s", b"c"
HEADERS = (
    ("ce_specversion", b"1.0"),
    ("ce_type", b"headrace.feature.v1.FeaturesCorrected"),
    ("ce_source", b"feature"),
)
_NUMBER = struct.Struct(">Q")

TOLD = counter("feature", "corrections_total", "Corrections that were delivered.")


class CorrectionTeller:
    """FoldFollower; called by the loop's thread alone."""

    def __init__(
        self,
        *,
        state: StateStore,
        observations: ObservationStore,
        served: ServedRows,
        publisher: Publisher,
    ) -> None:
        self._state, self._observations = state, observations
        self._served, self._publisher = served, publisher
        self._blocks: deque[range] = deque()  # of rows that are stored
        for key, value in state.scan(SERVED, SERVED + b"\xff"):
            rows, first = _rows(value), _NUMBER.unpack(key[1:])[0]
            served.restore(first, rows)
            self._blocks.append(range(first, first + len(rows)))
        self._unsent = dict(state.scan(UNSENT, UNSENT + b"\xff"))
        self._next = max((_NUMBER.unpack(key[1:])[0] + 1 for key in self._unsent), default=0)
        self._sent: list[bytes] = []
        self._planned = _Plan({}, [], range(0))
        self._added: list[Addition] = []
        self._found: list[Correction] = []
        self._missed: list[Correction] = []
        self._judged = served.next_number  # rows before it were, with the batch at hand

    def beside(self, batch: Sequence[Folded]) -> Mapping[bytes, bytes | None]:
        """What must be durable with the batch; None takes a key away."""
        self._judged = self._served.next_number
        self._added = additions(batch, self._observations)
        self._found = find_corrections(self._added, range(self._judged), served=self._served)
        self._planned = self._plan()
        return {**self._planned.changes, **self._numbered(self._found)}

    def stored(self) -> None:
        """The batch is readable; who was noted while it was stored may have read without it."""
        self._carried_out(self._planned)
        self._to_be_sent(self._numbered(self._found))
        numbers = range(self._judged, self._served.next_number)
        self._missed += find_corrections(
            self._added, numbers, served=self._served, told=self._found
        )
        self._added, self._found = [], []
        if self._missed:
            puts = self._numbered(self._missed)
            self._state.commit(puts, [], {})  # where it fails, the next try finds nothing new
            self._missed = []
            self._to_be_sent(puts)

    def send(self) -> None:
        """Deliver what is not; raises Unavailable, Busy."""
        if not self._unsent:
            return
        self._publisher.publish([_message(value) for value in self._unsent.values()])
        failpoint("feature.loop.correction_sent")
        TOLD.inc(len(self._unsent))
        self._sent += self._unsent
        self._unsent = {}

    def forget(self, erased: ErasedEntities) -> None:
        """Whoever was served and is erased now is named no more, here and in the store."""
        if not self._served.forget(partial(_speaks_of, erased)):
            return
        found = [self._served.numbered(block) for block in self._blocks]
        puts = {_key(SERVED, first): _value(rows) for first, rows in found if rows}
        gone = {_key(SERVED, block.start) for block in self._blocks} - puts.keys()
        self._state.commit(puts, gone, {})
        self._blocks = deque(range(first, first + len(rows)) for first, rows in found if rows)

    def idle(self) -> None:
        """Store what no batch did."""
        self._judged = self._served.next_number
        plan = self._plan()
        if plan.changes:
            puts = {key: value for key, value in plan.changes.items() if value is not None}
            self._state.commit(puts, plan.changes.keys() - puts.keys(), {})
            self._carried_out(plan)

    def _plan(self) -> _Plan:
        """What of the rows and of what was sent is not in the store as it is here."""
        forgotten = [each for each in self._blocks if each.stop <= self._served.first_number]
        saved = self._blocks[-1].stop if self._blocks else 0
        first, rows = self._served.numbered(range(saved, self._judged))
        changes: dict[bytes, bytes | None] = dict.fromkeys(self._sent)
        changes |= {_key(SERVED, block.start): None for block in forgotten}
        if rows:
            changes[_key(SERVED, first)] = _value(rows)
        return _Plan(changes, forgotten, range(first, first + len(rows)))

    def _carried_out(self, plan: _Plan) -> None:
        self._sent.clear()
        for _ in plan.forgotten:
            self._blocks.popleft()
        if plan.added:
            self._blocks.append(plan.added)

    def _numbered(self, corrections: Sequence[Correction]) -> dict[bytes, bytes]:
        return {
            _key(UNSENT, number): to_correction_message(each).SerializeToString()
            for number, each in enumerate(corrections, self._next)
        }

    def _to_be_sent(self, puts: Mapping[bytes, bytes]) -> None:
        self._unsent |= puts
        self._next += len(puts)


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Changes of the store, and what they mean: blocks of rows that go, and one that comes."""

    changes: Mapping[bytes, bytes | None]
    forgotten: Sequence[range]
    added: range


def _speaks_of(erased: ErasedEntities, row: ServedRow) -> bool:
    named = zip(row.reach.entity, row.entity, strict=True)
    return any(erased.holds(column, value, row.as_of_us) for column, value in named)


def _message(value: bytes) -> Message:
    event = events.FeaturesCorrected.FromString(value)
    key = "/".join((event.view, *(text for _, text in sorted(event.entity.items()))))
    headers = (*HEADERS, ("ce_id", event.correction_id.encode()))
    return Message(topics.FEATURE_CORRECTIONS.name, key.encode(), value, headers)


def _key(kind: bytes, number: int) -> bytes:
    return kind + _NUMBER.pack(number)


def _value(rows: Sequence[ServedRow]) -> bytes:
    places = {reach: place for place, reach in enumerate({row.reach: None for row in rows})}
    return json.dumps(
        {
            "reaches": [
                [
                    each.layout_id.hex(),
                    each.view,
                    each.entity,
                    [[n, *astuple(w)] for n, w in each.windows],
                ]
                for each in places
            ],
            "rows": [
                [places[row.reach], row.entity, row.as_of_us, row.prediction_id, row.noted_us]
                for row in rows
            ],
        }
    ).encode()


def _rows(value: bytes) -> list[ServedRow]:
    stored = json.loads(value)
    reaches = [
        Reach(
            bytes.fromhex(layout),
            view,
            tuple(entity),
            tuple((name, Window(*window)) for name, *window in windows),
        )
        for layout, view, entity, windows in stored["reaches"]
    ]
    return [
        ServedRow(reaches[place], tuple(entity), *rest) for place, entity, *rest in stored["rows"]
    ]
