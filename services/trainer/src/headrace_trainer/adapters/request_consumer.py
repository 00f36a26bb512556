# SPDX-License-Identifier: Apache-2.0
"""Reads `trainer.requests`: a request is taken in when its run is stored, then its offset moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError

from headrace.errors import Invalid
from headrace_kit.clock import Clock
from headrace_kit.kafka import Partition, Record
from headrace_trainer import handlers
from headrace_trainer.adapters.conversions import request_from_event
from headrace_trainer.ports import RecipeBook, RunStore


class RequestConsumer:
    """PositionedHandler, FollowingHandler. The position follows the runs, whose ids make a repeat
    harmless: also that of a request which somebody published again to a topic made again.
    """

    def __init__(self, *, runs: RunStore, recipes: RecipeBook, clock: Clock) -> None:
        self._runs, self._recipes, self._clock = runs, recipes, clock

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        self._runs.follow_topics(topic_ids)

    def positions(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        saved = self._runs.positions()
        return {each: saved[each] for each in partitions if each in saved}

    def handle(self, records: Sequence[Record]) -> None:
        for record in records:
            self._take(record)
        self._save_positions(records)

    def set_aside(self, record: Record) -> None:
        self._save_positions([record])

    def idle(self) -> None:
        """Nothing waits on time."""

    def _take(self, record: Record) -> None:
        try:
            request = request_from_event(record.value or b"")
        except DecodeError as err:
            raise Invalid("DECODE_ERROR", topic=record.topic) from err
        now_us = self._clock.now_us()
        handlers.take_request(
            request,
            age_s=now_us / 1e6 - record.timestamp_ms / 1e3,
            now_us=now_us,
            runs=self._runs,
            recipes=self._recipes,
        )

    def _save_positions(self, records: Sequence[Record]) -> None:
        self._runs.save_positions({(r.topic, r.partition): r.offset + 1 for r in records})
