# SPDX-License-Identifier: Apache-2.0
"""Advances a monitor to what is known: decides absences and judges the moments that have passed.

A moment has passed when every partition of the spine's and the label's stream that has data was
read beyond it, and the predictions were folded up to the ends that their topic had after that. So
what a verdict is reached on does not depend on which partition happened to be read first. While
one of its topics is missing a monitor waits, and no other waits with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from headrace import topics
from headrace.errors import TOPIC_MISSING, Unavailable
from headrace_monitor.domain import layout
from headrace_monitor.domain.watch import Watch
from headrace_monitor.handlers.batch import Batch
from headrace_monitor.handlers.fold import decide_absences, forget
from headrace_monitor.handlers.judge import Moment, judge, moments_before
from headrace_monitor.handlers.turn import Turn
from headrace_monitor.ports import Clock, EndOffsets, Partition

# How long a monitor whose topic is missing waits until it asks again.
MISSING_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """What the watermark needs of a record."""

    partition: Partition
    known_us: int


@dataclass(frozen=True, slots=True)
class _Ends:
    """Where the topics ended when everything before `known_us` was known."""

    known_us: int
    by_partition: Mapping[Partition, int]


def note_known_times(records: Sequence[StreamRecord], *, batch: Batch) -> list[int]:
    """The known time of each record, made monotone within its partition.

    A record that is known late counts as known when the partition had come to it: what was decided
    before stays decided, in every replay.
    """
    marks: dict[Partition, int] = {}
    known = []
    for record in records:
        partition = record.partition
        if partition not in marks:
            stored = batch.get(layout.mark(*partition))
            marks[partition] = int(stored) if stored else record.known_us
        marks[partition] = max(marks[partition], record.known_us)
        known.append(marks[partition])
    for partition, known_us in marks.items():
        batch.put(layout.mark(*partition), b"%d" % known_us)
    return known


class Advance:
    """Remembers only what it asked of the broker, so that it asks once for a moment.

    It waits by `monotonic_s`: a clock that is put back must hold nothing up.
    """

    def __init__(
        self, *, end_offsets: EndOffsets, clock: Clock, monotonic_s: Callable[[], float]
    ) -> None:
        self._end_offsets, self._clock, self._monotonic_s = end_offsets, clock, monotonic_s
        self._ends: dict[str, _Ends] = {}
        self._asked_again_s: dict[str, float] = {}  # by monitor, after a topic was missing

    def ask_again(self) -> None:
        """The ends that were told are those of a topic that is no more."""
        self._ends.clear()

    def __call__(self, turn: Turn, folded: Mapping[Partition, int]) -> None:
        """`folded`: the next offset by partition, this batch included."""
        marks = _marks(turn)
        if marks is None:
            return
        # A topic that is made again begins with old known times; what was decided stays decided.
        known_us = max(min(marks.values()), turn.progress.absent_until_us)
        moments = moments_before(turn, known_us)
        if known_us <= turn.progress.evaluated_until_us and not moments:
            return
        if not self._all_read(turn.watch, marks, known_us):
            return
        decide_absences(turn, known_us)
        forget(turn, known_us)
        waiting = self._judge(turn, moments, marks, known_us, folded)
        turn.progress.evaluated_until_us = waiting.at_us if waiting else known_us

    def _judge(
        self,
        turn: Turn,
        moments: Sequence[Moment],
        marks: Mapping[Partition, int],
        known_us: int,
        folded: Mapping[Partition, int],
    ) -> Moment | None:
        """Judges what can be judged; answers the first moment that must wait."""
        for moment in moments:
            stale = self._ends[turn.watch.name].known_us <= moment.at_us
            if stale and not self._ask(turn.watch, known_us):
                return moment
            if not self._all_read(turn.watch, marks, known_us):
                return moment
            if not self._all_folded(turn.watch, folded):
                return moment
            judge(turn, moment, clock=self._clock)
        return None

    def _ask(self, watch: Watch, known_us: int) -> bool:
        """False while a topic is missing; the consume loop, which reads it, tells that."""
        now_s = self._monotonic_s()
        if now_s < self._asked_again_s.get(watch.name, now_s):
            return False
        try:
            self._ends[watch.name] = _Ends(known_us, self._end_offsets(_topics(watch)))
        except Unavailable as err:
            if err.reason != TOPIC_MISSING:
                raise
            self._asked_again_s[watch.name] = now_s + MISSING_WAIT_S
            return False
        return True

    def _all_read(self, watch: Watch, marks: Mapping[Partition, int], known_us: int) -> bool:
        """Whether each partition of the streams that has data was read from."""
        unknown = watch.name not in self._ends or self._unread(watch, marks)
        if unknown and not self._ask(watch, known_us):
            return False
        return not any(self._unread(watch, marks))

    def _unread(self, watch: Watch, marks: Mapping[Partition, int]) -> list[int]:
        """Ends of the streams' partitions that nothing was read from."""
        streams = {topics.INGEST_RECORDS.of(stream) for stream in watch.streams}
        return [
            end
            for partition, end in self._ends[watch.name].by_partition.items()
            if partition.topic in streams and partition not in marks
        ]

    def _all_folded(self, watch: Watch, folded: Mapping[Partition, int]) -> bool:
        """Whether predictions and versions were folded up to the ends."""
        needed = {
            topics.INFERENCE_PREDICTIONS.of(watch.endpoint.name),
            topics.REGISTRY_MODEL_VERSIONS.name,
        }
        return all(
            folded.get(partition, 0) >= end
            for partition, end in self._ends[watch.name].by_partition.items()
            if partition.topic in needed
        )


def _topics(watch: Watch) -> list[str]:
    streams = [topics.INGEST_RECORDS.of(stream) for stream in sorted(watch.streams)]
    predictions = topics.INFERENCE_PREDICTIONS.of(watch.endpoint.name)
    return [*streams, predictions, topics.REGISTRY_MODEL_VERSIONS.name]


def _marks(turn: Turn) -> dict[Partition, int] | None:
    """Watermark by partition; None while one of the streams has none at all."""
    marks = {}
    for stream in turn.watch.streams:
        topic = topics.INGEST_RECORDS.of(stream)
        prefix = layout.marks(topic)
        found = turn.batch.scan(layout.span(prefix))
        if not found:
            return None
        marks.update({Partition(topic, int(k[len(prefix) :])): int(v) for k, v in found})
    return marks
