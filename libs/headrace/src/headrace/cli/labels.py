# SPDX-License-Identifier: Apache-2.0
"""headrace labels: what is true, and the predictions that people are asked about."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.moments import minute_text, second_text, time_option, to_us
from headrace.cli.output import out, show_table, tell_unread, told_errors, written
from headrace.connection import connect
from headrace.errors import Conflict, NotFound
from headrace.ingest.v1 import label_service_pb2 as pb
from headrace.label_studio import Answer, read_answers, write_tasks
from headrace.labels import Labels, features_of

labels = typer.Typer(
    no_args_is_help=True, help="Label queues: predictions that people are asked about."
)
Label = Annotated[str, typer.Argument(help="The label definition's name.")]
TaskId = Annotated[str, typer.Argument(help="The task's id.")]
Labeller = Annotated[str, typer.Option("--as", help="Who answers.", envvar="HEADRACE_LABELLER")]
Since = Annotated[datetime | None, time_option("Records true since then", absent="no bound")]
Until = Annotated[datetime | None, time_option("Records true before then", absent="no bound")]
ROWS_MAX = 50
# What becomes of an imported answer; others are left for another reason.
NEW, SAME, CHANGED = "new", "same", "TASK_ANSWERED"
TIME_LAST_US = 7_258_118_400_000_000  # 2200-01-01


class State(StrEnum):
    """Of a task."""

    OPEN = "open"
    ACCEPTED = "accepted"
    DISPUTED = "disputed"


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
    show_table(table)
    alpha = f"{found.alpha:.3f}" if found.HasField("alpha") else "not known yet"
    counts = f"{found.open} open, {found.accepted} accepted, {found.disputed} disputed"
    out.print(f"{counts}; Krippendorff's alpha over {found.tasks} tasks: {alpha}")


@labels.command()
def claim(label: Label, labeller: Labeller, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Hold the oldest task that waits for you, and show what is known of it; asked again, it is the
    same one.

    headrace labels claim late --as ann
    """
    with told_errors():
        found = connect(data_dir).labels.claim(label, labeller)
    task = found.task
    _show_item(task)
    choices = ", ".join(found.choices)
    out.print(f"Answer within {found.lease_s} s, one of: {choices}")
    out.print(f"headrace labels answer {task.task_id} CHOICE --as {labeller}")


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
    out.print(said.get(found.state, f"Noted; {found.wanted} answers are wanted"))


@labels.command()
def skip(task: TaskId, labeller: Labeller, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Leave a task that you hold to others.

    headrace labels skip 5a0c... --as ann
    """
    with told_errors():
        connect(data_dir).labels.skip(task, labeller)
    out.print("Left to others.")


@labels.command()
def weak(
    label: Label,
    since: Annotated[datetime | None, time_option("Records true since then", absent="1970")] = None,
    until: Annotated[
        datetime | None, time_option("Records true before then", absent="2200")
    ] = None,
    *,
    dry_run: Annotated[bool, typer.Option(help="Publish nothing.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Let the label's functions vote, publish what they agree on as weak labels, and show each.

    headrace labels weak late --since 2013-01-01T00:00:00Z --until 2013-02-01T00:00:00Z --dry-run
    """
    from_us = 0 if since is None else to_us(since)
    until_us = TIME_LAST_US if until is None else to_us(until)
    with told_errors():
        client = connect(data_dir)
        found = client.labels.apply_weak(label, from_us=from_us, until_us=until_us, dry_run=dry_run)
    table = Table("function", "coverage", "overlap", "conflict", "accuracy")
    for each in found.functions:
        shares = (each.coverage, each.overlap, each.conflict)
        accuracy = f"{each.accuracy:.3f}" if each.HasField("accuracy") else ""
        table.add_row(each.function, *(f"{share:.1%}" for share in shares), accuracy)
    show_table(table)
    for each in found.functions:
        if each.at_chance:
            told = "is right no more often than chance: its votes count for nothing"
            out.print(f"{each.function} {told}")
    verb = "would be" if dry_run else "are"
    taken_back = f"; {found.taken_back:,} weak labels {verb} taken back" if found.taken_back else ""
    # An ingest of before does not name the stream, nor count what is new.
    stood = found.labelled - found.added
    new = f" ({found.added:,} new, {stood:,} stood already)" if found.stream else ""
    out.print(f"{found.labelled:,} of {found.records:,} records {verb} labelled{new}{taken_back}")
    tell_unread(lambda: [each for each in client.stream_counts() if each.stream == found.stream])


@labels.command("export")
def export_tasks(
    label: Label,
    file: Annotated[Path, typer.Argument(help="The JSON file to write.", dir_okay=False)],
    state: Annotated[State, typer.Option(help="Tasks in this state.")] = State.OPEN,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write tasks with their answers in Label Studio's JSON task format.

    headrace labels export late tasks.json
    """
    wanted = pb.TaskState.Value(f"TASK_STATE_{state.name}")
    with told_errors():
        tasks = connect(data_dir).labels.tasks(
            label, state=wanted, with_answers=True, with_items=True
        )
        first = [*islice(tasks, 1)]  # what cannot be had at all leaves the file as it is
        with written(file) as opened:
            count = write_tasks(opened, chain(first, tasks))
    out.print(f"{count:,} tasks written to {file}")


@labels.command("import")
def import_answers(
    file: Annotated[
        Path, typer.Argument(help="A JSON file of tasks.", exists=True, dir_okay=False)
    ],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Take the answers of a file in Label Studio's JSON task format. May be repeated.

    headrace labels import annotated.json
    """
    told = Counter[str]()
    with told_errors(), file.open(encoding="utf-8") as opened:
        client = connect(data_dir).labels
        try:
            told.update(_submitted(client, each) for each in read_answers(opened))
        finally:
            new, same, changed = (told.pop(each, 0) for each in (NEW, SAME, CHANGED))
            out.print(f"{new:,} new answers taken, {same:,} the same as before")
            if changed:
                out.print(f"  left: {changed:,} changed since they were taken ({CHANGED})")
            for reason, count in sorted(told.items()):
                out.print(f"  left: {count:,} {reason}")


def _show_item(task: pb.LabelTask) -> None:
    """What the labeller judges by."""
    item = task.item
    version = f"version {task.version}" + (f" of {item.model}" if item.model else "")
    as_of = minute_text(task.as_of_us)
    told = f"{task.target} as of {as_of}: score {task.score:.3f} by {version} ({task.rule})"
    out.print(told)
    if item.other_version:
        out.print(f"score {item.other_score:.3f} by version {item.other_version}")
    if item.served_at_us:
        out.print(f"answered at {second_text(item.served_at_us)}")
    table = Table("feature", "value")
    for name, value in features_of(item).items():
        # As many digits as float32 is sure of.
        table.add_row(name, "absent" if value is None else f"{value:.7g}")
    if item.features_left_out:
        table.caption = f"and {item.features_left_out:,} more"
    if item.features:
        show_table(table)


def _submitted(client: Labels, answer: Answer) -> str:
    """What became of it: NEW, SAME, or the reason why it is left."""
    try:
        return NEW if client.take_answer(*answer) else SAME
    except (Conflict, NotFound) as error:
        return error.reason


def _row(task: pb.LabelTask) -> tuple[str, ...]:
    as_of, score = minute_text(task.as_of_us), f"{task.score:.3f}"
    return task.task_id, task.target, as_of, score, str(task.version), task.rule
