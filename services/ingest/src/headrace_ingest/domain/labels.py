# SPDX-License-Identifier: Apache-2.0
"""The label of a target: what the first record known in its window says.

First is by known time, then event time, then id, as in training sets and monitors. Of weak labels
the last one known counts: other functions have voted since. One without votes takes back what was
known before it of its key and event time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import NamedTuple

import polars as pl

from headrace.expression import Expression, parse_expression
from headrace.label_definition import NO_VOTES, WEAK, LabelDefinition
from headrace_ingest.domain.contract import Contract
from headrace_kit.expressions import to_polars

SECOND_US = 1_000_000


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


@dataclass(frozen=True)
class LabelRule:
    """A label definition over its stream's contract, compiled."""

    label: LabelDefinition
    contract: Contract

    @cached_property
    def value(self) -> Expression:
        types = {name: column.type for name, column in self.contract.stream.columns.items()}
        return parse_expression(self.label.value, types)

    @cached_property
    def columns(self) -> list[str]:
        """The archive's columns that it reads."""
        own = {self.label.key, *self.value.columns}
        own |= {self.label.origin} if self.label.origin else set()
        own |= {self.label.weak.votes} if self.label.weak else set()
        return ["_event_id", "_event_time_us", "_known_time_us", *sorted(own)]

    def rows(self, records: pl.DataFrame) -> pl.DataFrame:
        """Records of the stream as `key, value, origin, event_id, event_us, known_us, voted,
        no_votes`: whether these functions made it, and whether it takes theirs back.

        Those without key or value say nothing and are left out, but for those that take back.
        """
        origin = pl.col(self.label.origin) if self.label.origin else pl.lit("")
        weak = self.label.weak
        voted = (origin == WEAK) & pl.col(weak.votes).is_not_null() if weak else pl.lit(value=False)
        no_votes = voted & (pl.col(weak.votes) == NO_VOTES) if weak else voted
        return records.select(
            pl.col(self.label.key).cast(pl.String).alias("key"),
            to_polars(self.value).alias("value"),
            origin.fill_null("").alias("origin"),
            pl.col("_event_id").alias("event_id"),
            pl.col("_event_time_us").alias("event_us"),
            pl.col("_known_time_us").alias("known_us"),
            voted.fill_null(value=False).alias("voted"),
            no_votes.fill_null(value=False).alias("no_votes"),
        ).filter(pl.col("key").is_not_null() & (pl.col("value").is_not_null() | pl.col("no_votes")))


def find_labels(
    label: LabelDefinition,
    targets: Sequence[Target],
    rows: pl.DataFrame,
    *,
    known_until_us: int,
    with_weak: bool,
) -> list[FoundLabel]:
    """The label of each target; `rows` as `LabelRule.rows` gives them, of any keys."""
    asked = pl.DataFrame(
        {
            "index": range(len(targets)),
            "key": [target.key for target in targets],
            "as_of_us": [target.as_of_us for target in targets],
            "until_us": [_until_us(label, target, known_until_us) for target in targets],
        },
        schema={"index": pl.Int64, "key": pl.String, "as_of_us": pl.Int64, "until_us": pl.Int64},
    )
    weak = pl.col("origin") == WEAK
    back_us = pl.when("no_votes").then("known_us").max().over("index", "event_us")
    taken_back = (pl.col("voted") & (pl.col("known_us") <= back_us)).fill_null(value=False)
    joined = (
        asked.join(rows if with_weak else rows.filter(~weak), on="key")
        .filter(_in_window(label) & (pl.col("known_us") <= pl.col("until_us")))
        .filter(~taken_back)
        .with_columns(weak=weak, rank=pl.when(weak).then(-pl.col("known_us")).otherwise("known_us"))
        .sort("weak", "rank", "event_us", "event_id")
        .unique("index", keep="first", maintain_order=True)
    )
    found = {row["index"]: _known(row) for row in joined.iter_rows(named=True)}
    return [
        found.get(index) or _unknown(label, target, known_until_us)
        for index, target in enumerate(targets)
    ]


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
