# SPDX-License-Identifier: Apache-2.0
"""Which definitions name which: what is needed cannot be taken back.

References never leave an application. A model is named by what makes its versions, so it needs one
of its recipes, its graph or its own definition, whichever is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headrace import application as app
from headrace.feature_view import ExpressionFeature, RequestView, StreamView
from headrace.label_definition import LabelDefinition
from headrace.model_definition import Model

Key = tuple[str, str]
# A name of what makes a model's versions: no kind of definition.
MAKER = "versions of"


def needed_by(target: app.Definition, others: Sequence[app.Definition]) -> list[str]:
    """Those of `others`, of the same application, that would point to nothing without `target`."""
    gone = {*_given(target)} - {key for each in others for key in _given(each)}
    return [f"{each.kind} {each.name}" for each in others if gone & {*_needs(each)}]


def _given(definition: app.Definition) -> Iterator[Key]:
    yield definition.kind, definition.name
    if isinstance(definition, app.Recipe):
        yield MAKER, definition.model
    elif isinstance(definition, app.Graph | Model):
        yield MAKER, definition.name


def _needs(definition: app.Definition) -> Iterator[Key]:
    if isinstance(definition, StreamView):
        yield "stream", definition.stream
        yield from (("stream", each.stream) for each in definition.lookups.values())
    elif isinstance(definition, RequestView):
        yield from _of_request_view(definition)
    elif isinstance(definition, app.Recipe):
        yield "stream", definition.spine.stream
        yield "stream", definition.label.stream
        yield from (("view", _view_of(each)) for each in definition.features)
    elif isinstance(definition, app.Graph):
        yield "recipe", definition.recipe or ""
        yield from ((MAKER, step.reference.model) for step in definition.model_steps().values())
    elif isinstance(definition, app.Endpoint):
        yield MAKER, definition.model
    elif isinstance(definition, app.Monitor):
        yield "endpoint", definition.endpoint
        yield "recipe", definition.recipe
    elif isinstance(definition, LabelDefinition):
        yield "stream", definition.stream
        yield "stream", definition.weak.stream if definition.weak else ""
        yield "endpoint", definition.queue.endpoint if definition.queue else ""


def _of_request_view(view: RequestView) -> Iterator[Key]:
    for feature in view.features.values():
        if isinstance(feature, ExpressionFeature):
            names = (name for name in feature.parsed().columns if ":" in name)
            yield from (("view", _view_of(name)) for name in names if _view_of(name) != view.name)


def _view_of(feature: str) -> str:
    return feature.partition(":")[0]
