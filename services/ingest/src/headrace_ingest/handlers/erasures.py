# SPDX-License-Identifier: Apache-2.0
"""Erase an entity: find, tell everybody, take out, and look again until nothing can come.

What is found is noted before anything goes, and holds no value of the entity, only its hash: so any
process goes on after any crash. Datasets whose table held the entity get a table of their own, from
which it is missing; then the files that held it go. From the feature tables of views the feature
service takes it out: here it is looked whether it did, and then those files go.

Archives of streams that were taken back are reached too, as their contracts said last. What a view
that was taken back has left is found and told; it waits until the view is applied again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import structlog

from headrace.definition_types import COLUMN
from headrace.errors import Conflict, HeadraceError, Invalid, NotFound, Unavailable
from headrace.feature_view import StreamView, View
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.dataset_copies import dataset_of, own_copy
from headrace_ingest.domain.datasets import Manifest, Selection, check_request_id
from headrace_ingest.domain.erasures import (
    ErasedDataset,
    ErasedEvents,
    Erasure,
    erasure_id,
    float64_problem,
    int64_problem,
    with_versions,
    without_entity,
)
from headrace_ingest.domain.trained_versions import Trace, newest_versions, trained_since
from headrace_ingest.handlers.datasets import manifests, pinned_versions
from headrace_ingest.handlers.erased_tasks import TaskEraser
from headrace_ingest.handlers.retracted_streams import not_applied
from headrace_ingest.handlers.stopped_streams import ARCHIVE_MISSING
from headrace_ingest.ports.datasets import DatasetBook, RowStore
from headrace_ingest.ports.definitions import ContractBook, Retracted, RetractedDefinitions
from headrace_ingest.ports.erasures import ErasureBook, ErasureNews, ModelVersions, PublishedRows
from headrace_ingest.ports.search import TextIndex
from headrace_kit.clock import Clock
from headrace_kit.erased_entities import (
    Entity,
    entity_key_digest,
    entity_sha256,
)
from headrace_kit.failpoints import failpoint

VALUE_CHARACTERS_MAX = 1_024
# Longer than a record is gathered before it is stored: twice the longest commit interval.
SETTLE_US = 150 * 1_000_000
OVERTAKEN_MAX = 5
# Of a table that is not there: of a view, or a stream, which also may have had one.
ABSENT = ("VIEW_EMPTY", "STREAM_EMPTY", ARCHIVE_MISSING)
VERSION_EXPIRED = "VERSION_EXPIRED"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EraseEntity:
    """Every stream that has or had the column is searched for the value, as text."""

    column: str
    value: str


@dataclass(frozen=True, slots=True)
class Eraser:
    """What erasing needs; a pass may be repeated, and two may run beside each other."""

    contracts: ContractBook
    retracted: RetractedDefinitions
    datasets: DatasetBook
    erasures: ErasureBook
    rows: RowStore
    published: PublishedRows
    models: ModelVersions
    news: ErasureNews
    tasks: TaskEraser
    texts: TextIndex
    clock: Clock

    def erase(self, command: EraseEntity, request_id: str, *, timeout_s: float) -> Erasure:
        """Raises Invalid BAD_REQUEST, NotFound COLUMN_UNKNOWN when no stream has the column
        and no endpoint names its entities so,
        Conflict REQUEST_REUSED, Corrupt ERASURE_UNREADABLE, and what its ports raise: then the same
        request goes on.
        """
        check_request_id(request_id)
        _check(command)
        for _ in range(OVERTAKEN_MAX):
            try:
                [report] = self.with_later_versions([self._erase(command, request_id, timeout_s)])
                return report
            except Conflict as err:
                # Another pass removed the files of a version that this one had begun to read.
                if err.reason != VERSION_EXPIRED:
                    raise
        raise Unavailable("TABLE_CONTENDED", column=command.column)

    def _erase(self, command: EraseEntity, request_id: str, timeout_s: float) -> Erasure:
        named, sha256 = erasure_id(request_id), entity_sha256(command.column, command.value)
        erasure = self.erasures.get(named)
        if erasure is None:
            entity = Entity(
                command.column, sha256, self.clock.now_us(), entity_key_digest(command.value)
            )
            erasure = self.erasures.begin(self._found(named, entity, command.value, timeout_s))
        if (erasure.entity.column, erasure.entity.sha256) != (command.column, sha256):
            raise Conflict("REQUEST_REUSED", request_id=request_id)
        failpoint("ingest.erase.begun")
        for _ in self._take_out(erasure, timeout_s):
            pass  # the caller waits for all steps
        return erasure

    def with_later_versions(self, erasures: Sequence[Erasure]) -> list[Erasure]:
        """The reports, with what was registered since they began and was trained on the entity.

        Raises Unavailable SERVICE_UNAVAILABLE: no report may lack a version and not say so.
        """
        traces = [each.trace for each in erasures if each.trace is not None]
        if not traces:
            return list(erasures)
        models = self._models(self.retracted.look_up())
        newest = [trace.newest_version_by_model for trace in traces]
        after = {model: min(each.get(model, 0) for each in newest) for model in models}
        trainings = list(self.models.trainings(models, after))
        return [with_versions(each, trainings) for each in erasures]

    def _models(self, retracted: Retracted) -> list[str]:
        """Of all recipes and graphs that are applied, or were."""
        return sorted({*self.contracts.models(), *retracted.models})

    def go_on(self, timeout_s: float) -> Iterator[None]:
        """Another pass for each erasure that is not settled, by steps of at most `timeout_s` each.

        One that fails waits for the next round, and keeps no other one waiting.
        """
        for named in self.erasures.unsettled():
            try:
                yield from self._go_on_with(named, timeout_s)
            except HeadraceError as err:
                log.warning("erasure_waits", erasure=named, error=str(err))
            yield

    def _go_on_with(self, named: str, timeout_s: float) -> Iterator[None]:
        erasure = self.erasures.get(named)
        if erasure is None:
            return
        # Before the pass: a dataset may be created behind its look at them, and just before the
        # feature service, or another process, takes out what the dataset then still holds.
        clean = self._late(erasure) and (yield from self._clean(erasure, timeout_s))
        found = yield from self._take_out(erasure, timeout_s)
        if clean and not found and self._reached(erasure):
            self.erasures.settle(named)

    def views_taken_back(self, erasure: Erasure) -> frozenset[str]:
        """Views that it began with and that nobody takes the entity's rows out of now."""
        published = {view for view, rows in erasure.published_rows_by_view.items() if rows}
        applied = {view.name for view in self._views()}
        return frozenset((erasure.rows_by_view.keys() | published) - applied)

    def _reached(self, erasure: Erasure) -> bool:
        """Whether all that it began with can be looked at."""
        streams = {contract.name for contract in self._archived()}
        return erasure.rows_by_stream.keys() <= streams and not self.views_taken_back(erasure)

    def _archived(self) -> list[Contract]:
        """Of each stream that is applied, or was. Raises Unavailable SERVICE_UNAVAILABLE."""
        applied = self.contracts.all()
        return [*applied, *not_applied(applied, self.retracted.look_up())]

    def _clean(self, erasure: Erasure, timeout_s: float) -> Generator[None, None, bool]:
        """Whether no table holds the entity any more; one whose archive is missing may.

        From when on none of a stream does is noted, however long the feature tables are waited for.
        """
        entity, clean, since = erasure.entity, True, dict[str, int]()
        for table in self._newest(entity.column):
            if isinstance(table, Unavailable):
                clean = False
            elif self.rows.find(table, entity, timeout_s=timeout_s).rows:
                return False
            else:
                since[table.stream] = table.delta_version
            yield
        noted = erasure.clean_version_by_stream is not None
        if clean and not noted and erasure.rows_by_stream.keys() <= since.keys():
            self.erasures.note_clean(erasure.id, since)
        for table in self._feature_tables(entity.column):
            if self.rows.find(table, entity, timeout_s=timeout_s).rows:
                return False
            yield
        return clean

    def _take_out(self, erasure: Erasure, timeout_s: float) -> Generator[None, None, int]:
        """One pass, by steps; how many rows it took out, and datasets it changed.

        Raises Unavailable ARCHIVE_MISSING for the first stream whose archive it waits for, once it
        has been through all others.
        """
        missing: list[Unavailable] = []
        self.news.tell(erasure)
        failpoint("ingest.erase.told")
        self.tasks.erase(erasure.entity)
        retracted = self.retracted.look_up()
        self.tasks.erase_of(retracted.labels, erasure.entity)
        keys = self.tasks.key_columns(retracted)
        datasets = yield from self._datasets_by_stream()
        found = 0
        for selection in self._newest(erasure.entity.column):
            if isinstance(selection, Unavailable):
                missing.append(selection)
                continue
            # What retention has removed has no id to tell, but may be kept by its entity.
            self.news.tell_events(ErasedEvents(selection.stream, erasure.entity, (), ()))
            of_stream = datasets.get(selection.stream, ())
            changed = yield from self._revise(erasure, of_stream, keys, timeout_s)
            taken = self._erase_rows(selection, erasure.entity, keys, timeout_s)
            # A dataset may be as another pass made it, meanwhile: then it is looked at once more.
            found += taken + changed
            # Both in each pass: one that took rows out may have ended here, by an error or a crash.
            if taken or self._texts_are_older(selection):
                self.texts.drop(selection.stream)
            failpoint("ingest.erase.deleted")
            self.rows.forget(selection, pinned_versions(selection.stream, book=self.datasets))
            yield
        for table in self._feature_tables(erasure.entity.column):
            found += self._left_in(table, erasure.entity, timeout_s)
            yield
        self.tasks.erase_items(erasure.entity)
        self.texts.wipe()
        if missing:
            raise missing[0]
        return found

    def _erase_rows(
        self, selection: Selection, entity: Entity, keys: Collection[str], timeout_s: float
    ) -> int:
        return self.rows.erase(selection, entity, self._tell, keys=keys, timeout_s=timeout_s)

    def _texts_are_older(self, selection: Selection) -> bool:
        """Whether they may be of rows that left the table since."""
        since = self.texts.since(selection.stream)
        return since >= 0 and self.rows.removed_since(selection, since)

    def _tell(self, events: ErasedEvents) -> None:
        self.tasks.note(events)
        self.news.tell_events(events)

    def _left_in(self, table: Selection, entity: Entity, timeout_s: float) -> int:
        """Rows that the feature service has not taken out yet; without any, their files go."""
        left = self.rows.find(table, entity, timeout_s=timeout_s).rows
        if not left:
            keep = pinned_versions(table.stream, view=table.view, book=self.datasets)
            self.rows.forget(table, keep)
        return left

    def _feature_tables(self, column: str) -> Iterator[Selection]:
        return self._tables_of(self._views(), self.contracts.all(), column)

    def _tables_of(
        self, views: Iterable[View], contracts: Iterable[Contract], column: str
    ) -> Iterator[Selection]:
        """All rows of each view whose entity has the column and that was ever materialized."""
        streams = {contract.name: contract.stream for contract in contracts}
        for view in views:
            if isinstance(view, StreamView) and column in view.entity and view.stream in streams:
                try:
                    version = self.rows.newest_version(view.stream, view=view.name)
                except NotFound:
                    continue
                typed = streams[view.stream].columns[column].type
                yield Selection(view.stream, version, ((column, typed),), view=view.name)

    def _views(self) -> list[View]:
        return [view for view, _ in self.contracts.views()]

    def _late(self, erasure: Erasure) -> bool:
        """Whether a pass that begins now meets all rows."""
        return self.clock.now_us() - erasure.entity.erased_at_us > SETTLE_US

    def _newest(self, column: str) -> Iterator[Selection | Unavailable]:
        """All rows of each stream that has the column and was ever archived.

        In place of one whose archive is missing comes ARCHIVE_MISSING, and the others follow.
        """
        for contract in self._archived():
            name, columns = contract.name, contract.stream.columns
            if column in columns:
                typed = tuple((each, spec.type) for each, spec in columns.items())
                try:
                    version = self.rows.newest_version(name)
                except NotFound:
                    continue
                except Unavailable as err:
                    if err.reason != ARCHIVE_MISSING:
                        raise
                    yield err
                    continue
                yield Selection(name, version, typed)

    def _found(self, named: str, entity: Entity, value: str, timeout_s: float) -> Erasure:
        """What is there now; nothing is changed."""
        applied, retracted = self.contracts.all(), self.retracted.look_up()
        archived = [*applied, *not_applied(applied, retracted)]
        types = [each.stream.types for each in archived]
        kinds = {each[entity.column] for each in types if entity.column in each}
        if not kinds and entity.column not in self.tasks.key_columns(retracted):
            raise NotFound("COLUMN_UNKNOWN", column=entity.column)
        _check_spelling(value, kinds)
        found = {}
        # Before its first version, where there is no table yet: each one that comes is behind it.
        counted = {each.name: -1 for each in archived if entity.column in each.stream.columns}
        for selection in self._newest(entity.column):
            if isinstance(selection, Unavailable):
                raise selection
            found[selection.stream] = self.rows.find(selection, entity, timeout_s=timeout_s)
            counted[selection.stream] = selection.delta_version
        since = {name: each.known_since_us for name, each in found.items() if each.rows}
        views = self._views()
        names = {view.name for view in views}
        left = [view for view in retracted.views if view.name not in names]
        of_views = partial(
            self._rows_by_view, archived=archived, entity=entity, timeout_s=timeout_s
        )
        rows, published = of_views(views)
        rows_left, published_left = map(_without_zeros, of_views(left))
        trainings = list(self.models.trainings(self._models(retracted), {}))
        return Erasure(
            id=named,
            entity=entity,
            rows_by_stream={name: each.rows for name, each in found.items()},
            datasets=tuple(self._datasets(entity, set(found), timeout_s)),
            trained_versions=trained_since(trainings, since),
            rows_by_view=rows | rows_left,
            published_rows_by_view=published | published_left,
            trace=Trace(since, counted, newest_versions(trainings)),
        )

    def _rows_by_view(
        self,
        views: Sequence[View],
        *,
        archived: Sequence[Contract],
        entity: Entity,
        timeout_s: float,
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Of the views' feature tables, and of the rows that they publish."""
        tables = {
            table.view: self.rows.find(table, entity, timeout_s=timeout_s).rows
            for table in self._tables_of(views, archived, entity.column)
        }
        published = {
            view.name: self.published.count(view.name, entity, timeout_s=timeout_s)
            for view in views
            if isinstance(view, StreamView)
            and view.publish_rows
            and view.entity == (entity.column,)
        }
        return tables, published

    def _datasets(
        self, entity: Entity, streams: set[str], timeout_s: float
    ) -> Iterator[ErasedDataset]:
        for manifest in self._manifests(self.datasets.places()):
            if manifest.selection.stream in streams:
                held = self._held(manifest, manifest.selection, entity, timeout_s)
                if held:
                    yield ErasedDataset(manifest.name, manifest.number, held)

    @contextmanager
    def _unless_lost(self, manifest: Manifest) -> Iterator[None]:
        """A dataset whose table is gone for good holds nothing.

        Raises Unavailable ARCHIVE_MISSING where its stream's is gone, too: all may come back.
        """
        try:
            yield
        except (Conflict, NotFound, Unavailable) as err:
            if not self._lost(manifest.selection, err.reason):
                raise
            dataset = dataset_of(manifest)
            log.warning("dataset_rows_lost", dataset=dataset, error=str(err))

    def _lost(self, selection: Selection, reason: str) -> bool:
        """Whether its own table is gone, or the one it names was begun anew and is not as far."""
        if selection.copy:
            return reason in ABSENT and self.rows.newest_version(selection.stream) >= 0
        if reason != VERSION_EXPIRED:
            return False
        newest = self.rows.newest_version(selection.stream, view=selection.view)
        return selection.delta_version > newest

    def _manifests(self, places: Iterable[tuple[str, int]]) -> Iterator[Manifest]:
        return manifests(places, book=self.datasets)

    def _datasets_by_stream(self) -> Generator[None, None, Mapping[str, list[tuple[str, int]]]]:
        """Once for a pass: a dataset is of one stream for good, what else it says may change."""
        found: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for manifest in self._manifests(self.datasets.places()):
            found[manifest.selection.stream].append(_place(manifest))
            yield
        return found

    def _revise(
        self,
        erasure: Erasure,
        datasets: Sequence[tuple[str, int]],
        keys: Collection[str],
        timeout_s: float,
    ) -> Generator[None, None, bool]:
        """Give the datasets of a stream whose table held the entity a table without it."""
        changed = False
        for manifest in self._manifests(datasets):
            if erasure.id not in manifest.erasures:
                revised = yield from self._revise_one(erasure, manifest, keys, timeout_s)
                changed = changed or revised
            else:
                # In each pass: another one may have ended, or met another erasure, before this.
                self.datasets.forget_values(manifest)
            yield
        return changed

    def _revise_one(
        self, erasure: Erasure, manifest: Manifest, keys: Collection[str], timeout_s: float
    ) -> Generator[None, None, bool]:
        selection, entity = manifest.selection, erasure.entity
        if not selection.copy:
            # All rows of its version lie in the same files as its own.
            table = replace(selection, filter="", known_until_us=0, definition="")
            if not self._held(manifest, table, entity, timeout_s):
                return False
            yield
        # As was noted before anything went, for a pass that broke off may have taken some out; and
        # as it is now, for it may have been created since.
        noted = (each for each in erasure.datasets if _place(each) == _place(manifest))
        held = self._held(manifest, selection, entity, timeout_s)
        own = max(held, sum(each.rows for each in noted))
        yield
        columns = tuple(without_entity(each, entity) for each in manifest.content.columns)
        if not selection.copy:
            made = own_copy(manifest, self.clock.now_us())
            self.rows.copy(selection, made, without=entity, timeout_s=timeout_s)
            selection = replace(selection, copy=made)
        elif own:
            with self._unless_lost(manifest):
                self._erase_rows(selection, entity, keys, timeout_s)
                self.rows.forget(selection, ())
        elif not manifest.rows_erased or columns == manifest.content.columns:
            # The pass that took its rows out may have ended before their files went. Otherwise the
            # statistics may be of rows that went with another erasure.
            with self._unless_lost(manifest):
                self.rows.forget(selection, ())
            return False
        failpoint("ingest.erase.copied")
        revised = self.datasets.revise(
            replace(
                manifest,
                origin=replace(manifest.origin, selection=selection),
                content=replace(manifest.content, columns=columns),
                rows_erased=manifest.rows_erased + own,
                erasures=(*manifest.erasures, erasure.id),
            )
        )
        if not revised and selection.copy != manifest.selection.copy:
            self.rows.drop(selection.copy)
        return True

    def _held(
        self, manifest: Manifest, selection: Selection, entity: Entity, timeout_s: float
    ) -> int:
        """The entity's rows of a dataset, or of more of its table, as they are now."""
        with self._unless_lost(manifest):
            return self.rows.find(selection, entity, timeout_s=timeout_s).rows
        return 0


def _check(command: EraseEntity) -> None:
    if not COLUMN.fullmatch(command.column):
        raise Invalid("BAD_REQUEST", field="column", problem="is no column's name")
    if not 0 < len(command.value) <= VALUE_CHARACTERS_MAX:
        problem = f"must be 1 to {VALUE_CHARACTERS_MAX} characters"
        raise Invalid("BAD_REQUEST", field="value", problem=problem)


def _check_spelling(value: str, kinds: Set[str]) -> None:
    """By the types of its column: nobody may believe that what is found nowhere was erased."""
    problem_by_kind = {"float64": float64_problem, "int64": int64_problem}
    if kinds and kinds <= problem_by_kind.keys():
        problems = [problem_by_kind[kind](value) for kind in sorted(kinds)]
        if all(problems):
            raise Invalid("BAD_REQUEST", field="value", problem="; ".join(problems))


def _without_zeros(rows: Mapping[str, int]) -> dict[str, int]:
    """A view that is taken back and holds nothing is not waited for."""
    return {view: count for view, count in rows.items() if count}


def _place(dataset: Manifest | ErasedDataset) -> tuple[str, int]:
    return dataset.name, dataset.number
