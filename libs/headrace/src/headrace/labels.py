# SPDX-License-Identifier: Apache-2.0
"""The client's way to labels: what is true of entities and predictions, and who says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grpc

from headrace.ingest.v1 import label_service_pb2 as pb
from headrace.ingest.v1 import label_service_pb2_grpc
from headrace.rpc import call, pages

READ_TIMEOUT_S = 30.0
TASK_TIMEOUT_S = 5.0
WEAK_TIMEOUT_S = 60.0
PAGE_SIZE = 500


def features_of(item: pb.LabelItem) -> dict[str, float | None]:
    """The features of a task's item by their names, or by their places where these are not known;
    None: it was absent."""
    return {
        each.name or f"feature {place}": each.value if each.HasField("value") else None
        for place, each in enumerate(item.features)
    }


class Labels:
    """LabelService of an ingest process."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = label_service_pb2_grpc.LabelServiceStub(channel)

    def look_up(
        self,
        label: str,
        targets: Sequence[tuple[str, int]],
        *,
        known_until_us: int = 0,
        with_weak: bool = False,
    ) -> list[pb.FoundLabel]:
        """The label of each (key, as_of_us), in order, as known then or now.

        Raises NotFound LABEL_UNKNOWN, Busy BATCH_TOO_LARGE for more than 1,000 targets.
        """
        request = pb.LookUpLabelsRequest(
            label=label,
            targets=[pb.LabelTarget(key=key, as_of_us=as_of_us) for key, as_of_us in targets],
            known_until_us=known_until_us,
            with_weak=with_weak,
        )
        answer = call(self._stub.LookUpLabels, request, timeout_s=READ_TIMEOUT_S, retries_max=2)
        return list(answer.labels)

    def tasks(
        self,
        label: str,
        *,
        state: pb.TaskState = pb.TASK_STATE_OPEN,
        with_answers: bool = False,
        with_items: bool = False,
    ) -> Iterator[pb.LabelTask]:
        """The tasks of the label's queue in this state, oldest first, page after page."""
        request = pb.ListTasksRequest(
            label=label,
            state=state,
            page_size=PAGE_SIZE,
            with_answers=with_answers,
            with_items=with_items,
        )
        for page in pages(self._stub.ListTasks, request, timeout_s=TASK_TIMEOUT_S, retries_max=2):
            yield from page.tasks

    def claim(self, label: str, labeller: str) -> pb.ClaimTaskResponse:
        """Hold the oldest task that waits for this labeller; asked again, it is the same.

        Raises NotFound NO_TASK.
        """
        request = pb.ClaimTaskRequest(label=label, labeller=labeller)
        return call(self._stub.ClaimTask, request, timeout_s=TASK_TIMEOUT_S, retries_max=2)

    def submit(self, task_id: str, labeller: str, choice: str) -> pb.LabelTask:
        """Answer a held task; the label of enough answers is published.

        Raises Conflict LEASE_LOST, TASK_ANSWERED or TASK_SETTLED.
        """
        request = pb.SubmitLabelRequest(task_id=task_id, labeller=labeller, choice=choice)
        return self._submitted(request).task

    def take_answer(
        self, task_id: str, labeller: str, choice: str, label: str = "", target: str = ""
    ) -> bool:
        """Store an answer that was given elsewhere, without a claim; whether it is a new one.

        `label`, `target`: what the labeller was shown, as far as that is known. Raises Conflict
        TASK_ANSWERED, where the labeller answered otherwise, or TASK_SETTLED, Invalid BAD_REQUEST
        where the task asks about something else.
        """
        request = pb.SubmitLabelRequest(
            task_id=task_id,
            labeller=labeller,
            choice=choice,
            given_elsewhere=True,
            label=label,
            target=target,
        )
        return not self._submitted(request).repeated

    def _submitted(self, request: pb.SubmitLabelRequest) -> pb.SubmitLabelResponse:
        return call(self._stub.SubmitLabel, request, timeout_s=TASK_TIMEOUT_S, retries_max=2)

    def skip(self, task_id: str, labeller: str) -> None:
        """Leave a held task to others; once more changes nothing.

        Raises Conflict LEASE_LOST, also for a task that was answered.
        """
        request = pb.SkipTaskRequest(task_id=task_id, labeller=labeller)
        call(self._stub.SkipTask, request, timeout_s=TASK_TIMEOUT_S, retries_max=2)

    def agreement(self, label: str) -> pb.GetAgreementResponse:
        """How far the labellers agree, and how many tasks are open, accepted, disputed."""
        request = pb.GetAgreementRequest(label=label)
        return call(self._stub.GetAgreement, request, timeout_s=READ_TIMEOUT_S, retries_max=2)

    def apply_weak(
        self, label: str, *, from_us: int, until_us: int, dry_run: bool = False
    ) -> pb.ApplyWeakLabelsResponse:
        """Lets the functions vote on the records of that event time; adds nothing twice, and takes
        back what they do not give any more.

        Raises Busy BATCH_TOO_LARGE for more than 100,000 records.
        """
        request = pb.ApplyWeakLabelsRequest(
            label=label, from_us=from_us, until_us=until_us, dry_run=dry_run
        )
        return call(self._stub.ApplyWeakLabels, request, timeout_s=WEAK_TIMEOUT_S, retries_max=2)
