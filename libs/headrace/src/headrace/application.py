# SPDX-License-Identifier: Apache-2.0
"""The application model: what a user declares, as frozen and closed types.

One definition is one YAML document of a kind: stream, view, recipe, endpoint, monitor or label. An
unknown key is an error, durations carry a unit ("90m", "14d") and become seconds.
`Application.check` holds the references together, so that a definition in the registry never points
to nothing.
The JSON form of a definition is what `registry.definitions` carries.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError, model_validator

from headrace.data_contract import Stream as Stream
from headrace.definition_types import (
    NAME,
    SECONDS_BY_UNIT,
    Closed,
    ColumnName,
    Duration,
    Name,
    Span,
)
from headrace.errors import Invalid
from headrace.expression import parse_expression
from headrace.feature_view import (
    LIFETIME_S,
    AnyView,
    ExpressionFeature,
    RequestFeature,
    RequestView,
    StreamView,
    View,
    feature_names,
    features_by_name,
)
from headrace.label_definition import LabelDefinition, LabelQueue, WeakLabels

VIEW_COLUMNS_MAX = 48


class Spine(Closed):
    """The rows of a training set: each record of `stream`, asked `offset` from a time column."""

    stream: Name
    entity_key: ColumnName
    time: ColumnName
    offset_s: Duration = Field(alias="offset")


class Label(Closed):
    """The truth: 1 when `column` > `above`, else 0; 1 when none came within `absent_after`."""

    stream: Name
    key: ColumnName
    column: ColumnName
    above: float
    absent_after_s: Span = Field(alias="absent_after")


class Network(Closed):
    """A small multilayer perceptron, averaged over `members` seeds."""

    hidden: tuple[PositiveInt, ...] = Field(min_length=1, max_length=8)
    dropout: float = Field(ge=0, lt=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    batch_rows: int = Field(gt=0)
    epochs_max: int = Field(gt=0)
    members: int = Field(gt=0, le=16)
    embedding_size: int = Field(gt=0, le=64)
    seed: int


class GateRule(Closed):
    """What a version must show on the holdout, the newest part of its training set by as_of."""

    holdout_s: Span = Field(alias="holdout")
    auc_min: float = Field(gt=0, lt=1)
    # The champion is scored on the same holdout: the candidate may be worse by this much at most.
    champion_margin: float = Field(ge=0, lt=1)


class Recipe(Closed):
    """How to train a model, and the gate that its versions must pass."""

    kind: Literal["recipe"] = "recipe"
    name: Name
    description: str
    model: Name
    spine: Spine
    label: Label
    features: tuple[str, ...] = Field(min_length=1)
    network: Network
    gate: GateRule


class RolloutRule(Closed):
    """How a new version takes over: a canary judged on `outcomes_min..max` labelled predictions."""

    canary_percent: int = Field(gt=0, le=100)
    outcomes_min: int = Field(gt=0)
    outcomes_max: int = Field(gt=0)
    # Error rate of the sequential test, for each side.
    alpha: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> RolloutRule:
        if self.outcomes_max < self.outcomes_min:
            raise ValueError("outcomes_max is below outcomes_min: no canary would be judged")
        return self


class Endpoint(Closed):
    """An address that serves a model. `columns` are what a caller by entity keys sends."""

    kind: Literal["endpoint"] = "endpoint"
    name: Name
    description: str
    model: Name
    entity_key: ColumnName
    columns: dict[ColumnName, Literal["string", "int64", "float64"]]
    rollout: RolloutRule


class DriftRule(Closed):
    """Alarm: significant by Benjamini-Hochberg at `q`, PSI beyond the floor, in k of m windows."""

    q: float = Field(gt=0, lt=1)
    psi_floor: float = Field(gt=0)
    rows_min: int = Field(gt=0)
    windows_bad: int = Field(gt=0)
    windows: int = Field(gt=0)
    ignore: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _reachable(self) -> DriftRule:
        if self.windows_bad > self.windows:
            raise ValueError("windows_bad is above windows: drift would never alarm")
        return self


class QualityRule(Closed):
    """Alarm: the AUC of `windows` windows together is `auc_drop` below the holdout's."""

    auc_drop: float = Field(gt=0, lt=1)
    labelled_min: int = Field(gt=0)
    windows: int = Field(gt=0)


class Policy(Closed):
    """What an incident may do: at most `runs_max` retrainings in `budget`, `cooldown` apart."""

    cooldown_s: Span = Field(alias="cooldown")
    runs_max: int = Field(gt=0)
    budget_s: Span = Field(alias="budget")


class Monitor(Closed):
    """What is watched at an endpoint, in windows of event time, and what may follow."""

    kind: Literal["monitor"] = "monitor"
    name: Name
    description: str
    endpoint: Name
    # Its spine and label say how a prediction is joined with its outcome; incidents train it again.
    recipe: Name
    window_s: Span = Field(alias="window")
    drift: DriftRule
    quality: QualityRule
    policy: Policy


