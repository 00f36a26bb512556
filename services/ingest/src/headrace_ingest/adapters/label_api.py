# SPDX-License-Identifier: Apache-2.0
"""LabelService, and its protos to the domain and back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain, repeat
from math import isnan
from typing import Any

import grpc

from headrace.errors import Invalid
from headrace.ingest.v1 import label_service_pb2 as pb
from headrace.ingest.v1 import label_service_pb2_grpc
from headrace_ingest.domain.asked import bounded
from headrace_ingest.domain.label_tasks import Task, TaskState
from headrace_ingest.domain.labels import FoundLabel, LabelState, Target
from headrace_ingest.handlers.label_tasks import (
    FIRST,
    claim_task,
    get_agreement,
    skip_task,
    submit_label,
)
from headrace_ingest.handlers.look_up_labels import LookUpLabels, look_up_labels
from headrace_ingest.handlers.shown_items import ShownItem, ShownItems
from headrace_ingest.handlers.weak_labels import ApplyWeakLabels, apply_weak_labels
from headrace_ingest.ports.definitions import ContractBook, LabelBook
from headrace_ingest.ports.erasures import ModelVersions
from headrace_ingest.ports.labels import RecordRows, TaskStore
from headrace_kit.clock import Clock
from headrace_kit.kafka import Publisher

STATES = {
    LabelState.PENDING: pb.LABEL_STATE_PENDING,
    LabelState.KNOWN: pb.LABEL_STATE_KNOWN,
    LabelState.ABSENT: pb.LABEL_STATE_ABSENT,
}

TASK_STATES = {
    TaskState.OPEN: pb.TASK_STATE_OPEN,
    TaskState.ACCEPTED: pb.TASK_STATE_ACCEPTED,
    TaskState.DISPUTED: pb.TASK_STATE_DISPUTED,
}
TASK_STATE_OF = {number: state for state, number in TASK_STATES.items()}
PAGE_SIZE, PAGE_SIZE_MAX = 50, 500
# Each has up to 256 features, whose names may take 200 characters: within a message of 16 MiB.
PAGE_SIZE_MAX_WITH_ITEMS = 100
PAGE_TOKEN = re.compile(r"(\d{1,17})-([0-9a-f]{32})")


class LabelApi(label_service_pb2_grpc.LabelServiceServicer):
    """Answers from the archive, and keeps the tasks."""

    def __init__(
        self,
        *,
        labels: LabelBook,
        contracts: ContractBook,
        records: RecordRows,
        tasks: TaskStore,
        publisher: Publisher,
        clock: Clock,
        models: ModelVersions,
    ) -> None:
        self._items = ShownItems(tasks, models)
        self._labels, self._contracts, self._records = labels, contracts, records
        self._tasks, self._publisher, self._clock = tasks, publisher, clock

    def LookUpLabels(self, request: Any, context: grpc.ServicerContext) -> Any:
        command = LookUpLabels(
            request.label,
            [Target(target.key, target.as_of_us) for target in request.targets],
            request.known_until_us or self._clock.now_us(),
            request.with_weak,
        )
        found = look_up_labels(
            command, labels=self._labels, contracts=self._contracts, records=self._records
        )
        return pb.LookUpLabelsResponse(labels=map(_to_found, found))

    def ListTasks(self, request: Any, context: grpc.ServicerContext) -> Any:
        most = PAGE_SIZE_MAX_WITH_ITEMS if request.with_items else PAGE_SIZE_MAX
        size = bounded("page_size", request.page_size, default=PAGE_SIZE, most=most)
        found = self._tasks.listed(
            self._labels.get(request.label).name,
            TASK_STATE_OF.get(request.state, TaskState.OPEN),
            after=_after(request.page_token),
            tasks_max=size + 1,
        )
        page = found[:size]
        items = self._items.of([task for _, task in page]) if request.with_items else {}
        token = "" if len(found) <= size else f"{page[-1][0]}-{page[-1][1].task_id}"
        ids = [task.task_id for _, task in page] if request.with_answers else []
        answers = self._tasks.answers_of(ids) if ids else {}
        tasks = [
            _to_task(task, answers.get(task.task_id, ()), items.get(task.task_id))
            for _, task in page
        ]
        return pb.ListTasksResponse(tasks=tasks, next_page_token=token)

    def ClaimTask(self, request: Any, context: grpc.ServicerContext) -> Any:
        task, queue = claim_task(
            request.label, request.labeller, labels=self._labels, tasks=self._tasks
        )
        item = self._items.of([task]).get(task.task_id)
        return pb.ClaimTaskResponse(
            task=_to_task(task, item=item), choices=queue.choices, lease_s=queue.lease_s
        )

    def SubmitLabel(self, request: Any, context: grpc.ServicerContext) -> Any:
        task, new = submit_label(
            request.task_id,
            request.labeller,
            request.choice,
            labels=self._labels,
            contracts=self._contracts,
            tasks=self._tasks,
            clock=self._clock,
            claimed=not request.given_elsewhere,
            shown={"label": request.label, "target": request.target},
        )
        return pb.SubmitLabelResponse(task=_to_task(task), repeated=not new)

    def SkipTask(self, request: Any, context: grpc.ServicerContext) -> Any:
        skip_task(request.task_id, request.labeller, tasks=self._tasks)
        return pb.SkipTaskResponse()

    def GetAgreement(self, request: Any, context: grpc.ServicerContext) -> Any:
        found = get_agreement(request.label, labels=self._labels, tasks=self._tasks)
        counts = {state.value: count for state, count in found.count_by_state.items()}
        return pb.GetAgreementResponse(alpha=found.alpha, tasks=found.tasks, **counts)

    def ApplyWeakLabels(self, request: Any, context: grpc.ServicerContext) -> Any:
        report = apply_weak_labels(
            ApplyWeakLabels(request.label, request.from_us, request.until_us, request.dry_run),
            labels=self._labels,
            contracts=self._contracts,
            records=self._records,
            publisher=self._publisher,
            clock=self._clock,
        )
        functions = [
            pb.WeakFunctionFigures(function=name, **asdict(figures))
            for name, figures in report.figures.items()
        ]
        return pb.ApplyWeakLabelsResponse(
            records=report.records,
            labelled=report.labelled,
            taken_back=report.taken_back,
            added=report.added,
            stream=report.stream,
            functions=functions,
        )


def _after(token: str) -> tuple[int, str]:
    if not token:
        return FIRST
    if not (found := PAGE_TOKEN.fullmatch(token)):
        raise Invalid("BAD_REQUEST", field="page_token", problem="is not one of ours")
    return int(found[1]), found[2]


def _to_task(
    task: Task, answers: Sequence[tuple[str, str]] = (), item: ShownItem | None = None
) -> pb.LabelTask:
    return pb.LabelTask(
        task_id=task.task_id,
        label=task.label,
        prediction_id=task.prediction_id,
        target=task.target,
        as_of_us=task.as_of_us,
        version=task.version,
        score=task.score,
        rule=task.rule,
        wanted=task.wanted,
        state=TASK_STATES[task.state],
        value=task.value,
        answers=[pb.LabelAnswer(labeller=who, choice=choice) for who, choice in answers],
        item=None if item is None else _to_item(item),
    )


def _to_item(shown: ShownItem) -> pb.LabelItem:
    item = shown.item
    names = chain(shown.names, repeat(""))
    return pb.LabelItem(
        model=item.model,
        served_at_us=item.served_at_us,
        features=[
            pb.ItemFeature(name=name, value=None if isnan(value) else value)
            for name, value in zip(names, item.features, strict=False)
        ],
        features_left_out=item.left_out,
        other_version=item.other_version,
        other_score=item.other_score if item.other_version else None,
    )


def _to_found(found: FoundLabel) -> pb.FoundLabel:
    return pb.FoundLabel(
        state=STATES[found.state],
        value=None if found.value is None else _to_value(found.value),
        origin=found.origin,
        event_id=found.event_id,
        event_time_us=found.event_time_us,
        known_time_us=found.known_time_us,
    )


def _to_value(value: object) -> pb.LabelValue:
    match value:
        case bool():
            return pb.LabelValue(flag=value)
        case int():
            return pb.LabelValue(whole=value)
        case float():
            return pb.LabelValue(number=value)
        case _:
            return pb.LabelValue(text=str(value))
