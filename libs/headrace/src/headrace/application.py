# SPDX-License-Identifier: Apache-2.0
"""The application model: what a user declares, as frozen and closed types.

One definition is one YAML document of a kind: stream, view, recipe, model, graph, endpoint, monitor
or label. An unknown key is an error, durations carry a unit ("90m", "14d") and become seconds.
`build_application` holds the references together, so that a definition in the registry never points
to nothing.
The JSON form of a definition is what `registry.definitions` carries.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError, model_validator

from headrace.application_check import check_references, require
from headrace.data_contract import Stream as Stream
from headrace.definition_types import NAME, Closed, ColumnName, Duration, Name, Span
from headrace.errors import Invalid
from headrace.feature_view import AnyView, RequestView, StreamView, View
from headrace.graph_definition import Graph as Graph
from headrace.json_lines import json_problem
from headrace.label_definition import LabelDefinition
from headrace.model_definition import Model
from headrace.reserved_names import RESERVED_COLUMNS


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
    # What its run may measure as `latency_ms`; without it a version may be as slow as it is.
    latency_ms_max: float | None = Field(default=None, gt=0)
    # Once it has shown that, it waits for a signature by somebody whom the registry trusts.
    require_signature: bool = False


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
    """An address that serves a model. `columns` are what a caller by entity keys sends.

    Without them it takes tensors alone: features, or what the model itself takes. Without `rollout`
    its versions change by hand. `staleness_max_s`: how far the features that are read for a request
    may be behind; None for any.
    """

    kind: Literal["endpoint"] = "endpoint"
    name: Name
    description: str
    model: Name
    entity_key: ColumnName | None = None
    columns: dict[ColumnName, Literal["string", "int64", "float64"]] = Field(default_factory=dict)
    staleness_max_s: Span | None = Field(None, alias="staleness_max")
    rollout: RolloutRule | None = None

    @model_validator(mode="after")
    def _by_entity_or_not(self) -> Endpoint:
        if (self.entity_key is None) != (not self.columns):
            raise ValueError("entity_key and columns go together; neither: tensors alone")
        if self.entity_key is not None and self.rollout is None:
            raise ValueError("rollout is needed where callers ask by entity keys")
        if self.staleness_max_s is not None and self.entity_key is None:
            raise ValueError("staleness_max is of features that are read by an entity_key")
        for name in sorted(RESERVED_COLUMNS & self.columns.keys()):
            raise ValueError(f"columns: {name} means something else in a request")
        return self


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


Definition = (
    Stream
    | StreamView
    | RequestView
    | Recipe
    | Model
    | Graph
    | Endpoint
    | Monitor
    | LabelDefinition
)
_ADAPTER_BY_KIND: dict[str, TypeAdapter[Definition]] = {
    "stream": TypeAdapter(Stream),
    "view": TypeAdapter(AnyView),
    "recipe": TypeAdapter(Recipe),
    "model": TypeAdapter(Model),
    "graph": TypeAdapter(Graph),
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
    models: dict[str, Model] = field(default_factory=dict)
    graphs: dict[str, Graph] = field(default_factory=dict)

    def definitions(self) -> list[Definition]:
        """Streams first, so that a reader of the topic meets no reference before its target."""
        return [
            *self.streams.values(),
            *self.views.values(),
            *self.recipes.values(),
            *self.models.values(),
            *self.graphs.values(),
            *self.endpoints.values(),
            *self.monitors.values(),
            *self.labels.values(),
        ]


def build_application(name: str, definitions: Sequence[Definition]) -> Application:
    """Raises Invalid BAD_DEFINITION for a name given twice or a reference to nothing."""
    seen: set[tuple[str, str]] = set()
    for definition in definitions:
        require((definition.kind, definition.name) not in seen, definition, "name given twice")
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
        models={d.name: d for d in definitions if isinstance(d, Model)},
        graphs={d.name: d for d in definitions if isinstance(d, Graph)},
    )
    check_references(application)
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
        key = ".".join(map(str, _written(kind, first["loc"])))
        name = document.get("name", "?") if isinstance(document, dict) else "?"
        problem = first["msg"].removeprefix("Value error, ")
        raise Invalid("BAD_DEFINITION", kind=kind, name=name, key=key, problem=problem) from err


def _written(kind: str, place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """As the document has it: without the tags that tell views, features and steps apart."""
    if kind == "graph" and place[:1] == ("steps",):
        return (*place[:2], *place[3:])
    if kind != "view":
        return place
    return (*place[1:3], *place[4:]) if place[1:2] == ("features",) else place[1:]


def parse_definition_json(spec_json: bytes) -> Definition:
    """The definition in the JSON form that `registry.definitions` carries."""
    try:
        document = json.loads(spec_json, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as err:
        problem = f"cannot be read as JSON: {json_problem(err)[:200]}"
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
