# SPDX-License-Identifier: Apache-2.0
"""What a stream's table need not keep: days beyond the contract's retention, files of old versions.

That of a stream that was taken back ages as its contract said last.

A dataset outlives both. While it is young its version is kept as it is; before that version may
leave the table's log, the dataset gets a table of its own: by then compaction has replaced the
files that it pins, so that a copy takes no more room than they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

from headrace.errors import NotFound, Unavailable
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.datasets import Manifest, Selection
from headrace_ingest.handlers.datasets import pinned_versions
from headrace_ingest.handlers.retracted_streams import not_applied
from headrace_ingest.handlers.stopped_streams import ARCHIVE_MISSING
from headrace_ingest.ports import ContractBook, DatasetBook, RetractedDefinitions, RowStore
from headrace_kit.clock import Clock
from headrace_kit.failpoints import failpoint

# Files of replaced versions stay for this long, for readers, and for time travel.
KEEP_H = 168
# The tables of the other streams age on.
NOTHING_TO_KEEP = ("STREAM_EMPTY", ARCHIVE_MISSING)
HOUR_US = 3_600 * 1_000_000


@dataclass(frozen=True, slots=True)
class Keeper:
    """A pass may be repeated, and two may run beside each other."""

    contracts: ContractBook
    retracted: RetractedDefinitions
    datasets: DatasetBook
    rows: RowStore
    clock: Clock

    def keep(self, timeout_s: float) -> Iterator[None]:
        """One pass over all streams, by steps of at most `timeout_s` each.

        Raises Unavailable, once those that are applied are done, while nobody tells the others.
        """
        applied = self.contracts.all()
        for contract in applied:
            yield from self._keep(contract, timeout_s)
        for contract in not_applied(applied, self.retracted.look_up()):
            yield from self._keep(contract, timeout_s)

    def _keep(self, contract: Contract, timeout_s: float) -> Iterator[None]:
        name = contract.name
        try:
            version = self.rows.newest_version(name)
        except (NotFound, Unavailable) as err:
            if err.reason not in NOTHING_TO_KEEP:
                raise
            return
        for manifest in self._leaving(name):
            self._give_own_table(manifest, timeout_s)
            yield
        newest = Selection(name, version, ())
        day = self._first_day(contract)
        if day is not None:
            self.rows.retire(newest, day)
        failpoint("ingest.keep.retired")
        self.rows.clean(newest, pinned_versions(name, book=self.datasets), keep_h=KEEP_H)
        yield

    def _first_day(self, contract: Contract) -> date | None:
        """The first day of event time that is kept; None keeps all."""
        retention_s = contract.stream.retention_s
        if retention_s is None:
            return None
        return datetime.fromtimestamp(self.clock.now_us() / 1e6 - retention_s, UTC).date()

    def _leaving(self, stream: str) -> Iterator[Manifest]:
        """The datasets of a stream whose version may soon be gone."""
        # Twice a day early: a pass may fail and be tried again.
        old_us = self.clock.now_us() - (KEEP_H - 48) * HOUR_US
        for place in self.datasets.places():
            manifest = self.datasets.get(*place)
            selection = manifest.selection
            # The log of a view's table is kept.
            old = manifest.created_at_us < old_us and not (selection.copy or selection.view)
            if selection.stream == stream and old:
                yield manifest

    def _give_own_table(self, manifest: Manifest, timeout_s: float) -> None:
        copy = f"{manifest.name}/{manifest.number}"
        self.rows.copy(manifest.selection, copy, timeout_s=timeout_s)
        selection = replace(manifest.selection, copy=copy)
        self.datasets.revise(
            replace(manifest, origin=replace(manifest.origin, selection=selection))
        )
