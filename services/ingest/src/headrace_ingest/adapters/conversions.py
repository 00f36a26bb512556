# SPDX-License-Identifier: Apache-2.0
"""Between protos and the domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace import topics
from headrace.errors import HeadraceError
from headrace.ingest.v1 import ingest_service_pb2 as pb
from headrace_ingest.domain.accounts import Account
from headrace_ingest.handlers.publish import PublishItem, PublishRecords


def to_command(request: pb.PublishRequest) -> PublishRecords:
    items = [PublishItem(item.event_id, item.key, item.value) for item in request.items]
    return PublishRecords(request.stream, items)


def to_publish_response(reasons: Sequence[str]) -> pb.PublishResponse:
    statuses = [pb.PublishStatus(accepted=not reason, reason=reason) for reason in reasons]
    return pb.PublishResponse(statuses=statuses)


def to_counts_response(
    counts: Sequence[tuple[str, Account]], stopped: Mapping[str, HeadraceError]
) -> pb.ListStreamCountsResponse:
    """`stopped`: by raw topic, why it is read no further."""
    streams = [_to_counts(*each, stopped.get(topics.RAW.of(each[0]))) for each in counts]
    return pb.ListStreamCountsResponse(streams=streams)


def _to_counts(stream: str, account: Account, stopped: HeadraceError | None) -> pb.StreamCounts:
    return pb.StreamCounts(
        stream=stream,
        received=account.received,
        stored=account.stored,
        dead_lettered_by_reason=account.dead_by_reason,
        repeats=account.repeats,
        late=account.late,
        redriven=account.redriven,
        stopped_reason="" if stopped is None else stopped.reason,
    )
