# SPDX-License-Identifier: Apache-2.0
"""DeadLetterService, and its protos to the domain and back."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from headrace.errors import Busy, Invalid
from headrace.ingest.v1 import dead_letter_service_pb2 as pb
from headrace.ingest.v1 import dead_letter_service_pb2_grpc
from headrace.reasons import REASONS
from headrace_ingest.domain.accounts import RECORD_REASONS
from headrace_ingest.domain.asked import bounded
from headrace_ingest.domain.decoding import Decode
from headrace_ingest.domain.faults import places_of
from headrace_ingest.domain.letters import Letter, Position, Selection
from headrace_ingest.domain.redrive_seal import RedriveSeal
from headrace_ingest.handlers.dead_letters import (
    BEGINNING,
    LetterPage,
    LetterView,
    get_dead_letter,
    list_dead_letters,
)
from headrace_ingest.handlers.erased_letters import ErasedLetters
from headrace_ingest.handlers.redrive import (
    LETTERS_MAX,
    Progress,
    RedriveDeadLetters,
    redrive_dead_letters,
)
from headrace_ingest.ports.definitions import ContractBook
from headrace_ingest.ports.labels import RecordRows
from headrace_kit.dead_letters import own_headers
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.grpc_server import remaining_s
from headrace_kit.kafka import Publisher, Record
from headrace_kit.topic_log import TopicLog

PAGE_SIZE, PAGE_SIZE_MAX = 50, 500
VALUE_BYTES, VALUE_BYTES_MAX = 16_384, 1 << 20
IDS_MAX = 500
REDRIVE_S_MAX = 290.0  # the kit ends a stream after 300 s
POSITION = re.compile(r"([0-9]{1,9})-([0-9]{1,18})")


class DeadLetterApi(dead_letter_service_pb2_grpc.DeadLetterServiceServicer):
    """One redrive at a time: two would send the same letters."""

    def __init__(
        self,
        *,
        log: TopicLog,
        contracts: ContractBook,
        publisher: Publisher,
        decode: Decode,
        archived: RecordRows,
        erased: ErasedEntities,
        seal: RedriveSeal,
    ) -> None:
        self._log, self._contracts = log, contracts
        self._publisher, self._decode, self._seal = publisher, decode, seal
        self._archived = archived
        self._erased = ErasedLetters(contracts, erased, decode)
        self._redriving = threading.Lock()

    def ListDeadLetters(self, request: Any, context: grpc.ServicerContext) -> Any:
        token = request.page_token
        page = list_dead_letters(
            to_selection(request.filter),
            to_position(token, "page_token") if token else BEGINNING,
            letters_max=bounded(
                "page_size", request.page_size, default=PAGE_SIZE, most=PAGE_SIZE_MAX
            ),
            with_redriven=request.with_redriven,
            log=self._log,
            contracts=self._contracts,
            erased=self._erased,
        )
        return _to_page(page)

    def GetDeadLetter(self, request: Any, context: grpc.ServicerContext) -> Any:
        bytes_max = bounded(
            "value_bytes_max", request.value_bytes_max, default=VALUE_BYTES, most=VALUE_BYTES_MAX
        )
        view = get_dead_letter(
            to_position(request.id, "id"),
            log=self._log,
            contracts=self._contracts,
            decode=self._decode,
            erased=self._erased,
        )
        return _to_view(view, bytes_max)

    def RedriveDeadLetters(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        if not self._redriving.acquire(blocking=False):
            raise Busy("QUEUE_FULL", queue="redrives")
        try:
            progress = redrive_dead_letters(
                _to_command(request),
                log=self._log,
                contracts=self._contracts,
                publisher=self._publisher,
                decode=self._decode,
                archived=self._archived,
                erased=self._erased,
                seal=self._seal,
                left_s=_left_s(context),
            )
            yield from map(to_progress, progress)
        finally:
            self._redriving.release()


def _left_s(context: grpc.ServicerContext) -> Callable[[], float]:
    end_s = time.monotonic() + remaining_s(context, cap_s=REDRIVE_S_MAX)
    return lambda: end_s - time.monotonic()


def _to_command(request: pb.RedriveDeadLettersRequest) -> RedriveDeadLetters:
    if len(request.ids) > IDS_MAX:
        raise Busy("BATCH_TOO_LARGE", items=len(request.ids), items_max=IDS_MAX)
    positions = frozenset(to_position(each, "ids") for each in request.ids)
    return RedriveDeadLetters(
        to_selection(request.filter, positions),
        dry_run=request.dry_run,
        letters_max=bounded(
            "letters_max", request.letters_max, default=LETTERS_MAX, most=LETTERS_MAX
        ),
    )


def to_selection(
    given: pb.DeadLetterFilter, positions: frozenset[Position] = frozenset()
) -> Selection:
    """Raises Invalid BAD_REQUEST for a negative time, or a reason that no letter may carry."""
    if given.since_ms < 0 or given.until_ms < 0:
        raise Invalid("BAD_REQUEST", field="filter", problem="has a negative time")
    if given.reason and given.reason not in RECORD_REASONS:
        problem = f"{given.reason} is none of {', '.join(RECORD_REASONS)}"
        raise Invalid("BAD_REQUEST", field="filter.reason", problem=problem)
    return Selection(given.stream, given.reason, given.since_ms, given.until_ms, positions)


def to_position(text: str, field: str) -> Position:
    if not (found := POSITION.fullmatch(text)):
        raise Invalid("BAD_REQUEST", field=field, problem="is not <partition>-<offset>")
    return Position(int(found[1]), int(found[2]))


def _to_page(page: LetterPage) -> pb.ListDeadLettersResponse:
    counts: dict[tuple[str, str], pb.DeadLetterCount] = {}
    for (stream, reason, redriven), count in page.counts.items():
        told = counts.setdefault((stream, reason), pb.DeadLetterCount(stream=stream, reason=reason))
        if redriven:
            told.redriven = count
        else:
            told.waiting = count
    return pb.ListDeadLettersResponse(
        letters=[_to_letter(*each) for each in page.records],
        next_page_token=page.following.id if page.following else "",
        counts=[counts[key] for key in sorted(counts)],
        more_uncounted=page.more_uncounted,
    )


def _to_letter(record: Record, letter: Letter, redriven: bool) -> pb.DeadLetter:
    return pb.DeadLetter(
        id=letter.position.id,
        stream=letter.stream,
        partition=letter.partition,
        offset=letter.offset,
        key=record.headers.get("dl-key", b""),
        reasons=letter.reasons,
        faults=_to_faults(letter.told),
        attempt=letter.attempt,
        set_aside_ms=letter.set_aside_ms,
        sha256=record.headers.get("dl-sha256", b"").decode("ascii", "replace"),
        value_bytes=len(record.value or b""),
        pointer=record.value is None,
        redriven=redriven,
    )


def _to_faults(told: str) -> list[pb.RecordFault]:
    """As in `Judged`; empty: none."""
    places = places_of(told) if told else []
    return [pb.RecordFault(reason=reason, place=place) for reason, place in places]


def _to_view(view: LetterView, value_bytes_max: int) -> pb.GetDeadLetterResponse:
    own = own_headers(view.record)
    reasons = [REASONS[each] for each in view.letter.reasons if each in REASONS]
    now = _to_faults(view.told_now)
    return pb.GetDeadLetterResponse(
        letter=_to_letter(view.record, view.letter, view.redriven),
        headers=own,
        value=(view.value or b"")[:value_bytes_max],
        next_steps=[reason.next for reason in reasons],
        reasons_now=[each.reason for each in now],
        faults_now=now,
    )


def to_progress(progress: Progress) -> pb.RedriveDeadLettersResponse:
    return pb.RedriveDeadLettersResponse(
        sent=progress.sent,
        skipped_by_reason={reason: n for reason, n in progress.skipped.items() if n},
        refused_by_reason=progress.refused,
        more=progress.more,
    )
