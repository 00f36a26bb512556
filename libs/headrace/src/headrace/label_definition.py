# SPDX-License-Identifier: Apache-2.0
"""A label: where the truth arrives, whom it is about, and what a record of it says.

It is a rule over the records of a stream, so that the truth is stored once. People answer through
its queue, and weak functions vote; both are told apart from what was observed by the origin column.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from headrace.definition_types import Closed, ColumnName, Name, Span

# What the origin column says of a label that functions voted for. One with these votes takes back
# those known before it for the same key and event time.
WEAK, NO_VOTES = "weak", "{}"
Share = Annotated[float, Field(gt=0, le=1)]
LabelValue = StrictBool | StrictInt | StrictFloat | StrictStr
Choices = Annotated[tuple[str, ...], Field(min_length=2, max_length=32)]


class AbsentRule(Closed):
    """What holds when no value was known by the asked moment plus `after`."""

    after_s: Span = Field(alias="after")
    value: LabelValue


class Uncertain(Closed):
    """A share of the predictions whose score is at most `within` from `near`."""

    near: float = Field(ge=0, le=1)
    within: float = Field(gt=0, le=1)
    share: Share = 1.0


class Disagreement(Closed):
    """A share of those whose champion and canary lie on two sides of `threshold`."""

    threshold: float = Field(ge=0, le=1)
    share: Share = 1.0


class Drifted(Closed):
    """A share of those in the drifted bins, while a drift incident of the endpoint is open."""

    share: Share


class QueueRules(Closed):
    """Which predictions are put to people; the first rule that takes one names its task."""

    disagreement: Disagreement | None = None
    drifted: Drifted | None = None
    uncertain: Uncertain | None = None
    random: Share | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> QueueRules:
        if not any((self.disagreement, self.drifted, self.uncertain, self.random)):
            raise ValueError("at least one of: disagreement, drifted, uncertain, random")
        return self


class LabelQueue(Closed):
    """Predictions of `endpoint` that people label; what they agree on goes to column `answer`.

    A task needs `labellers` answers; when fewer than the share `agreement` agree, one more is asked
    for, up to twice as many.
    """

    endpoint: Name
    answer: ColumnName
    choices: Choices
    labellers: int = Field(default=1, ge=1, le=9)
    agreement: float = Field(default=0.6, gt=0.5, le=1)
    lease_s: Span = Field(default="15m", alias="lease", validate_default=True)
    tasks_max: int = Field(default=10_000, ge=1, le=1_000_000)
    rules: QueueRules


class WeakFunction(Closed):
    """Votes `label` on a record where `when` is true, and abstains elsewhere."""

    when: str
    label: str


class WeakLabels(Closed):
    """Functions that vote on the records of `stream`, whose column `key` names the target.

    What they agree on goes to column `answer` of the label's stream, every vote to `votes`.
    """

    stream: Name
    key: ColumnName
    answer: ColumnName
    votes: ColumnName
    combine: Literal["majority", "weighted"] = "majority"
    functions: dict[ColumnName, WeakFunction] = Field(min_length=1, max_length=64)


class LabelDefinition(Closed):
    """The truth about an entity or a prediction: `value` of the first record known in its window.

    `key` is the column that names the target. For an entity a record counts when its event time
    lies in [as_of, as_of + window]; for a prediction, named by its id, whenever it comes.
    """

    kind: Literal["label"] = "label"
    name: Name
    description: str
    stream: Name
    key: ColumnName
    by: Literal["entity", "prediction"] = "entity"
    value: str
    window_s: Span = Field(alias="window")
    absent: AbsentRule | None = None
    origin: ColumnName | None = None
    queue: LabelQueue | None = None
    weak: WeakLabels | None = None

    @model_validator(mode="after")
    def _absent_fits(self) -> LabelDefinition:
        if (self.queue or self.weak) and self.origin is None:
            raise ValueError("queue and weak need an origin column, so that labels are told apart")
        return self
