# SPDX-License-Identifier: Apache-2.0
"""What becomes of requests that ran together: their answers, or why there are none.

One way for all that run: who is told, what is logged and counted, and in which order. Kafka's stand
behind the callers, whose rows alone are for the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from headrace.errors import HeadraceError
from headrace_inference.adapters.record_calls import RecordCall
from headrace_inference.adapters.request_spans import told
from headrace_inference.domain.prediction import Prediction
from headrace_inference.domain.serving import Ending
from headrace_inference.ports import PredictionLog
from headrace_kit.error_status import retry_after_s
from headrace_kit.failpoints import failpoint
from headrace_kit.hot_calls import HotCall


class Asked(Protocol):
    """One request on its way through a batch."""

    @property
    def call(self) -> HotCall: ...

    @property
    def deadline_s(self) -> float: ...

    @property
    def id(self) -> str: ...

    @property
    def endpoint(self) -> str: ...

    @property
    def version(self) -> int:
        """That is to answer it."""


class Counters(Protocol):
    """What is told of requests, in the servicer's words."""

    def answered(self, calls: Sequence[HotCall], done: Prediction, began_s: float) -> None: ...

    def unread(self, reason: str) -> None: ...

    def refused(self, call: HotCall, endpoint: str, version: int, reason: str) -> None: ...


AnyAsk = TypeVar("AnyAsk", bound=Asked)


def callers_of(asks: Iterable[Asked]) -> int:
    """How many of them are not Kafka's."""
    return sum([not isinstance(ask.call, RecordCall) for ask in asks])


@contextmanager
def ended_with_callers(calls: Sequence[HotCall]) -> Iterator[Ending | None]:
    """What ends their run when they have all hung up, or were told that they are late.

    None where Kafka's are among them: who waits for those comes back to their answers.
    """
    if any(isinstance(call, RecordCall) for call in calls):
        yield None
        return
    ending = Ending()

    def look() -> None:
        if all(call.cancelled for call in calls):
            ending.ask()

    for call in calls:
        call.free = look
    look()  # one may have hung up before
    try:
        yield ending
    finally:
        for call in calls:
            call.free = None


def answer_all(
    asks: Sequence[Asked],
    replies: Iterable[bytes],
    prediction: Prediction,
    *,
    log: PredictionLog,
    counters: Counters,
    began_s: float,
) -> None:
    """`replies`: to the callers, in order."""
    callers = callers_of(asks)
    failpoint("inference.request.half")
    if callers:
        traces = [told(ask.call.span, prediction, ask.id) for ask in asks if ask.call.span]
        log.append(prediction.of_requests(0, callers), traces=traces)
    failpoint("inference.request.answered")
    for ask, reply in zip(asks, replies, strict=False):
        ask.call.answer(reply)
    for place, ask in enumerate(asks[callers:], callers):
        if isinstance(ask.call, RecordCall):
            ask.call.answer_by(prediction, place)
    counters.answered([ask.call for ask in asks], prediction, began_s)


def refuse(ask: Asked, err: HeadraceError, *, counters: Counters) -> None:
    if not _told_late(ask):
        counters.refused(ask.call, ask.endpoint, ask.version, err.reason)
    ask.call.answer(err)


def _told_late(ask: Asked) -> bool:
    """Whether it was refused by its own time before: it counts once."""
    call = ask.call
    return call.cancelled and call.replied and ask.deadline_s < call.deadline_s


def refuse_or_part(
    asks: Sequence[AnyAsk],
    err: HeadraceError,
    *,
    counters: Counters,
    run: Callable[[Sequence[AnyAsk]], None],
) -> None:
    """A batch that failed is tried request by request: nobody fails for another's values.

    But what is no fault of a request each would meet again, and wait for again.
    """
    apart = len(asks) > 1 and retry_after_s(err) is None and err.reason != "FEATURES_STALE"
    for ask in asks:
        if apart:
            run([ask])
        else:
            refuse(ask, err, counters=counters)
