# SPDX-License-Identifier: Apache-2.0
"""Datasets: rows of a stream that never change, under a name and a number.

A dataset copies nothing. It pins a version of the stream's table and says which of its rows it is
made of; the digest says what these were. Its manifest is written once and never changed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.definition_types import NAME
from headrace.errors import Invalid
from headrace_ingest.domain.asked import bounded
from headrace_kit.psi import calibrated_psi

ID_CHARACTERS_MAX = 128
DESCRIPTION_CHARACTERS_MAX = 2_000
PAGE_SIZE_MAX = 100
NUMERIC = ("int64", "float64")


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows of a stream's table at a version; `known_until_us` 0 and an empty filter take all.

    `columns`: name and type of each, as the contract had them when the rows were chosen. With a
    `view` they are rows of its offline feature table that were made by this `definition`.
    """

    stream: str
    delta_version: int
    columns: tuple[tuple[str, str], ...]
    known_until_us: int = 0
    filter: str = ""
    # Set once an erasure has changed them: the remaining rows lie in a table of their own.
    copy: str = ""
    view: str = ""
    definition: str = ""


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """How the values of a column look; of text, only the values of few-valued columns are told.

    `counts`: one for each bin (len(edges) + 1, or len(values) + 1 with all others), then the nulls.
    """

    column: str
    type: str
    nulls: int
    distinct: int
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    quantiles: tuple[float, ...] = ()
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Description:
    """What the rows of a selection are: their number, their digest, their columns."""

    rows: int
    digest: str
    columns: tuple[ColumnStatistics, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a dataset is made from, as its creator asked and as it was resolved."""

    selection: Selection
    contract_version: int
    view: str = ""
    view_version: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request fixed before its long work: the digest of what it asked, and the rows.

    Of `private` columns no value goes into the manifest. The request's dataset has a number above
    `above`, the highest one of that moment.
    """

    digest: str
    origin: Origin
    private: tuple[str, ...]
    above: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that is known of a dataset; `request_id` made it, and makes no other one."""

    name: str
    number: int
    description: str
    origin: Origin
    content: Description
    created_at_us: int
    request_id: str
    # Rows that erasures took out, and which erasures these were.
    rows_erased: int = 0
    erasures: tuple[str, ...] = ()
    revision: int = 0

    @property
    def selection(self) -> Selection:
        return self.origin.selection


@dataclass(frozen=True, slots=True)
class Tag:
    """A name that points to a number since its `generation`-th move; it can be moved again."""

    name: str
    tag: str
    number: int
    generation: int
    moved_at_us: int
    request_id: str


@dataclass(frozen=True, slots=True)
class Reference:
    """A dataset by number, by tag, or, with neither, the one with the highest number."""

    name: str
    number: int = 0
    tag: str = ""


@dataclass(frozen=True, slots=True)
class RowChanges:
    """How two selections differ by event id: numbers, and some of the ids of each kind."""

    added: int
    removed: int
    changed: int
    added_ids: tuple[str, ...]
    removed_ids: tuple[str, ...]
    changed_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ColumnChange:
    """A column whose type differs; a type is empty where the column is absent."""

    column: str
    type_before: str
    type_after: str


@dataclass(frozen=True, slots=True)
class ColumnShift:
    """PSI of the values without its null mean, and the chance of so much without a shift."""

    column: str
    psi: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Diff:
    """What changed from `base` to `other`."""

    base: Manifest
    other: Manifest
    rows: RowChanges
    columns: tuple[ColumnChange, ...]
    shifts: tuple[ColumnShift, ...]


def column_changes(base: Description, other: Description) -> tuple[ColumnChange, ...]:
    """The columns that came, went or changed their type, by name."""
    before = {each.column: each.type for each in base.columns}
    after = {each.column: each.type for each in other.columns}
    return tuple(
        ColumnChange(name, before.get(name, ""), after.get(name, ""))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def column_shifts(
    base: Sequence[ColumnStatistics], counts: Mapping[str, Sequence[int]]
) -> tuple[ColumnShift, ...]:
    """The other side's `counts`, in the base's bins, against the base's own."""
    return tuple(
        ColumnShift(
            each.column,
            *calibrated_psi(np.array(each.counts), np.array(counts[each.column])),
        )
        for each in base
        if any(each.counts) and any(counts.get(each.column, ()))
    )


def check_name(field: str, value: str) -> None:
    """Raises Invalid BAD_NAME."""
    if not NAME.fullmatch(value):
        raise Invalid("BAD_NAME", field=field, value=value[:ID_CHARACTERS_MAX])


def check_tag(value: str) -> None:
    """Raises Invalid BAD_NAME: `latest` and numbers would read as datasets."""
    check_name("tag", value)
    if value == "latest" or value.isdecimal():
        problem = "it would read as a dataset: numbers and latest are no tags"
        raise Invalid("BAD_NAME", field="tag", value=value, problem=problem)


def check_request_id(value: str) -> None:
    """Raises Invalid BAD_REQUEST unless it is printable ASCII of 1 to 128 characters."""
    if not (0 < len(value) <= ID_CHARACTERS_MAX and value.isascii() and value.isprintable()):
        problem = f"must be 1 to {ID_CHARACTERS_MAX} printable characters"
        raise Invalid("BAD_REQUEST", field="request_id", problem=problem)


def page_limit(page_size: int) -> int:
    """Raises Invalid BAD_REQUEST for a negative size; a larger one is clamped."""
    return bounded("page_size", page_size, default=PAGE_SIZE_MAX, most=PAGE_SIZE_MAX)


def page_token(listed: str, after: tuple[str, int]) -> str:
    """Where the next page begins, with a check, so that a changed token is refused."""
    name, number = after
    check = hashlib.sha256(f"{listed} {name} {number}".encode()).hexdigest()[:16]
    return f"{name}/{number}/{check}"


def page_start(listed: str, token: str) -> tuple[str, int] | None:
    """The inverse of `page_token`; None for the first page. Raises Invalid BAD_REQUEST."""
    if not token:
        return None
    found = re.fullmatch(r"([a-z0-9.\-]{1,128})/([0-9]{1,9})/[0-9a-f]{16}", token)
    if found is None or page_token(listed, after := (found[1], int(found[2]))) != token:
        raise Invalid("BAD_REQUEST", field="page_token", problem="is not one of this list")
    return after
