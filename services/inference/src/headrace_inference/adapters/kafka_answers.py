# SPDX-License-Identifier: Apache-2.0
"""What is written on `inference.predictions.<endpoint>` for requests over Kafka.

An answer lies in the partition of its request's number, with the request's offset beside it: the
answers themselves tell which requests have one. Answers of one key keep the order of their
requests, though rows that ran together lie together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from headrace import topics
from headrace.errors import HeadraceError, Invalid
from headrace_inference.adapters import conversions
from headrace_inference.adapters.kafka_prediction_log import (
    RECORD_BYTES_MAX,
    VALUE_BYTES_MAX,
    bare,
    ce_headers,
)
from headrace_inference.adapters.record_calls import RecordCall
from headrace_inference.domain.claim import Claim
from headrace_inference.domain.logged_columns import Part, Run, cuts, row_bytes, runs
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


class Answer(NamedTuple):
    """A record, and the calls that it answers, in the order of their requests."""

    message: Message
    calls: Sequence[RecordCall]


def answers(
    calls: Sequence[RecordCall], *, partitions: Callable[[str], int], keep: Keep
) -> Iterator[Answer]:
    """The records that answer these calls; `partitions` tells how many a topic has, `keep` puts an
    answer that fits no record where its claim finds it.

    A call whose answer finds no place, or whose topic takes not even the claim of it, has the error
    that it is answered by; one that comes again has no record here.
    """
    parts = _parts(calls)
    for group, members in sorted(_groups(calls).items()):
        topic = topics.INFERENCE_PREDICTIONS.of(members[0].endpoint)
        number = group.partition.number
        part = parts.get(group.source)
        for own, record in _refusals(members) if part is None else _answers(part, members, keep):
            named = f"{own[0].topic_id}:{number}:{own[0].offset}"
            headers = ce_headers(named) + tracing.record_headers()
            target = number % partitions(topic)
            yield Answer(Message(topic, None, record, headers, target), own)


def _parts(calls: Sequence[RecordCall]) -> dict[int, Part]:
    """All of each prediction."""
    predictions = {id(call.prediction): call.prediction for call in calls if call.prediction}
    return {source: Part(each, row_bytes(each), runs(each)) for source, each in predictions.items()}


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
    part: Part, members: Sequence[RecordCall], keep: Keep
) -> Iterator[tuple[Sequence[RecordCall], bytes]]:
    """Each record with the calls in it, in their order.

    No request is cut: who finds an offset in a record must have found all of its rows.
    """
    by_request: dict[int, list[Run]] = defaultdict(list)
    for run in part.runs:
        by_request[run[0]].append(run)
    own = [by_request[call.place] for call in members]
    sizes = np.array([part.of_runs(each).bytes for each in own], dtype=np.int64)
    for first, end in cuts(sizes, RECORD_BYTES_MAX):
        record = part.of_runs(list(chain.from_iterable(own[first:end])))
        yield from _fitting(record, members[first:end], keep)


def _fitting(
    part: Part, members: Sequence[RecordCall], keep: Keep
) -> Iterator[tuple[Sequence[RecordCall], bytes]]:
    """The record, if need be without the inputs; else one that claims the answer of one call.

    An answer that was kept in another pass over the same calls is not kept again.
    """
    if members[0].claiming is not None:
        yield from _claimed(members[0])
        return
    event = _event(part, members)
    for inputs in (True, False):
        record = conversions.predictions_record(event, [part], inputs=inputs)
        if len(members) > 1 or _fits(record, members[0]):
            bare.inc(0 if inputs else sum(event.run_rows))
            yield members, record
            return
    (call,) = members
    yield from _claiming(event, part, call, keep)


def _fits(record: bytes, call: RecordCall) -> bool:
    return len(record) <= VALUE_BYTES_MAX and len(record) < call.refused_bytes


def _claiming(
    event: Any, part: Part, call: RecordCall, keep: Keep
) -> Iterator[tuple[Sequence[RecordCall], bytes]]:
    """The record that claims the answer, else the refusal; none for a call that comes again."""
    error: HeadraceError | None = None
    for inputs in (True, False):  # there may be room for the outputs alone
        record = conversions.predictions_record(event, [part], inputs=inputs)
        try:
            claim = keep(call.endpoint, record)
        except HeadraceError as err:
            error = err
        else:
            failpoint("inference.claim.kept")
            bare.inc(0 if inputs else sum(event.run_rows))
            call.claiming = conversions.claiming_event(event, claim).SerializeToString()
            yield from _claimed(call)
            return
    call.prediction, call.error = None, error
    if not call.comes_again:
        yield from _refusals([call])


def _claimed(call: RecordCall) -> Iterator[tuple[Sequence[RecordCall], bytes]]:
    """The record that claims the answer, unless the topic takes no record of that size."""
    if _fits(call.claiming, call):
        yield [call], call.claiming
        return
    topic = topics.INFERENCE_PREDICTIONS.of(call.endpoint)
    call.prediction, call.error = None, Invalid("TOO_LARGE", topic=topic)
    yield from _refusals([call])


def _event(part: Part, members: Sequence[RecordCall]) -> Any:
    """All of a record but its tensors."""
    event = conversions.predictions_event([part], writer="", rows_answered=0)
    event.request_partition = members[0].partition.number
    event.request_topic_id = members[0].topic_id
    offsets = {call.place: call.offset for call in members}
    event.request_offsets.extend([offsets[request] for request, *_ in part.runs])
    return event


def _refusals(members: Sequence[RecordCall]) -> Iterator[tuple[Sequence[RecordCall], bytes]]:
    refused = [
        conversions.refused_request(call.id, call.offset, call.error)
        for call in members
        if isinstance(call.error, HeadraceError)
    ]
    sizes = np.array([each.ByteSize() for each in refused], dtype=np.int64)
    for first, end in cuts(sizes, RECORD_BYTES_MAX):
        event = conversions.refused_event(members[0].endpoint, refused[first:end])
        event.request_partition = members[0].partition.number
        event.request_topic_id = members[0].topic_id
        yield members[first:end], event.SerializeToString()
