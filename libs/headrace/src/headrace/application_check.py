# SPDX-License-Identifier: Apache-2.0
"""What must hold between the definitions of an application: names, columns and types fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from headrace.data_contract import Stream
from headrace.definition_types import SECONDS_BY_UNIT
from headrace.errors import Invalid
from headrace.expression import parse_expression
from headrace.feature_view import (
    LIFETIME_S,
    ExpressionFeature,
    RequestFeature,
    RequestView,
    StreamView,
    View,
    feature_names,
    features_by_name,
)
from headrace.graph_check import check_graphs
from headrace.label_definition import LabelDefinition, LabelQueue, WeakLabels

if TYPE_CHECKING:  # these types are made of what is checked here
    from headrace.application import Application, Definition, Monitor, Recipe

VIEW_COLUMNS_MAX = 48
# What rows hold beside the columns and features of an application; others begin with `_`.
AS_OF = "as_of_us"
TRAINING_COLUMNS = frozenset({AS_OF, "entity_key", "label"})


def _views_by_feature(application: Application) -> dict[str, View]:
    return {name: view for view in application.views.values() for name in feature_names(view)}


def check_references(application: Application) -> None:
    """Raises Invalid BAD_DEFINITION for a reference to nothing, or to what cannot do it."""
    for view in application.views.values():
        if isinstance(view, StreamView):
            _check_stream_view(view, application)
        else:
            _check_request_view(view, _views_by_feature(application))
    for recipe in application.recipes.values():
        _check_recipe(recipe, application)
    check_graphs(application)
    _check_models(application)
    for monitor in application.monitors.values():
        _check_monitor(monitor, application)
    for label in application.labels.values():
        _check_label(label, application)


def _check_models(application: Application) -> None:
    """A model has versions from one side only: recipes train them, or somebody registers them."""
    trained = {recipe.model for recipe in application.recipes.values()}
    for model in application.models.values():
        problem = "a recipe trains it; give the model that is registered a name of its own"
        require(model.name not in trained, model, problem)
    for endpoint in application.endpoints.values():
        graph = application.graphs.get(endpoint.model)
        known = endpoint.model in trained or endpoint.model in application.models
        problem = f"no recipe trains model {endpoint.model}, and no model or graph has that name"
        require(known or graph is not None, endpoint, problem)
        key = endpoint.entity_key
        if key is not None:
            reads = endpoint.model in trained or (graph is not None and graph.recipe is not None)
            problem = f"model {endpoint.model} has no recipe and reads no features: tensors only"
            require(reads, endpoint, problem)
            require(key in endpoint.columns, endpoint, f"entity_key {key} is not among its columns")


def _check_monitor(monitor: Monitor, application: Application) -> None:
    served_by, trained_by = monitor.endpoint, monitor.recipe
    require(served_by in application.endpoints, monitor, f"endpoint {served_by} is unknown")
    require(trained_by in application.recipes, monitor, f"recipe {trained_by} is unknown")
    tensors_only = f"endpoint {served_by} takes tensors only: no outcome can be joined"
    require(application.endpoints[served_by].entity_key is not None, monitor, tensors_only)
    served = application.endpoints[served_by].model
    recipe = application.recipes[trained_by]
    graph = application.graphs.get(served)
    measured = graph is not None and graph.recipe == recipe.name
    trained = f"recipe {recipe.name} trains {recipe.model}, the endpoint serves {served}"
    require(measured or recipe.model == served, monitor, trained)
    for feature in monitor.drift.ignore:
        require(feature in recipe.features, monitor, f"the recipe has no feature {feature}")


def _check_stream_view(view: StreamView, application: Application) -> None:
    for column in view.entity:
        _check_columns(view, application, view.stream, column)
        problem = f"entity {column} has the name of the moment of a row: rename the column"
        require(column != AS_OF, view, problem)
    for name in features_by_name(view):
        problem = f"feature {name} has the name of the moment of a row: rename it"
        require(name != AS_OF, view, problem)
    for name in (*features_by_name(view), *view.derive, *view.lookups):
        problem = f"{name} has the name of an entity, and a row holds both: rename it"
        require(name not in view.entity, view, problem)
    keyed = view.entity == (application.streams[view.stream].key,)
    problem = f"publish_rows needs the entity to be the key of {view.stream}"
    require(keyed or not view.publish_rows, view, problem)
    types = _view_types(view, application)
    _check_retention(view, application)
    columns = {each.column for each in view.window_features().values() if each.column is not None}
    # A column that is looked up takes three places: its value and the two halves of its key.
    places = len(columns) + 2 * len(view.lookups)
    require(places <= VIEW_COLUMNS_MAX, view, f"more than {VIEW_COLUMNS_MAX} columns")
    for column in sorted(columns):
        require(column in types, view, f"stream {view.stream} has no {column}")
    for feature in view.window_features().values():
        numeric = feature.aggregate == "distinct" or types.get(feature.column or "") != "string"
        problem = f"{feature.column} of {view.stream} is a string, a number is needed"
        require(numeric, view, problem)


def _check_retention(view: StreamView, application: Application) -> None:
    """What left the archive is still seen online: the two would answer differently."""
    for name, back_s in view.looks_back_s():
        kept_s = application.streams[name].retention_s
        if kept_s is not None and back_s > kept_s:
            back = "a lifetime" if back_s >= LIFETIME_S else _days(back_s)
            problem = (
                f"it looks back {back}, stream {name} is kept for {_days(kept_s)} (retention):"
                " shorten its windows, ttl or max_age, or keep the stream longer"
            )
            raise Invalid("BAD_DEFINITION", kind=view.kind, name=view.name, problem=problem)


def _days(duration_s: int) -> str:
    return f"{duration_s / SECONDS_BY_UNIT['d']:g} days"


def _view_types(view: StreamView, application: Application) -> dict[str, str]:
    """The types of the stream's columns and of what the view derives."""
    types = {n: column.type for n, column in application.streams[view.stream].columns.items()}
    for name in (*view.derive, *view.lookups):
        require(name not in types, view, f"stream {view.stream} has a {name} too: rename it")
    if view.filter is not None:
        holds = _type_of(view, "filter", view.filter, types)
        require(holds == "bool", view, f"filter is of type {holds}, write a condition")
    derived = {n: _type_of(view, f"derive.{n}", text, types) for n, text in view.derive.items()}
    return types | derived | _looked_up_types(view, application)


