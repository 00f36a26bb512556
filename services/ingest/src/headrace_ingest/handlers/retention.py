# SPDX-License-Identifier: Apache-2.0
"""What tables need not keep: days beyond a contract's retention, files of old versions, orphans.

The table of a stream that was taken back ages as its contract said last. Feature tables lose no
days, and no files of a version that a dataset names.

A dataset outlives both. While it is young its version is kept as it is; before that version may
leave the table's log, the dataset gets a table of its own: by then compaction has replaced the
files that it pins, so that a copy takes no more room than they do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta

from headrace.errors import NotFound, Unavailable
from headrace.feature_view import StreamView, View
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.dataset_copies import abandoned, dataset_in, dataset_of, own_copy
from headrace_ingest.domain.datasets import Manifest, Selection
from headrace_ingest.handlers.datasets import manifests, pinned_versions
from headrace_ingest.handlers.retracted_streams import not_applied
from headrace_ingest.handlers.stopped_streams import ARCHIVE_MISSING
from headrace_ingest.ports.datasets import DatasetBook, RowStore, UnendedFiles
from headrace_ingest.ports.definitions import ContractBook, RetractedDefinitions
from headrace_kit.clock import Clock
from headrace_kit.failpoints import failpoint

# Where tables lie: the object store has other things beside them.
TABLE_FOLDERS = ("records", "features", "dataset-rows")
# Files of replaced versions stay for this long, for readers, and for time travel.
KEEP_H = 168
# Of a dataset's own table nobody begins to read a replaced file.
COPY_KEEP_H = 24
# The tables of the other streams age on.
NOTHING_TO_KEEP = ("STREAM_EMPTY", "VIEW_EMPTY", ARCHIVE_MISSING)
HOUR_US = 3_600 * 1_000_000
EPOCH, DAY_US = date(1970, 1, 1), 24 * HOUR_US


def forget_unended(_: float, *, files: UnendedFiles) -> Iterator[None]:
    """One pass; each step is a look at one kind of tables."""
    for folder in TABLE_FOLDERS:
        files.forget_unended(folder)
        yield


@dataclass(frozen=True, slots=True)
class Keeper:
    """A pass may be repeated, and two may run beside each other."""

    contracts: ContractBook
    retracted: RetractedDefinitions
    datasets: DatasetBook
    rows: RowStore
    clock: Clock

    def keep(self, timeout_s: float) -> Iterator[None]:
        """One pass over all tables, by steps of at most `timeout_s` each.

        Raises Unavailable, once those that are applied are done, while nobody tells the others.
        """
        applied = self.contracts.all()
        for contract in applied:
            yield from self._keep(contract, timeout_s)
        yield from self._clean_views(view for view, _ in self.contracts.views())
        yield from self._clean_copies()
        yield from self._drop_copies()
        retracted = self.retracted.look_up()
        for contract in not_applied(applied, retracted):
            yield from self._keep(contract, timeout_s)
        yield from self._clean_views(retracted.views)

    def _keep(self, contract: Contract, timeout_s: float) -> Iterator[None]:
        name = contract.name
        newest = self._newest(name)
        if newest is None:
            return
        for manifest in self._leaving(newest):
            self._give_own_table(manifest, timeout_s)
            yield
        day = self._first_day(contract)
        if day is not None:
            self.rows.retire(newest, day)
        failpoint("ingest.keep.retired")
        self.rows.clean(newest, pinned_versions(name, book=self.datasets), keep_h=KEEP_H)
        yield

    def _clean_views(self, views: Iterable[View]) -> Iterator[None]:
        for view in views:
            newest = self._newest(view.stream, view.name) if isinstance(view, StreamView) else None
            if newest is not None:
                keep = pinned_versions(newest.stream, view=view.name, book=self.datasets)
                self.rows.clean(newest, keep, keep_h=KEEP_H)
                yield

    def _clean_copies(self) -> Iterator[None]:
        for manifest in manifests(self.datasets.places(), book=self.datasets):
            if manifest.selection.copy:
                with _nothing_to_keep():  # somebody took it away
                    self.rows.clean(manifest.selection, (), keep_h=COPY_KEEP_H)
                yield

    def _drop_copies(self) -> Iterator[None]:
        """Of deleted datasets, and of writers that ended or lost to another: no erasure looks into
        those."""
        deleted = {f"{name}/{number}" for name, number in self.datasets.deleted()}
        copies, now_us = sorted(self.rows.copies()), self.clock.now_us()
        having = {*map(dataset_in, copies)}
        places = [each for each in self.datasets.places() if f"{each[0]}/{each[1]}" in having]
        found = manifests(places, book=self.datasets)
        used = {dataset_of(each): each.selection.copy for each in found}
        for copy in copies:
            dataset = dataset_in(copy)
            if dataset in deleted or abandoned(copy, used.get(dataset, copy), now_us):
                self.rows.drop(copy)
                yield

    def _newest(self, stream: str, view: str = "") -> Selection | None:
        """None of a table that is not there."""
        with _nothing_to_keep():
            return Selection(stream, self.rows.newest_version(stream, view=view), (), view=view)
        return None

    def _first_day(self, contract: Contract) -> date | None:
        """The first day of event time that is kept; None keeps all, for none is before 1970."""
        retention_s = contract.stream.retention_s
        if retention_s is None:
            return None
        first = (self.clock.now_us() - retention_s * 1_000_000) // DAY_US
        return EPOCH + timedelta(days=first) if first > 0 else None

    def _leaving(self, newest: Selection) -> Iterator[Manifest]:
        """The datasets of a stream whose version may soon be gone.

        A version beyond the newest is of a table that was lost: there is nothing to keep.
        """
        # Twice a day early: a pass may fail and be tried again.
        old_us = self.clock.now_us() - (KEEP_H - 48) * HOUR_US
        for manifest in manifests(self.datasets.places_of(newest.stream), book=self.datasets):
            selection = manifest.selection
            # The log of a view's table is kept.
            if (
                manifest.created_at_us < old_us
                and not (selection.copy or selection.view)
                and selection.delta_version <= newest.delta_version
            ):
                yield manifest

    def _give_own_table(self, manifest: Manifest, timeout_s: float) -> None:
        copy = own_copy(manifest, self.clock.now_us())
        self.rows.copy(manifest.selection, copy, timeout_s=timeout_s)
        selection = replace(manifest.selection, copy=copy)
        revised = replace(manifest, origin=replace(manifest.origin, selection=selection))
        if not self.datasets.revise(revised):
            self.rows.drop(copy)


@contextmanager
def _nothing_to_keep() -> Iterator[None]:
    """Of a table that is not there, also where there was one."""
    try:
        yield
    except (NotFound, Unavailable) as err:
        if err.reason not in NOTHING_TO_KEEP:
            raise
