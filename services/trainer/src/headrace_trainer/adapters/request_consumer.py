# SPDX-License-Identifier: Apache-2.0
"""Reads `trainer.requests`: a request is taken in when its run is stored, then its offset moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError

from headrace.errors import Invalid
from headrace_kit.kafka import Partition, Record
from headrace_trainer import handlers
from headrace_trainer.adapters.conversions import request_from_event
from headrace_trainer.ports import RecipeBook, RunStore


class RequestConsumer:
    """BatchHandler. The id of the run makes a repeat harmless, so it keeps no position."""

    def __init__(self, *, runs: RunStore, recipes: RecipeBook) -> None:
        self._runs, self._recipes = runs, recipes

    def positions(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        return {}

    def handle(self, records: Sequence[Record]) -> None:
        for record in records:
            try:
                request = request_from_event(record.value or b"")
            except DecodeError as err:
                raise Invalid("DECODE_ERROR", topic=record.topic) from err
            handlers.submit_run(request, runs=self._runs, recipes=self._recipes)

    def idle(self) -> None:
        """Nothing waits on time."""
