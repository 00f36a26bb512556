# SPDX-License-Identifier: Apache-2.0
"""A definition that is applied names columns that exist and can do what is asked of them."""

import pytest

from headrace.admin import application_topics
from headrace.application import build_application, parse_definition
from headrace.errors import Invalid
from headrace.loader import load_application
from headrace.topics import FEATURE_ROWS

COLUMNS = {
    "id": {"type": "string"},
    "zone": {"type": "string"},
    "riders": {"type": "int64"},
    "at": {"type": "timestamp"},
}
RIDES = {
    "kind": "stream",
    "name": "rides",
    "description": "Rides.",
    "owner": "tests",
    "key": "id",
    "id": "id",
    "event_time": "at",
    "lateness_allowed": "1h",
    "columns": COLUMNS,
}
ASKS = {**RIDES, "name": "asks"}
ZONE = {
    "kind": "view",
    "name": "zone",
    "description": "Rides of a zone.",
    "stream": "rides",
    "entity": ["zone"],
    "features": {"mean": {"aggregate": "mean", "column": "riders", "window": "1h"}},
}
ASK = {
    "kind": "view",
    "name": "ask",
    "description": "The question.",
    "features": {"riders": {"transform": "value", "column": "riders"}},
}
RECIPE = {
    "kind": "recipe",
    "name": "late",
    "description": "Late?",
    "model": "late",
    "spine": {"stream": "asks", "entity_key": "id", "time": "at", "offset": "0s"},
    "label": {
        "stream": "rides",
        "key": "id",
        "column": "riders",
        "above": 1,
        "absent_after": "1h",
    },
    "features": ["zone:mean", "ask:riders"],
    "network": {
        "hidden": [8],
        "dropout": 0,
        "learning_rate": 0.01,
        "weight_decay": 0,
        "batch_rows": 8,
        "epochs_max": 1,
        "members": 1,
        "embedding_size": 2,
        "seed": 1,
    },
    "gate": {"holdout": "1d", "auc_min": 0.5, "champion_margin": 0.1},
}


def without(stream: dict, column: str) -> dict:
    return {**stream, "columns": {name: c for name, c in COLUMNS.items() if name != column}}


def build(*documents: dict) -> None:
    build_application("tests", [parse_definition(document) for document in documents])


def test_view_of_too_many_columns_is_refused():
    numbers = {f"n{number}": {"type": "int64"} for number in range(49)}
    means = {name: {"aggregate": "mean", "column": name, "window": "1h"} for name in numbers}
    with pytest.raises(Invalid, match="more than 48 columns"):
        build({**RIDES, "columns": COLUMNS | numbers}, {**ZONE, "features": means})


def test_view_publishes_rows_of_its_streams_key_alone():
    with pytest.raises(Invalid, match="publish_rows needs the entity to be the key of rides"):
        build(RIDES, {**ZONE, "publish_rows": True})

    build(RIDES, {**ZONE, "entity": ["id"], "publish_rows": True})


def test_view_that_publishes_rows_has_a_topic_for_them():
    views = [{**ZONE, "entity": ["id"], "publish_rows": True}, {**ZONE, "name": "silent"}]
    application = build_application("tests", [parse_definition(d) for d in (RIDES, *views)])

    rows = [name for name, topic in application_topics(application) if topic is FEATURE_ROWS]
    assert [FEATURE_ROWS.of("zone")] == rows


@pytest.mark.parametrize("name", ["My_App", "", "a/b"])
def test_folder_name_that_is_no_name_is_refused(name):
    with pytest.raises(Invalid, match="the folder's name"):
        build_application(name, [])


def test_different_texts_can_be_counted():
    distinct = {"aggregate": "distinct", "column": "zone", "window": "1h"}
    build(RIDES, {**ZONE, "features": {"zones": distinct}})


def a_derived(**more: object) -> dict:
    return {**ZONE, "derive": {"double": "riders * 2"}, **more}


def an_expression(text: str) -> dict:
    return {**ASK, "features": {"e": {"expression": text}}}


def a_recipe(*features: str) -> dict:
    return {**RECIPE, "features": features}


def test_expression_over_a_feature_and_a_column_can_be_trained_on():
    build(RIDES, ASKS, ZONE, an_expression('"zone:mean" / riders'), a_recipe("ask:e"))


