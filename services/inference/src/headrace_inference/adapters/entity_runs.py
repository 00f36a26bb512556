# SPDX-License-Identifier: Apache-2.0
"""Requests by entity keys run together: their features are read in one call.

While features are read, what comes for the same endpoint waits and is the next batch: the slower
the reading, the larger the batches. When a batch fails for a reason of its requests, each is tried
alone, so that nobody fails for another's keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from headrace.errors import HeadraceError, Unavailable
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.tokens import PREDICT
from headrace_inference.adapters import conversions
from headrace_inference.adapters.entity_plan import EntityPlan
from headrace_inference.adapters.lanes import THREADS_MAX, Lane, in_parts
from headrace_inference.adapters.late_calls import LateCalls
from headrace_inference.adapters.record_calls import BEHIND_CALLERS, RecordCall
from headrace_inference.adapters.request_parameters import answer_by_s, priority, timeout_s
from headrace_inference.adapters.run_outcomes import (
    Counters,
    answer_all,
    callers_of,
    ended_with_callers,
    refuse,
    refuse_or_part,
)
from headrace_inference.adapters.shared_runs import Cutter, ReplyForm
from headrace_inference.domain.explanation import wanted_attributions
from headrace_inference.domain.prediction import Prediction
from headrace_inference.domain.request import FEATURES, PREDICTION_ID, SCORE
from headrace_inference.domain.serving import Ending, ServingTable
from headrace_inference.handlers import FeatureRequest, read_rows
from headrace_inference.ports import Clock, PredictionLog
from headrace_kit import tracing
from headrace_kit.hot_calls import HotCall, guarded

# What a read, and each row of it, are thought to take before the first was made.
READ_S, ROW_S = 0.002, 0.0005
LANES_MAX = 1_000
# Batches of one endpoint on their way: one is worked on while the features of another are read.
BATCHES_MAX = 2
FORMS_MAX = 1_000
# FP32.
FEATURE_BYTES = 4


@dataclass(frozen=True, slots=True, eq=False)
class EntityAsk:
    """One request on its way through a batch."""

    call: HotCall
    asked: FeatureRequest
    raw: bool
    priority: int
    deadline_s: float

    @property
    def rows(self) -> int:
        return self.asked.batch.rows

    @property
    def id(self) -> str:
        return self.asked.request.id

    @property
    def endpoint(self) -> str:
        return self.asked.request.endpoint

    @property
    def version(self) -> int:
        return self.asked.choice.answering.served.version


class PredictTogether(Protocol):
    def __call__(
        self,
        asked: Sequence[FeatureRequest],
        *,
        time_left_s: Callable[[], float],
        in_time: Callable[[float], Sequence[int]],
        ending: Ending | None,
    ) -> Prediction:
        """The handler `predict_together`, its ports bound."""


class EntityRuns:
    """Takes the requests by entity keys out of those that have no form."""

    def __init__(
        self,
        table: ServingTable,
        *,
        predict: PredictTogether,
        log: PredictionLog,
        clock: Clock,
        counters: Counters,
        rows_max: int,
        late: LateCalls,
    ) -> None:
        self._table, self._predict, self._log, self._clock = table, predict, log, clock
        self._counters, self._rows_max, self._late = counters, rows_max, late
        self._lanes: dict[object, Lane[EntityAsk]] = {}
        self._forms: dict[tuple[tuple[str, ...], int], ReplyForm] = {}
        self._readers = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="entities")

    def close(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)

    def ask(self, call: HotCall, message: Any) -> EntityAsk | None:
        """None for what is not by entity keys alone, and for mistakes: the servicer has the words.

        A model that is not in memory is waited for elsewhere too.
        """
        try:
            return self._checked(call, message)
        except HeadraceError:
            return None

    def ask_by(
        self, plan: EntityPlan, call: HotCall, id_: str, contents: Sequence[bytes]
    ) -> EntityAsk | None:
        """As `ask`, of a request whose form was checked; its id is the call's when it has one."""
        record = call if isinstance(call, RecordCall) else None
        if record is not None:
            record.name(id_, plan.endpoint.name)
        try:
            asked = plan.read(record.id if record else id_, contents, self._clock.now_us())
        except HeadraceError:
            return None
        if not asked.choice.answering.model.resident:
            return None
        return _entity_ask(call, asked, plan.priority, plan.timeout_s, raw=True)

    def enqueue(self, asks: Iterable[EntityAsk]) -> None:
        for ask in asks:
            try:
                self._lane((ask.endpoint, ask.asked.request.version)).add(ask)
                self._late.watch(ask.call, ask.deadline_s, partial(self._refuse, ask))
            except HeadraceError as err:
                self._refuse(ask, err)

    def _checked(self, call: HotCall, message: Any) -> EntityAsk | None:
        definition, serving = self._table.ready(message.model_name)
        names = [tensor.name for tensor in message.inputs]
        if definition.entity_key not in names or FEATURES in names:
            return None
        call.caller.require(PREDICT, message.model_name)
        request = conversions.infer_request(message, rows_max=self._rows_max)
        record = call if isinstance(call, RecordCall) else None
        if record is not None:
            record.name(message.id, message.model_name)
            request = replace(request, id=record.id)
        named = serving.version(request.version)
        if not named.served.features or wanted_attributions(request.outputs, named):
            return None
        asked = read_rows(
            request, definition, serving, now_us=self._clock.now_us(), rows_max=self._rows_max
        )
        if not asked.choice.answering.model.resident:
            return None
        return _entity_ask(
            call,
            asked,
            priority(message.parameters),
            timeout_s(message.parameters),
            raw=len(message.raw_input_contents) > 0,
        )

    def _lane(self, key: object) -> Lane[EntityAsk]:
        lane = self._lanes.get(key)
        if lane is None:
            if len(self._lanes) >= LANES_MAX:
                self._lanes = {}  # those that are at work end by themselves
            made = Lane(
                self._guarded,
                self._readers,
                rows_max=self._rows_max,
                least_s=lambda rows: READ_S + ROW_S * rows,
                now_s=time.monotonic,
                refuse=self._refuse,
                batches_max=BATCHES_MAX,
            )
            lane = self._lanes.setdefault(key, made)
        return lane

    def _guarded(self, asks: Sequence[EntityAsk]) -> None:
        guarded([ask.call for ask in asks], lambda: self._run_all(asks))

    def _run_all(self, asks: Sequence[EntityAsk]) -> None:
        """Those of one choice of versions and one definition together: columns go by place."""
        choices: dict[object, list[EntityAsk]] = {}
        for ask in self._only(asks, _in_time(asks, 0.0)):
            asked = ask.asked
            alike = id(asked.endpoint), id(asked.serving), asked.choice.arm
            choices.setdefault(alike, []).append(ask)
        for together in choices.values():
            choice = together[0].asked.choice
            row_bytes = len(choice.answering.served.features) * FEATURE_BYTES
            for part in in_parts(together, choice.rows_at_once(row_bytes)):
                self._run(part)

    def _run(self, asks: Sequence[EntityAsk]) -> None:
        began_s = time.monotonic()
        kept: Sequence[int] = ()

        def in_time(needed_s: float) -> Sequence[int]:
            nonlocal kept
            kept = _in_time(asks, needed_s)
            return kept

        spans = [ask.call.span for ask in asks if ask.call.span]
        try:
            # What all share is in the first one's trace.
            with (
                tracing.working(spans[0] if spans else None),
                ended_with_callers([ask.call for ask in asks]) as ending,
            ):
                prediction = self._predict(
                    [ask.asked for ask in asks],
                    time_left_s=lambda: _left_s(asks),
                    in_time=in_time,
                    ending=ending,
                )
        except HeadraceError as err:
            refuse_or_part(asks, err, counters=self._counters, run=self._run)
            return
        asks = self._only(asks, kept)
        answer_all(
            asks,
            self._answers(asks[: callers_of(asks)], prediction),
            prediction,
            log=self._log,
            counters=self._counters,
            began_s=began_s,
        )

    def _answers(self, asks: Sequence[EntityAsk], prediction: Prediction) -> Iterator[bytes]:
        """Encoded, in order; those with typed contents one by one."""
        head = oip.ModelInferResponse(
            model_name=prediction.endpoint, model_version=str(prediction.served.version)
        ).SerializeToString()
        cutters: dict[ReplyForm, Cutter] = {}
        first = 0
        for place, ask in enumerate(asks):
            request, form = ask.asked.request, self._form(ask)
            if ask.raw:
                if form not in cutters:
                    cutters[form] = Cutter(head, form, prediction, by_rows=True)
                yield cutters[form].reply(request.id, prediction.ids.bases[place], first)
            else:
                part = replace(prediction.of_requests(place, place + 1), request_id=request.id)
                yield conversions.infer_response(
                    part, request.outputs, raw=False
                ).SerializeToString()
            first += form.rows

    def _form(self, ask: EntityAsk) -> ReplyForm:
        key = ask.asked.request.outputs or (SCORE, PREDICTION_ID), ask.rows
        form = self._forms.get(key)
        if form is None:
            if len(self._forms) >= FORMS_MAX:
                self._forms.clear()
            form = self._forms[key] = ReplyForm(*key)
        return form

    def _only(self, asks: Sequence[EntityAsk], kept: Sequence[int]) -> Sequence[EntityAsk]:
        """Those at these places; the others are late, which is told to who still hears it."""
        if len(kept) == len(asks):
            return asks
        for place in set(range(len(asks))).difference(kept):
            if not asks[place].call.cancelled:
                self._refuse(asks[place], Unavailable("DEADLINE_UNMET", needed_s=0.0))
        return [asks[place] for place in kept]

    def _refuse(self, ask: EntityAsk, err: HeadraceError) -> None:
        refuse(ask, err, counters=self._counters)


def _entity_ask(
    call: HotCall, asked: FeatureRequest, priority: int, limit_s: float | None, *, raw: bool
) -> EntityAsk:
    return EntityAsk(
        call=call,
        asked=asked,
        raw=raw,
        priority=priority + (BEHIND_CALLERS if isinstance(call, RecordCall) else 0),
        deadline_s=answer_by_s(call, limit_s),
    )


def _in_time(asks: Sequence[EntityAsk], needed_s: float) -> list[int]:
    """The places of those that wait still, and can wait for a run of so long."""
    end_s = time.monotonic() + needed_s
    return [
        place for place, ask in enumerate(asks) if ask.deadline_s > end_s and not ask.call.cancelled
    ]


def _left_s(asks: Sequence[EntityAsk]) -> float:
    """Of the most patient; none is left when all hung up."""
    heard = (ask.deadline_s for ask in asks if not ask.call.cancelled)
    return max(0.0, max(heard, default=0.0) - time.monotonic())
