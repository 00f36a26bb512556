# SPDX-License-Identifier: Apache-2.0
"""Between protos and the domain."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.ingest.v1 import ingest_service_pb2 as pb
from headrace_ingest.domain.accounts import Account
from headrace_ingest.handlers.counts import StreamCount
from headrace_ingest.handlers.publish import Published, PublishItem, PublishRecords


def to_command(request: pb.PublishRequest | pb.PublishStreamRequest) -> PublishRecords:
    items = [PublishItem(item.event_id, item.key, item.value) for item in request.items]
    return PublishRecords(request.stream, items)


def to_publish_response(published: Published) -> pb.PublishResponse:
    refused, repeats = published.refused, published.repeats
    statuses = [
        pb.PublishStatus(
            accepted=index not in refused, reason=refused.get(index, ""), repeat=index in repeats
        )
        for index in range(published.items)
    ]
    return pb.PublishResponse(statuses=statuses)


def to_publish_stream_response(published: Published) -> pb.PublishStreamResponse:
    refused = [
        pb.PublishException(index=index, reason=reason)
        for index, reason in published.refused.items()
    ]
    repeats = [pb.PublishException(index=index, repeat=True) for index in published.repeats]
    exceptions = sorted([*refused, *repeats], key=lambda each: each.index)
    return pb.PublishStreamResponse(items=published.items, exceptions=exceptions)


def to_counts_response(counts: Sequence[StreamCount]) -> pb.ListStreamCountsResponse:
    return pb.ListStreamCountsResponse(streams=[_to_counts(each) for each in counts])


def _to_counts(count: StreamCount) -> pb.StreamCounts:
    account, stopped = count.account or Account(), count.stopped
    return pb.StreamCounts(
        stream=count.stream,
        received=account.received,
        stored=account.stored,
        dead_lettered_by_reason=account.dead_by_reason,
        repeats=account.repeats,
        late=account.late,
        redriven=account.redriven,
        stopped_reason="" if stopped is None else stopped.reason,
        stopped_details=None if stopped is None else stopped.metadata,
        contract_version=count.version,
        counts_unknown=count.account is None,
    )