def test_expression_over_an_expression_is_refused():
    chained = {"e": {"expression": "riders"}, "f": {"expression": '"ask:e" + 1'}}
    with pytest.raises(Invalid, match="write it out in f"):
        build(RIDES, ZONE, {**ASK, "features": chained})


def a_looking(**more: object) -> dict:
    lookup = {"stream": "asks", "key": {"zone": "zone"}, "column": "riders", "max_age": "1h"}
    mean = {"aggregate": "mean", "column": "asked", "window": "1h"}
    return {**ZONE, "lookups": {"asked": {**lookup, **more}}, "features": {"mean": mean}}


def kept_for(retention: str, stream: dict = RIDES) -> dict:
    return {**stream, "retention": retention}


def a_count(window: str, **more: object) -> dict:
    count = {"aggregate": "count", "window": window}
    ttl = {"ttl": more.pop("ttl")} if "ttl" in more else {}
    return {**ZONE, "features": {**ZONE["features"], "n": count | more}, **ttl}


@pytest.mark.parametrize(
    "documents",
    [
        (kept_for("7d"), a_count("7d")),
        (kept_for("14d"), a_count("7d", tumbling=True)),
        (kept_for("15d"), a_count("7d", tumbling=True, timezone="Europe/Berlin")),
        (kept_for("7d"), a_count("1d", ttl="7d")),
        (RIDES, a_count("lifetime")),
        (RIDES, kept_for("2h", ASKS), a_looking()),
    ],
)
def test_view_may_look_back_as_far_as_its_streams_are_kept(documents):
    build(*documents)


@pytest.mark.parametrize(
    ("documents", "problem"),
    [
        ((kept_for("7d"), a_count("8d")), "it looks back 8 days, stream rides is kept for 7 days"),
        ((kept_for("7d"), a_count("lifetime")), "it looks back a lifetime, stream rides"),
        ((kept_for("13d"), a_count("7d", tumbling=True)), "it looks back 14 days, stream rides"),
        (
            (kept_for("14d"), a_count("7d", tumbling=True, timezone="Europe/Berlin")),
            "it looks back 15 days",
        ),
        ((kept_for("6d"), a_count("1d", ttl="7d")), "it looks back 7 days"),
        ((RIDES, kept_for("1h", ASKS), a_looking()), "days, stream asks is kept for 0.04"),
    ],
)
def test_view_that_looks_back_further_than_its_stream_is_kept_is_refused(documents, problem):
    with pytest.raises(Invalid, match=problem):
        build(*documents)


def test_column_of_another_stream_can_be_aggregated():
    build(RIDES, ASKS, a_looking())


def test_derived_column_can_be_aggregated_and_filtered_records_counted():
    mean = {"aggregate": "mean", "column": "double", "window": "1h"}
    build(RIDES, a_derived(filter="riders > 0", features={"mean": mean}))


def test_columns_that_fit_are_taken():
    build(RIDES, ASKS, ZONE, ASK, RECIPE)


@pytest.mark.parametrize(
    ("documents", "problem"),
    [
        (
            (RIDES, {**ZONE, "features": {"m": {**ZONE["features"]["mean"], "column": "zone"}}}),
            "zone of rides is a string, a number is needed",
        ),
        (
            (RIDES, ASKS, ZONE, ASK, {**RECIPE, "label": {**RECIPE["label"], "column": "zone"}}),
            "zone of rides is a string, a number is needed",
        ),
        (
            (RIDES, ASKS, ZONE, ASK, {**RECIPE, "spine": {**RECIPE["spine"], "time": "riders"}}),
            "riders of the spine is no timestamp",
        ),
        ((RIDES, a_derived(filter="riders + 1")), "filter is of type int64, write a condition"),
        ((RIDES, a_derived(filter="fare > 1")), "key=filter"),
        ((RIDES, a_derived(derive={"riders": "1"})), "has a riders too: rename it"),
        ((RIDES, a_looking(stream="asks")), "stream asks is unknown"),
        ((RIDES, ASKS, a_looking(column="temp")), "stream asks has no temp"),
        ((RIDES, ASKS, a_looking(key={"zone": "place"})), "stream rides has no place"),
        ((RIDES, ZONE, an_expression('"zone:n" + 1')), "feature zone:n is in no view"),
        ((RIDES, ZONE, an_expression("LOWER(CAST(1 AS string))")), "makes a string"),
        ((RIDES, ZONE, an_expression("riders +")), "key=features.e"),
        (
            (RIDES, ASKS, ZONE, an_expression('"zone:mean" / fares'), a_recipe("ask:e")),
            "stream asks has no fares",
        ),
        (
            (RIDES, without(ASKS, "zone"), ZONE, an_expression('"zone:mean"'), a_recipe("ask:e")),
            "stream asks has no zone",
        ),
        ((RIDES, without(ASKS, "zone"), ZONE, ASK, RECIPE), "stream asks has no zone"),
        (
            (RIDES, ASKS, ZONE, ASK, {**RECIPE, "features": [*RECIPE["features"]] * 2}),
            f"feature {RECIPE['features'][0]} is named twice",
        ),
        ((RIDES, without(ASKS, "riders"), ZONE, ASK, RECIPE), "stream asks has no riders"),
    ],
)
def test_column_that_cannot_do_what_is_asked_is_refused(documents, problem):
    with pytest.raises(Invalid, match=problem):
        build(*documents)


