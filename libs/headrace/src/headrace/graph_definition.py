# SPDX-License-Identifier: Apache-2.0
"""A graph: steps before, between and after models, compiled into one model when it is trained.

Every step gives values for each row by itself: a vector or one value. So what a graph answers does
not depend on which rows come together, and its version is a model version like any other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    PositiveFloat,
    Tag,
    model_validator,
)

from headrace.definition_types import Closed, ColumnName, Name
from headrace.errors import Invalid
from headrace.model_definition import ModelGate
from headrace.model_reference import ModelReference, parse_reference
from headrace.reserved_names import is_reserved_output

Element = Literal["bool", "int32", "int64", "float32", "float64", "string"]
TENSOR = re.compile(r"(bool|int32|int64|float32|float64|string)(?:\[([1-9]\d{0,3})\])?")
STEPS_MAX = 64
TENSORS_MAX = 64
MEMBERS_MAX = 16
CASES_MAX = 16
VALUES_MAX = 4_096


@dataclass(frozen=True, slots=True)
class TensorType:
    """What each row has: one value, or a vector of so many columns. Written `float32[3]`."""

    element: Element
    columns: int | None = None

    def __str__(self) -> str:
        return self.element + (f"[{self.columns}]" if self.columns else "")


def tensor_type(value: object) -> TensorType:
    if isinstance(value, TensorType):
        return value
    found = TENSOR.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        elements = "bool, int32, int64, float32, float64 or string"
        raise ValueError(f"is {elements}, or a vector of them for each row: float32[3]")
    return TensorType(cast(Element, found[1]), int(found[2]) if found[2] else None)


def _reads(value: object) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return value
    named = isinstance(value, list | tuple) and 0 < len(value) <= VALUES_MAX
    if not named or not all(isinstance(each, str) for each in cast("list[object]", value)):
        raise ValueError("is the name of a value, or a list of names, which become its columns")
    return tuple(cast("list[str]", value))


def _written(value: str | tuple[str, ...]) -> str | list[str]:
    return value if isinstance(value, str) else list(value)


def _reference(value: str) -> str:
    try:
        parse_reference(value)
    except Invalid as err:
        raise ValueError("is neither NAME@ALIAS nor NAME/VERSION") from err
    return value.removeprefix("models:/")


Tensor = Annotated[TensorType, BeforeValidator(tensor_type), PlainSerializer(str)]
Reads = Annotated[str | tuple[str, ...], PlainValidator(_reads), PlainSerializer(_written)]
Reference = Annotated[str, AfterValidator(_reference)]


class ExpressionStep(Closed):
    """A value computed from others; null is NaN in a number, false in a condition."""

    expression: str
    # Of a number; float32 is what most models take.
    type: Literal["float32", "float64", "int64"] | None = None


class ModelStep(Closed):
    """A version of a model, pinned when the graph is trained."""

    model: Reference
    # By its own names; what is left out is the value of the same name, or its features by name.
    inputs: dict[str, Reads] = Field(default={}, max_length=TENSORS_MAX)
    # What it gives, where that is not known before a version is there.
    outputs: dict[str, Tensor] = Field(default={}, max_length=TENSORS_MAX)

    @property
    def reference(self) -> ModelReference:
        return parse_reference(self.model)


class EnsembleStep(Closed):
    """One value of several, which are alike: row by row, and column by column."""

    ensemble: Literal["mean", "weighted", "min", "max", "vote"]
    of: tuple[str, ...] = Field(min_length=2, max_length=MEMBERS_MAX)
    weights: tuple[PositiveFloat, ...] | None = None

    @model_validator(mode="after")
    def _weights_fit(self) -> EnsembleStep:
        if (self.weights is None) != (self.ensemble != "weighted"):
            raise ValueError("weighted needs weights, every other ensemble takes none")
        if self.weights is not None and len(self.weights) != len(self.of):
            raise ValueError("weights has one for each of `of`")
        return self


class BranchCase(Closed):
    """`then` names the value of the rows for which the condition `when` holds."""

    when: str
    then: str


class BranchStep(Closed):
    """For each row the value of the first case that holds."""

    branch: tuple[BranchCase, ...] = Field(min_length=1, max_length=CASES_MAX)
    otherwise: str


Step = ExpressionStep | ModelStep | EnsembleStep | BranchStep
STEP_KINDS = ("expression", "model", "ensemble", "branch")


def _step_kind(step: Any) -> str | None:
    keys = step if isinstance(step, dict) else type(step).model_fields
    return next((kind for kind in STEP_KINDS if kind in keys), None)


AnyStep = Annotated[
    Annotated[ExpressionStep, Tag("expression")]
    | Annotated[ModelStep, Tag("model")]
    | Annotated[EnsembleStep, Tag("ensemble")]
    | Annotated[BranchStep, Tag("branch")],
    Discriminator(
        _step_kind,
        custom_error_type="step_kind",
        custom_error_message=f"a step has one of: {', '.join(STEP_KINDS)}",
    ),
]


class Graph(Closed):
    """Steps by name; its versions are those of the model that has its name.

    With a `recipe` it takes the features of that, is measured on its holdout and judged by its
    gate. Otherwise it takes the tensors of `inputs`, and its own gate says who must agree.
    """

    kind: Literal["graph"] = "graph"
    name: Name
    description: str
    recipe: Name | None = None
    inputs: dict[ColumnName, Tensor] = Field(default={}, max_length=TENSORS_MAX)
    steps: dict[ColumnName, AnyStep] = Field(min_length=1, max_length=STEPS_MAX)
    outputs: dict[ColumnName, str] = Field(min_length=1, max_length=TENSORS_MAX)
    gate: ModelGate | None = None

    @model_validator(mode="after")
    def _measured_or_not(self) -> Graph:
        if (self.recipe is None) == (not self.inputs):
            raise ValueError("give either recipe, whose features it takes, or inputs")
        if self.recipe is not None and self.gate is not None:
            raise ValueError("with a recipe, the recipe's gate judges it: take gate away")
        if self.gate is not None and self.gate.metrics:
            raise ValueError("without a recipe nothing is measured: no metrics in its gate")
        return self

    @model_validator(mode="after")
    def _outputs_are_its_own(self) -> Graph:
        for name in sorted(filter(is_reserved_output, self.outputs)):
            raise ValueError(f"outputs: {name} is what the service answers: choose another name")
        return self

    @property
    def own_gate(self) -> ModelGate:
        """Of a graph without a recipe."""
        return self.gate or ModelGate(approval=True)

    def model_steps(self) -> dict[str, ModelStep]:
        return {name: step for name, step in self.steps.items() if isinstance(step, ModelStep)}


def refuse(graph: Graph, key: str, problem: str) -> NoReturn:
    """Raises Invalid BAD_DEFINITION with the key of what is wrong."""
    raise Invalid("BAD_DEFINITION", kind=graph.kind, name=graph.name, key=key, problem=problem)
