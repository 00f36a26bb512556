# SPDX-License-Identifier: Apache-2.0
"""Folds predictions and labels into the state of one monitor: the join, the counters, the quality.

The result is a function of the set of records and of nothing else: a repeat changes nothing, a
label that comes before its prediction waits for it, and whether a label came in time is told by
event time. Every entry has an end: what has matured long ago is forgotten.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from headrace.entity import text_of
from headrace_kit.psi import Counts
from headrace_monitor.domain import layout
from headrace_monitor.domain.drift import count_rows
from headrace_monitor.domain.prediction import Asked, Door, Nonfinite, Prediction, asked_rows
from headrace_monitor.domain.progress import Window
from headrace_monitor.domain.version import KnownVersion
from headrace_monitor.domain.watch import SECOND_US
from headrace_monitor.handlers.batch import Batch
from headrace_monitor.handlers.forms import PROGRESS, WINDOW
from headrace_monitor.handlers.turn import Turn

ASKED_PER_ENTITY_MAX = 64
# Ingest knows repeats for as long; older predictions and labels are forgotten.
KEPT_AFTER_MATURITY_US = 7 * 86_400 * SECOND_US
RESULTS_KEPT_US = 400 * 86_400 * SECOND_US
_LABEL = struct.Struct("<qB")
_HELD = struct.Struct("<qH")


@dataclass(frozen=True, slots=True)
class LabelRecord:
    """A record of a label stream; `known_us` never goes back within a partition."""

    stream: str
    known_us: int
    columns: Mapping[str, object]


def fold_predictions(turn: Turn, predictions: Sequence[Prediction]) -> None:
    """Counts each prediction once, for drift at once, for quality when its outcome is known."""
    relevant = [one for one in predictions if _concerns(turn, one)]
    entities = [layout.free(one.entity_key) for one in relevant]
    asked_keys = [
        layout.asked(turn.id, one.endpoint.encode(), entity)
        for one, entity in zip(relevant, entities, strict=True)
    ]
    label_keys = [layout.label(turn.id, entity) for entity in entities]
    turn.batch.load(chain(asked_keys, label_keys))
    fresh = []
    for prediction, entity, key, label_key in zip(
        relevant, entities, asked_keys, label_keys, strict=True
    ):
        asked = prediction.asked()
        known = list(asked_rows(turn.batch.get(key) or b""))
        repeat = any(one.id_hash == asked.id_hash for one in known)
        if repeat:
            continue
        if len(known) >= ASKED_PER_ENTITY_MAX:
            turn.progress.predictions_refused += 1
            continue
        turn.batch.append(key, asked.row())
        maturity_us = asked.as_of_us + turn.watch.maturity_us
        due = layout.due(turn.id, maturity_us, prediction.endpoint.encode(), entity)
        turn.batch.put(due, b"")
        outcome = _outcome(turn, maturity_us, turn.batch.get(label_key))
        if outcome is not None:
            _decide(turn, prediction.endpoint, asked, outcome)
        fresh.append(prediction)
    turn.progress.predictions_folded += len(fresh)
    monitored = [one for one in fresh if one.endpoint == turn.watch.endpoint.name]
    turn.progress.predictions += len(monitored)
    _fold_windows(turn, monitored)
    _count_drift(turn, monitored)


def fold_nonfinite(turn: Turn, requests: Sequence[Nonfinite]) -> None:
    """Notes each request once that the canary on trial made no answer to."""
    own = turn.watch.endpoint.name
    for each in requests:
        if each.endpoint == own and each.canary and not trial_over(turn, each.generation):
            end_us = turn.watch.window_end_us(each.as_of_us)
            key = layout.nonfinite(turn.id, each.generation, end_us, each.id_hash())
            turn.batch.put(key, b"")


def fold_labels(turn: Turn, labels: Sequence[LabelRecord]) -> None:
    """Decides the predictions that a label came in time for; the first label of an entity counts.

    All labels of an entity are in one partition, because the label stream is keyed by the label's
    key, so that "first" is the same in every replay.
    """
    stream, column = turn.watch.recipe.label.stream, turn.watch.recipe.label.key
    endpoints = sorted(name.encode() for name in turn.watch.endpoints)
    found = [
        # A label that comes after its absence was decided is late, whatever it says.
        (
            layout.free(spelled),
            max(label.known_us, turn.progress.absent_until_us),
            outcome,
        )
        for label in labels
        if label.stream == stream
        and (spelled := text_of(label.columns.get(column))) is not None
        and (outcome := turn.watch.outcome_of(label.columns)) is not None
    ]
    turn.batch.load(layout.label(turn.id, entity) for entity, _, _ in found)
    turn.batch.load(
        layout.asked(turn.id, endpoint, entity) for entity, _, _ in found for endpoint in endpoints
    )
    for entity, known_us, outcome in found:
        key = layout.label(turn.id, entity)
        if turn.batch.get(key) is not None:
            continue
        turn.batch.put(key, _LABEL.pack(known_us, outcome))
        turn.batch.put(layout.due(turn.id, known_us + turn.watch.maturity_us, b"", entity), b"")
        for endpoint in endpoints:
            for asked in asked_rows(turn.batch.get(layout.asked(turn.id, endpoint, entity)) or b""):
                if known_us <= asked.as_of_us + turn.watch.maturity_us:
                    _decide(turn, endpoint.decode(), asked, outcome)


def decide_absences(turn: Turn, known_us: int) -> None:
    """Decides what has matured before `known_us` without a label: absent counts as 1."""
    from_us, turn.progress.absent_until_us = turn.progress.absent_until_us, known_us
    dues = layout.dues(turn.id)
    span = (dues + layout.time(from_us), dues + layout.time(known_us))
    places = [layout.due_parts(turn.id, key) for key, _ in turn.batch.scan(span)]
    places = [(endpoint, entity) for endpoint, entity in dict.fromkeys(places) if endpoint]
    turn.batch.load(layout.label(turn.id, entity) for _, entity in places)
    turn.batch.load(layout.asked(turn.id, endpoint, entity) for endpoint, entity in places)
    for endpoint, entity in places:
        label = turn.batch.get(layout.label(turn.id, entity))
        label_known_us = _LABEL.unpack(label)[0] if label else None
        for asked in asked_rows(turn.batch.get(layout.asked(turn.id, endpoint, entity)) or b""):
            maturity_us = asked.as_of_us + turn.watch.maturity_us
            in_time = label_known_us is not None and label_known_us <= maturity_us
            if from_us <= maturity_us < known_us and not in_time:
                _decide(turn, endpoint.decode(), asked, 1)


def forget(turn: Turn, known_us: int) -> None:
    """Drops what matured too long ago for a repeat, and results too old to be asked for."""
    limit_us = known_us - KEPT_AFTER_MATURITY_US
    for key, _ in turn.batch.scan(layout.before(layout.dues(turn.id), limit_us)):
        turn.batch.delete(key)
        endpoint, entity = layout.due_parts(turn.id, key)
        if not endpoint:
            turn.batch.delete(layout.label(turn.id, entity))
            continue
        asked_key = layout.asked(turn.id, endpoint, entity)
        kept = [
            asked.row()
            for asked in asked_rows(turn.batch.get(asked_key) or b"")
            if asked.as_of_us + turn.watch.maturity_us >= limit_us
        ]
        if kept:
            turn.batch.put(asked_key, b"".join(kept))
        else:
            turn.batch.delete(asked_key)
    for prefix in (layout.all_decided(turn.id), layout.verdicts(turn.id)):
        for key, _ in turn.batch.scan(layout.before(prefix, known_us - RESULTS_KEPT_US)):
            turn.batch.delete(key)


def count_held(batch: Batch, known: KnownVersion) -> None:
    """Counts the rows that waited for this version's reference."""
    span = layout.span(layout.all_held(known.model, known.version))
    for key, block in batch.scan(span):
        batch.delete(key)
        monitor = layout.held_monitor(known.model, known.version, key)
        end_us, width = _HELD.unpack_from(block)
        rows = np.frombuffer(block, np.float32, offset=_HELD.size).reshape(-1, width)
        progress = batch.read(PROGRESS, layout.progress(monitor))
        if progress is not None and end_us > progress.drift_until_us:
            _add_counts(batch, monitor, end_us, known, rows)


