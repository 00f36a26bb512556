# SPDX-License-Identifier: Apache-2.0
"""headrace labels: what is true, and the predictions that people are asked about."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir, connect
from headrace.cli.output import out, told_errors
from headrace.ingest.v1 import label_service_pb2 as pb

labels = typer.Typer(
    no_args_is_help=True, help="Label queues: predictions that people are asked about."
)
Label = Annotated[str, typer.Argument(help="The label definition's name.")]
TaskId = Annotated[str, typer.Argument(help="The task's id.")]
Labeller = Annotated[str, typer.Option("--as", help="Who answers.", envvar="HEADRACE_LABELLER")]
ROWS_MAX = 50


@labels.command()
def tasks(
    label: Label,
    rows: Annotated[int, typer.Option(help="Tasks to show.", min=1, max=500)] = ROWS_MAX,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show the tasks that wait for answers, and how far the labellers agree.

    headrace labels tasks late
    """
    with told_errors():
        client = connect(data_dir).labels
        found = client.agreement(label)
        waiting = [task for task, _ in zip(client.tasks(label), range(rows), strict=False)]
    table = Table("task", "target", "as of", "score", "version", "rule")
    for task in waiting:
        table.add_row(*_row(task))
    out.print(table)
    alpha = f"{found.alpha:.3f}" if found.HasField("alpha") else "not known yet"
    counts = f"{found.open} open, {found.accepted} accepted, {found.disputed} disputed"
    out.print(f"{counts}; Krippendorff's alpha over {found.tasks} tasks: {alpha}")


@labels.command()
def claim(label: Label, labeller: Labeller, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Hold the oldest task that waits for you; asked again, it is the same one.

    headrace labels claim late --as ann
    """
    with told_errors():
        found = connect(data_dir).labels.claim(label, labeller)
    task = found.task
    out.print(f"{task.target}: score {task.score:.3f} of version {task.version} ({task.rule})")
    choices = ", ".join(found.choices)
    out.print(f"Answer within {found.lease_s} s, one of: {choices}", markup=False)
    out.print(f"headrace labels answer {task.task_id} CHOICE --as {labeller}", markup=False)


@labels.command()
def answer(
    task: TaskId,
    choice: Annotated[str, typer.Argument(help="One of the queue's choices.")],
    labeller: Labeller,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Answer a task that you hold. Once enough agree, the label is published.

    headrace labels answer 5a0c... late --as ann
    """
    with told_errors():
        found = connect(data_dir).labels.submit(task, labeller, choice)
    said = {
        pb.TASK_STATE_ACCEPTED: f"Accepted: {found.value}",
        pb.TASK_STATE_DISPUTED: "Disputed: too few agree",
    }
    out.print(said.get(found.state, f"Noted; {found.wanted} answers are wanted"), markup=False)


@labels.command()
def skip(task: TaskId, labeller: Labeller, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Leave a task that you hold to others.

    headrace labels skip 5a0c... --as ann
    """
    with told_errors():
        connect(data_dir).labels.skip(task, labeller)
    out.print("Left to others.")


def _row(task: pb.LabelTask) -> tuple[str, ...]:
    as_of = f"{datetime.fromtimestamp(task.as_of_us / 1e6, UTC):%Y-%m-%d %H:%M}Z"
    return task.task_id, task.target, as_of, f"{task.score:.3f}", str(task.version), task.rule