Definition = Stream | StreamView | RequestView | Recipe | Endpoint | Monitor | LabelDefinition
_ADAPTER_BY_KIND: dict[str, TypeAdapter[Definition]] = {
    "stream": TypeAdapter(Stream),
    "view": TypeAdapter(AnyView),
    "recipe": TypeAdapter(Recipe),
    "endpoint": TypeAdapter(Endpoint),
    "monitor": TypeAdapter(Monitor),
    "label": TypeAdapter(LabelDefinition),
}


@dataclass(frozen=True, slots=True)
class Application:
    """Definitions by kind and name, whose references hold."""

    name: str
    streams: dict[str, Stream]
    views: dict[str, View]
    recipes: dict[str, Recipe]
    endpoints: dict[str, Endpoint]
    monitors: dict[str, Monitor]
    labels: dict[str, LabelDefinition] = field(default_factory=dict)

    def definitions(self) -> list[Definition]:
        """Streams first, so that a reader of the topic meets no reference before its target."""
        return [
            *self.streams.values(),
            *self.views.values(),
            *self.recipes.values(),
            *self.endpoints.values(),
            *self.monitors.values(),
            *self.labels.values(),
        ]


def build_application(name: str, definitions: Sequence[Definition]) -> Application:
    """Raises Invalid BAD_DEFINITION for a name given twice or a reference to nothing."""
    seen: set[tuple[str, str]] = set()
    for definition in definitions:
        _require((definition.kind, definition.name) not in seen, definition, "name given twice")
        seen.add((definition.kind, definition.name))
    if not NAME.fullmatch(name):
        problem = "the folder's name is the application's: lower-case letters, digits, - and ."
        raise Invalid("BAD_DEFINITION", application=name, problem=problem)
    application = Application(
        name=name,
        streams={d.name: d for d in definitions if isinstance(d, Stream)},
        views={d.name: d for d in definitions if isinstance(d, StreamView | RequestView)},
        recipes={d.name: d for d in definitions if isinstance(d, Recipe)},
        endpoints={d.name: d for d in definitions if isinstance(d, Endpoint)},
        monitors={d.name: d for d in definitions if isinstance(d, Monitor)},
        labels={d.name: d for d in definitions if isinstance(d, LabelDefinition)},
    )
    _check_references(application)
    return application


def parse_definition(document: object) -> Definition:
    """The definition in a parsed YAML or JSON document; Invalid BAD_DEFINITION names the key."""
    kind = document.get("kind") if isinstance(document, dict) else None
    if not isinstance(kind, str) or kind not in _ADAPTER_BY_KIND:
        kinds = ", ".join(_ADAPTER_BY_KIND)
        raise Invalid("BAD_DEFINITION", key="kind", problem=f"must be one of: {kinds}")
    try:
        return _ADAPTER_BY_KIND[kind].validate_python(document)
    except ValidationError as err:
        first = err.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        name = document.get("name", "?") if isinstance(document, dict) else "?"
        problem = first["msg"].removeprefix("Value error, ")
        raise Invalid("BAD_DEFINITION", kind=kind, name=name, key=key, problem=problem) from err