def _concerns(turn: Turn, prediction: Prediction) -> bool:
    """Rows by entity keys of the own endpoint; of the others every row that has a key."""
    own = prediction.endpoint == turn.watch.endpoint.name
    return (
        prediction.endpoint in turn.watch.endpoints
        and bool(prediction.entity_key)
        and (prediction.door is Door.ENTITY_KEYS or not own)
    )


def _outcome(turn: Turn, maturity_us: int, label: bytes | None) -> int | None:
    """The outcome of a prediction that comes now; None while it cannot be known."""
    if label is not None:
        known_us, outcome = _LABEL.unpack(label)
        if known_us <= maturity_us:
            return int(outcome)
    return 1 if maturity_us < turn.progress.absent_until_us else None


def _decide(turn: Turn, endpoint: str, asked: Asked, outcome: int) -> None:
    key = layout.decided(turn.id, asked.as_of_us, endpoint, asked.version)
    turn.batch.append(key, asked.decided(outcome))
    if endpoint != turn.watch.endpoint.name:
        return
    turn.progress.labelled += 1
    if asked.shadow_version and not trial_over(turn, asked.generation):
        pair = layout.pair(turn.id, asked.generation, asked.as_of_us, asked.id_hash)
        turn.batch.put(pair, asked.paired(outcome))


