# SPDX-License-Identifier: Apache-2.0
"""Follows `ingest.erased-events` as a log, from the place that the state is furthest behind.

A round is offered only when the fold knows the entities of its events, which every message names:
so an event that a round takes out of the runs is not folded again. The log is kept for ever, and a
state of any age, on disk or in a snapshot, is brought up to it from where it says it was, or, where
that is a place in a log of another id, from the beginning.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from operator import attrgetter

import structlog

from headrace.errors import Invalid, Unavailable
from headrace.ingest.v1 import erasures_pb2 as pb
from headrace_feature.adapters.run_eraser import Round, RunEraser
from headrace_feature.adapters.run_store import RunStore
from headrace_feature.domain.erased_events import ErasedEvents, ErasedKey
from headrace_feature.domain.log_place import BEGINNING, LogPlace
from headrace_kit.erased_entities import Entity, ErasedEntities, read_erased
from headrace_kit.kafka import Partition, Record
from headrace_kit.offsets import described_topics, topic_end_offsets
from headrace_kit.part_thread import LookingPart
from headrace_kit.topic_log import TopicLog

LOOK_INTERVAL_S = 1.0
ROUND_MESSAGES_MAX = 100  # of at most 1,000 events each

log = structlog.get_logger(__name__)


class ErasedEventsReader(LookingPart):
    """A Part. `end`: of the log, now."""

    def __init__(
        self,
        *,
        log: TopicLog,
        partition: Partition,
        end: Callable[[], LogPlace],
        erased: ErasedEntities,
        eraser: RunEraser,
        store: RunStore,
    ) -> None:
        super().__init__("erased-events", interval_s=LOOK_INTERVAL_S, waits="erased_events_wait")
        self._log, self._partition, self._end = log, partition, end
        self._erased, self._eraser, self._store = erased, eraser, store
        self._known = BEGINNING

    def start(self) -> None:
        self.begin()
        super().start()

    def begin(self) -> None:
        """What was told before this moment concerns nothing that is folded from now on."""
        try:
            self._known = self._end()
        except Unavailable as err:  # then the log is read from its beginning
            log.warning("erased_events_unknown", error=str(err))
        else:
            self._store.follow_erased_anew(self._known)
        self._store.know_erased(self._known)

    def look(self) -> None:
        """Offer what was told since the last round; raises Unavailable."""
        end = self._end()
        if end.log_id != self._known.log_id or end.offset < self._known.offset:
            self._known = LogPlace(0, end.log_id)  # it was made again, and none of it is known
        self._store.follow_erased_anew(end)
        lowest = self._eraser.lowest()
        begin = self._known.offset if lowest is None else min(lowest, self._known.offset)
        if self._eraser.busy or end.offset <= begin:
            return
        records = list(islice(self._log.read(self._partition, begin), ROUND_MESSAGES_MAX))
        if len(records) == ROUND_MESSAGES_MAX:
            end = LogPlace(records[-1].offset + 1, end.log_id)
        self._known = max(self._known, end, key=attrgetter("offset"))
        self._eraser.offer(self._round(begin, end, records))

    def _round(self, begin: int, end: LogPlace, records: Iterable[Record]) -> Round:
        """Once its entities are known to the fold."""
        entities = set[Entity]()
        told: dict[str, list[pb.EventsErased]] = defaultdict(list)
        for record in records:
            try:
                event, entity = read_erased(record.value, pb.EventsErased.FromString)
            except Invalid as err:
                log.error("record_skipped", offset=record.offset, error=str(err))
            else:
                self._erased.take(entity)
                entities.add(entity)
                told[event.stream].append(event)
        events_by_stream = {stream: _events(some) for stream, some in told.items()}
        return Round(begin, end, entities, events_by_stream)


def end_of(bootstrap: str, topic: str) -> LogPlace:
    """Of a log of one partition; raises Unavailable.

    The id first: that of a log that is made again meanwhile is the older one, and read again.
    """
    log_id = described_topics(bootstrap, [topic])[topic].id
    return LogPlace(topic_end_offsets(bootstrap, [topic])[Partition(topic, 0)], log_id)


def _events(told: Sequence[pb.EventsErased]) -> ErasedEvents:
    ids = [each.encode() for event in told for each in event.event_ids]
    moments_us = [each for event in told for each in event.event_times_us]
    keys = [
        ErasedKey.of(event.column, event.entity_key_digest, event.erased_at_us)
        for event in told
        if event.entity_key_digest
    ]
    return ErasedEvents.of(ids, moments_us, keys)
