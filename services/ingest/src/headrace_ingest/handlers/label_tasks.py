# SPDX-License-Identifier: Apache-2.0
"""The label queue: predictions become tasks, people answer, and what they agree on is published.

An accepted label goes to the label's own stream as any record does, under the task's id, so that
contract, archive, training sets and monitors see it as the truth that it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from headrace import topics
from headrace.errors import Invalid, NotFound
from headrace.label_definition import LabelDefinition, LabelQueue
from headrace_ingest.domain.agreement import krippendorff_alpha
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.label_tasks import Served, Task, TaskState, item_of, settle, task_of
from headrace_ingest.handlers.erased_tasks import about_erased
from headrace_ingest.ports.definitions import ContractBook, LabelBook
from headrace_ingest.ports.labels import TaskStore
from headrace_kit.clock import Clock
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.kafka import Message

HUMAN = "human"
LABELLER_CHARACTERS_MAX = 128
CHOICE_CHARACTERS_TOLD_MAX = 128
FIRST = (0, "")


@dataclass(frozen=True, slots=True)
class Agreement:
    """Krippendorff's alpha over the newest tasks; None when nothing can be said yet."""

    alpha: float | None
    tasks: int
    count_by_state: Mapping[TaskState, int]


def put_to_people(
    served: Sequence[Served],
    positions: Mapping[tuple[str, int], int],
    *,
    labels: LabelBook,
    drifted: Callable[[Served], bool],
    tasks: TaskStore,
    erased: ErasedEntities,
) -> int:
    """Store the tasks of these predictions with the position behind them; how many are new.

    A task beyond `tasks_max` open ones is not put: it was a sample.
    """
    queues = {label.name: label.queue for label in labels.all() if label.queue is not None}
    found = [
        (task, item_of(each))
        for label in labels.all()
        if label.name in queues
        for each in served
        if each.endpoint == queues[label.name].endpoint
        and (task := task_of(each, label, drifted=drifted(each))) is not None
        and not about_erased(task, label, each.entity_key, erased)
    ]
    open_max = {name: queue.tasks_max for name, queue in queues.items()}
    return tasks.add(found, open_max, positions)


def claim_task(
    label: str, labeller: str, *, labels: LabelBook, tasks: TaskStore
) -> tuple[Task, LabelQueue]:
    """The oldest task that waits for this labeller, held for the queue's lease.

    Raises NotFound LABEL_UNKNOWN or NO_TASK, Invalid BAD_REQUEST.
    """
    _check_labeller(labeller)
    queue = _queue(labels.get(label))
    task = tasks.claim(label, labeller, lease_s=queue.lease_s)
    if task is None:
        raise NotFound("NO_TASK", label=label)
    return task, queue


def submit_label(
    task_id: str,
    labeller: str,
    choice: str,
    *,
    labels: LabelBook,
    contracts: ContractBook,
    tasks: TaskStore,
    clock: Clock,
    claimed: bool = True,
    shown: Mapping[str, str] = {},
) -> tuple[Task, bool]:
    """Store the answer; once enough agree, the label is on its way to its stream.

    The task, and whether the answer is new: the same one again changes nothing. Raises NotFound
    TASK_UNKNOWN, LABEL_UNKNOWN or STREAM_UNKNOWN, Invalid BAD_REQUEST for no choice of the queue's
    or where the labeller was `shown` another label or target, Conflict TASK_ANSWERED, TASK_SETTLED,
    or LEASE_LOST unless the answer was given elsewhere, without a claim.
    """
    _check_labeller(labeller)
    task = tasks.get(task_id)
    _check_shown(task, shown)
    label = labels.get(task.label)
    queue, contract = _queue(label), contracts.get(label.stream)
    if choice not in queue.choices:
        problem = f"is none of {', '.join(queue.choices)}"
        raise Invalid(
            "BAD_REQUEST",
            field="choice",
            task_id=task_id,
            choice=choice[:CHOICE_CHARACTERS_TOLD_MAX],
            problem=problem,
        )
    message = partial(answer_message, label=label, contract=contract, now_us=clock.now_us())
    return tasks.submit(
        task_id,
        labeller,
        choice,
        lambda choices, wanted: settle(choices, wanted, queue),
        message,
        claimed=claimed,
    )


def skip_task(task_id: str, labeller: str, *, tasks: TaskStore) -> None:
    """Another one shall answer. Raises NotFound TASK_UNKNOWN, Conflict LEASE_LOST."""
    _check_labeller(labeller)
    tasks.skip(task_id, labeller)


def get_agreement(label: str, *, labels: LabelBook, tasks: TaskStore) -> Agreement:
    """Raises NotFound LABEL_UNKNOWN, Invalid BAD_REQUEST for a label without a queue."""
    _queue(labels.get(label))
    answers = tasks.answers(label)
    several = sum(len(some) > 1 for some in answers)
    return Agreement(krippendorff_alpha(answers), several, tasks.counts(label))


def answer_message(
    task: Task, *, label: LabelDefinition, contract: Contract, now_us: int
) -> Message:
    """The record of an accepted task: true as of the prediction, known now."""
    stream, queue = contract.stream, _queue(label)
    value: dict[str, object] = {
        stream.id: task.task_id,
        label.key: task.target,
        stream.event_time: task.as_of_us,
        queue.answer: task.value,
        str(label.origin): HUMAN,
    }
    if stream.known_time:
        value[stream.known_time] = now_us
    return Message(
        topics.RAW.of(stream.name),
        task.target.encode(),
        json.dumps(value).encode(),
        (("ce_id", task.task_id.encode()),),
    )


def _queue(label: LabelDefinition) -> LabelQueue:
    if label.queue is None:
        problem = f"{label.name} has no queue: declare one (docs/labels.md)"
        raise Invalid("BAD_REQUEST", field="label", problem=problem)
    return label.queue


def _check_shown(task: Task, shown: Mapping[str, str]) -> None:
    """An answer about something else is none of this task's; an empty text tells nothing."""
    for field, asked in (("label", task.label), ("target", task.target)):
        if shown.get(field, "") not in ("", asked):
            problem = "is not what the task asks about"
            raise Invalid("BAD_REQUEST", field=field, task_id=task.task_id, problem=problem)


def _check_labeller(labeller: str) -> None:
    if not labeller or len(labeller) > LABELLER_CHARACTERS_MAX or "\0" in labeller:
        problem = f"must have 1 to {LABELLER_CHARACTERS_MAX} characters, and no zero byte"
        raise Invalid("BAD_REQUEST", field="labeller", problem=problem)