@pytest.mark.parametrize("taken", ["features", "derive"])
def test_name_of_an_entity_is_not_given_to_what_stands_in_a_row_with_it(taken):
    changed = {
        "features": {"features": {"zone": {"aggregate": "count", "window": "1h"}}},
        "derive": {"entity": ["zone", "id"], "derive": {"id": "zone"}},
    }[taken]
    with pytest.raises(Invalid, match=r"has the name of an entity|has a id too"):
        build(RIDES, {**ZONE, **changed})


def test_feature_may_have_the_name_of_a_column_that_is_no_entity():
    build(RIDES, {**ZONE, "features": {"riders": ZONE["features"]["mean"]}})


def test_entity_is_not_named_as_the_moment_of_a_row():
    named = {**RIDES, "columns": COLUMNS | {"as_of_us": {"type": "string"}}}
    with pytest.raises(Invalid, match="entity as_of_us has the name of the moment of a row"):
        build(named, {**ZONE, "entity": ["as_of_us"]})


@pytest.mark.parametrize("feature", [ZONE["features"]["mean"], {"ratio": ["mean", "mean"]}])
def test_feature_is_not_named_as_the_moment_of_a_row(feature):
    features = {**ZONE["features"], "as_of_us": feature}
    with pytest.raises(Invalid, match="feature as_of_us has the name of the moment of a row"):
        build(RIDES, {**ZONE, "features": features})


@pytest.mark.parametrize("column", ["label", "as_of_us", "entity_key"])
def test_recipe_asks_for_no_column_that_a_training_set_has_itself(column):
    asks = {**ASKS, "columns": COLUMNS | {column: {"type": "int64"}}}
    ask = {**ASK, "features": {"riders": {"transform": "value", "column": column}}}
    with pytest.raises(Invalid, match=f"asks for {column}, which a training set has itself"):
        build(RIDES, asks, ZONE, ask, a_recipe("ask:riders"))


@pytest.mark.parametrize("name", ["_id", "_event_id", "_contract"])
def test_column_with_a_name_of_the_platform_is_refused(name):
    with pytest.raises(Invalid, match="is a lower-case letter, then letters"):
        build({**RIDES, "columns": COLUMNS | {name: {"type": "string"}}})


def test_key_that_is_given_twice_in_a_file_is_told_by_its_line(tmp_path):
    (tmp_path / "rides.yaml").write_text("kind: stream\nname: rides\ncolumns:\n  a: {}\n  a: {}\n")
    with pytest.raises(Invalid, match=r"a is given twice.*line 5"):
        load_application(tmp_path)


def test_path_that_is_no_application_folder_is_told_as_what_it_is(tmp_path):
    (tmp_path / "rides.yaml").write_text("kind: stream\n")
    (tmp_path / "empty").mkdir()
    problems = {
        "nofolder": "is not there",
        "rides.yaml": "is no folder",
        "empty": "holds no YAML definition",
    }
    for name, problem in problems.items():
        with pytest.raises(Invalid, match="BAD_DEFINITION") as refused:
            load_application(tmp_path / name)
        assert (str(tmp_path / name), problem) == (
            str(refused.value.metadata["folder"]),
            refused.value.metadata["problem"],
        )
