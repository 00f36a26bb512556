# SPDX-License-Identifier: Apache-2.0
"""The second door: requests of `inference.requests.<endpoint>`, each answered once in effect.

Answers carry the offsets of their requests, so that who takes a partition over reads what is
answered behind the group's offset and passes it over. What a worker that lost its partition still
writes has the ids of the same predictions, by which readers drop it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from headrace import topics
from headrace.errors import (
    TOPIC_MISSING,
    Busy,
    Corrupt,
    HeadraceError,
    Invalid,
    NotFound,
    Unavailable,
)
from headrace_inference.adapters.answer_look_ups import AnswerLookUps
from headrace_inference.adapters.answer_writer import AnswerWriter
from headrace_inference.adapters.kafka_answers import Answer, answers
from headrace_inference.adapters.object_claims import ObjectClaims
from headrace_inference.adapters.record_calls import RecordCall
from headrace_inference.adapters.request_claims import RequestClaims, claim_of
from headrace_inference.domain.request import ENTITY_KEY_CHARACTERS_MAX
from headrace_inference.ports import Clock
from headrace_kit.consume import TopicsAwaited, Unfinished
from headrace_kit.dead_letters import dead_letter
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Message, Partition, PipelinedPublisher, Record, RecordBatch
from headrace_kit.suspects import AttemptLog, Suspects
from headrace_kit.telemetry import counter, histogram

SERVICE = "inference"
# Polling goes on at least this often, however slow the model is.
HANDLE_S_MAX = 5.0
# What is told of a topic that is missing, as the client knew it before or not.
OF_KAFKA = (TOPIC_MISSING, "BROKER_UNAVAILABLE", "DELIVERY_UNKNOWN")

longest = histogram(
    SERVICE, "kafka_request_seconds", "Of the oldest request answered at a time: since it came."
)
refused = counter(SERVICE, "kafka_requests_refused_total", "Answered by a reason.", "reason")
dead = counter(SERVICE, "kafka_requests_dead_total", "Requests set aside as wrong.", "reason")


class Filler(Protocol):
    def fill(self, calls: Sequence[RecordCall], *, until_s: float) -> None:
        """Answers as many as it can until then, by time.monotonic."""


class KafkaRequests:
    """RestoringHandler and FollowingHandler of the request topics. `follow` is called often: it
    chooses what is read.
    """

    def __init__(
        self,
        filler: Filler,
        *,
        publisher: PipelinedPublisher,
        look_ups: AnswerLookUps,
        claims: ObjectClaims,
        claims_memory_bytes_max: int,
        committed: Callable[[Collection[str]], Mapping[Partition, int]],
        partitions: Callable[[str], int],
        missing: Callable[[Collection[str]], Collection[str]],
        clock: Clock,
        follow: Callable[[], None],
        attempt_log: AttemptLog,
    ) -> None:
        """`partitions`: how many a topic has, or had lately; `missing`: which are not there.

        The publisher writes nothing else into the topics of the answers.
        """
        self._filler, self._publisher, self._look_ups = filler, publisher, look_ups
        self._answers = partial(answers, partitions=partitions, keep=claims.keep_answer)
        self._writer = AnswerWriter(publisher, answers=self._answers)
        self._claims = RequestClaims(claims, memory_bytes_max=claims_memory_bytes_max)
        self._committed, self._missing = committed, missing
        self._clock, self._follow = clock, follow
        self._attempt_log, self._suspects = attempt_log, Suspects(attempt_log.read())
        self._restoring: list[Partition] = []
        # Of each partition, the offsets ahead of the group's that have their answer.
        self._answered: dict[Partition, set[int]] = defaultdict(set)
        self._unsure: set[Partition] = set()
        self._topic_ids: dict[str, str] = {}

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        """The group's offsets go with their topic; answers say of which topic's requests they are.

        What was in memory of the one before, the loop has made us forget.
        """
        self._topic_ids |= topic_ids

    def positions(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        self._follow()  # also while partitions cannot be placed: fewer may be wanted by now
        committed = self._committed({each.topic for each in partitions})
        try:
            found = {each: self._looked_up(each, committed.get(each, 0)) for each in partitions}
        except Unavailable as err:
            if awaited := self._awaited(err, {each.topic for each in partitions}):
                raise Unavailable("TOPIC_MISSING", topic=min(awaited.values())) from err
            raise
        self._restoring = [each for each in partitions if not found[each]]
        return committed

    def restoring(self) -> Collection[Partition]:
        return self._restoring

    def forget(self, partitions: Collection[Partition]) -> None:
        self._look_ups.forget(partitions)
        for partition in partitions:
            self._answered.pop(partition, None)
            self._unsure.discard(partition)

    def handle(self, records: RecordBatch) -> None:
        """Raises Busy, Unavailable, Unfinished for what is to come again: the rest is answered.

        Raises TopicsAwaited for the requests of endpoints whose answers have no topic.
        """
        self._follow()
        try:
            self._handle(records)
        except Unavailable as err:
            if awaited := self._awaited(err, {run.partition.topic for run in records.runs}):
                raise TopicsAwaited(awaited) from err
            raise

    def _awaited(self, err: Unavailable, requests: Collection[str]) -> dict[str, str]:
        """By topic of requests that of their answers, where it is missing."""
        if err.reason not in OF_KAFKA:
            return {}
        answers = {
            topic: topics.INFERENCE_PREDICTIONS.of(topics.INFERENCE_REQUESTS.part_of(topic))
            for topic in requests
        }
        missing = self._missing(answers.values())
        return {topic: each for topic, each in answers.items() if each in missing}

    def _handle(self, records: RecordBatch) -> None:
        self._make_sure(records)
        until_s = time.monotonic() + HANDLE_S_MAX
        for part in self._suspects.parts(records):
            if time.monotonic() >= until_s:
                raise Unfinished
            self._take(part, until_s)
            self._suspects.clear(part)
        self._forget(records)

    def _make_sure(self, records: RecordBatch) -> None:
        """Before another try the topic is asked what it has."""
        for partition in self._unsure & {run.partition for run in records.runs}:
            if not self._looked_up(partition, min(_offsets(records, partition))):
                raise Unavailable("DELIVERY_UNKNOWN", topic=partition.topic)

    def _looked_up(self, partition: Partition, begin: int) -> bool:
        answered = self._look_ups.answered(partition, self._topic_id(partition), begin)
        if answered is None:
            return False
        self._answered[partition] = answered
        self._unsure.discard(partition)
        return True

    def _topic_id(self, partition: Partition) -> str:
        return self._topic_ids.get(partition.topic, "")

    def _take(self, records: RecordBatch, until_s: float) -> None:
        calls = self._calls(records)
        if not calls:
            return
        if self._suspects.guilty(records):
            for call in calls:
                call.answer(Invalid("POISON_CRASH", partition=call.partition.number))
        else:
            self._fill(calls, records, until_s)
        failpoint("inference.batch.computed")
        done, answered = self._answers_of(calls)
        self._write(done, answered, records)
        failpoint("inference.batch.delivered")
        _count(done)
        for call in done:
            self._answered[call.partition].add(call.offset)
        if len(done) < len(calls):
            raise Unfinished if done and _out_of_time(calls) else _hindrance(calls)

    def _fill(self, calls: Sequence[RecordCall], records: RecordBatch, until_s: float) -> None:
        """What ends the process, an unknown error too, leaves these noted as suspects."""
        self._attempt_log.write(self._suspects.attempts(records))
        ready = [call for call in calls if not call.answered]
        if any(call.claim for call in ready):
            ready = self._claims.fetch(ready, until_s=until_s)
            failpoint("inference.claim.read")
            until_s = time.monotonic() + HANDLE_S_MAX
        self._filler.fill(ready, until_s=until_s)
        for call in calls:
            if call.error is not None and not isinstance(call.error, HeadraceError):
                raise call.error
        self._attempt_log.write({})

    def _answers_of(self, calls: Sequence[RecordCall]) -> tuple[list[RecordCall], list[Answer]]:
        """Those that are done, and their records.

        An answer that cannot be kept just now comes again, and what follows it of its key waits.
        """
        while True:
            done = _done(calls)
            written = list(self._answers(done))
            if not any(call.error is not None and call.comes_again for call in done):
                return done, written

    def idle(self) -> None:
        self._follow()

    def _calls(self, records: RecordBatch) -> list[RecordCall]:
        """Those that have no answer yet."""
        values, keys = records.values(), records.keys()
        ages_s = self._ages_s(records)
        now_s, calls = time.monotonic(), []
        for partition, first, end in records.runs:
            endpoint = topics.INFERENCE_REQUESTS.part_of(partition.topic)
            answered, topic_id = self._answered.get(partition, ()), self._topic_id(partition)
            for place in range(first, end):
                value, offset = values[place], records.offsets[place]
                if offset not in answered:
                    call = RecordCall(
                        value or b"",
                        endpoint=endpoint,
                        partition=partition,
                        offset=offset,
                        entity_key=_text(keys[place]),
                        arrived_s=now_s - ages_s[place],
                        topic_id=topic_id,
                        key=place,
                    )
                    calls.append(call)
                    if value is None:
                        call.answer(Invalid("TOMBSTONE", topic=partition.topic))
                    elif not value:
                        _note_claim(call, records[place])
        return calls

    def _ages_s(self, records: RecordBatch) -> list[float]:
        """How long ago the broker took each; two clocks may differ."""
        now_ms = self._clock.now_us() / 1_000
        return [max(0.0, now_ms - moment_ms) / 1_000 for moment_ms in records.timestamps_ms()]

    def _write(
        self, done: Sequence[RecordCall], answered: Sequence[Answer], records: RecordBatch
    ) -> None:
        """Letters go first, as the answers tell the next owner that nothing is left to do."""
        letters = partial(_letters, records=records)
        try:
            if dead_letters := letters(done):
                self._publisher.publish(dead_letters)
            self._writer.write(answered, letters=letters)
        except HeadraceError:
            # Some may have arrived.
            self._unsure.update(run.partition for run in records.runs)
            raise

    def _forget(self, records: RecordBatch) -> None:
        """What lies before the end of these records is behind the group's offset from now on."""
        for partition, end in records.next_by_partition().items():
            ahead = {offset for offset in self._answered.pop(partition, ()) if offset >= end}
            if ahead:
                self._answered[partition] = ahead


