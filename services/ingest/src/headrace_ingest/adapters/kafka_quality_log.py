# SPDX-License-Identifier: Apache-2.0
"""QualityLog on the topic `ingest.quality`."""

from __future__ import annotations

from headrace import topics
from headrace.ingest.v1 import ingest_events_pb2 as pb
from headrace_ingest.domain.quality import ColumnQuality, StreamQuality
from headrace_kit.kafka import Message, Publisher


class KafkaQualityLog:
    """Publishes each figure as StreamQualityMeasured."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def tell(self, quality: StreamQuality) -> None:
        self._publisher.publish([quality_message(quality)])


def quality_message(quality: StreamQuality) -> Message:
    """`ce_id` is a hash of the records and the minute, so that a repeat is known as one."""
    event = quality_proto(quality)
    headers = {
        "ce_specversion": "1.0",
        "ce_type": event.DESCRIPTOR.full_name,
        "ce_source": "ingest",
        "ce_id": quality.event_id,
    }
    return Message(
        topics.INGEST_QUALITY.name,
        quality.stream.encode(),
        event.SerializeToString(deterministic=True),
        tuple((name, value.encode()) for name, value in headers.items()),
    )


def quality_proto(quality: StreamQuality) -> pb.StreamQualityMeasured:
    return pb.StreamQualityMeasured(
        stream=quality.stream,
        contract_version=quality.version,
        minute_us=quality.minute_us,
        received=quality.received,
        stored=quality.stored,
        late=quality.late,
        repeats=quality.repeats,
        refused_by_reason=quality.refused_by_reason,
        lateness_us_mean=quality.lateness_us_mean,
        lateness_us_max=quality.lateness_us_max,
        columns=[_column(name, each) for name, each in quality.columns.items()],
        offsets=[
            pb.OffsetRange(partition=number, first=first, end=end)
            for number, (first, end) in sorted(quality.offsets.items())
        ],
    )


def _column(name: str, column: ColumnQuality) -> pb.ColumnQuality:
    return pb.ColumnQuality(
        column=name,
        nulls=column.nulls,
        distinct=column.distinct,
        min=column.least,
        max=column.greatest,
    )
