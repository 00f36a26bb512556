# SPDX-License-Identifier: Apache-2.0
"""Which predictions are put to people, and when their answers settle a task.

Chance is a hash of the prediction's id, so that a replay puts the same ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from headrace.label_definition import LabelDefinition, LabelQueue
from headrace_kit.erased_entities import entity_key_digest

# Of a prediction, for people: a task is kept for months.
FEATURES_SHOWN_MAX = 256


class TaskState(StrEnum):
    """Open: waits for answers; disputed: all were asked and too few agree."""

    OPEN = "open"
    ACCEPTED = "accepted"
    DISPUTED = "disputed"


@dataclass(frozen=True, slots=True)
class Served:
    """A prediction as it was logged; `other_score` is the other arm's, while a canary is judged."""

    prediction_id: str
    endpoint: str
    entity_key: str
    as_of_us: int
    version: int
    score: float
    other_score: float | None
    features: tuple[float, ...] = ()
    model: str = ""
    served_at_us: int = 0
    other_version: int = 0


@dataclass(frozen=True, slots=True)
class Bin:
    """Values in [at_least, below), None: without that bound; of `absent`: those that are none."""

    at_least: float | None = None
    below: float | None = None
    absent: bool = False

    def holds(self, value: float) -> bool:
        if self.absent or math.isnan(value):
            return self.absent and math.isnan(value)
        high_enough = self.at_least is None or self.at_least <= value
        return high_enough and (self.below is None or value < self.below)


@dataclass(frozen=True, slots=True)
class Drift:
    """What an endpoint is asked about more often than its version was trained on.

    `bins_by_place`: of the version's inputs; without any it is not told, and every row counts.
    """

    endpoint: str
    version: int
    bins_by_place: Mapping[int, Collection[Bin]]

    def holds(self, served: Served) -> bool:
        if served.endpoint != self.endpoint:
            return False
        if not self.bins_by_place:
            return True
        # Another version may have other inputs.
        return served.version == self.version and any(
            each.holds(served.features[place])
            for place, bins in self.bins_by_place.items()
            if place < len(served.features)
            for each in bins
        )


@dataclass(frozen=True, slots=True)
class Task:
    """A prediction that people label. `target`: what names it on the label's stream.

    `wanted` answers are asked for; `value` is what was accepted, else empty.
    """

    task_id: str
    label: str
    prediction_id: str
    target: str
    as_of_us: int
    version: int
    score: float
    rule: str
    wanted: int
    state: TaskState = TaskState.OPEN
    value: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """What a task is about, beside what the task says: as it was logged.

    `features`: in the order of the version's, NaN where absent; `left_out`: how many more it took.
    `other_version`, 0 for none, said `other_score`. `entity`: names it where its column is not
    known, as an erasure does; empty without one.
    """

    model: str
    served_at_us: int
    features: tuple[float, ...]
    left_out: int
    other_version: int
    other_score: float
    entity: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What the answers make of a task."""

    state: TaskState
    wanted: int
    value: str = ""


def task_of(served: Served, label: LabelDefinition, *, drifted: bool) -> Task | None:
    """The task of a prediction of the label's endpoint; None when no rule takes it."""
    queue = label.queue
    target = served.prediction_id if label.by == "prediction" else served.entity_key
    rule = None if queue is None else rule_of(served, label.name, queue, drifted=drifted)
    if queue is None or rule is None or not target:
        return None
    return Task(
        task_id=_digest(f"{label.name}|{served.prediction_id}").hex(),
        label=label.name,
        prediction_id=served.prediction_id,
        target=target,
        as_of_us=served.as_of_us,
        version=served.version,
        score=served.score,
        rule=rule,
        wanted=queue.labellers,
    )


def item_of(served: Served) -> Item:
    """What is kept of the prediction to show it."""
    return Item(
        model=served.model,
        served_at_us=served.served_at_us,
        features=served.features[:FEATURES_SHOWN_MAX],
        left_out=max(0, len(served.features) - FEATURES_SHOWN_MAX),
        other_version=0 if served.other_score is None else served.other_version,
        other_score=served.other_score or 0.0,
        entity=entity_key_digest(served.entity_key) if served.entity_key else "",
    )


def rule_of(served: Served, label: str, queue: LabelQueue, *, drifted: bool) -> str | None:
    """The first rule that takes the prediction."""
    rules = queue.rules
    shares = {
        "disagreement": rules.disagreement.share if _disagree(served, queue) else 0.0,  # type: ignore[union-attr]
        "drifted": rules.drifted.share if rules.drifted and drifted else 0.0,
        "uncertain": rules.uncertain.share if _uncertain(served, queue) else 0.0,  # type: ignore[union-attr]
        "random": rules.random or 0.0,
    }
    for rule, share in shares.items():
        if share and _chance(f"{label}|{rule}|{served.prediction_id}") < share:
            return rule
    return None


def settle(choices: Sequence[str], wanted: int, queue: LabelQueue) -> Settled:
    """Accepted when enough of the answers agree; else one more is asked for, up to a bound."""
    if len(choices) < wanted:
        return Settled(TaskState.OPEN, wanted)
    [(value, most), *others] = Counter(choices).most_common()
    alone = not others or others[0][1] < most
    if alone and most >= queue.agreement * len(choices):
        return Settled(TaskState.ACCEPTED, wanted, value)
    if wanted < 2 * queue.labellers:
        return Settled(TaskState.OPEN, wanted + 1)
    return Settled(TaskState.DISPUTED, wanted)


def _disagree(served: Served, queue: LabelQueue) -> bool:
    rule = queue.rules.disagreement
    if rule is None or served.other_score is None:
        return False
    return (served.score >= rule.threshold) != (served.other_score >= rule.threshold)


def _uncertain(served: Served, queue: LabelQueue) -> bool:
    rule = queue.rules.uncertain
    return rule is not None and abs(served.score - rule.near) <= rule.within


def _chance(text: str) -> float:
    """In [0, 1), by the text alone."""
    return int.from_bytes(_digest(text)[:7], "big") / (1 << 56)


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
