# SPDX-License-Identifier: Apache-2.0
"""The commands on dead letters and labels say what happened and what to do next."""

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from headrace.cli import dead_letters, labels
from headrace.cli.main import app
from headrace.errors import Conflict, Invalid, NotFound
from headrace.ingest.v1 import dead_letter_service_pb2 as letters_pb
from headrace.ingest.v1 import label_service_pb2 as pb
from headrace.ingest.v1.ingest_service_pb2 import StreamCounts

FAULT = letters_pb.RecordFault(reason="BAD_TYPE", place="fare")
LETTER = letters_pb.DeadLetter(id="0-7", stream="rides", faults=[FAULT], attempt=2)


class Letters:
    """Dead letters as a client tells them."""

    def page(self, chosen, **options):
        counts = [letters_pb.DeadLetterCount(stream="rides", reason="BAD_TYPE", waiting=1_200)]
        return letters_pb.ListDeadLettersResponse(
            letters=[LETTER],
            counts=counts,
            next_page_token="0-8",  # noqa: S106 - a place, no secret
        )

    def get(self, letter_id, *, value_bytes_max):
        now = [letters_pb.RecordFault(reason="EMPTY")]
        return letters_pb.GetDeadLetterResponse(letter=LETTER, value=b"{}", faults_now=now)

    def redrive(self, chosen, **options):
        yield letters_pb.RedriveDeadLettersResponse(sent=50)
        yield letters_pb.RedriveDeadLettersResponse(
            sent=90, skipped_by_reason={"RECORD_LOST": 3, "ENTITY_ERASED": 0}, more=True
        )


class Queue:
    """Label tasks as a client tells them."""

    def __init__(self):
        self.submitted = []

    def claim(self, label, labeller):
        item = pb.LabelItem(
            model="delays",
            served_at_us=1_362_129_301_000_000,
            features_left_out=2,
            other_version=4,
            other_score=0.75,
        )
        item.features.add(name="wind:mean", value=0.10000000149)
        item.features.add(name="wind:last")
        task = pb.LabelTask(
            task_id="t1",
            target="UA[1]",
            as_of_us=1_362_129_300_000_000,
            score=0.5,
            version=3,
            rule="random",
            item=item,
        )
        return pb.ClaimTaskResponse(task=task, choices=["late"], lease_s=900)

    def tasks(self, label, *, state=None, with_answers=False, with_items=False):
        if not with_answers:
            return iter([pb.LabelTask(task_id="0123456789abcdef" * 2, target="a" * 80, rule="b")])
        answers = [pb.LabelAnswer(labeller="ann", choice="late")]
        return iter([pb.LabelTask(task_id="t1", target="UA1", answers=answers)])

    def agreement(self, label):
        return pb.GetAgreementResponse(open=1, tasks=1)

    def apply_weak(self, label, **options):
        figures = [
            pb.WeakFunctionFigures(function="poor", accuracy=0.5, at_chance=True),
            pb.WeakFunctionFigures(function="good", accuracy=0.9),
        ]
        return pb.ApplyWeakLabelsResponse(
            records=10, labelled=4, taken_back=2, functions=figures, added=1, stream="reviews"
        )

    def take_answer(self, task_id, labeller, choice, label="", target=""):
        if target not in ("", "UA1"):
            raise Invalid("BAD_REQUEST", field="target", task_id=task_id)
        if (task_id, labeller) == ("t1", "bob"):
            raise Conflict("TASK_SETTLED", task_id=task_id)
        if (labeller, choice) == ("ann", "on-time"):
            raise Conflict("TASK_ANSWERED", task_id=task_id, labeller=labeller)
        self.submitted.append((task_id, labeller, choice))
        return self.submitted.count((task_id, labeller, choice)) == 1


@pytest.fixture
def queue(monkeypatch):
    stopped = [
        StreamCounts(stream=each, stopped_reason="TOO_MANY_DEAD_LETTERS")
        for each in ("reviews", "rides")
    ]
    made = SimpleNamespace(dead_letters=Letters(), labels=Queue(), stream_counts=lambda: stopped)
    for module in (dead_letters, labels):
        monkeypatch.setattr(module, "connect", lambda data_dir: made)
    return made.labels


