# SPDX-License-Identifier: Apache-2.0
"""Which requests over Kafka have their answer, as the topic of the answers tells.

It is read on a thread of its own, however much of it there is: the loop goes on polling, and keeps
its place in the group.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Collection
from dataclasses import dataclass

from headrace import topics
from headrace.errors import Invalid, Unavailable
from headrace_inference.adapters import conversions
from headrace_kit.kafka import Partition
from headrace_kit.part_thread import ThreadPart
from headrace_kit.telemetry import counter, gauge
from headrace_kit.topic_log import TopicLog

WAIT_S = 0.25

looking = gauge("inference", "answer_look_ups_count", "Partitions whose answers are looked up.")
skipped = counter(
    "inference", "answers_skipped_total", "Records among the answers that are none: whose are they?"
)


@dataclass(eq=False, slots=True)
class _LookUp:
    partition: Partition
    topic_id: str
    begin: int
    found: set[int] | None = None
    error: Unavailable | None = None
    wanted: bool = True


class AnswerLookUps(ThreadPart):
    """Asked by the loop's thread alone; `partitions` tells how many a topic has."""

    def __init__(self, log: TopicLog, *, partitions: Callable[[str], int]) -> None:
        super().__init__("answer-look-ups")
        self._log, self._partitions = log, partitions
        self._jobs: dict[Partition, _LookUp] = {}
        self._queue: queue.SimpleQueue[_LookUp] = queue.SimpleQueue()  # one a partition at most

    def answered(self, partition: Partition, topic_id: str, begin: int) -> set[int] | None:
        """The offsets of the topic with this id from `begin` on that have an answer; None while
        that is looked up.

        Raises Unavailable when it could not be: the next call begins again.
        """
        job = self._jobs.get(partition)
        if job is None:
            job = self._jobs[partition] = _LookUp(partition, topic_id, begin)
            self._queue.put(job)
        elif job.error or job.found is not None:
            del self._jobs[partition]
        looking.set(len(self._jobs))
        if job.error:
            raise job.error
        return job.found

    def forget(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            if job := self._jobs.pop(partition, None):
                job.wanted = False
        looking.set(len(self._jobs))

    def look_up_next(self, wait_s: float) -> None:
        """Look up what was asked for longest, if anything within the time."""
        try:
            job = self._queue.get(timeout=wait_s)
        except queue.Empty:
            return
        try:
            job.found = self._found(job)
        except Unavailable as err:
            job.error = err

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._thread.tick()
            self.look_up_next(WAIT_S)

    def _found(self, job: _LookUp) -> set[int]:
        """Answers lie behind the time of the first request; what nobody wants any more is left."""
        answered: set[int] = set()
        number, topic = job.partition.number, job.partition.topic
        first = next(self._log.read(job.partition, job.begin), None) if job.wanted else None
        if first is None:
            return answered
        target = topics.INFERENCE_PREDICTIONS.of(topics.INFERENCE_REQUESTS.part_of(topic))
        lies_in = Partition(target, number % self._partitions(target))
        for record in self._log.read(lies_in, since_ms=first.timestamp_ms):
            self._thread.tick()
            if not job.wanted or self._stopping.is_set():
                break
            found = _answered_offsets(record.value or b"", number, job.topic_id)
            answered.update(each for each in found if each >= job.begin)
        return answered


def _answered_offsets(value: bytes, partition: int, topic_id: str) -> list[int]:
    """None of a stranger's record: it answers nothing, and must not end the service."""
    try:
        return conversions.answered_offsets(value, partition, topic_id)
    except Invalid:
        skipped.inc()
        return []
