# SPDX-License-Identifier: Apache-2.0
"""Kafka's requests fill the batches that the callers at the door leave room in.

They stand behind every caller, and so few are handed over at a time that no caller waits longer
than FILL_S_MAX for what was begun for them. What is not answered in time is left for later: its
topic keeps it.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from headrace_inference.adapters.entity_runs import ROW_S, EntityAsk
from headrace_inference.adapters.hot_infer import QUICK_S, HotInfer
from headrace_inference.adapters.lanes import in_parts
from headrace_inference.adapters.record_calls import RecordCall
from headrace_inference.adapters.request_parameters import answer_by_s, timeout_s
from headrace_inference.adapters.shared_runs import Ask, Kind

FILL_S_MAX = 0.1
ENTITY_ROWS_MAX = int(FILL_S_MAX / ROW_S)
AnyAsk = TypeVar("AnyAsk", Ask, EntityAsk)


class Turn(Protocol):
    def __call__(self, *, until_s: float) -> None:
        """Answers what it can until then."""


class RecordFiller:
    """Answers calls from a thread of Kafka's own."""

    def __init__(self, hot: HotInfer) -> None:
        self._hot = hot

    def fill(self, calls: Sequence[RecordCall], *, until_s: float) -> None:
        """Answers as many as it can until then, by time.monotonic."""
        kinds, entities, alone = self._hot.read(calls)
        turns: list[Turn] = [partial(self._by_form, kind, asks) for kind, asks in kinds.items()]
        turns += self._turns_by_entity(entities)
        turns += self._turns_alone(alone)
        for left in range(len(turns), 0, -1):
            # One that is slow or not in memory takes no more than its share of the time.
            share_s = max(0.0, until_s - time.monotonic()) / left
            turns[-left](until_s=time.monotonic() + share_s)

    def _by_form(self, kind: Kind, asks: Sequence[Ask], *, until_s: float) -> None:
        for ask in asks:
            ask.call.deadline_s = ask.deadline_s
        for part in in_parts(asks, self._rows_at_once(kind)):
            if time.monotonic() < until_s:
                self._run(kind, part, until_s)

    def _run(self, kind: Kind, part: Sequence[Ask], until_s: float) -> None:
        if kind.resident and kind.steady and 0.0 < kind.needed_s(1) <= QUICK_S:
            for batch in [part] if kind.shared else [[ask] for ask in part]:
                self._hot.run(kind, batch)
        else:
            _await(part, lambda: self._hot.enqueue(kind, part), until_s)

    def _rows_at_once(self, kind: Kind) -> int:
        rows_max = kind.rows_max if kind.shared else 1
        needed_s = kind.needed_s(rows_max)
        return max(1, int(rows_max * min(1.0, FILL_S_MAX / needed_s))) if needed_s else rows_max

    def _turns_by_entity(self, asks: Sequence[EntityAsk]) -> list[Turn]:
        by_endpoint: dict[str, list[EntityAsk]] = defaultdict(list)
        for ask in asks:
            ask.call.deadline_s = ask.deadline_s
            by_endpoint[ask.asked.request.endpoint].append(ask)
        return [partial(self._by_entity, asks) for asks in by_endpoint.values()]

    def _turns_alone(self, asked: Sequence[tuple[RecordCall, Any]]) -> list[Turn]:
        by_endpoint: dict[str, list[tuple[RecordCall, Any]]] = defaultdict(list)
        for call, message in asked:
            call.deadline_s = answer_by_s(call, timeout_s(message.parameters))
            by_endpoint[call.endpoint].append((call, message))
        return [partial(self._alone, asked) for asked in by_endpoint.values()]

    def _by_entity(self, asks: Sequence[EntityAsk], *, until_s: float) -> None:
        for part in in_parts(asks, ENTITY_ROWS_MAX):
            if time.monotonic() < until_s:
                _await(part, partial(self._hot.entities.enqueue, part), until_s)

    def _alone(self, asked: Sequence[tuple[RecordCall, Any]], *, until_s: float) -> None:
        for call, message in asked:
            if time.monotonic() < until_s:
                self._hot.predict_alone(call, message, until_s=until_s)


def _await(asks: Sequence[AnyAsk], enqueue: Callable[[], None], until_s: float) -> None:
    """Through a lane, where callers go first; what has no turn in time gives it up."""
    heard = threading.Semaphore(0)
    for ask in asks:
        ask.call.heard = heard  # type: ignore[attr-defined]
    enqueue()
    for _ in asks:
        if not heard.acquire(timeout=max(0.0, until_s - time.monotonic())):
            break
    for ask in asks:
        ask.call.cancel()
