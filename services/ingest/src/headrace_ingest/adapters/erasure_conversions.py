# SPDX-License-Identifier: Apache-2.0
"""Between the protos of erasures and the domain."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator

from headrace import topics
from headrace.ingest.v1 import erasures_pb2 as pb
from headrace_ingest.domain.erasures import ErasedEvents, Erasure
from headrace_kit.erased_entities import Entity, read_erased
from headrace_kit.kafka import Message, Publisher, Record

CE_ID = "erasure:"
EVENTS_MAX = 1_000  # in a message; their ids are at most as long as contracts allow


class KafkaErasureNews:
    """ErasureNews on two topics that are kept for ever, one of entities and one of events."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def tell(self, erasure: Erasure) -> None:
        self._publisher.publish([erased_message(erasure)])

    def tell_events(self, events: ErasedEvents) -> None:
        self._publisher.publish(list(_events_messages(events)))


def erased_message(erasure: Erasure) -> Message:
    entity = erasure.entity
    event = pb.EntityErased(
        column=entity.column,
        entity_sha256=entity.sha256,
        erased_at_us=entity.erased_at_us,
        streams=sorted(erasure.rows_by_stream),
    )
    headers = (("ce_id", f"{CE_ID}{erasure.id}".encode()),)
    key = entity.sha256.encode()
    return Message(topics.INGEST_ERASURES.name, key, event.SerializeToString(), headers)


def _events_messages(events: ErasedEvents) -> Iterator[Message]:
    """The key is a hash of what is said: told again, compaction keeps one."""
    for first in range(0, max(1, len(events.ids)), EVENTS_MAX):
        some = slice(first, first + EVENTS_MAX)
        said = pb.EventsErased(
            stream=events.stream,
            column=events.entity.column,
            entity_sha256=events.entity.sha256,
            erased_at_us=events.entity.erased_at_us,
            event_ids=events.ids[some],
            event_times_us=events.event_times_us[some],
            entity_key_digest=bytes.fromhex(events.entity.key_digest),
        ).SerializeToString(deterministic=True)
        key = hashlib.sha256(said).hexdigest()[:32]
        headers = (("ce_id", f"erased-events:{key}".encode()),)
        yield Message(topics.INGEST_ERASED_EVENTS.name, key.encode(), said, headers)


def to_erasure_id(record: Record) -> str:
    """Which erasure the record tells; empty where it does not say."""
    return record.headers.get("ce_id", b"").decode(errors="replace").removeprefix(CE_ID)


def to_entity(record: Record) -> Entity:
    """Raises Invalid DECODE_ERROR."""
    return read_erased(record.value, pb.EntityErased.FromString)[1]


def to_erasure(erasure: Erasure, taken_back: Collection[str]) -> pb.Erasure:
    """`taken_back`: the views that it waits for."""
    return pb.Erasure(
        id=erasure.id,
        column=erasure.entity.column,
        entity_sha256=erasure.entity.sha256,
        erased_at_us=erasure.entity.erased_at_us,
        settled=erasure.settled,
        streams=[
            pb.ErasedStream(stream=stream, rows=rows)
            for stream, rows in sorted(erasure.rows_by_stream.items())
        ],
        views=[
            pb.ErasedView(
                view=view,
                rows=erasure.rows_by_view.get(view, 0),
                published_rows=erasure.published_rows_by_view.get(view, 0),
                taken_back=view in taken_back and not erasure.settled,
            )
            for view in sorted({*erasure.rows_by_view, *erasure.published_rows_by_view})
        ],
        datasets=[
            pb.ErasedDataset(name=each.name, number=each.number, rows=each.rows)
            for each in erasure.datasets
        ],
        trained_versions=[
            pb.TrainedVersion(model=each.model, version=each.version, streams=each.streams)
            for each in erasure.trained_versions
        ],
    )