def trial_over(turn: Turn, generation: int) -> bool:
    """Whether a canary was judged already, or its rollout is gone."""
    if turn.rollout is not None and turn.rollout.generation > generation:
        return True
    return turn.batch.get(layout.trial_decided(turn.id, generation)) is not None


def _fold_windows(turn: Turn, predictions: Sequence[Prediction]) -> None:
    """Notes for each window which versions its newest generation served."""
    newest: dict[int, Prediction] = {}
    for prediction in predictions:
        end_us = turn.watch.window_end_us(prediction.as_of_us)
        if prediction.champion and end_us > turn.progress.outcomes_until_us:
            seen = newest.get(end_us)
            if seen is None or _rank(prediction) > _rank(seen):
                newest[end_us] = prediction
    for end_us, prediction in newest.items():
        key = layout.window(turn.id, end_us)
        judged = end_us <= turn.progress.drift_until_us
        window = turn.batch.read(WINDOW, key) or Window(drift_judged=judged)
        rank = _rank(prediction)
        if rank > (window.generation, window.canary, window.champion):
            generation, canary, champion = rank
            newer = Window(generation, champion, canary, window.drift_judged)
            turn.batch.write(WINDOW, key, newer)


def _rank(prediction: Prediction) -> tuple[int, int, int]:
    """A row with both arms tells more than one without; order of arrival tells nothing."""
    return prediction.generation, prediction.canary, prediction.champion


def _count_drift(turn: Turn, predictions: Sequence[Prediction]) -> None:
    """A row counts for each version that scored it: a canary's counters are ready when it wins."""
    groups: dict[tuple[int, int, int], list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        end_us = turn.watch.window_end_us(prediction.as_of_us)
        if prediction.features and end_us > turn.progress.drift_until_us:
            width = len(prediction.features)
            groups[end_us, prediction.version, width].append(prediction)
            if prediction.shadow_version:
                groups[end_us, prediction.shadow_version, width].append(prediction)
    for (end_us, number, _), group in groups.items():
        rows = np.array([one.features for one in group], np.float32)
        _count_or_hold(turn, end_us, number, rows, block=group[0].asked().id_hash)


def _count_or_hold(turn: Turn, end_us: int, number: int, rows: np.ndarray, *, block: bytes) -> None:
    model, width = turn.watch.endpoint.model, rows.shape[1]
    known = turn.version(number)
    if known is None:
        held = _HELD.pack(end_us, width) + rows.tobytes()
        turn.batch.put(layout.held(model, number, turn.id, block), held)
    else:
        _add_counts(turn.batch, turn.id, end_us, known, rows)


def _add_counts(
    batch: Batch, monitor: bytes, end_us: int, known: KnownVersion, rows: np.ndarray
) -> None:
    if rows.shape[1] != len(known.reference.features):
        return  # scored by another list of features: this version never saw these rows
    key = layout.counters(monitor, end_us, known.version)
    before = batch.get(key)
    counts: Counts = count_rows(known.reference, rows)
    if before is not None:
        counts = counts + np.frombuffer(before, np.int64)
    batch.put(key, counts.tobytes())
