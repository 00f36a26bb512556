# SPDX-License-Identifier: Apache-2.0
"""The label of a target: what the first record known in its window says.

First is by known time, then event time, then id, as in training sets and monitors. Of weak labels
the last one known counts: other functions have voted since. One without votes takes back what was
known before it of its key and event time, whichever definition the functions belong to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import polars as pl

from headrace.expression import Expression, parse_expression
from headrace.label_definition import NO_VOTES, WEAK, LabelDefinition
from headrace_ingest.domain.contract import Contract
from headrace_kit.entity_texts import entity_texts
from headrace_kit.expressions import to_polars

SECOND_US = 1_000_000
# Of targets and records of their keys, so many pairs are looked at together: a thousand targets of
# one entity with a long history would fill the memory. Beyond come those of one target alone.
PAIRS_MAX = 200_000


class Target(NamedTuple):
    """Entity key or prediction id, and the moment that was asked about."""

    key: str
    as_of_us: int


class LabelState(Enum):
    """Whether a target's label is known."""

    PENDING = "pending"
    KNOWN = "known"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class FoundLabel:
    """The label of one target; what was not known is empty or 0."""

    state: LabelState
    value: object = None
    origin: str = ""
    event_id: str = ""
    event_time_us: int = 0
    known_time_us: int = 0


PENDING = FoundLabel(LabelState.PENDING)


class WeakColumns(NamedTuple):
    """What says that a label is weak, and the votes for it."""

    origin: str
    votes: str


def weak_columns(label: LabelDefinition, applied: Iterable[LabelDefinition]) -> list[WeakColumns]:
    """Of all functions whose labels lie among this one's records, under the same key."""
    return sorted(
        {
            WeakColumns(each.origin, each.weak.votes)
            for each in (label, *applied)
            if (each.stream, each.key) == (label.stream, label.key) and each.weak and each.origin
        }
    )


@dataclass(frozen=True)
class LabelRule:
    """A label definition over its stream's contract, compiled; `weak` as `weak_columns` says."""

    label: LabelDefinition
    contract: Contract
    weak: Sequence[WeakColumns]

    @cached_property
    def value(self) -> Expression:
        types = {name: column.type for name, column in self.contract.stream.columns.items()}
        return parse_expression(self.label.value, types)

    @cached_property
    def columns(self) -> list[str]:
        """The archive's columns that it reads."""
        own = {self.label.key, *self.value.columns}
        own |= {self.label.origin} if self.label.origin else set()
        own |= {name for columns in self.weak for name in columns}
        return ["_event_id", "_event_time_us", "_known_time_us", *sorted(own)]

    def rows(self, records: pl.DataFrame) -> pl.DataFrame:
        """Records of the stream as `key, value, origin, event_id, event_us, known_us`; for the
        n-th of the weak columns `voted_n, no_votes_n`: whether functions made it that vote there,
        and whether it takes theirs back.

        Those without key or value say nothing and are left out, but for those that take back.
        """
        origin = pl.col(self.label.origin) if self.label.origin else pl.lit("")
        places = range(len(self.weak))
        takes_back = pl.any_horizontal(pl.lit(value=False), *map(_no_votes, places))
        return records.select(
            entity_texts(records[self.label.key]).alias("key"),
            to_polars(self.value).alias("value"),
            origin.fill_null("").alias("origin"),
            pl.col("_event_id").alias("event_id"),
            pl.col("_event_time_us").alias("event_us"),
            pl.col("_known_time_us").alias("known_us"),
            *chain.from_iterable(map(_said, places, self.weak)),
        ).filter(pl.col("key").is_not_null() & (pl.col("value").is_not_null() | takes_back))


def _said(place: int, columns: WeakColumns) -> tuple[pl.Expr, pl.Expr]:
    votes = pl.col(columns.votes)
    voted = (pl.col(columns.origin) == WEAK) & votes.is_not_null()
    takes_back = voted & (votes == NO_VOTES)
    return (
        voted.fill_null(value=False).alias(f"voted_{place}"),
        takes_back.fill_null(value=False).alias(f"no_votes_{place}"),
    )


