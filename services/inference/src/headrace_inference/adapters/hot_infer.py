# SPDX-License-Identifier: Apache-2.0
"""ModelInfer as a hot call: what comes together, and fits together, runs together.

A request of a known form joins the others of its kind. A quick model runs on the door's own thread,
so that a lone caller waits for no other thread; a slow one has a lane, and the door goes on. What
has no form (typed contents) or is text for a model is answered by the servicer, in threads that
each endpoint has a share of; requests by entity keys, with a form or without, have their features
read together.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from google.protobuf.message import DecodeError

from headrace.errors import HeadraceError, Invalid, Unavailable
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.tokens import PREDICT
from headrace_inference.adapters import conversions
from headrace_inference.adapters.entity_plan import EntityPlan
from headrace_inference.adapters.entity_runs import EntityAsk, EntityRuns
from headrace_inference.adapters.lanes import THREADS_MAX, Lane, LoadFirst
from headrace_inference.adapters.late_calls import LateCalls
from headrace_inference.adapters.plans import Plans
from headrace_inference.adapters.record_calls import BEHIND_CALLERS, RecordCall
from headrace_inference.adapters.request_forms import Filled, RequestForms
from headrace_inference.adapters.request_parameters import answer_by_s, priority, timeout_s
from headrace_inference.adapters.run_outcomes import (
    Counters,
    answer_all,
    callers_of,
    ended_with_callers,
    refuse,
    refuse_or_part,
)
from headrace_inference.adapters.shared_runs import Ask, Kind, run_together
from headrace_inference.domain.prediction import Failure
from headrace_inference.domain.request import ENTITY_KEY, check_entity_key, check_request_id
from headrace_inference.domain.serving import Ending, ServingTable
from headrace_inference.handlers import Predict
from headrace_inference.ports import Clock, PredictionLog
from headrace_kit import tracing
from headrace_kit.auth import work_for
from headrace_kit.hot_calls import HotCall, guarded

# Longer than this no other caller waits because of a run on the door's thread.
QUICK_S = 0.001
# Of the workers, an endpoint has one part in so many: slow ones keep none of the others waiting,
# until as many are slow as there are parts in THREADS_MAX.
ENDPOINT_SHARE = 8
ID_BYTES, IDS_AT_ONCE = 16, 64
REQUEST_MESSAGE = "ModelInferRequest"
Call = TypeVar("Call", bound=HotCall)


class Alone(NamedTuple):
    """A request that the servicer answers by itself."""

    call: HotCall
    message: Any
    priority: int
    deadline_s: float
    rows: int = 1


class Read(NamedTuple, Generic[Call]):
    """What may run together, by kind or by the entities' features; and the messages of the rest."""

    kinds: dict[Kind, list[Ask]]
    entities: list[EntityAsk]
    alone: list[tuple[Call, Any]]


