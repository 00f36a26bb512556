# SPDX-License-Identifier: Apache-2.0
"""What must hold between a graph and the rest of its application.

Before a version is there, a model's tensors are known by its recipe, or by what the graph says of
them. Each graph is planned once, after those inside it, however many steps name it: a plan may
take long, and the registry may have to make it under a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from headrace.errors import NotFound
from headrace.graph_definition import ModelStep, refuse
from headrace.graph_plan import plan_graph
from headrace.graph_signature import (
    RegisteredTensors,
    Signature,
    registered_signature,
    trained_signature,
)
from headrace.model_reference import ModelReference

if TYPE_CHECKING:  # these types are made of what is checked here
    from headrace.application import Application
    from headrace.graph_definition import Graph

Registered = Callable[[ModelReference], RegisteredTensors | None]
# Each level is trained by itself, and its file holds all those inside.
NESTED_GRAPHS_MAX = 512


def check_graphs(application: Application) -> None:
    """Raises Invalid BAD_DEFINITION with the key of what is wrong."""
    recipes = application.recipes.values()
    models = {*(recipe.model for recipe in recipes), *application.models}
    for graph in application.graphs.values():
        if graph.name in application.recipes:
            refuse(graph, "name", "is a recipe's too, and headrace train would mean both")
        if graph.name in models:
            refuse(graph, "name", f"model {graph.name} has versions from elsewhere: rename it")
    ordered = _ordered(application.graphs)
    _check_nesting(ordered, application.graphs)
    check = _GraphCheck(application, None)
    for graph in ordered:
        check.plan(graph)


def check_versions(
    names: Collection[str], application: Application, registered: Registered
) -> None:
    """`registered` tells the tensors of the versions that exist, and these graphs must fit them.

    But for aliases of what is trained here: the next version may have other features, by the
    recipe as it is now. An alias may be set later, a version that is named by its number is there.
    Raises Invalid BAD_DEFINITION and NotFound VERSION_UNKNOWN with the key of what is wrong.
    """
    check = _GraphCheck(application, registered)
    ordered = _ordered(application.graphs)
    wanted = set(names)
    for graph in reversed(ordered):
        if graph.name in wanted:
            wanted |= check.planned_before(graph)
    for graph in ordered:
        if graph.name in wanted:
            check.plan(graph)


def _ordered(graphs: Mapping[str, Graph]) -> list[Graph]:
    """Each after the graphs that are its steps."""
    inside = {name: list(_steps_by_graph(graph, graphs)) for name, graph in graphs.items()}
    try:
        return [graphs[name] for name in TopologicalSorter(inside).static_order()]
    except CycleError as err:
        model, owner = err.args[1][:2]  # the second has the first among its steps
        step = _steps_by_graph(graphs[owner], graphs)[model]
        refuse(graphs[owner], f"steps.{step}.model", f"graph {model} would be a step of itself")


def _check_nesting(ordered: list[Graph], graphs: Mapping[str, Graph]) -> None:
    depth_by_name: dict[str, int] = {}
    for graph in ordered:
        steps = _steps_by_graph(graph, graphs)
        deepest = max(steps, key=depth_by_name.__getitem__, default=None)
        depth = 1 if deepest is None else depth_by_name[deepest] + 1
        if deepest is not None and depth > NESTED_GRAPHS_MAX:
            problem = f"nests more than {NESTED_GRAPHS_MAX} graphs in one another: join some"
            refuse(graph, f"steps.{steps[deepest]}.model", problem)
        depth_by_name[graph.name] = depth


def _steps_by_graph(graph: Graph, graphs: Mapping[str, Graph]) -> dict[str, str]:
    """One of the steps for each graph that is a step of this one."""
    steps = graph.model_steps().items()
    return {step.reference.model: name for name, step in steps if step.reference.model in graphs}


@dataclass(frozen=True, slots=True)
class _GraphCheck:
    application: Application
    registered: Registered | None
    """None where nobody knows the versions."""
    _planned: dict[str, Signature] = field(default_factory=dict)
    _tensors: dict[ModelReference, RegisteredTensors | None] = field(default_factory=dict)

    def planned_before(self, graph: Graph) -> set[str]:
        """The graphs inside that no version stands for."""
        named = {step.reference for step in graph.model_steps().values()}
        graphs = self.application.graphs
        inside = [each for each in named if each.model in graphs]
        return {each.model for each in inside if self._version(each) is None}

    def plan(self, graph: Graph) -> None:
        """After the graphs that must be planned before."""
        features: tuple[str, ...] = ()
        if graph.recipe is not None:
            if graph.recipe not in self.application.recipes:
                refuse(graph, "recipe", f"recipe {graph.recipe} is unknown")
            features = self.application.recipes[graph.recipe].features
        components = {}
        for name, step in graph.model_steps().items():
            found = self._of_step(graph, name, step)
            if found is not None:
                components[name] = found
        self._planned[graph.name] = plan_graph(graph, features, components).signature

    def _of_step(self, graph: Graph, name: str, step: ModelStep) -> Signature | None:
        """None when the model's versions alone tell it, and there is none yet."""
        model, key = step.reference.model, f"steps.{name}.model"
        of_recipes = {r.features for r in self.application.recipes.values() if r.model == model}
        of_graph = model in self.application.graphs
        if not of_recipes and not of_graph and model not in self.application.models:
            problem = f"no recipe or graph trains model {model}, and no model has that name"
            refuse(graph, key, problem)
        if (version := self._version(step.reference)) is not None:
            return registered_signature(graph, name, version)
        if step.reference.version and self.registered is not None:
            number = step.reference.version
            named = {"kind": graph.kind, "name": graph.name, "key": key}
            raise NotFound("VERSION_UNKNOWN", **named, model=model, version=number)
        if of_graph:
            return self._planned[model]
        # Recipes of one model may differ; then the graph says what it relies on.
        return trained_signature(of_recipes.pop()) if len(of_recipes) == 1 else None

    def _version(self, reference: ModelReference) -> RegisteredTensors | None:
        """Asked for once: the registry answers from its database."""
        if self.registered is None:
            return None
        if not reference.version and reference.model not in self.application.models:
            return None
        if reference not in self._tensors:
            self._tensors[reference] = self.registered(reference)
        return self._tensors[reference]
