# SPDX-License-Identifier: Apache-2.0
"""Tasks and answers survive Label Studio's format, in files of any length and shape."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import label_studio
from headrace.errors import Invalid
from headrace.ingest.v1 import label_service_pb2 as pb
from headrace.label_studio import Answer, read_answers, write_tasks

ANSWERS = st.lists(st.builds(Answer, st.text(min_size=1), st.text(min_size=1), st.text()))


def a_task(answers=(), **changes):
    given = {"task_id": "t1", "label": "late", "target": "UA1", "score": 0.5, "version": 3}
    told = [pb.LabelAnswer(labeller=each.labeller, choice=each.choice) for each in answers]
    return pb.LabelTask(**(given | changes), answers=told)


def read(text):
    return list(read_answers(io.StringIO(text)))


@settings(deadline=None)
@given(st.lists(ANSWERS, max_size=5), st.integers(1, 40))
def test_answers_survive_the_round_trip(tasks, chunk):
    file = io.StringIO()
    made = [a_task(some, task_id=f"t{number}") for number, some in enumerate(tasks)]
    assert len(tasks) == write_tasks(file, made)

    file.seek(0)
    before, label_studio.CHUNK_CHARACTERS = label_studio.CHUNK_CHARACTERS, chunk
    try:
        found = list(read_answers(file))
    finally:
        label_studio.CHUNK_CHARACTERS = before
    assert found == [
        Answer(f"t{number}", each.labeller, each.choice, "late", "UA1")
        for number, some in enumerate(tasks)
        for each in some
    ]


def test_data_hold_what_the_task_is_about():
    item = pb.LabelItem(model="delays", served_at_us=7, features_left_out=1)
    for name, value in (("wind:mean", 0.5), ("", float("inf")), ("delay:last", None)):
        item.features.add(name=name, value=value)
    file = io.StringIO()
    write_tasks(file, [a_task(item=item)])
    [task] = json.loads(file.getvalue(), parse_constant=pytest.fail)

    wanted = {
        "model": "delays",
        "version": 3,
        "score": 0.5,
        "served_at_us": 7,
        "features": {"wind:mean": 0.5, "feature 1": "inf", "delay:last": None},
        "features_left_out": 1,
    }
    assert wanted == {name: task["data"].get(name) for name in wanted}


def test_task_is_told_as_label_studio_reads_it():
    file = io.StringIO()
    write_tasks(file, [a_task([Answer("t1", "ann@example.org", "late")])])
    [task] = json.loads(file.getvalue())

    assert ("UA1", "t1") == (task["data"]["target"], task["data"]["task_id"])
    [annotation], [prediction] = task["annotations"], task["predictions"]
    assert {"email": "ann@example.org"} == annotation["completed_by"]
    assert [
        {
            "from_name": "label",
            "to_name": "target",
            "type": "choices",
            "value": {"choices": ["late"]},
        }
    ] == annotation["result"]
    assert ("3", 0.5) == (prediction["model_version"], prediction["score"])


def test_export_of_label_studio_is_read():
    choice = {"type": "choices", "value": {"choices": ["late"]}, "from_name": "label"}
    other = {"type": "rating", "value": {"rating": 3}}
    tasks = [
        {
            "id": 12,
            "data": {"task_id": "t1"},
            "annotations": [
                {"id": 1, "completed_by": 7, "result": [other, choice]},
                {"id": 2, "completed_by": 8, "was_cancelled": True, "result": []},
                {"id": 3, "completed_by": 9, "was_cancelled": False, "result": []},
            ],
            "predictions": [],
        },
        {"id": 13, "data": {"task_id": "t2"}},
    ]

    assert [Answer("t1", "7", "late")] == read(json.dumps(tasks, indent=2))


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[", "[1]", "[{}]", '[{"data": {}}]', '[{"data": {"task_id": "t"}} 7',
        "[" * 9_999,
        '[{"data": {"task_id": "t"}, "annotations": [{"completed_by": 1}]}]',
    ],
)  # fmt: skip
def test_file_that_holds_no_tasks_of_ours_is_refused(text):
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        read(text)


def test_task_that_is_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(label_studio, "TASK_CHARACTERS_MAX", 100)
    monkeypatch.setattr(label_studio, "CHUNK_CHARACTERS", 50)

    with pytest.raises(Invalid, match="no JSON within 100 characters"):
        read(json.dumps([{"data": {"task_id": "t" * 500}}]))


def annotated(who, *, task_id="t1", choice="late"):
    result = [{"type": "choices", "value": {"choices": [choice]}}]
    return {"data": {"task_id": task_id}, "annotations": [{"completed_by": who, "result": result}]}


HALF_A_PAIR = "it holds half a surrogate pair, which is no character"
TWO = {"type": "choices", "value": {"choices": ["late", "on time"]}}


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({}, "it has no data"),
        ({"data": {}}, "it has no task_id"),
        (1, "it is not as headrace labels export writes one"),
        ({"data": {"task_id": "t"}, "annotations": [{"result": [TWO]}]}, "it has no completed_by"),
        (
            {"data": {"task_id": "t"}, "annotations": [{"completed_by": 1, "result": [TWO]}]},
            "it has no single choice in an annotation, but 2",
        ),
        (annotated(True), "it has no person as completed_by, but true"),
        (annotated({"id": False}), "it has no person as completed_by, but false"),
        (annotated(None), "it has no person as completed_by, but null"),
        (annotated({"email": None, "id": None}), "it has no person as completed_by, but null"),
        (annotated("\ud800"), HALF_A_PAIR),
        (annotated(1, choice="\udc00"), HALF_A_PAIR),
        (annotated(1, task_id="\ud800"), HALF_A_PAIR),
    ],
)
def test_task_that_is_none_of_ours_is_told_by_its_number_in_plain_words(task, told):
    with pytest.raises(Invalid) as refused:
        read(json.dumps([{"data": {"task_id": "good"}}, task]))

    assert {"task": "2", "problem": f"no task of ours: {told}"} == refused.value.metadata


def test_number_names_one_person_however_it_is_written():
    text = json.dumps([annotated(who) for who in (1, 1.0, 1e0, "1", {"id": 1.0})])

    assert {Answer("t1", "1", "late")} == set(read(text))


@pytest.mark.parametrize("chunk", [1, 65_536])
@pytest.mark.parametrize(
    ("behind", "told"),
    [
        (" x", "text follows the array of tasks: a file holds one array"),
        ("\n]", "text follows the array of tasks: a file holds one array"),
        ("\n[]", "another array follows the array of tasks: a file holds one array"),
    ],
)
def test_what_follows_the_array_is_refused_behind_its_answers(behind, told, chunk, monkeypatch):
    """As of two exports put into one file."""
    monkeypatch.setattr(label_studio, "CHUNK_CHARACTERS", chunk)
    answers = read_answers(io.StringIO(json.dumps([annotated(1)]) + behind))

    assert Answer("t1", "1", "late") == next(answers)
    with pytest.raises(Invalid) as refused:
        next(answers)
    assert {"tasks": "1", "problem": told} == refused.value.metadata


@pytest.mark.parametrize("chunk", [1, 65_536])
def test_byte_order_mark_before_the_array_is_passed_over(chunk, monkeypatch):
    monkeypatch.setattr(label_studio, "CHUNK_CHARACTERS", chunk)

    assert [Answer("t1", "1", "late")] == read("\ufeff\n" + json.dumps([annotated(1)]) + "\n")


def test_file_that_is_no_utf_8_is_refused():
    with pytest.raises(Invalid, match="is not UTF-8"):
        list(read_answers(io.TextIOWrapper(io.BytesIO(b'[{"data": "\xff"}]'), "utf-8")))
