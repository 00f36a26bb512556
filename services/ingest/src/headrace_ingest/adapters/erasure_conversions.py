# SPDX-License-Identifier: Apache-2.0
"""Between the protos of erasures and the domain."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from headrace import topics
from headrace.errors import Invalid
from headrace.ingest.v1 import erasures_pb2 as pb
from headrace_ingest.domain.erasures import Entity, Erasure
from headrace_kit.kafka import Message, Publisher, Record


class KafkaErasureNews:
    """ErasureNews on the topic of erasures, which keeps the newest of each entity for ever."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def tell(self, erasure: Erasure) -> None:
        self._publisher.publish([erased_message(erasure)])


def erased_message(erasure: Erasure) -> Message:
    entity = erasure.entity
    event = pb.EntityErased(
        column=entity.column,
        entity_sha256=entity.sha256,
        erased_at_us=entity.erased_at_us,
        streams=sorted(erasure.rows_by_stream),
    )
    headers = (("ce_id", f"erasure:{erasure.id}".encode()),)
    key = entity.sha256.encode()
    return Message(topics.INGEST_ERASURES.name, key, event.SerializeToString(), headers)


def to_entity(record: Record) -> Entity:
    """Raises Invalid DECODE_ERROR."""
    try:
        event = pb.EntityErased.FromString(record.value or b"")
        bytes.fromhex(event.entity_sha256)
    except (DecodeError, ValueError) as err:
        raise Invalid("DECODE_ERROR", message="EntityErased") from err
    return Entity(event.column, event.entity_sha256, event.erased_at_us)


def to_erasure(erasure: Erasure) -> pb.Erasure:
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
        datasets=[
            pb.ErasedDataset(name=each.name, number=each.number, rows=each.rows)
            for each in erasure.datasets
        ],
        trained_versions=[
            pb.TrainedVersion(model=each.model, version=each.version, streams=each.streams)
            for each in erasure.trained_versions
        ],
    )
