# SPDX-License-Identifier: Apache-2.0
"""Datasets: create, find, tag, delete, compare, read.

What is created is fixed by a claim before the long work begins: a repeat after a crash, or beside a
slow first try, names the same rows, and one of them becomes the dataset. Where an erasure removes
the version that was the newest one, the same request claims once more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from headrace.errors import Conflict, Invalid, NotFound, Unavailable
from headrace_ingest.domain import datasets as domain
from headrace_ingest.domain.datasets import (
    Claim,
    Diff,
    Manifest,
    Origin,
    Reference,
    Selection,
    Tag,
)
from headrace_ingest.handlers.selecting import ReadStream, chosen, view_origin
from headrace_ingest.ports.datasets import DatasetBook, Rows, RowStore
from headrace_ingest.ports.definitions import ContractBook
from headrace_kit.clock import Clock
from headrace_kit.failpoints import failpoint

CLAIMS_MAX = 5

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CreateDataset:
    """One of `stream` and `view`; without a version the newest one is taken."""

    name: str
    description: str
    stream: str
    view: str
    filter: str
    delta_version: int | None
    known_until_us: int


@dataclass(frozen=True, slots=True)
class SetDatasetTag:
    """Point the tag to the number; `generation_expected` is 0 for a new tag."""

    name: str
    tag: str
    number: int
    generation_expected: int


@dataclass(frozen=True, slots=True)
class ListDatasets:
    """The datasets of a name, or of all; a page size of 0 means the largest."""

    name: str
    page_size: int
    page_token: str


@dataclass(frozen=True, slots=True)
class Progress:
    """What a comparison does now."""

    step: str
    done: int
    of: int = 2


def create_dataset(
    command: CreateDataset,
    request_id: str,
    *,
    contracts: ContractBook,
    book: DatasetBook,
    rows: RowStore,
    clock: Clock,
    timeout_s: float,
) -> Manifest:
    """Raises NotFound STREAM_UNKNOWN, VIEW_UNKNOWN or VIEW_EMPTY, Invalid BAD_REQUEST or BAD_NAME,
    Conflict REQUEST_REUSED, or VERSION_EXPIRED of a version that was asked for, Busy QUEUE_FULL,
    Unavailable SERVICE_UNAVAILABLE when time is up, TABLE_CONTENDED when versions go as they come.
    """
    domain.check_request_id(request_id)
    _check(command)
    claimed = 0
    for _ in range(CLAIMS_MAX):
        named = f"{request_id}\n{claimed}" if claimed else request_id  # as no request is named
        try:
            return _create(command, request_id, named, contracts, book, rows, clock, timeout_s)
        except Conflict as err:
            if err.reason != "VERSION_EXPIRED" or command.delta_version is not None:
                raise
            claimed += book.claimed(command.name, named) is not None
    raise Unavailable("TABLE_CONTENDED", stream=command.stream, view=command.view)


def _create(
    command: CreateDataset,
    request_id: str,
    named: str,
    contracts: ContractBook,
    book: DatasetBook,
    rows: RowStore,
    clock: Clock,
    timeout_s: float,
) -> Manifest:
    """`named`: what the claim is kept under."""
    wanted = hashlib.sha256(repr(command).encode()).hexdigest()
    claim = book.claimed(command.name, named)
    if claim is None:
        origin, private = _origin(command, contracts, rows)
        _check_filled(command, origin, rows, timeout_s)
        claim = book.claim(command.name, named, Claim(wanted, origin, private))
    if claim.digest != wanted:
        raise Conflict("REQUEST_REUSED", request_id=request_id)
    if (done := book.made_by(command.name, request_id, claim)) is not None:
        return done
    failpoint("ingest.dataset.claimed")
    content = rows.describe(claim.origin.selection, private=claim.private, timeout_s=timeout_s)
    made = Manifest(
        name=command.name,
        number=0,
        description=command.description,
        origin=claim.origin,
        content=content,
        created_at_us=clock.now_us(),
        request_id=request_id,
    )
    return book.add(made, claim)


def _check(command: CreateDataset) -> None:
    domain.check_name("name", command.name)
    if bool(command.stream) == bool(command.view):
        raise Invalid("BAD_REQUEST", field="stream", problem="give a stream or a view")
    if len(command.description) > domain.DESCRIPTION_CHARACTERS_MAX:
        raise Invalid("BAD_REQUEST", field="description", problem="is too long")


def _origin(
    command: CreateDataset, contracts: ContractBook, rows: RowStore
) -> tuple[Origin, tuple[str, ...]]:
    """The rows that are asked for, by the contract and the version of this moment, and the columns
    of which no value is told."""
    asked = ReadStream(
        command.stream, command.delta_version, command.known_until_us, command.filter
    )
    if command.view:
        return view_origin(command.view, asked, contracts=contracts, rows=rows)
    contract = contracts.get(asked.stream)
    selection = _selection(asked, contracts, rows)
    return Origin(selection, contract.version), contract.private_columns


def _check_filled(command: CreateDataset, origin: Origin, rows: RowStore, timeout_s: float) -> None:
    """A whole view without a row is not made yet. Before the claim, which would fix its version."""
    whole = command.view and not (command.filter or command.known_until_us)
    if whole and not rows.filled(origin.selection, timeout_s=timeout_s):
        raise NotFound("VIEW_EMPTY", view=command.view)


def _selection(query: ReadStream, contracts: ContractBook, rows: RowStore) -> Selection:
    contract = contracts.get(query.stream)
    columns = tuple((name, column.type) for name, column in contract.stream.columns.items())
    return chosen(Selection(contract.name, 0, columns), query, rows)


def get_dataset(reference: Reference, *, book: DatasetBook) -> tuple[Manifest, list[Tag]]:
    """The dataset and the tags that point to it.

    Raises NotFound DATASET_UNKNOWN, Conflict DATASET_DELETED.
    """
    manifest = find(reference, book=book)
    return manifest, [tag for tag in book.tags(manifest.name) if tag.number == manifest.number]


def find(reference: Reference, *, book: DatasetBook) -> Manifest:
    """Raises as `get_dataset`."""
    domain.check_name("name", reference.name)
    if reference.tag and reference.number:
        raise Invalid("BAD_REQUEST", field="dataset", problem="has a number and a tag")
    if reference.tag:
        return book.get(reference.name, book.tag(reference.name, reference.tag).number)
    return book.get(reference.name, reference.number or book.newest_number(reference.name))


def list_datasets(
    query: ListDatasets, *, book: DatasetBook
) -> tuple[list[tuple[Manifest, list[Tag]]], str]:
    """A page, by name and then newest first, and the token of the next one."""
    if query.name:
        domain.check_name("name", query.name)
    limit = domain.page_limit(query.page_size)
    after = domain.page_start(query.name, query.page_token)
    places = [
        (name, number)
        for name, number in book.places(query.name)
        if after is None or (name, -number) > (after[0], -after[1])
    ]
    page = [get_dataset(Reference(name, number), book=book) for name, number in places[:limit]]
    more = len(places) > limit
    return page, domain.page_token(query.name, places[limit - 1]) if more else ""


def set_dataset_tag(
    command: SetDatasetTag, request_id: str, *, book: DatasetBook, clock: Clock
) -> Tag:
    """Raises Conflict TAG_MOVED, NotFound DATASET_UNKNOWN, Invalid BAD_NAME or BAD_REQUEST."""
    domain.check_request_id(request_id)
    domain.check_name("name", command.name)
    domain.check_tag(command.tag)
    if command.number < 1:
        raise Invalid("BAD_REQUEST", field="number", problem="is below 1")
    if command.generation_expected < 0:
        raise Invalid("BAD_REQUEST", field="generation_expected", problem="is negative")
    book.get(command.name, command.number)
    generation = command.generation_expected + 1
    moved = Tag(command.name, command.tag, command.number, generation, clock.now_us(), request_id)
    return book.move(moved)


def list_dataset_tags(name: str, *, book: DatasetBook) -> list[Tag]:
    """The tags of a name as they stand now, sorted."""
    domain.check_name("name", name)
    return book.tags(name)


def delete_dataset(name: str, number: int, request_id: str, *, book: DatasetBook) -> None:
    """Deleted twice is deleted. Raises Conflict DATASET_TAGGED, NotFound DATASET_UNKNOWN."""
    domain.check_request_id(request_id)
    domain.check_name("name", name)
    tags = [tag.tag for tag in book.tags(name) if tag.number == number]
    if tags:
        raise Conflict("DATASET_TAGGED", name=name, number=number, tags=", ".join(tags))
    book.delete(name, number)


def diff_datasets(
    base: Reference, other: Reference, *, book: DatasetBook, rows: RowStore, timeout_s: float
) -> Iterator[Progress | Diff]:
    """The steps as they begin, then what changed. Raises as `get_dataset` and `create_dataset`."""
    before, after = find(base, book=book), find(other, book=book)
    yield Progress("rows", 0)
    changes = rows.compare(before.selection, after.selection, timeout_s=timeout_s)
    yield Progress("distributions", 1)
    bins = [each for each in before.content.columns if each.counts]
    counts = rows.count(after.selection, bins, timeout_s=timeout_s)
    columns = domain.column_changes(before.content, after.content)
    yield Diff(before, after, changes, columns, domain.column_shifts(bins, counts))


def read_dataset(
    reference: Reference,
    columns: Sequence[str],
    *,
    book: DatasetBook,
    rows: RowStore,
    timeout_s: float,
) -> Rows:
    """The dataset's rows; no column named takes all. Raises as `get_dataset`."""
    return rows.read(find(reference, book=book).selection, columns, timeout_s=timeout_s)


def read_stream(
    query: ReadStream,
    columns: Sequence[str],
    *,
    contracts: ContractBook,
    rows: RowStore,
    timeout_s: float,
) -> Rows:
    """A stream as it was. Raises NotFound STREAM_UNKNOWN, Conflict VERSION_EXPIRED."""
    return rows.read(_selection(query, contracts, rows), columns, timeout_s=timeout_s)


def manifests(places: Iterable[tuple[str, int]], *, book: DatasetBook) -> Iterator[Manifest]:
    """Of these datasets, but of none that is deleted by now."""
    for place in places:
        try:
            manifest = book.get(*place)
        except Conflict as err:
            log.info("dataset_deleted_meanwhile", error=str(err))
            continue
        yield manifest


def pinned_versions(stream: str, *, view: str = "", book: DatasetBook) -> set[int]:
    """The versions of a stream's table, or of a view's, that datasets name: vacuum and log expiry
    keep them."""
    selections = [each.selection for each in manifests(book.places_of(stream), book=book)]
    own = [each for each in selections if (each.view, each.copy) == (view, "")]
    return {each.delta_version for each in own}