def _count(told: Sequence[RecordCall]) -> None:
    if told:
        longest.observe(time.monotonic() - min(call.arrived_s for call in told))
    for call in told:
        if isinstance(call.error, HeadraceError):
            refused.labels(call.error.reason).inc()


def _done(calls: Sequence[RecordCall]) -> list[RecordCall]:
    """Those that can be answered now; no key's answer overtakes one that is still to come."""
    held: set[tuple[Partition, str]] = set()
    done = []
    for call in calls:
        key = call.partition, call.entity_key
        if not call.answered or call.comes_again or key in held:
            if call.entity_key:
                held.add(key)
        else:
            done.append(call)
    return done


def _out_of_time(calls: Iterable[RecordCall]) -> bool:
    return not all(call.answered for call in calls)


def _hindrance(calls: Iterable[RecordCall]) -> HeadraceError:
    """What keeps some from being answered now; out of time is the least that is known."""
    waiting = (call.error for call in calls if call.comes_again)
    errors = (error for error in waiting if isinstance(error, HeadraceError))
    return next(errors, Busy("QUEUE_FULL", queue="requests"))


def _note_claim(call: RecordCall, record: Record) -> None:
    try:
        call.claim = claim_of(record.headers)
    except Invalid as err:
        call.answer(err)


def _letters(done: Iterable[RecordCall], records: RecordBatch) -> list[Message]:
    """Of requests that are wrong themselves, or name what is not there; not of what a model or we
    could not answer.
    """
    letters = []
    for call in done:
        if isinstance(call.error, Invalid | NotFound | Corrupt):
            dead.labels(call.error.reason).inc()
            letters.append(
                dead_letter(records[call.key], reason=call.error.reason, service=SERVICE)
            )
    return letters


def _offsets(records: RecordBatch, partition: Partition) -> list[int]:
    return [records.offsets[run.first] for run in records.runs if run.partition == partition]


def _text(key: bytes | None) -> str:
    """The key as an entity's; nothing where it cannot be one."""
    try:
        text = (key or b"").decode()
    except UnicodeDecodeError:
        return ""
    return text if len(text) <= ENTITY_KEY_CHARACTERS_MAX and text.isprintable() else ""
