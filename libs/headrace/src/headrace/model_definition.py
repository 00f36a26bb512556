# SPDX-License-Identifier: Apache-2.0
"""A model whose versions are made elsewhere: files that people or programs register by digest.

Its gate reads metrics that the registering caller gives, or asks for somebody's approval, or both;
no version serves before one of them has said yes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from headrace.definition_types import Closed, ColumnName, Name


class MetricRule(Closed):
    """Where a metric must lie, bounds included."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounds_in_order(self) -> MetricRule:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.max < self.min:
            raise ValueError("max is below min: no version would pass")
        return self


class ModelGate(Closed):
    """What a registered version must show before an alias may point to it."""

    metrics: dict[ColumnName, MetricRule] = Field(default={}, max_length=64)
    # Of the file's runs on golden inputs, when the registry looks through it.
    latency_ms_max: float | None = Field(default=None, gt=0)
    # Also where the metrics hold, a named person says yes first.
    approval: bool = False
    # And before that, somebody whom the registry trusts signs the version.
    require_signature: bool = False

    @model_validator(mode="after")
    def _judged_by_something(self) -> ModelGate:
        judged = self.metrics or self.latency_ms_max or self.approval or self.require_signature
        if not judged:
            asked = "metrics, latency_ms_max, approval: true or require_signature: true"
            raise ValueError(f"give {asked}; else nothing would be judged")
        return self


class Model(Closed):
    """A model that no recipe of ours trains."""

    kind: Literal["model"] = "model"
    name: Name
    description: str
    gate: ModelGate = ModelGate(approval=True)
