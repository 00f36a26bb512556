# SPDX-License-Identifier: Apache-2.0
"""Answers what is true of entities and predictions, from the records that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.errors import Busy, Invalid
from headrace_ingest.domain.labels import (
    FoundLabel,
    LabelRule,
    Target,
    find_labels,
    weak_columns,
)
from headrace_ingest.ports.definitions import ContractBook, LabelBook
from headrace_ingest.ports.labels import RecordRows

TARGETS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class LookUpLabels:
    """The label of each target as known at a moment."""

    label: str
    targets: Sequence[Target]
    known_until_us: int
    with_weak: bool = False


def look_up_labels(
    command: LookUpLabels, *, labels: LabelBook, contracts: ContractBook, records: RecordRows
) -> list[FoundLabel]:
    """In the order of the targets.

    Raises NotFound LABEL_UNKNOWN or STREAM_UNKNOWN, Invalid BAD_REQUEST, Busy BATCH_TOO_LARGE, and
    Unavailable OBJECT_STORE_UNAVAILABLE.
    """
    if not command.targets:
        raise Invalid("BAD_REQUEST", field="targets", problem="is empty")
    if len(command.targets) > TARGETS_MAX:
        raise Busy("BATCH_TOO_LARGE", items=len(command.targets), items_max=TARGETS_MAX)
    label = labels.get(command.label)
    rule = LabelRule(label, contracts.get(label.stream), weak_columns(label, labels.all()))
    keys = sorted({target.key for target in command.targets})
    rows = records.of_keys(rule.contract, rule.columns, key=label.key, keys=keys)
    return find_labels(
        rule,
        command.targets,
        rule.rows(rows),
        known_until_us=command.known_until_us,
        with_weak=command.with_weak,
    )