def _looked_up_types(view: StreamView, application: Application) -> dict[str, str]:
    for lookup in view.lookups.values():
        for theirs, ours in lookup.key.items():
            _check_columns(view, application, lookup.stream, theirs)
            _check_columns(view, application, view.stream, ours)
        _check_columns(view, application, lookup.stream, lookup.column)
    streams = application.streams
    return {n: streams[x.stream].columns[x.column].type for n, x in view.lookups.items()}


def _type_of(view: StreamView, key: str, text: str, types: Mapping[str, str]) -> str:
    try:
        return parse_expression(text, types).type
    except Invalid as err:
        named = {"kind": view.kind, "name": view.name, "key": key}
        raise Invalid("BAD_DEFINITION", **{**err.metadata, **named}) from err


def _check_recipe(recipe: Recipe, application: Application) -> None:
    """A row of the training set asks its features by the columns of the spine's record."""
    spine, label = recipe.spine, recipe.label
    views = _views_by_feature(application)
    for feature, often in Counter(recipe.features).items():
        # A training set has one column for each, and a model one place.
        require(often == 1, recipe, f"feature {feature} is named twice")
        require(feature in views, recipe, f"feature {feature} is in no view")
        for column in _asked_columns(feature, views):
            _check_columns(recipe, application, spine.stream, column)
            problem = f"{feature} asks for {column}, which a training set has itself: rename it"
            require(column not in TRAINING_COLUMNS, recipe, problem)
    for column in (spine.entity_key, spine.time):
        _check_columns(recipe, application, spine.stream, column)
    time = application.streams[spine.stream].columns[spine.time]
    require(time.type == "timestamp", recipe, f"{spine.time} of the spine is no timestamp")
    _check_columns(recipe, application, label.stream, label.key)
    _check_number(recipe, application, label.stream, label.column)


def _asked_columns(feature: str, views: Mapping[str, View]) -> Iterator[str]:
    """What a caller must send for this feature."""
    view, own = views[feature], feature.partition(":")[2]
    if isinstance(view, StreamView):
        yield from view.entity
        return
    found = view.features[own]
    if isinstance(found, RequestFeature):
        yield found.column
        return
    for name in found.parsed().columns:
        if ":" in name:
            yield from _asked_columns(name, views)
        else:
            yield name


