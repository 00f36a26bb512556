# SPDX-License-Identifier: Apache-2.0
"""A label definition is held to its stream, and its queue to what an answer can say."""

import pytest

from headrace.application import build_application, definition_json, parse_definition
from headrace.application import parse_definition_json as parse_json
from headrace.errors import Invalid

QUEUE = {
    "endpoint": "late",
    "answer": "verdict",
    "choices": ["late", "in time"],
    "rules": {"random": 0.01, "uncertain": {"near": 0.5, "within": 0.1}},
}
WEAK = {
    "stream": "reviews",
    "key": "ride",
    "answer": "verdict",
    "votes": "votes",
    "functions": {"always": {"when": "ride is not null", "label": "late"}},
}
LABEL = {
    "kind": "label",
    "name": "late",
    "description": "Was it late?",
    "stream": "reviews",
    "key": "ride",
    "value": "verdict = 'late'",
    "window": "2d",
    "origin": "origin",
}
STREAM = {
    "kind": "stream",
    "name": "reviews",
    "description": "Answers.",
    "owner": "tests",
    "key": "ride",
    "id": "id",
    "event_time": "at",
    "lateness_allowed": "1h",
    "columns": {
        "id": {"type": "string", "required": True},
        "ride": {"type": "string", "required": True},
        "at": {"type": "timestamp", "required": True},
        "verdict": {"type": "string"},
        "origin": {"type": "string"},
        "votes": {"type": "string"},
    },
}
NETWORK = {
    "hidden": [4], "dropout": 0.1, "learning_rate": 0.1, "weight_decay": 0, "batch_rows": 1,
    "epochs_max": 1, "members": 1, "embedding_size": 1, "seed": 1,
}  # fmt: skip
RECIPE = {
    "kind": "recipe",
    "name": "late",
    "description": "Late?",
    "model": "late",
    "spine": {"stream": "reviews", "entity_key": "ride", "time": "at", "offset": "0s"},
    "label": {
        "stream": "reviews",
        "key": "ride",
        "column": "at",
        "above": 1,
        "absent_after": "1d",
    },
    "features": ["request:at"],
    "network": NETWORK,
    "gate": {"holdout": "1d", "auc_min": 0.6, "champion_margin": 0},
}
VIEW = {
    "kind": "view",
    "name": "request",
    "description": "The request.",
    "features": {"at": {"transform": "value", "column": "at"}},
}
ENDPOINT = {
    "kind": "endpoint",
    "name": "late",
    "description": "Late?",
    "model": "late",
    "entity_key": "ride",
    "columns": {"ride": "string", "at": "int64"},
    "rollout": {"canary_percent": 20, "outcomes_min": 1, "outcomes_max": 2, "alpha": 0.05},
}


def build(label, stream=STREAM):
    documents = [stream, label, RECIPE, VIEW, ENDPOINT]
    return build_application("tests", [parse_definition(each) for each in documents])


def test_label_with_a_queue_is_part_of_an_application():
    application = build({**LABEL, "queue": QUEUE, "weak": WEAK})

    label = application.labels["late"]
    assert label in application.definitions()
    assert label == parse_json(definition_json(label))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stream": "none"}, "unknown"),
        ({"key": "none"}, "has no none"),
        ({"value": "verdict >"}, "BAD_DEFINITION"),
        ({"value": "no_such = 1"}, "no_such"),
        ({"origin": "at"}, "must be a string"),
        ({"origin": None, "queue": QUEUE}, "origin column"),
        ({"queue": {**QUEUE, "endpoint": "none"}}, "endpoint none"),
        ({"queue": {**QUEUE, "answer": "none"}}, "answer none"),
        ({"queue": {**QUEUE, "answer": "at"}}, "must be a string"),
        ({"queue": {**QUEUE, "rules": {}}}, "at least one"),
        ({"queue": {**QUEUE, "choices": ["one"]}}, "choices"),
        ({"key": "id", "queue": QUEUE}, "must be the stream's"),
        ({"weak": {**WEAK, "stream": "none"}}, "unknown"),
        ({"weak": {**WEAK, "votes": "at"}}, "must be a string"),
        ({"weak": {**WEAK, "functions": {"f": {"when": "at", "label": "a"}}}}, "no condition"),
        ({"weak": {**WEAK, "functions": {"f": {"when": "x = 1", "label": "a"}}}}, "x"),
    ],
)
def test_wrong_label_is_refused(changes, problem):
    with pytest.raises(Invalid, match="BAD_DEFINITION") as raised:
        build({**LABEL, **changes})
    assert problem in str(raised.value) + str(raised.value.metadata)


def test_queue_whose_answers_lack_a_required_column_is_refused():
    columns = {**STREAM["columns"], "why": {"type": "string", "required": True}}

    with pytest.raises(Invalid, match="cannot fill the required columns"):
        build({**LABEL, "queue": QUEUE}, {**STREAM, "columns": columns})
