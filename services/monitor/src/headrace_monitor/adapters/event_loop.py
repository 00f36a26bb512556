# SPDX-License-Identifier: Apache-2.0
"""BatchHandler of the fold loop: a batch is folded, what is due is judged, all is stored at once.

What is to be sent lies in the same stored batch and goes out after it; a crash in between sends it
again, first thing after the restart, with the same ids. Only then is the group's offset committed:
lag 0 means that everything due was judged and sent.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from headrace import topics
from headrace.errors import Invalid
from headrace_kit import json_strict
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Message, Partition, Publisher, Record
from headrace_kit.state_store import StateStore
from headrace_kit.telemetry import counter, gauge
from headrace_monitor.adapters import conversions
from headrace_monitor.domain import layout
from headrace_monitor.domain.watch import Watch
from headrace_monitor.handlers.advance import Advance, StreamRecord, note_known_times
from headrace_monitor.handlers.batch import Batch
from headrace_monitor.handlers.facts import follow_incidents, note
from headrace_monitor.handlers.fold import (
    LabelRecord,
    fold_labels,
    fold_nonfinite,
    fold_predictions,
)
from headrace_monitor.handlers.judge import judge_nonfinite
from headrace_monitor.handlers.turn import Turn, take_turn
from headrace_monitor.ports import Clock, EndOffsets

SERVICE = "monitor"
PREDICTION_TOPICS = topics.INFERENCE_PREDICTIONS.pattern.partition("<")[0]
FAILPOINT_BY_TOPIC = {
    topics.MONITOR_VERDICTS.name: "monitor.verdict.sent",
    topics.MONITOR_INCIDENTS.name: "monitor.incident.opened",
    topics.TRAINER_REQUESTS.name: "monitor.request.sent",
}

log = structlog.get_logger(__name__)

predictions_folded = gauge(SERVICE, "predictions_folded_rows", "Predictions read.", "monitor")
predictions_refused = gauge(SERVICE, "predictions_refused_rows", "Beyond the cap.", "monitor")
outcomes_known = gauge(SERVICE, "outcomes_known_rows", "Predictions with outcome.", "monitor")
messages_sent = counter(SERVICE, "sent_total", "Verdicts, incidents and requests.", "topic")


class EventLoop:
    """FollowingHandler. Folds every batch for every monitor."""

    def __init__(
        self,
        *,
        fact_topics: Collection[str],
        store: StateStore,
        publisher: Publisher,
        watches: Callable[[], Mapping[str, Watch]],
        end_offsets: EndOffsets,
        clock: Clock,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._store, self._publisher, self._clock = store, publisher, clock
        self._watches, self._fact_topics = watches, frozenset(fact_topics)
        self._advance = Advance(end_offsets=end_offsets, clock=clock, monotonic_s=monotonic_s)
        # Records that the loop set aside: they count as folded, though nothing is stored of them.
        self._set_aside: dict[Partition, int] = {}

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        for topic, topic_id in topic_ids.items():
            key, named = layout.topic_id(topic), topic_id.encode()
            before = self._store.get(key)
            if before is None:  # nothing is stored, or by a version that did not say
                self._store.commit({key: named}, [], {})
            elif before != named:
                log.warning("topic_made_again", topic=topic, topic_id=topic_id)
                self._begin_again(topic, {key: named})

    def _begin_again(self, topic: str, named: Mapping[bytes, bytes]) -> None:
        """What was folded stays, since a repeat changes nothing; how far we had come goes."""
        marks = [key for key, _ in self._store.scan(*layout.span(layout.marks(topic)))]
        begun = {each: 0 for each in self._store.offsets() if each.topic == topic}
        self._store.commit(named, marks, begun)
        self._set_aside = {p: at for p, at in self._set_aside.items() if p.topic != topic}
        self._advance.ask_again()

    def positions(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """None where nothing is folded: such a topic is read from what Kafka still has."""
        self._send()
        stored = self._store.offsets()
        return {each: stored[each] for each in partitions if stored.get(each)}

    def handle(self, records: Sequence[Record]) -> None:
        self._send()
        stored = self._store.offsets()
        fresh = [each for each in records if each.offset >= stored.get(_partition(each), 0)]
        self._fold(fresh, stored)
        self._send()

    def idle(self) -> None:
        self._send()
        self._fold([], self._store.offsets())
        self._send()

    def _fold(self, records: Sequence[Record], stored: Mapping[Partition, int]) -> None:
        offsets = {_partition(record): record.offset + 1 for record in records}
        batch = Batch(self._store)
        try:
            turns = self._take_turns(records, batch)
        except Invalid:
            if len(records) == 1:  # the loop will set it aside, for a longer batch it halves it
                self._set_aside |= offsets
            raise
        folded = {**stored, **self._set_aside, **offsets}
        for turn in turns:
            follow_incidents(turn, clock=self._clock)
            judge_nonfinite(turn)
            self._advance(turn, folded)
            turn.end()
        if records or batch.changed:
            for number, event in enumerate(batch.events):
                batch.put(layout.output(number), _packed(conversions.message(event)))
            batch.commit(offsets)
            _observe(turns)

    def _take_turns(self, records: Sequence[Record], batch: Batch) -> list[Turn]:
        """Folds the records for each monitor; facts first, since the others lean on them."""
        watches = self._watches()
        for record in records:
            if record.topic in self._fact_topics:
                for fact in conversions.facts(record):
                    note(fact, batch=batch)
        # Before this batch's known times are noted: what came before a monitor is not its own.
        turns = [take_turn(watch, batch) for watch in watches.values()]
        labels, read = _labels(records, watches.values(), batch)
        read_logs = [
            conversions.predictions(record)
            for record in records
            if record.topic.startswith(PREDICTION_TOPICS)
        ]
        predictions = [each for answers, _ in read_logs for each in answers]
        nonfinite = [each for _, failures in read_logs for each in failures]
        for turn in turns:
            fold_predictions(turn, predictions)
            fold_nonfinite(turn, nonfinite)
            fold_labels(turn, labels)
            turn.progress.records_folded += sum(
                read.get(topics.INGEST_RECORDS.of(stream), 0) for stream in turn.watch.streams
            )
        return turns

    def _send(self) -> None:
        """Publishes what is stored to be sent, kind by kind, then forgets it."""
        pending = list(self._store.scan(*layout.span(layout.outputs())))
        if not pending:
            return
        messages = [_unpacked(value) for _, value in pending]
        for topic, name in FAILPOINT_BY_TOPIC.items():
            if same := [each for each in messages if each.topic == topic]:
                self._publisher.publish(same)
                failpoint(name)
                messages_sent.labels(topic).inc(len(same))
        self._store.commit({}, [key for key, _ in pending], {})


def _labels(
    records: Sequence[Record], watches: Collection[Watch], batch: Batch
) -> tuple[list[LabelRecord], Counter[str]]:
    """The label records with their known times, and how many records each stream's topic had."""
    stream_topics = {topics.INGEST_RECORDS.of(s) for watch in watches for s in watch.streams}
    label_topics = {topics.INGEST_RECORDS.of(watch.recipe.label.stream) for watch in watches}
    found = [record for record in records if record.topic in stream_topics]
    values = [json_strict.decode(record.value or b"") for record in found]
    said = map(conversions.known_us, found, values)
    known = note_known_times(
        [StreamRecord(_partition(r), known_us) for r, known_us in zip(found, said, strict=True)],
        batch=batch,
    )
    labels = [
        LabelRecord(topics.INGEST_RECORDS.part_of(record.topic), known_us, value)
        for record, known_us, value in zip(found, known, values, strict=True)
        if record.topic in label_topics
    ]
    return labels, Counter(record.topic for record in found)


def _partition(record: Record) -> Partition:
    return Partition(record.topic, record.partition)


def _observe(turns: Sequence[Turn]) -> None:
    for turn in turns:
        name, progress = turn.watch.name, turn.progress
        predictions_folded.labels(name).set(progress.predictions_folded)
        predictions_refused.labels(name).set(progress.predictions_refused)
        outcomes_known.labels(name).set(progress.labelled)


def _packed(message: Message) -> bytes:
    """A message that waits in the state to be sent."""
    parts = (message.key or b"", message.value or b"", *(value for _, value in message.headers))
    texts = [base64.b64encode(part).decode() for part in parts]
    return json.dumps([message.topic, [name for name, _ in message.headers], texts]).encode()


def _unpacked(data: bytes) -> Message:
    topic, names, texts = json.loads(data)
    key, value, *headers = (base64.b64decode(text) for text in texts)
    return Message(topic, key, value, tuple(zip(names, headers, strict=True)))
