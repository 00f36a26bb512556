# SPDX-License-Identifier: Apache-2.0
"""Reads `inference.predictions.*` for the label queues, and `monitor.incidents` for their rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError

from headrace.errors import Invalid
from headrace.monitor.v1 import monitor_events_pb2
from headrace.prediction_log import LoggedPrediction, logged_predictions
from headrace_ingest.domain.label_tasks import Bin, Drift, Served
from headrace_ingest.handlers.label_tasks import put_to_people
from headrace_ingest.ports.definitions import LabelBook
from headrace_ingest.ports.labels import TaskStore
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.kafka import Partition, Record, RecordBatch

DRIFT = "drift"


class OpenIncidents:
    """What drifts, as the incidents say that are not resolved."""

    def __init__(self) -> None:
        self._drifts: dict[str, Drift] = {}

    def take(self, record: Record) -> None:
        """A record of the topic: the incident as it is now; raises Invalid DECODE_ERROR."""
        try:
            incident = monitor_events_pb2.Incident.FromString(record.value or b"")
        except DecodeError as err:
            raise Invalid("DECODE_ERROR", topic=record.topic) from err
        resolved = incident.state == monitor_events_pb2.INCIDENT_STATE_RESOLVED
        left = {i: each for i, each in self._drifts.items() if i != incident.incident_id}
        if incident.kind == DRIFT and not resolved:
            left[incident.incident_id] = _drift(incident)
        self._drifts = left

    def drifted(self, served: Served) -> bool:
        """Whether the row is one of those that are more than before."""
        return any(drift.holds(served) for drift in self._drifts.values())


class PredictionSampler:
    """PositionedHandler, FollowingHandler: tasks and positions are one transaction, ids make a
    repeat harmless.
    """

    def __init__(
        self,
        *,
        labels: LabelBook,
        incidents: OpenIncidents,
        tasks: TaskStore,
        erased: ErasedEntities,
    ) -> None:
        self._labels, self._incidents, self._tasks = labels, incidents, tasks
        self._erased = erased

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        self._tasks.follow_topics(topic_ids)

    def positions(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        saved = self._tasks.positions()
        return {each: saved[each] for each in partitions if each in saved}

    def handle(self, records: RecordBatch) -> None:
        served = [
            _served(made) for value in records.values() for made in logged_predictions(value or b"")
        ]
        self._take(served, records.next_by_partition())

    def set_aside(self, record: Record) -> None:
        self._take([], {Partition(record.topic, record.partition): record.offset + 1})

    def idle(self) -> None:
        """Nothing waits on time."""

    def _take(self, served: Sequence[Served], positions: Mapping[Partition, int]) -> None:
        put_to_people(
            served,
            {(topic, number): offset for (topic, number), offset in positions.items()},
            labels=self._labels,
            drifted=self._incidents.drifted,
            tasks=self._tasks,
            erased=self._erased,
        )


def _drift(incident: monitor_events_pb2.Incident) -> Drift:
    bins_by_place = {each.place: [_bin(one) for one in each.bins] for each in incident.drifted}
    return Drift(incident.endpoint, incident.version, bins_by_place)


def _bin(told: monitor_events_pb2.DriftedBin) -> Bin:
    return Bin(
        at_least=told.at_least if told.HasField("at_least") else None,
        below=told.below if told.HasField("below") else None,
        absent=told.absent,
    )


def _served(made: LoggedPrediction) -> Served:
    return Served(
        prediction_id=made.prediction_id,
        endpoint=made.endpoint,
        entity_key=made.entity_key,
        as_of_us=made.as_of_us,
        version=made.version,
        score=made.score,
        other_score=made.shadow_score if made.shadow_version else None,
        features=made.features,
        model=made.model,
        served_at_us=made.served_at_us,
        other_version=made.shadow_version,
    )
