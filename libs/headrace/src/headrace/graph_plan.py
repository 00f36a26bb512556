# SPDX-License-Identifier: Apache-2.0
"""From a graph to the order of its steps and the type of every value, before anything runs.

The same plan is made when the graph is applied, from what is known of its models then, and when it
is trained, from the versions that are pinned. A name stands for a whole value, or for one column of
a vector: `chances_2`, or the name of a feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from headrace.errors import Invalid
from headrace.expression import Node, parse_expression
from headrace.graph_definition import (
    BranchStep,
    Element,
    EnsembleStep,
    ExpressionStep,
    Graph,
    ModelStep,
    Step,
    TensorType,
    refuse,
)
from headrace.graph_signature import FEATURES, Signature, trained_signature
from headrace.graph_trees import (
    EXPRESSION_TYPE,
    NUMBERS,
    branch_tree,
    ensemble_tree,
    may_be_null,
    refused_part,
)
from headrace.model_reference import ModelReference

NAMES_SHOWN_MAX = 12


@dataclass(frozen=True, slots=True)
class Value:
    """A whole tensor of the graph, or one column of it, counted from 0."""

    tensor: str
    type: TensorType
    column: int | None = None


@dataclass(frozen=True, slots=True)
class Computed:
    """A step that is an expression over values by their names."""

    name: str
    tree: Node
    type: TensorType


@dataclass(frozen=True, slots=True)
class Called:
    """A step that is a model; several values for an input become the columns of one vector."""

    name: str
    model: ModelReference
    inputs: Mapping[str, Value | tuple[Value, ...]]
    outputs: Mapping[str, TensorType]


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in an order in which each finds what it reads."""

    inputs: Mapping[str, TensorType]
    steps: tuple[Computed | Called, ...]
    values: Mapping[str, Value]
    outputs: Mapping[str, Value]
    features: tuple[str, ...] = ()

    @property
    def signature(self) -> Signature:
        outputs = {name: value.type for name, value in self.outputs.items()}
        return Signature(self.inputs, outputs, self.features)


def plan_graph(graph: Graph, features: Sequence[str], components: Mapping[str, Signature]) -> Plan:
    """`features`: of the graph's recipe; `components`: by step, of the models that are known.

    Raises Invalid BAD_DEFINITION with the `key` of what is wrong.
    """
    planner = _Planner(graph, tuple(features), components)
    for name in graph.steps:
        planner.plan(name)
    return planner.plan_of_outputs()


class _Awaits(Exception):
    """A step reads another one that has to be planned before."""

    def __init__(self, step: str) -> None:
        super().__init__(step)
        self.step = step


