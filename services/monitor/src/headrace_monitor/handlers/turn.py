# SPDX-License-Identifier: Apache-2.0
"""One monitor's turn within a batch: what every step of it needs."""

from __future__ import annotations

from dataclasses import dataclass

from headrace import topics
from headrace_monitor.domain import layout
from headrace_monitor.domain.incident import Incident, Rollout
from headrace_monitor.domain.progress import Progress
from headrace_monitor.domain.version import KnownVersion
from headrace_monitor.domain.watch import Watch
from headrace_monitor.handlers.batch import Batch
from headrace_monitor.handlers.forms import INCIDENT, PROGRESS, ROLLOUT, VERSION


@dataclass(frozen=True, slots=True)
class Turn:
    """`progress` is changed in place and stored by `end`."""

    watch: Watch
    batch: Batch
    progress: Progress
    # What the monitored endpoint serves, as far as it was read.
    rollout: Rollout | None

    @property
    def id(self) -> bytes:
        return self.watch.name.encode()

    def version(self, number: int) -> KnownVersion | None:
        return self.batch.read(VERSION, layout.version(self.watch.endpoint.model, number))

    def incidents(self) -> list[Incident]:
        """In the order of event time."""
        found = self.batch.scan(layout.span(layout.incidents(self.id)))
        return [INCIDENT.validate_json(value) for _, value in found]

    def put_incident(self, incident: Incident) -> None:
        """Stores it as it is now, and tells everybody."""
        key = layout.incident(self.id, incident.judged_at_us, incident.incident_id)
        self.batch.write(INCIDENT, key, incident)
        self.batch.emit(incident)

    def end(self) -> None:
        key = layout.progress(self.id)
        if self.batch.read(PROGRESS, key) != self.progress:
            self.batch.write(PROGRESS, key, self.progress)


def take_turn(watch: Watch, batch: Batch) -> Turn:
    """After the batch's facts of other services were stored."""
    progress = batch.read(PROGRESS, layout.progress(watch.name.encode()))
    if progress is None:
        progress = _beginning(watch, batch)
    return Turn(watch, batch, progress, batch.read(ROLLOUT, layout.rollout(watch.endpoint.name)))


def _beginning(watch: Watch, batch: Batch) -> Progress:
    """Of what others have folded already it sees nothing, so the window under way is not judged."""
    marks = [
        int(known_us)
        for stream in watch.streams
        for _, known_us in batch.scan(layout.span(layout.marks(topics.INGEST_RECORDS.of(stream))))
    ]
    if not marks:
        return Progress()
    begun_us = watch.window_end_us(max(marks))
    return Progress(drift_until_us=begun_us, outcomes_until_us=begun_us)