def run(*arguments):
    answer = CliRunner().invoke(app, arguments)
    assert 0 == answer.exit_code, answer.output
    return " ".join(answer.output.split())


def test_letters_are_listed_with_their_counts_and_the_next_page(queue):
    shown = run("dead-letters", "list", "--stream", "rides")

    assert all(each in shown for each in ("1,200", "BAD_TYPE", "0-7", "--page 0-8"))
    assert "A letter counts under each of its reasons" in shown


def test_shown_letter_says_what_the_contract_says_now(queue):
    assert "the applied contract would refuse it: EMPTY" in run("dead-letters", "show", "0-7")


def test_column_that_a_reason_is_about_is_shown(queue):
    assert "reasons: BAD_TYPE fare; set aside 2 times" in run("dead-letters", "show", "0-7")
    assert "BAD_TYPE fare" in run("dead-letters", "list")


def test_redrive_tells_what_was_left_and_that_more_wait(queue):
    shown = run("dead-letters", "redrive", "--stream", "rides")

    assert "90 sent again left: 3 RECORD_LOST More wait: run it again." in shown


def test_dry_run_tells_how_many_would_be_sent(queue, monkeypatch):
    told = letters_pb.RedriveDeadLettersResponse(
        sent=7, refused_by_reason={"BAD_TYPE": 4, "NOT_NULL": 1}
    )
    monkeypatch.setattr(Letters, "redrive", lambda *_, **__: iter([told]))

    shown = run("dead-letters", "redrive", "--stream", "rides", "--dry-run")

    assert "2 would be sent, of 7 judged" in shown


def test_redrive_tells_how_a_record_that_ended_a_process_is_sent(queue, monkeypatch):
    told = letters_pb.RedriveDeadLettersResponse(skipped_by_reason={"POISON_CRASH": 2})
    monkeypatch.setattr(Letters, "redrive", lambda *_, **__: iter([told]))

    shown = run("dead-letters", "redrive", "--stream", "rides")

    assert "0 sent again left: 2 POISON_CRASH What ended a process is sent by its id" in shown


def test_letter_that_was_not_judged_is_shown_as_such(queue, monkeypatch):
    told = letters_pb.GetDeadLetterResponse(letter=LETTER, reasons_now=["POISON_CRASH"])
    monkeypatch.setattr(Letters, "get", lambda *_, **__: told)

    assert "now: not judged" in run("dead-letters", "show", "0-7")


def test_claimed_task_is_shown_with_what_it_is_about(queue):
    shown = run("labels", "claim", "late", "--as", "ann")

    assert "UA[1] as of 2013-03-01 09:15Z: score 0.500 by version 3 of delays (random)" in shown
    assert "score 0.750 by version 4 answered at 2013-03-01 09:15:01Z" in shown
    assert all(each in shown for each in ("wind:mean │ 0.1 ", "wind:last │ absent", "2 more"))


def test_id_of_a_task_is_shown_whole(queue):
    assert "0123456789abcdef" * 2 in run("labels", "tasks", "late")


def test_function_at_chance_is_told(queue):
    shown = run("labels", "weak", "late")

    assert "┘ poor is right no more often than chance: its votes count for nothing 4 of" in shown
    assert "4 of 10 records are labelled (1 new, 3 stood already); 2 weak labels are" in shown


def test_stopped_stream_of_the_labels_is_told_with_the_next_step(queue):
    shown = run("labels", "weak", "late")

    assert "reviews is stopped; what comes for it is kept TOO_MANY_DEAD_LETTERS" in shown
    assert "or restart ingest with" in shown
    assert "rides" not in shown


def test_exported_tasks_can_be_imported(queue, tmp_path):
    file = tmp_path / "tasks.json"
    assert "1 tasks written" in run("labels", "export", "late", str(file))

    assert "1 new answers taken, 0 the same" in run("labels", "import", str(file))
    assert [("t1", "ann", "late")] == queue.submitted


