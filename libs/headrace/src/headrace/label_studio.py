# SPDX-License-Identifier: Apache-2.0
"""Label tasks in Label Studio's JSON task format: files of any length, one task in memory.

The format is a JSON array of tasks with `data`, `annotations` (answers of people) and `predictions`
(what a model said): https://labelstud.io/guide/task_format. A labelling interface for these tasks
shows `$target` and has `<Choices name="label" toName="target">`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from math import isfinite
from typing import Any, NamedTuple, TextIO

from headrace.errors import Invalid
from headrace.ingest.v1 import label_service_pb2 as pb
from headrace.json_lines import BYTE_ORDER_MARK, json_problem
from headrace.labels import features_of

CHUNK_CHARACTERS = 65_536
TASK_CHARACTERS_MAX = 1 << 20
BLANKS = " \t\r\n"


class Answer(NamedTuple):
    """What a person said about a task; `label`, `target`: what the file says that it asks about."""

    task_id: str
    labeller: str
    choice: str
    label: str = ""
    target: str = ""


def write_tasks(file: TextIO, tasks: Iterable[pb.LabelTask]) -> int:
    """Write the tasks as one JSON array; how many there were."""
    count = 0
    file.write("[")
    for count, task in enumerate(tasks, start=1):
        file.write(",\n" if count > 1 else "\n")
        json.dump(_document(task), file, ensure_ascii=False)
    file.write("\n]\n")
    return count


def read_answers(file: TextIO) -> Iterator[Answer]:
    """The answers in a file of tasks, but those that are empty or were cancelled.

    Raises Invalid BAD_REQUEST with the number of the task that is none, or is not one of ours, and
    for what follows the array.
    """
    number = 0
    try:
        for task in _documents(file):
            number += 1
            yield from _answers(task)
    except UnicodeDecodeError as err:
        raise Invalid("BAD_REQUEST", task=number + 1, problem="is not UTF-8") from err
    except UnicodeEncodeError as err:
        raise _foreign(number, json_problem(err)) from err
    except KeyError as err:
        raise _foreign(number, f"it has no {err.args[0]}") from err
    except (TypeError, AttributeError) as err:
        raise _foreign(number, "it is not as headrace labels export writes one") from err


def _answers(task: Any) -> Iterator[Answer]:
    data = task["data"]
    task_id, *shown = map(_text, (data["task_id"], data.get("label", ""), data.get("target", "")))
    for annotation in task.get("annotations") or ():
        # Who submits without a choice writes an empty result.
        if not annotation.get("was_cancelled") and annotation["result"] != []:
            yield Answer(task_id, _labeller(annotation), _choice(annotation), *shown)


def _foreign(number: int, why: str) -> Invalid:
    return Invalid("BAD_REQUEST", task=number, problem=f"no task of ours: {why}")


def _document(task: pb.LabelTask) -> dict[str, Any]:
    data = {
        "task_id": task.task_id,
        "label": task.label,
        "target": task.target,
        "prediction_id": task.prediction_id,
        "as_of_us": task.as_of_us,
        "rule": task.rule,
        "version": task.version,
        "score": task.score,
        **(_item(task.item) if task.HasField("item") else {}),
    }
    prediction = {"model_version": str(task.version), "score": task.score, "result": []}
    annotations = [
        {"completed_by": {"email": answer.labeller}, "result": [_result(answer.choice)]}
        for answer in task.answers
    ]
    return {"data": data, "annotations": annotations, "predictions": [prediction]}


def _item(item: pb.LabelItem) -> dict[str, Any]:
    """`features` is for a `<Table>`: infinity is no JSON, and told by its name."""
    features = {
        name: value if value is None or isfinite(value) else str(value)
        for name, value in features_of(item).items()
    }
    told = {"model": item.model, "served_at_us": item.served_at_us, "features": features}
    if item.features_left_out:
        told["features_left_out"] = item.features_left_out
    if item.other_version:
        told |= {"other_version": item.other_version, "other_score": item.other_score}
    return told


def _result(choice: str) -> dict[str, Any]:
    value = {"choices": [choice]}
    return {"from_name": "label", "to_name": "target", "type": "choices", "value": value}


def _labeller(annotation: dict[str, Any]) -> str:
    """Label Studio gives a user's number, or the user. In JSON 1.0 is the number 1."""
    who = annotation["completed_by"]
    if isinstance(who, dict):
        who = who.get("email") or who["id"]
    if who is None or isinstance(who, bool):
        raise KeyError(f"person as completed_by, but {json.dumps(who)}")
    return _text(int(who) if isinstance(who, float) and who.is_integer() else who)


def _choice(annotation: dict[str, Any]) -> str:
    choices = [
        choice
        for each in annotation["result"]
        if each.get("type") == "choices"
        for choice in each["value"]["choices"]
    ]
    if len(choices) != 1:
        raise KeyError(f"single choice in an annotation, but {len(choices)}")
    return _text(choices[0])


def _text(value: object) -> str:
    """Raises UnicodeEncodeError for half a surrogate pair: JSON may name one, nothing sends it."""
    text = str(value)
    text.encode()
    return text


def _documents(file: TextIO) -> Iterator[Any]:
    """The elements of a JSON array, read piece by piece."""
    decoder, number = json.JSONDecoder(), 0
    text = _begun(file, _begun(file, "").removeprefix(BYTE_ORDER_MARK))
    if not text.startswith("["):
        raise Invalid("BAD_REQUEST", problem="is no JSON array of tasks")
    text = _begun(file, text[1:])
    while not text.startswith("]"):
        number += 1
        found, text = _element(decoder, file, text, number)
        yield found
        text = _begun(file, text)
        if text.startswith(","):
            text = _begun(file, text[1:])
    if rest := _begun(file, text[1:]):
        what = "another array" if rest.startswith("[") else "text"
        problem = f"{what} follows the array of tasks: a file holds one array"
        raise Invalid("BAD_REQUEST", tasks=number, problem=problem)


def _element(decoder: json.JSONDecoder, file: TextIO, text: str, number: int) -> tuple[Any, str]:
    """The first element of the text, read on until it is whole, and what follows it."""
    while True:
        try:
            found, end = decoder.raw_decode(text)
        except (ValueError, RecursionError) as err:
            cut = len(text) > TASK_CHARACTERS_MAX
            longer = "" if cut else file.read(CHUNK_CHARACTERS)
            if not longer:
                within = f" within {TASK_CHARACTERS_MAX:,} characters" if cut else ""
                problem = f"no JSON{within}: {json_problem(err)}"
                raise Invalid("BAD_REQUEST", task=number, problem=problem) from err
            text += longer
        else:
            return found, text[end:]


def _begun(file: TextIO, text: str) -> str:
    """The text without blanks before it; empty at the file's end."""
    text = text.lstrip(BLANKS)
    while not text and (more := file.read(CHUNK_CHARACTERS)):
        text = more.lstrip(BLANKS)
    return text