class HotInfer:
    """`take` of the hot method ModelInfer."""

    def __init__(
        self,
        table: ServingTable,
        *,
        log: PredictionLog,
        clock: Clock,
        servicer: Callable[[Any, Callable[[], float], Ending | None], Any],
        predict: Predict,
        entities: EntityRuns,
        counters: Counters,
        rows_max: int,
        workers: int,
        late: LateCalls,
        on_failed: Callable[[Failure], None],
    ) -> None:
        self._table, self._log, self._clock = table, log, clock
        self._servicer, self._predict, self._counters = servicer, predict, counters
        self.entities = entities
        self._rows_max, self._late, self._on_failed = rows_max, late, on_failed
        self._forms = RequestForms()
        self._plans = Plans(table, rows_max=rows_max)
        # A lane goes with its kind: none holds a version that was replaced.
        self._lanes: WeakKeyDictionary[Kind, Lane[Ask]] = WeakKeyDictionary()
        self._workers = ThreadPoolExecutor(max(workers, THREADS_MAX), thread_name_prefix="infer")
        self._share = max(1, workers // ENDPOINT_SHARE)
        # By endpoint, as many as the table knows.
        self._single: dict[str, Lane[Alone]] = {}
        self._runners = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="runner")
        self._ids: list[str] = []

    def take(self, calls: Sequence[HotCall]) -> None:
        kinds, entities, alone = self.read(calls)
        self.entities.enqueue(entities)
        for call, message in alone:
            lane = self._single_lane(message.model_name)
            deadline_s = answer_by_s(call, timeout_s(message.parameters))
            lane.add(Alone(call, message, priority(message.parameters), deadline_s))
            self._late.watch(call, deadline_s, call.answer)
        for kind, asks in kinds.items():
            if self._quick(kind, asks):
                for batch in [asks] if kind.shared else [[ask] for ask in asks]:
                    self.run(kind, batch)
            else:
                self.enqueue(kind, asks)

    def read(self, calls: Sequence[Call]) -> Read[Call]:
        """A call that cannot be read is answered."""
        self._plans.renew()
        read: Read[Call] = Read({}, [], [])
        for call in calls:
            try:
                ask = self._ask(call)
            except HeadraceError as err:
                self._counters.unread(err.reason)
                call.answer(err)
                continue
            if isinstance(ask, Ask):
                read.kinds.setdefault(ask.kind, []).append(ask)
            elif isinstance(ask, EntityAsk):
                read.entities.append(ask)
            else:
                read.alone.append((call, ask))
        return read

    def _quick(self, kind: Kind, asks: Sequence[Ask]) -> bool:
        """Whether the door's thread may run them; a model of which that is not known is slow, and
        so is one that is not in memory, or may have to wait for the memory of a run."""
        rows = sum([ask.plan.rows for ask in asks])
        needed_s = kind.needed_s(rows) if kind.shared else kind.needed_s(1) * len(asks)
        fast = kind.steady and 0.0 < needed_s <= QUICK_S
        return kind.resident and fast and rows <= min(kind.rows_max, kind.small_rows_max)

    def close(self) -> None:
        self._late.close()
        self.entities.close()
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._runners.shutdown(wait=False, cancel_futures=True)

    def _ask(self, call: HotCall) -> Any:
        """An Ask, an EntityAsk, or the message of a request that goes another way."""
        filled = self._forms.fill(call.payload)
        if filled is None:
            message = _message(call.payload)
            filled = self._forms.learn(call.payload, message)
            if filled is None:
                return self.entities.ask(call, message) or message
        id_, key = _names(filled) if filled.id or filled.key else ("", "")
        plan = self._plans.of(filled.form)
        if plan is None:
            message = _whole(filled)
            return self.entities.ask(call, message) or message
        if isinstance(plan, EntityPlan):
            call.caller.require(PREDICT, plan.endpoint.name)
            if not isinstance(call, RecordCall):  # which is named by its place
                id_ = id_ or self._new_id()
            return self.entities.ask_by(plan, call, id_, filled.contents) or _whole(filled)
        call.caller.require(PREDICT, plan.endpoint)
        deadline_s = answer_by_s(call, plan.timeout_s)
        if isinstance(call, RecordCall):
            call.name(id_, plan.endpoint)
            key, priority = key or call.entity_key, plan.priority + BEHIND_CALLERS
            kind = plan.kind(key or call.id)
            return Ask(call, plan, kind, call.id, filled.contents, deadline_s, priority, key)
        named, id_ = bool(id_), id_ or self._new_id()
        kind = plan.kind(key or id_)
        return Ask(call, plan, kind, id_, filled.contents, deadline_s, plan.priority, key, named)

    def _new_id(self) -> str:
        """None that a caller could foretell from his own, and give to a request of his."""
        try:
            return self._ids.pop()
        except IndexError:  # the system is asked for many at once
            digits = secrets.token_hex(IDS_AT_ONCE * ID_BYTES)
            found = [digits[at : at + 2 * ID_BYTES] for at in range(0, len(digits), 2 * ID_BYTES)]
            id_ = found.pop()
            self._ids += found
            return id_

    def _single_lane(self, endpoint: str) -> Lane[Alone]:
        """All that the table does not know share one. Bounded by the calls that a door has open."""
        name = endpoint if endpoint in self._table.states() else ""
        lane = self._single.get(name)
        if lane is None:
            made = Lane(
                self._answer_alone,
                self._workers,
                rows_max=1,
                least_s=lambda rows: 0.0,
                now_s=time.monotonic,
                refuse=None,
                batches_max=self._share,
            )
            lane = self._single.setdefault(name, made)  # two doors may ask for the first
        return lane

    def _answer_alone(self, asks: Sequence[Alone]) -> None:
        ((call, message, *_),) = asks
        limit_s = timeout_s(message.parameters)

        def work() -> None:
            work_for(call.caller)
            with tracing.working(call.span), ended_with_callers([call]) as ending:
                answer = self._servicer(message, lambda: _left_s(call, limit_s), ending)
            call.answer(answer.SerializeToString())

        guarded([call], work)

    def predict_alone(self, call: RecordCall, message: Any, *, until_s: float) -> None:
        """Answers a record that has no form; one that cannot be answered until then has no answer
        yet.
        """
        began_s, limit_s = time.monotonic(), timeout_s(message.parameters)

        def left_s() -> float:
            return min(_left_s(call, limit_s), until_s - time.monotonic())

        try:
            call.name(message.id, message.model_name)
            asked = conversions.infer_request(message, rows_max=self._rows_max)
            prediction = self._predict(
                replace(asked, id=call.id, key=asked.key or call.entity_key), time_left_s=left_s
            )
        except HeadraceError as err:
            if err.reason == "DEADLINE_UNMET" and _left_s(call, limit_s) > 0.0:
                return
            self._counters.unread(err.reason)
            call.answer(err)
            return
        self._counters.answered([call], prediction, began_s)
        outputs = {**prediction.outputs, **prediction.attributions}
        call.answer_by(replace(prediction, outputs=outputs), 0)

    def enqueue(self, kind: Kind, asks: Sequence[Ask]) -> None:
        lane = self._lanes.get(kind)
        if lane is None:
            lane = self._lanes.setdefault(
                kind,
                Lane(
                    self._guarded,
                    LoadFirst(kind.model, self._runners),
                    rows_max=kind.rows_max if kind.shared else 1,
                    least_s=kind.model.least_s,
                    now_s=time.monotonic,
                    refuse=self._refuse,
                ),
            )
        for ask in asks:
            try:
                run_s = max(kind.needed_s(ask.rows), lane.run_s(ask.rows))
                _require_time(ask, lane.wait_s() + run_s)
                lane.add(ask)
                self._late.watch(ask.call, ask.deadline_s, partial(self._refuse, ask))
            except HeadraceError as err:
                self._refuse(ask, err)

    def _guarded(self, asks: Sequence[Ask]) -> None:
        calls = [ask.call for ask in asks]
        guarded(calls, lambda: self._run_while_awaited(asks[0].kind, asks))

    def _run_while_awaited(self, kind: Kind, asks: Sequence[Ask]) -> None:
        """As `run`, of a slow model."""
        asks = self._in_time(kind, asks)
        with ended_with_callers([ask.call for ask in asks]) as ending:
            self._run_in_time(kind, asks, ending)

    def run(self, kind: Kind, asks: Sequence[Ask]) -> None:
        """Answers all of them; those that are cancelled or too late without running.

        Kafka's stand behind the callers; theirs alone are for the log.
        """
        self._run_in_time(kind, self._in_time(kind, asks), None)

    def _run_in_time(self, kind: Kind, asks: Sequence[Ask], ending: Ending | None) -> None:
        if not asks:
            return
        began_s = time.monotonic()
        try:
            ran = run_together(
                kind,
                asks,
                replies=callers_of(asks),
                now_us=self._clock.now_us,
                on_failed=self._on_failed,
                ending=ending,
            )
        except HeadraceError as err:
            apart = partial(self.run if ending is None else self._run_while_awaited, kind)
            refuse_or_part(asks, err, counters=self._counters, run=apart)
            return
        answer_all(
            asks,
            ran.replies,
            ran.prediction,
            log=self._log,
            counters=self._counters,
            began_s=began_s,
        )

    def _in_time(self, kind: Kind, asks: Sequence[Ask]) -> list[Ask]:
        needed_s = kind.needed_s(sum([ask.plan.rows for ask in asks]))
        end_s = time.monotonic() + needed_s
        found = []
        for ask in asks:
            if ask.deadline_s <= end_s:
                self._refuse(ask, Unavailable("DEADLINE_UNMET", needed_s=needed_s))
            elif not ask.call.cancelled:
                found.append(ask)
        return found

    def _refuse(self, ask: Ask, err: HeadraceError) -> None:
        refuse(ask, err, counters=self._counters)