def test_import_goes_on_behind_an_answer_that_is_not_taken(queue, tmp_path):
    result = [{"type": "choices", "value": {"choices": ["late"]}}]
    people = [{"completed_by": {"email": who}, "result": result} for who in ("bob", "cy")]
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps([{"data": {"task_id": "t1"}, "annotations": people}]))

    assert "1 new answers taken, 0 the same as before left: 1 TASK_SETTLED" in run(
        "labels", "import", str(file)
    )


def test_import_tells_new_same_and_changed_answers(queue, tmp_path):
    said = {"ann": "late", "bea": "late", "cy": "on-time"}

    def answers(**choices):
        people = [
            {
                "completed_by": {"email": who},
                "result": [{"type": "choices", "value": {"choices": [choice]}}],
            }
            for who, choice in choices.items()
        ]
        file = tmp_path / "tasks.json"
        file.write_text(json.dumps([{"data": {"task_id": "t1"}, "annotations": people}]))
        return run("labels", "import", str(file))

    assert "3 new answers taken, 0 the same as before" in answers(**said)
    shown = answers(**{**said, "ann": "on-time", "dee": "late"})
    assert "1 new answers taken, 2 the same as before left: 1 changed since" in shown
    assert "since they were taken (TASK_ANSWERED)" in shown


def test_import_that_meets_a_foreign_task_has_told_what_was_taken(queue, tmp_path):
    result = [{"type": "choices", "value": {"choices": ["late"]}}]
    ours = {"data": {"task_id": "t1"}, "annotations": [{"completed_by": "cy", "result": result}]}
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps([ours, {"id": 7}]))

    answer = CliRunner().invoke(app, ["labels", "import", str(file)])

    assert 1 == answer.exit_code
    assert "1 new answers taken" in answer.stdout
    assert "it has no data" in answer.stderr


def test_import_of_an_answer_about_another_target_is_refused(queue, tmp_path):
    file = tmp_path / "tasks.json"
    run("labels", "export", "late", str(file))
    file.write_text(file.read_text().replace("UA1", "UA2"))

    answer = CliRunner().invoke(app, ["labels", "import", str(file)])

    assert 1 == answer.exit_code
    assert "0 new answers taken" in answer.stdout
    assert "target" in answer.stderr
    assert [] == queue.submitted


def test_import_of_two_exports_in_one_file_tells_that_the_second_is_left(queue, tmp_path):
    file = tmp_path / "tasks.json"
    run("labels", "export", "late", str(file))
    file.write_text(file.read_text() * 2)

    answer = CliRunner().invoke(app, ["labels", "import", str(file)])

    assert 1 == answer.exit_code
    assert "1 new answers taken" in answer.stdout
    assert "another array follows" in answer.stderr


def test_import_of_a_name_that_is_no_text_is_refused(queue, tmp_path):
    result = [{"type": "choices", "value": {"choices": ["late"]}}]
    annotations = [{"completed_by": "\ud800", "result": result}]
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps([{"data": {"task_id": "t1"}, "annotations": annotations}]))

    answer = CliRunner().invoke(app, ["labels", "import", str(file)])

    assert 1 == answer.exit_code
    assert "half a surrogate pair" in answer.stderr


def test_export_that_cannot_be_had_leaves_the_file_as_it_was(queue, tmp_path, monkeypatch):
    file = tmp_path / "tasks.json"
    file.write_text("mine")

    def absent(label, **_):
        raise NotFound("LABEL_UNKNOWN", label=label)
        yield

    monkeypatch.setattr(queue, "tasks", absent)

    assert 1 == CliRunner().invoke(app, ["labels", "export", "late", str(file)]).exit_code
    assert "mine" == file.read_text()


def test_export_to_a_folder_that_is_not_there_is_a_mistake_of_usage(queue, tmp_path):
    file = tmp_path / "absent" / "tasks.json"

    assert 2 == CliRunner().invoke(app, ["labels", "export", "late", str(file)]).exit_code
