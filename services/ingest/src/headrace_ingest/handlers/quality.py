# SPDX-License-Identifier: Apache-2.0
"""Tells the quality of each stream once a minute of processing, as an event and as metrics.

It is for watching: what a crash interrupts is told of the records that are read again, in another
minute and so under another id. The account of every record is the archive's.
"""

from __future__ import annotations

from headrace_ingest.domain.batch import Batch
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.quality import MINUTE_US, Minute
from headrace_ingest.metrics import show_quality
from headrace_ingest.ports.archive import QualityLog
from headrace_kit.clock import Clock
from headrace_kit.kafka import RecordBatch


class QualityWatch:
    """Used by the sink, in its thread."""

    def __init__(self, log: QualityLog, clock: Clock) -> None:
        self._log, self._clock = log, clock
        self._minutes: dict[str, Minute] = {}

    def take(self, contract: Contract, records: RecordBatch, batch: Batch) -> None:
        """Count a batch that is delivered."""
        if (minute := self._minutes.get(contract.name)) and minute.contract is not contract:
            self._tell(minute)
        if contract.name not in self._minutes:
            now_us = self._clock.now_us()
            self._minutes[contract.name] = Minute(contract, now_us - now_us % MINUTE_US)
        firsts = {
            number: records.offsets[first] for (_, number), first, _ in reversed(records.runs)
        }
        self._minutes[contract.name].take(batch, firsts)

    def tell_due(self) -> None:
        """Tell the minutes that it is not now; raises Unavailable, and then tells them later.

        A clock that is put back ends a minute too: it would not be told for as long.
        """
        now_us = self._clock.now_us()
        for minute in list(self._minutes.values()):
            if not minute.minute_us <= now_us < minute.minute_us + MINUTE_US:
                self._tell(minute)

    def _tell(self, minute: Minute) -> None:
        quality = minute.quality()
        self._log.tell(quality)
        show_quality(quality)
        del self._minutes[quality.stream]
