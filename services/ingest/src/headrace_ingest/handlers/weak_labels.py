# SPDX-License-Identifier: Apache-2.0
"""Lets the functions of a label vote on archived records, and publishes what they agree on.

The labels say `weak` in their origin column and keep every vote. Their ids are hashes of the record
and the functions: applied again, nothing is added; other functions give other labels beside them.
What they do not agree on any more is taken back, by a record without votes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import polars as pl

from headrace import topics
from headrace.errors import Busy, Invalid
from headrace.label_definition import NO_VOTES, WEAK, LabelDefinition, WeakLabels
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.standing_labels import Place, StandingLabels, WeakLabel, digest
from headrace_ingest.domain.weak_labels import (
    MENDED,
    Combined,
    FunctionFigures,
    Votes,
    combine,
    names_of,
    votes_of,
)
from headrace_ingest.ports.definitions import ContractBook, LabelBook
from headrace_ingest.ports.labels import RecordRows
from headrace_kit.clock import Clock
from headrace_kit.entity_texts import entity_texts
from headrace_kit.kafka import Message, Publisher

ROWS_MAX = 100_000
# Of the labels that functions gave these records, whichever they were.
STANDING_ROWS_MAX = 10 * ROWS_MAX


@dataclass(frozen=True, slots=True)
class ApplyWeakLabels:
    """Records with event time in [from, until); a dry run publishes nothing."""

    label: str
    from_us: int
    until_us: int
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class WeakReport:
    """Records looked at, those that got a label, labels that are new on their stream, and those
    taken back; what each function did.
    """

    records: int
    labelled: int
    added: int
    taken_back: int
    stream: str
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
    source, target = contracts.get(weak.stream), contracts.get(label.stream)
    between = partial(records.between, from_us=command.from_us, until_us=command.until_us)
    rows = _few(partial(between, source), ROWS_MAX)
    rows = rows.filter(entity_texts(rows[weak.key]).is_not_null())
    weak_ones = partial(between, target, having={str(label.origin): WEAK})
    standing = _standing(_few(weak_ones, STANDING_ROWS_MAX), label)
    votes = votes_of(rows, weak, source)
    combined = combine(votes, weak)
    found = _labels(rows, votes, combined, label)
    taken_back = standing.taken_back(_places(rows, weak), found)
    new = [*standing.new(found)]
    said = [*taken_back, *new]
    if said and not command.dry_run:
        publisher.publish([_message(each, label, target, clock.now_us()) for each in said])
    return WeakReport(
        records=len(rows),
        labelled=len(found),
        added=len(new),
        taken_back=len(taken_back),
        stream=target.name,
        figures=combined.figures,
    )


def _few(read: Callable[..., pl.DataFrame], rows_max: int) -> pl.DataFrame:
    rows = read(rows_max=rows_max + 1)
    if len(rows) > rows_max:
        raise Busy("BATCH_TOO_LARGE", items_max=rows_max, problem="narrow the time")
    return rows


def _standing(rows: pl.DataFrame, label: LabelDefinition) -> StandingLabels:
    weak = _weak(label)
    of_functions = pl.col(weak.votes).is_not_null() & pl.col(label.key).is_not_null()
    ordered = rows.filter(of_functions).sort(
        "_known_time_us", "_event_id", descending=[False, True]
    )
    named = ordered.select("_event_id", label.key, "_event_time_us", weak.answer, weak.votes)
    return StandingLabels.of(
        WeakLabel(event_id, Place(key, event_us), answer or "", votes)
        for event_id, key, event_us, answer, votes in named.iter_rows()
    )


def _places(rows: pl.DataFrame, weak: WeakLabels) -> list[Place]:
    about = rows.select(entity_texts(rows[weak.key]), "_event_time_us")
    return [Place(*each) for each in about.iter_rows()]


def _labels(
    rows: pl.DataFrame, votes: Votes, combined: Combined, label: LabelDefinition
) -> list[WeakLabel]:
    """Of the records that get one; the id is a hash of the record and the functions."""
    weak = _weak(label)
    names, functions, version = names_of(weak), list(weak.functions), _version(label, weak)
    chosen = combined.labels.tolist()
    return [
        WeakLabel(digest(version, event_id), place, names[name], _told(own, functions, names))
        for event_id, place, own, name in zip(
            rows["_event_id"], _places(rows, weak), votes.tolist(), chosen, strict=True
        )
        if name >= 0
    ]


def _message(said: WeakLabel, label: LabelDefinition, target: Contract, now_us: int) -> Message:
    weak, stream = _weak(label), target.stream
    said = said.known_at(now_us) if stream.known_time else said
    value = {
        stream.id: said.id,
        label.key: said.place.key,
        stream.event_time: said.place.event_us,
        weak.votes: said.votes,
        str(label.origin): WEAK,
    }
    # What is taken back answers nothing, where the contract lets it.
    if said.votes != NO_VOTES or stream.columns[weak.answer].required:
        value[weak.answer] = said.answer
    if stream.known_time:
        value[stream.known_time] = now_us
    headers = (("ce_id", said.id.encode()),)
    topic = topics.RAW.of(stream.name)
    return Message(topic, said.place.key.encode(), json.dumps(value).encode(), headers)


def _told(own: Sequence[int], functions: Sequence[str], names: Sequence[str]) -> str:
    """The vote of each function that did not abstain."""
    votes = {name: names[vote] for name, vote in zip(functions, own, strict=True) if vote >= 0}
    return json.dumps(votes)


def _version(label: LabelDefinition, weak: WeakLabels) -> str:
    return f"{label.name}|{weak.model_dump_json()}{MENDED[weak.combine]}"


def _weak(label: LabelDefinition) -> WeakLabels:
    if label.weak is None:
        problem = f"{label.name} has no weak functions: declare some (docs/labels.md)"
        raise Invalid("BAD_REQUEST", field="label", problem=problem)
    return label.weak
