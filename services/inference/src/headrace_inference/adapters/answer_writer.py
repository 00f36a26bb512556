# SPDX-License-Identifier: Apache-2.0
"""Answers on their way to a topic that may take less than our records.

Kafka refuses a batch as a whole, and takes what was sent behind it. So an answer is sent when those
before it of its key are there, and what was refused is sent again alone, in ever smaller records:
half of the requests, then of one request its answer without the inputs, its claim, its refusal.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from headrace.errors import HeadraceError, Invalid
from headrace_inference.adapters.kafka_answers import Answer
from headrace_inference.adapters.record_calls import RecordCall
from headrace_kit.kafka import DELIVERY_TIMEOUT_S, Message, Partition, PipelinedPublisher, Sending

Letters = Callable[[Sequence[RecordCall]], Sequence[Message]]


class AnswerWriter:
    """`answers` gives the records of calls; the publisher is for what is written here alone."""

    def __init__(
        self,
        publisher: PipelinedPublisher,
        *,
        answers: Callable[[Sequence[RecordCall]], Iterable[Answer]],
    ) -> None:
        self._publisher, self._answers = publisher, answers

    def write(self, answers: Sequence[Answer], *, letters: Letters) -> None:
        """Return when each call has its answer; `letters` gives the dead letters of calls.

        Raises what `Publisher.publish` raises, Invalid TOO_LARGE where a topic takes no refusal,
        and what stands in the way of a claim: some may be written.
        """
        for wave in _waves(answers):
            for refused in self._refused(wave):
                self._write_alone(refused, letters)

    def _refused(self, answers: Iterable[Answer]) -> list[Answer]:
        """Those that their topic finds too large; raises what kept another from arriving."""
        sent: list[tuple[Answer, Sending]] = []
        refused, errors = [], []
        until_s = time.monotonic() + DELIVERY_TIMEOUT_S
        try:
            for each in answers:
                sent.append((each, self._publisher.send([each.message])))
        except HeadraceError as err:
            errors.append(err)
        for each, sending in sent:
            try:
                sending.wait(until_s - time.monotonic())
            except HeadraceError as err:
                if err.reason == "TOO_LARGE":
                    refused.append(each)
                else:
                    errors.append(err)
        if errors:
            raise errors[0]
        return refused

    def _write_alone(self, answer: Answer, letters: Letters) -> None:
        """It may have been refused for what came with it."""
        if not self._refused([answer]):
            return
        calls = answer.calls
        if len(calls) == 1:
            self._write_smaller(answer, letters)
            return
        middle = len(calls) // 2
        for half in (calls[:middle], calls[middle:]):
            for each in self._answers(half):
                self._write_alone(each, letters)

    def _write_smaller(self, answer: Answer, letters: Letters) -> None:
        (call,) = answer.calls
        if call.error is not None:
            raise Invalid("TOO_LARGE", topic=answer.message.topic)
        call.refused_bytes = len(answer.message.value or b"")
        smaller = list(self._answers([call]))
        if call.error is not None and call.comes_again:
            raise call.error
        if dead := letters([call]):
            self._publisher.publish(dead)
        for each in smaller:
            self._write_alone(each, letters)


def _waves(answers: Iterable[Answer]) -> list[list[Answer]]:
    """No two of one key go together."""
    waves: dict[int, list[Answer]] = defaultdict(list)
    last: dict[tuple[Partition, str], int] = {}
    for answer in answers:
        keys = {(call.partition, call.entity_key) for call in answer.calls if call.entity_key}
        wave = 1 + max((last.get(key, -1) for key in keys), default=-1)
        last.update(dict.fromkeys(keys, wave))
        waves[wave].append(answer)
    return [waves[wave] for wave in sorted(waves)]