def _message(payload: bytes) -> Any:
    try:
        return oip.ModelInferRequest.FromString(payload)
    except DecodeError as err:
        raise Invalid("DECODE_ERROR", message=REQUEST_MESSAGE) from err


def _names(filled: Filled) -> tuple[str, str]:
    """Of the request and of the entity of its rows."""
    try:
        id_, key = filled.id.decode(), filled.key.decode()
    except UnicodeDecodeError as err:
        raise Invalid("DECODE_ERROR", message=REQUEST_MESSAGE, problem="not UTF-8") from err
    check_request_id(id_)
    if key:
        check_entity_key(key)
    return id_, key


def _require_time(ask: Ask, needed_s: float) -> None:
    if ask.deadline_s <= time.monotonic() + needed_s:
        raise Unavailable("DEADLINE_UNMET", needed_s=needed_s)


def _left_s(call: HotCall, timeout_s: float | None) -> float:
    """None is left for a caller that hung up: what was not begun is dropped."""
    end_s = answer_by_s(call, timeout_s)
    return 0.0 if call.cancelled else max(0.0, end_s - time.monotonic())


def _whole(filled: Filled) -> Any:
    message = oip.ModelInferRequest()
    message.CopyFrom(filled.form.message)
    message.id = filled.id.decode()
    if filled.key:
        message.parameters[ENTITY_KEY].string_param = filled.key.decode()
    message.raw_input_contents.extend(filled.contents)
    return message