def _check_request_view(view: RequestView, views: Mapping[str, View]) -> None:
    for name, feature in view.features.items():
        if isinstance(feature, ExpressionFeature):
            _check_expression(view, name, feature, views)


def _check_expression(
    view: RequestView, name: str, feature: ExpressionFeature, views: Mapping[str, View]
) -> None:
    try:
        expression = feature.parsed()
    except Invalid as err:
        named = {"kind": view.kind, "name": view.name, "key": f"features.{name}"}
        raise Invalid("BAD_DEFINITION", **{**err.metadata, **named}) from err
    is_text = expression.type == "string"
    require(not is_text, view, f"{name} makes a string, a number or condition is needed")
    for used in sorted(each for each in expression.columns if ":" in each):
        require(used in views, view, f"feature {used} is in no view")
        other = features_by_name(views[used])[used.partition(":")[2]][0]
        chained = isinstance(other, ExpressionFeature)
        require(not chained, view, f"{used} is an expression itself: write it out in {name}")


def _check_number(owner: Definition, application: Application, stream: str, column: str) -> None:
    _check_columns(owner, application, stream, column)
    found = application.streams[stream].columns[column].type
    require(found != "string", owner, f"{column} of {stream} is a string, a number is needed")


def _check_columns(owner: Definition, application: Application, stream: str, column: str) -> None:
    require(stream in application.streams, owner, f"stream {stream} is unknown")
    require(
        column in application.streams[stream].columns, owner, f"stream {stream} has no {column}"
    )


def require(holds: bool, owner: Definition, problem: str) -> None:
    """Raises Invalid BAD_DEFINITION with the definition's name."""
    if not holds:
        raise Invalid("BAD_DEFINITION", kind=owner.kind, name=owner.name, problem=problem)


def _check_label(label: LabelDefinition, application: Application) -> None:
    origin = [label.origin] if label.origin else []
    for column in (label.key, *origin):
        _check_columns(label, application, label.stream, column)
    stream = application.streams[label.stream]
    types = {name: column.type for name, column in stream.columns.items()}
    for column in origin:
        require(types[column] == "string", label, f"origin {column} must be a string")
    parse_expression(label.value, types)
    if label.queue is not None:
        _check_queue(label, label.queue, stream, application)
    if label.weak is not None:
        _check_weak(label, label.weak, stream, application)


def _check_weak(
    label: LabelDefinition, weak: WeakLabels, stream: Stream, application: Application
) -> None:
    _check_columns(label, application, weak.stream, weak.key)
    source = application.streams[weak.stream]
    types = {name: column.type for name, column in source.columns.items()}
    for function in weak.functions.values():
        found = parse_expression(function.when, types)
        require(found.type == "bool", label, f"{function.when} is no condition")
    filled = {"id": stream.id, "key": label.key, "answer": weak.answer, "votes": weak.votes}
    _check_filled(label, filled, stream)


def _check_filled(label: LabelDefinition, filled: dict[str, str], stream: Stream) -> None:
    """A label becomes a record of its stream, so all that this requires must be known."""
    require(label.key == stream.key, label, f"its key must be the stream's, {stream.key}")
    times = {stream.event_time, stream.known_time}
    missing = {n for n, column in stream.columns.items() if column.required}
    missing -= {*filled.values(), str(label.origin)} | times
    require(not missing, label, f"a label cannot fill the required columns {sorted(missing)}")
    for role, name in filled.items():
        _check_text(label, role, name, stream)


def _check_text(label: LabelDefinition, role: str, name: str, stream: Stream) -> None:
    column = stream.columns.get(name)
    require(column is not None, label, f"{role} {name} is no column of {stream.name}")
    text = column is not None and column.type == "string"
    require(text, label, f"{role} {name} must be a string")


def _check_queue(
    label: LabelDefinition, queue: LabelQueue, stream: Stream, application: Application
) -> None:
    known = queue.endpoint in application.endpoints
    require(known, label, f"endpoint {queue.endpoint} is unknown")
    filled = {"id": stream.id, "key": label.key, "answer": queue.answer}
    _check_filled(label, filled, stream)