@dataclass
class _Planner:
    _graph: Graph
    _features: tuple[str, ...]
    _components: Mapping[str, Signature]
    values: dict[str, Value] = field(default_factory=dict)
    _planned: dict[str, Computed | Called] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self._features:
            self._inputs = trained_signature(self._features).inputs
            self.values[FEATURES] = Value(FEATURES, self._inputs[FEATURES])
            for place, feature in enumerate(self._features):
                self.values[feature] = Value(FEATURES, TensorType("float32"), place)
            return
        self._inputs = self._graph.inputs
        for name, type_ in self._inputs.items():
            self._name(f"inputs.{name}", name, Value(name, type_))

    def plan(self, name: str) -> None:
        """Plans the step, and before it what it reads; without recursion, for chains are long."""
        waiting = [name]
        while waiting:
            step = waiting[-1]
            try:
                if step not in self._planned:
                    self._plan_step(step, self._graph.steps[step])
                waiting.pop()
            except _Awaits as err:
                if err.step in waiting:
                    circle = [*waiting[waiting.index(err.step) :], err.step]
                    self._refuse(f"steps.{step}", f"reads itself: {' reads '.join(circle)}")
                waiting.append(err.step)

    def plan_of_outputs(self) -> Plan:
        outputs = {
            name: self._value(f"outputs.{name}", read) for name, read in self._graph.outputs.items()
        }
        for name in outputs.keys() & self._inputs.keys():
            self._refuse(f"outputs.{name}", "is the name of an input: rename one")
        given = {name: value.type for name, value in outputs.items()}
        asked = trained_signature(self._features).outputs
        if self._features and given != asked:
            shown = ", ".join(f"{name} {type_}" for name, type_ in given.items())
            self._refuse("outputs", f"a graph of features gives score float32 alone, not {shown}")
        return Plan(
            self._inputs, tuple(self._planned.values()), self.values, outputs, self._features
        )

    def find(self, name: str) -> Value | None:
        """Raises _Awaits when a step gives it that is not planned yet."""
        if name in self.values:
            return self.values[name]
        for step in (name, name.partition(".")[0], name.rpartition("_")[0]):
            if step in self._graph.steps:
                if step in self._planned:
                    return None
                raise _Awaits(step)
        return None

    def _value(self, key: str, name: str) -> Value:
        value = self.find(name)
        if value is None:
            known = ", ".join(sorted({*self.values, *self._graph.steps})[:NAMES_SHOWN_MAX])
            self._refuse(key, f"{name} is no input and no step; known are {known}")
        return value

    def _plan_step(self, name: str, step: Step) -> None:
        key = f"steps.{name}"
        planned: Computed | Called
        if isinstance(step, ModelStep):
            planned = self._called(key, name, step)
            for output, type_ in planned.outputs.items():
                value = Value(f"{name}.{output}", type_)
                self._name(key, value.tensor, value)
                if len(planned.outputs) == 1:
                    self._name(key, name, value)
        else:
            planned = self._computed(key, name, step)
            self._name(key, name, Value(name, planned.type))
        self._planned[name] = planned

    def _name(self, key: str, name: str, value: Value) -> None:
        names = [(name, value)]
        for place in range(value.type.columns or 0):
            column = Value(value.tensor, TensorType(value.type.element), place)
            names.append((f"{name}_{place + 1}", column))
        for each, meant in names:
            if each in self.values:
                self._refuse(key, f"{each} would be two values: rename one")
            self.values[each] = meant

    # --- what is computed ---

    def _computed(
        self, key: str, name: str, step: ExpressionStep | EnsembleStep | BranchStep
    ) -> Computed:
        if isinstance(step, EnsembleStep):
            return self._ensemble(key, name, step)
        if isinstance(step, BranchStep):
            return self._branch(key, name, step)
        tree = self._parsed(f"{key}.expression", step.expression)
        type_ = TensorType(self._element(key, step, tree), self._columns(f"{key}.expression", tree))
        return Computed(name, tree, type_)

    def _ensemble(self, key: str, name: str, step: EnsembleStep) -> Computed:
        key = f"{key}.of"
        values = [self._value(f"{key}.{place}", each) for place, each in enumerate(step.of)]
        type_ = self._alike(key, step.of, values)
        counted = EXPRESSION_TYPE[type_.element] in NUMBERS
        if step.ensemble == "vote" and type_.element in ("float32", "float64"):
            self._refuse(key, "a vote is about conditions, whole numbers or texts: compare first")
        if step.ensemble != "vote" and not counted:
            self._refuse(key, f"{step.ensemble} is of numbers, not of {type_.element}: take vote")
        members = [self._read(each) for each in step.of]
        tree = ensemble_tree(step.ensemble, members, step.weights or ())
        averaged = step.ensemble in ("mean", "weighted") and "int" in type_.element
        return Computed(name, tree, TensorType("float32", type_.columns) if averaged else type_)

    def _branch(self, key: str, name: str, step: BranchStep) -> Computed:
        cases = []
        names = [*(case.then for case in step.branch), step.otherwise]
        keys = [*(f"{key}.branch.{place}.then" for place in range(len(step.branch)))]
        values = [
            self._value(at, each)
            for at, each in zip([*keys, f"{key}.otherwise"], names, strict=True)
        ]
        type_ = self._alike(key, names, values)
        for place, case in enumerate(step.branch):
            at = f"{key}.branch.{place}.when"
            when = self._parsed(at, case.when)
            if when.type != "bool":
                self._refuse(at, f"is of type {when.type}, a condition is needed")
            if self._columns(at, when) not in (None, type_.columns):
                self._refuse(at, f"decides by column, and {case.then} is {type_}")
            cases.append((when, self._read(case.then)))
        return Computed(name, branch_tree(cases, self._read(step.otherwise)), type_)

    def _alike(self, key: str, names: Sequence[str], values: Sequence[Value]) -> TensorType:
        types = {str(value.type) for value in values}
        if len(types) > 1:
            shown = ", ".join(f"{n} {v.type}" for n, v in zip(names, values, strict=True))
            self._refuse(key, f"must be of one type: {shown}")
        return values[0].type

    def _read(self, name: str) -> Node:
        return Node("column", EXPRESSION_TYPE[self.values[name].type.element], value=name)

    def _parsed(self, key: str, text: str) -> Node:
        graph = self._graph
        try:
            tree = parse_expression(text, _Types(self)).tree
        except Invalid as err:
            named = {"kind": graph.kind, "name": graph.name, "key": key}
            raise Invalid("BAD_DEFINITION", **{**err.metadata, **named}) from err
        if (part := refused_part(tree)) is not None:
            self._refuse(key, f"a graph cannot compute {part}")
        if not tree.columns():
            self._refuse(key, "reads no value: write the constant where it is used")
        return tree

    def _columns(self, key: str, tree: Node) -> int | None:
        """Values of one a row go with a vector, and with each of its columns."""
        found = {self.values[name].type.columns for name in tree.columns()} - {None}
        if len(found) > 1:
            shown = " and ".join(str(each) for each in sorted(map(int, filter(None, found))))
            self._refuse(key, f"mixes vectors of {shown} columns")
        return next(iter(found), None)

    def _element(self, key: str, step: ExpressionStep, tree: Node) -> Element:
        key = f"{key}.type"
        if tree.type in ("bool", "string"):
            if step.type is not None:
                self._refuse(key, f"is of numbers, and the expression is a {tree.type}")
            return "bool" if tree.type == "bool" else "string"
        if step.type == "int64":
            if tree.type != "int64":
                self._refuse(key, "the expression is no whole number: CAST(... AS int64)")
            if may_be_null(tree):
                self._refuse(key, "null is no int64: write COALESCE(..., 0)")
        return step.type or "float32"

    # --- what models compute ---

    def _called(self, key: str, name: str, step: ModelStep) -> Called:
        known = self._components.get(name)
        if known is None:
            if not step.outputs:
                problem = "what this model gives is told by no recipe: declare it, as float32[2]"
                self._refuse(f"{key}.outputs", problem)
            given = {n: self._given(f"{key}.inputs.{n}", read) for n, read in step.inputs.items()}
            return Called(name, step.reference, given, step.outputs)
        for output, type_ in step.outputs.items():
            if known.outputs.get(output) != type_:
                gives = ", ".join(f"{n} {each}" for n, each in known.outputs.items())
                self._refuse(f"{key}.outputs.{output}", f"{step.model} gives {gives}")
        for given_name in step.inputs.keys() - known.inputs.keys():
            takes = ", ".join(f"{n} {each}" for n, each in known.inputs.items())
            self._refuse(f"{key}.inputs.{given_name}", f"{step.model} takes {takes}")
        given = {n: self._fitting(key, step, n, type_, known) for n, type_ in known.inputs.items()}
        return Called(name, step.reference, given, step.outputs or known.outputs)

    def _fitting(
        self, key: str, step: ModelStep, name: str, type_: TensorType, known: Signature
    ) -> Value | tuple[Value, ...]:
        read: str | tuple[str, ...] = name
        if known.features and self._features:
            read = known.features
        key = f"{key}.inputs.{name}"
        given = self._given(key, step.inputs.get(name, read))
        if (found := _type_of(given)) != type_:
            self._refuse(key, f"{step.model} takes {type_}, and is given {found}")
        return given

    def _given(self, key: str, read: str | tuple[str, ...]) -> Value | tuple[Value, ...]:
        if isinstance(read, str):
            return self._value(key, read)
        values = tuple(self._value(key, each) for each in read)
        if len({value.type.element for value in values}) > 1:
            shown = ", ".join(f"{n} {v.type}" for n, v in zip(read, values, strict=True))
            self._refuse(key, f"columns of one vector are of one type: {shown}"[:300])
        return values

    def _refuse(self, key: str, problem: str) -> NoReturn:
        refuse(self._graph, key, problem)


class _Types(Mapping[str, str]):
    """The values as columns of an expression; one that is not planned yet ends the parse."""

    def __init__(self, planner: _Planner) -> None:
        self._planner = planner

    def __getitem__(self, name: str) -> str:
        value = self._planner.find(name)
        if value is None:
            raise KeyError(name)
        return EXPRESSION_TYPE[value.type.element]

    def __iter__(self) -> Iterator[str]:
        return iter(self._planner.values)

    def __len__(self) -> int:
        return len(self._planner.values)


def _type_of(given: Value | tuple[Value, ...]) -> TensorType:
    if isinstance(given, Value):
        return given.type
    return TensorType(given[0].type.element, sum(each.type.columns or 1 for each in given))