def parse_definition_json(spec_json: bytes) -> Definition:
    """The definition in the JSON form that `registry.definitions` carries."""
    try:
        document = json.loads(spec_json, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as err:
        problem = f"cannot be read as JSON: {str(err)[:200]}"
        raise Invalid("BAD_DEFINITION", key="spec_json", problem=problem) from err
    return parse_definition(document)


def _refuse_constant(name: str) -> float:
    """NaN and Infinity are Python's own and no JSON."""
    raise ValueError(f"{name} is not a number")


def definition_json(definition: Definition) -> bytes:
    """Canonical JSON: sorted keys, durations as "<n>s"; parses back to an equal definition."""
    document = definition.model_dump(mode="json", by_alias=True, exclude_none=True)
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def definition_digest(definition: Definition) -> str:
    """sha256 of its canonical JSON, in hex."""
    return hashlib.sha256(definition_json(definition)).hexdigest()


def _views_by_feature(application: Application) -> dict[str, View]:
    return {name: view for view in application.views.values() for name in feature_names(view)}


def _check_references(application: Application) -> None:
    for view in application.views.values():
        if isinstance(view, StreamView):
            _check_stream_view(view, application)
        else:
            _check_request_view(view, _views_by_feature(application))
    for recipe in application.recipes.values():
        _check_recipe(recipe, application)
    models = {recipe.model for recipe in application.recipes.values()}
    for endpoint in application.endpoints.values():
        _require(endpoint.model in models, endpoint, f"no recipe trains model {endpoint.model}")
        _require(
            endpoint.entity_key in endpoint.columns,
            endpoint,
            f"entity_key {endpoint.entity_key} is not among its columns",
        )
    for monitor in application.monitors.values():
        _check_monitor(monitor, application)
    for label in application.labels.values():
        _check_label(label, application)


def _check_monitor(monitor: Monitor, application: Application) -> None:
    served_by, trained_by = monitor.endpoint, monitor.recipe
    _require(served_by in application.endpoints, monitor, f"endpoint {served_by} is unknown")
    _require(trained_by in application.recipes, monitor, f"recipe {trained_by} is unknown")
    served = application.endpoints[served_by].model
    recipe = application.recipes[trained_by]
    trained = f"recipe {recipe.name} trains {recipe.model}, the endpoint serves {served}"
    _require(recipe.model == served, monitor, trained)
    for feature in monitor.drift.ignore:
        _require(feature in recipe.features, monitor, f"the recipe has no feature {feature}")


def _check_stream_view(view: StreamView, application: Application) -> None:
    for column in view.entity:
        _check_columns(view, application, view.stream, column)
    keyed = view.entity == (application.streams[view.stream].key,)
    problem = f"publish_rows needs the entity to be the key of {view.stream}"
    _require(keyed or not view.publish_rows, view, problem)
    types = _view_types(view, application)
    _check_retention(view, application)
    columns = {each.column for each in view.window_features().values() if each.column is not None}
    # A column that is looked up takes three places: its value and the two halves of its key.
    places = len(columns) + 2 * len(view.lookups)
    _require(places <= VIEW_COLUMNS_MAX, view, f"more than {VIEW_COLUMNS_MAX} columns")
    for column in sorted(columns):
        _require(column in types, view, f"stream {view.stream} has no {column}")
    for feature in view.window_features().values():
        numeric = feature.aggregate == "distinct" or types.get(feature.column or "") != "string"
        problem = f"{feature.column} of {view.stream} is a string, a number is needed"
        _require(numeric, view, problem)


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
        _require(name not in types, view, f"stream {view.stream} has a {name} too: rename it")
    if view.filter is not None:
        holds = _type_of(view, "filter", view.filter, types)
        _require(holds == "bool", view, f"filter is of type {holds}, write a condition")
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
    for feature in recipe.features:
        _require(feature in views, recipe, f"feature {feature} is in no view")
        for column in _asked_columns(feature, views):
            _check_columns(recipe, application, spine.stream, column)
    for column in (spine.entity_key, spine.time):
        _check_columns(recipe, application, spine.stream, column)
    time = application.streams[spine.stream].columns[spine.time]
    _require(time.type == "timestamp", recipe, f"{spine.time} of the spine is no timestamp")
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
    _require(not is_text, view, f"{name} makes a string, a number or condition is needed")
    for used in sorted(each for each in expression.columns if ":" in each):
        _require(used in views, view, f"feature {used} is in no view")
        other = features_by_name(views[used])[used.partition(":")[2]][0]
        chained = isinstance(other, ExpressionFeature)
        _require(not chained, view, f"{used} is an expression itself: write it out in {name}")


def _check_number(owner: Definition, application: Application, stream: str, column: str) -> None:
    _check_columns(owner, application, stream, column)
    found = application.streams[stream].columns[column].type
    _require(found != "string", owner, f"{column} of {stream} is a string, a number is needed")


def _check_columns(owner: Definition, application: Application, stream: str, column: str) -> None:
    _require(stream in application.streams, owner, f"stream {stream} is unknown")
    _require(
        column in application.streams[stream].columns, owner, f"stream {stream} has no {column}"
    )


def _require(holds: bool, owner: Definition, problem: str) -> None:
    if not holds:
        raise Invalid("BAD_DEFINITION", kind=owner.kind, name=owner.name, problem=problem)


def _check_label(label: LabelDefinition, application: Application) -> None:
    origin = [label.origin] if label.origin else []
    for column in (label.key, *origin):
        _check_columns(label, application, label.stream, column)
    stream = application.streams[label.stream]
    types = {name: column.type for name, column in stream.columns.items()}
    for column in origin:
        _require(types[column] == "string", label, f"origin {column} must be a string")
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
        _require(found.type == "bool", label, f"{function.when} is no condition")
    filled = {"id": stream.id, "key": label.key, "answer": weak.answer, "votes": weak.votes}
    _check_filled(label, filled, stream)


def _check_filled(label: LabelDefinition, filled: dict[str, str], stream: Stream) -> None:
    """A label becomes a record of its stream, so all that this requires must be known."""
    _require(label.key == stream.key, label, f"its key must be the stream's, {stream.key}")
    times = {stream.event_time, stream.known_time}
    missing = {n for n, column in stream.columns.items() if column.required}
    missing -= {*filled.values(), str(label.origin)} | times
    _require(not missing, label, f"a label cannot fill the required columns {sorted(missing)}")
    for role, name in filled.items():
        _check_text(label, role, name, stream)


def _check_text(label: LabelDefinition, role: str, name: str, stream: Stream) -> None:
    column = stream.columns.get(name)
    _require(column is not None, label, f"{role} {name} is no column of {stream.name}")
    text = column is not None and column.type == "string"
    _require(text, label, f"{role} {name} must be a string")


def _check_queue(
    label: LabelDefinition, queue: LabelQueue, stream: Stream, application: Application
) -> None:
    known = queue.endpoint in application.endpoints
    _require(known, label, f"endpoint {queue.endpoint} is unknown")
    filled = {"id": stream.id, "key": label.key, "answer": queue.answer}
    _check_filled(label, filled, stream)