def _no_votes(place: int) -> pl.Expr:
    return pl.col(f"no_votes_{place}")


def _taken_back(place: int) -> pl.Expr:
    """Of a target's rows, by event time: those known until one without votes was."""
    back_us = pl.when(_no_votes(place)).then("known_us").max().over("index", "event_us")
    return (pl.col(f"voted_{place}") & (pl.col("known_us") <= back_us)).fill_null(value=False)


def find_labels(
    rule: LabelRule,
    targets: Sequence[Target],
    rows: pl.DataFrame,
    *,
    known_until_us: int,
    with_weak: bool,
) -> list[FoundLabel]:
    """The label of each target; `rows` as `rule.rows` gives them, of any keys."""
    label = rule.label
    asked = pl.DataFrame(
        {
            "index": range(len(targets)),
            "key": [target.key for target in targets],
            "as_of_us": [target.as_of_us for target in targets],
            "until_us": [_until_us(label, target, known_until_us) for target in targets],
        },
        schema={"index": pl.Int64, "key": pl.String, "as_of_us": pl.Int64, "until_us": pl.Int64},
    )
    said = rows if with_weak else rows.filter(pl.col("origin") != WEAK)
    found = dict[int, FoundLabel]()
    for some in _parts(asked, said):
        for row in _first_said(rule, some, said).iter_rows(named=True):
            found[row["index"]] = _known(row)
    return [
        found.get(index) or _unknown(label, target, known_until_us)
        for index, target in enumerate(targets)
    ]


def _parts(asked: pl.DataFrame, said: pl.DataFrame) -> list[pl.DataFrame]:
    """The targets that have records of their key, some at a time."""
    pairs = asked.join(said.group_by("key").len("records"), on="key").sort("index")
    before = pl.col("records").cast(pl.Int64).cum_sum() - pl.col("records")
    parts = pairs.with_columns(part=before // PAIRS_MAX).partition_by("part", maintain_order=True)
    return [part.drop("records", "part") for part in parts]


def _first_said(rule: LabelRule, asked: pl.DataFrame, said: pl.DataFrame) -> pl.DataFrame:
    """What counts of the records, for each of the targets that has such a one."""
    in_time = asked.join(said, on="key").filter(
        _in_window(rule.label) & (pl.col("known_us") <= pl.col("until_us"))
    )
    for place in range(len(rule.weak)):
        in_time = in_time.filter(~_taken_back(place))
    weak = pl.col("origin") == WEAK
    rank = pl.when(weak).then(-pl.col("known_us")).otherwise("known_us")
    return (
        in_time.with_columns(weak=weak, rank=rank)
        .sort("weak", "rank", "event_us", "event_id")
        .unique("index", keep="first", maintain_order=True)
    )


def _until_us(label: LabelDefinition, target: Target, known_until_us: int) -> int:
    """Beyond the absent rule's moment its value stands, whatever comes."""
    if label.absent is None:
        return known_until_us
    return min(known_until_us, target.as_of_us + label.absent.after_s * SECOND_US)


def _in_window(label: LabelDefinition) -> pl.Expr:
    if label.by == "prediction":
        return pl.lit(value=True)
    end = pl.col("as_of_us") + label.window_s * SECOND_US
    return pl.col("event_us").is_between(pl.col("as_of_us"), end)


def _known(row: dict[str, object]) -> FoundLabel:
    return FoundLabel(
        LabelState.KNOWN,
        row["value"],
        str(row["origin"]),
        str(row["event_id"]),
        int(str(row["event_us"])),
        int(str(row["known_us"])),
    )


def _unknown(label: LabelDefinition, target: Target, known_until_us: int) -> FoundLabel:
    absent = label.absent
    if absent is None or known_until_us < target.as_of_us + absent.after_s * SECOND_US:
        return PENDING
    return FoundLabel(LabelState.ABSENT, absent.value)
