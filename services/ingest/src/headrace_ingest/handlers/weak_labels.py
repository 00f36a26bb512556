# SPDX-License-Identifier: Apache-2.0
"""Lets the functions of a label vote on archived records, and publishes what they agree on.

The labels say `weak` in their origin column and keep every vote. Their ids are hashes of the record
and the functions: applied again, nothing is added; other functions give other labels beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import polars as pl

from headrace import topics
from headrace.errors import Busy, Invalid
from headrace.label_definition import LabelDefinition, WeakLabels
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.labels import WEAK
from headrace_ingest.domain.weak_labels import (
    MENDED,
    Combined,
    FunctionFigures,
    Votes,
    combine,
    names_of,
    votes_of,
)
from headrace_ingest.ports import ContractBook, LabelBook, RecordRows
from headrace_kit.clock import Clock
from headrace_kit.kafka import Message, Publisher

ROWS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class ApplyWeakLabels:
    """Records with event time in [from, until); a dry run publishes nothing."""

    label: str
    from_us: int
    until_us: int
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class WeakReport:
    """Records looked at, those that got a label, and what each function did."""

    records: int
    labelled: int
    figures: Mapping[str, FunctionFigures]


def apply_weak_labels(
    command: ApplyWeakLabels,
    *,
    labels: LabelBook,
    contracts: ContractBook,
    records: RecordRows,
    publisher: Publisher,
    clock: Clock,
) -> WeakReport:
    """Raises NotFound LABEL_UNKNOWN or STREAM_UNKNOWN, Invalid BAD_REQUEST, Busy BATCH_TOO_LARGE
    for more than 100,000 records, and what `records` and `publisher` raise: ask again.
    """
    if not 0 <= command.from_us < command.until_us:
        raise Invalid("BAD_REQUEST", field="until_us", problem="is not behind from_us")
    label = labels.get(command.label)
    weak = _weak(label)
    source = contracts.get(weak.stream)
    rows = records.between(
        source, from_us=command.from_us, until_us=command.until_us, rows_max=ROWS_MAX + 1
    )
    if len(rows) > ROWS_MAX:
        raise Busy("BATCH_TOO_LARGE", items_max=ROWS_MAX, problem="narrow the time")
    rows = rows.filter(pl.col(weak.key).is_not_null())
    votes = votes_of(rows, weak, source)
    combined = combine(votes, weak)
    if not command.dry_run and (combined.labels >= 0).any():
        target = contracts.get(label.stream)
        publisher.publish(_messages(rows, votes, combined, label, target, clock.now_us()))
    return WeakReport(len(rows), int((combined.labels >= 0).sum()), combined.figures)


def _messages(
    rows: pl.DataFrame,
    votes: Votes,
    combined: Combined,
    label: LabelDefinition,
    target: Contract,
    now_us: int,
) -> list[Message]:
    weak, stream = _weak(label), target.stream
    names, functions = names_of(weak), list(weak.functions)
    topic, version = topics.RAW.of(stream.name), _version(label, weak)
    about = rows.select("_event_id", "_event_time_us", pl.col(weak.key).cast(pl.String))
    messages = []
    for (event_id, event_us, key), own, chosen in zip(
        about.iter_rows(), votes.tolist(), combined.labels.tolist(), strict=True
    ):
        if chosen < 0:
            continue
        label_id = blake2b(f"{version}|{event_id}".encode(), digest_size=16).hexdigest()
        value = {
            stream.id: label_id,
            label.key: key,
            stream.event_time: event_us,
            weak.answer: names[chosen],
            weak.votes: json.dumps(_told(own, functions, names)),
            str(label.origin): WEAK,
        }
        if stream.known_time:
            value[stream.known_time] = now_us
        headers = (("ce_id", label_id.encode()),)
        messages.append(Message(topic, key.encode(), json.dumps(value).encode(), headers))
    return messages


def _told(own: Sequence[int], functions: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """The vote of each function that did not abstain."""
    return {name: names[vote] for name, vote in zip(functions, own, strict=True) if vote >= 0}


def _version(label: LabelDefinition, weak: WeakLabels) -> str:
    return f"{label.name}|{weak.model_dump_json()}{MENDED[weak.combine]}"


def _weak(label: LabelDefinition) -> WeakLabels:
    if label.weak is None:
        problem = f"{label.name} has no weak functions: declare some (docs/labels.md)"
        raise Invalid("BAD_REQUEST", field="label", problem=problem)
    return label.weak
