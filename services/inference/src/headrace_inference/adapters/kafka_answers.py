# SPDX-License-Identifier: Apache-2.0
"""What is written on `inference.predictions.<endpoint>` for requests over Kafka.

An answer lies in the partition of its request's number, with the request's offset beside it: the
answers themselves tell which requests have one. Answers of one key keep the order of their
requests, though rows that ran together lie together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from headrace import topics
from headrace.errors import HeadraceError
from headrace_inference.adapters import conversions
from headrace_inference.adapters.kafka_prediction_log import (
    RECORD_BYTES_MAX,
    VALUE_BYTES_MAX,
    bare,
    ce_headers,
)
from headrace_inference.adapters.record_calls import RecordCall
from headrace_inference.domain.claim import Claim
from headrace_inference.domain.logged_columns import Ints, LoggedRows, cuts, logged_rows
from headrace_kit import tracing
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Message, Partition

# Stores an answer of the endpoint; raises Invalid TOO_LARGE, Busy CLAIMS_FULL, Unavailable.
Keep = Callable[[str, bytes], Claim]


class Group(NamedTuple):
    """What may lie in one record: of one partition and one run (0: refused), in the same turn."""

    turn: int
    partition: Partition
    source: int


def answers(
    calls: Sequence[RecordCall], *, partitions: Callable[[str], int], keep: Keep
) -> Iterator[Message]:
    """The records that answer these calls; `partitions` tells how many a topic has, `keep` puts an
    answer that fits no record where its claim finds it.

    A call whose answer finds no place has the error that it is answered by; one that comes again
    has no record here.
    """
    rows_by_source = _rows(calls)
    for group, members in sorted(_groups(calls).items()):
        topic = topics.INFERENCE_PREDICTIONS.of(members[0].endpoint)
        number = group.partition.number
        rows = rows_by_source.get(group.source)
        for first, event in _refusals(members) if rows is None else _answers(rows, members, keep):
            event.request_partition = number
            headers = ce_headers(f"{number}:{first.offset}") + tracing.record_headers()
            target = number % partitions(topic)
            yield Message(topic, None, event.SerializeToString(), headers, target)


def _rows(calls: Sequence[RecordCall]) -> dict[int, LoggedRows]:
    """By prediction."""
    predictions = {id(call.prediction): call.prediction for call in calls if call.prediction}
    return {source: logged_rows([each])[0] for source, each in predictions.items()}


def _groups(calls: Sequence[RecordCall]) -> dict[Group, list[RecordCall]]:
    """A key whose requests ran apart has its next answer in a later turn than the one before."""
    groups: dict[Group, list[RecordCall]] = defaultdict(list)
    last: dict[tuple[Partition, str], Group] = {}
    for call in calls:
        source = id(call.prediction) if call.prediction else 0
        group = Group(0, call.partition, source)
        if call.entity_key:
            key = call.partition, call.entity_key
            before = last.get(key)
            if before is not None:
                group = Group(before.turn + (before.source != source), call.partition, source)
            last[key] = group
        groups[group].append(call)
    return groups


def _answers(
    rows: LoggedRows, members: Sequence[RecordCall], keep: Keep
) -> Iterator[tuple[RecordCall, Any]]:
    """Each record with the first call in it, in the order of the calls.

    No request is cut: who finds an offset in a record must have found all of its rows.
    """
    places = [call.place for call in members]
    turns = np.full(len(rows.bases), -1, dtype=np.int64)
    turns[places] = np.arange(len(members))
    turn_by_row = turns[rows.request]
    chosen = np.argsort(turn_by_row, kind="stable")[np.count_nonzero(turn_by_row < 0) :]
    row_bytes = rows.bytes_by_row()[chosen]
    begins = np.searchsorted(turn_by_row[chosen], np.arange(len(members) + 1))
    offsets = np.zeros(len(rows.bases), dtype=np.int64)
    offsets[places] = [call.offset for call in members]
    for first, end in cuts(np.add.reduceat(row_bytes, begins[:-1]), RECORD_BYTES_MAX):
        record = rows.taken(chosen[begins[first] : begins[end]])
        yield from _fitting(record, offsets, members[first:end], keep)


def _fitting(
    rows: LoggedRows, offsets: Ints, members: Sequence[RecordCall], keep: Keep
) -> Iterator[tuple[RecordCall, Any]]:
    """The record, if need be without the inputs; else one that claims the answer of one call.

    An answer that was kept in another pass over the same calls is not kept again.
    """
    if members[0].claiming is not None:
        yield members[0], members[0].claiming
        return
    for form in (rows, rows.without_inputs()):
        event = _event(form, offsets, members)
        if len(members) > 1 or event.ByteSize() <= VALUE_BYTES_MAX:
            bare.inc(len(rows) * (form is not rows))
            yield members[0], event
            return
    (call,) = members
    yield from _claiming(rows, offsets, call, keep)


def _claiming(
    rows: LoggedRows, offsets: Ints, call: RecordCall, keep: Keep
) -> Iterator[tuple[RecordCall, Any]]:
    """The record that claims the answer, else the refusal; none for a call that comes again."""
    error: HeadraceError | None = None
    for form in (rows, rows.without_inputs()):  # there may be room for the outputs alone
        event = _event(form, offsets, [call])
        try:
            claim = keep(call.endpoint, event.SerializeToString())
        except HeadraceError as err:
            error = err
        else:
            failpoint("inference.claim.kept")
            bare.inc(len(rows) * (form is not rows))
            call.claiming = conversions.claiming_event(event, claim)
            yield call, call.claiming
            return
    call.prediction, call.error = None, error
    if not call.comes_again:
        yield from _refusals([call])


def _event(rows: LoggedRows, offsets: Ints, members: Sequence[RecordCall]) -> Any:
    event = conversions.predictions_event(rows, writer="", rows_answered=0)
    event.request_partition = members[0].partition.number
    event.request_offsets.extend(offsets[[run.request for run in rows.runs()]].tolist())
    return event


def _refusals(members: Sequence[RecordCall]) -> Iterator[tuple[RecordCall, Any]]:
    refused = [
        conversions.refused_request(call.id, call.offset, call.error)
        for call in members
        if isinstance(call.error, HeadraceError)
    ]
    sizes = np.array([each.ByteSize() for each in refused], dtype=np.int64)
    for first, end in cuts(sizes, RECORD_BYTES_MAX):
        event = conversions.refused_event(members[0].endpoint, refused[first:end])
        yield members[first], event
