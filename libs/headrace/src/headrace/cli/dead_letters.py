# SPDX-License-Identifier: Apache-2.0
"""headrace dead-letters: what was set aside and why, and sending it again once that is mended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.moments import second_text, time_option, to_us
from headrace.cli.output import out, show_table, told_errors
from headrace.connection import connect
from headrace.dead_letters import LetterFilter
from headrace.ingest.v1 import dead_letter_service_pb2 as pb

POISON_CRASH = "POISON_CRASH"
dead_letters = typer.Typer(
    no_args_is_help=True, help="What ingest set aside: list it, show it, send it again."
)
Stream = Annotated[str, typer.Option(help="Of this stream only.")]
Reason = Annotated[str, typer.Option(help="Of this reason only, such as BAD_TYPE.")]
Since = Annotated[datetime | None, time_option("Set aside since then", absent="no bound")]
Until = Annotated[datetime | None, time_option("Set aside before then", absent="no bound")]


@dead_letters.command("list")
def list_letters(
    stream: Stream = "",
    reason: Reason = "",
    since: Since = None,
    until: Until = None,
    *,
    rows: Annotated[int, typer.Option(help="Letters to show.", min=1, max=500)] = 20,
    page: Annotated[str, typer.Option(help="Go on from this token.")] = "",
    redriven: Annotated[bool, typer.Option(help="Also those that were sent again.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show the letters that wait, and count them by stream and reason.

    A letter counts under each of its reasons; `headrace streams` counts it by the first alone.

    headrace dead-letters list --stream flights.departed --reason OUT_OF_RANGE

    headrace dead-letters list --since 2013-03-01T00:00:00Z
    """
    with told_errors():
        found = connect(data_dir).dead_letters.page(
            _filter(stream, reason, since, until), size=rows, token=page, with_redriven=redriven
        )
    counts = Table("stream", "reason", "waiting", "redriven")
    for each in found.counts:
        counts.add_row(each.stream, each.reason, f"{each.waiting:,}", f"{each.redriven:,}")
    if found.counts:
        counts.caption = "A letter counts under each of its reasons."
    show_table(counts)
    if found.more_uncounted:
        out.print("Only the first letters are counted: narrow the time to count others.")
    table = Table("id", "stream", "place", "reasons", "tries", "set aside")
    for letter in found.letters:
        table.add_row(*_row(letter))
    show_table(table)
    if found.next_page_token:
        out.print(f"More: --page {found.next_page_token}")


@dead_letters.command()
def show(
    letter_id: Annotated[str, typer.Argument(help="The id, from the list.", metavar="ID")],
    bytes_max: Annotated[int, typer.Option(help="Bytes of the payload.", min=1, max=1 << 20)] = (
        4_096
    ),
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show one letter: headers, payload, what to mend, and what the applied contract says now.

    headrace dead-letters show 2-4711
    """
    with told_errors():
        found = connect(data_dir).dead_letters.get(letter_id, value_bytes_max=bytes_max)
    letter = found.letter
    lines = [
        f"record: {letter.stream}, partition {letter.partition}, offset {letter.offset}",
        f"key: {letter.key.decode('utf-8', 'backslashreplace')}",
        *(f"header {name}: {each!r}" for name, each in sorted(found.headers.items())),
        f"reasons: {_reasons(letter.faults)}; set aside {_times(letter)}, {_time(letter)}",
        *(f"next: {step}" for step in found.next_steps),
        f"now: {_now(found)}",
        f"payload, {letter.value_bytes} bytes, sha256 {letter.sha256}:",
        found.value.decode("utf-8", "backslashreplace") or "(nothing is kept)",
    ]
    out.print("\n".join(lines))


@dead_letters.command()
def redrive(
    ids: Annotated[list[str] | None, typer.Argument(help="These letters only.")] = None,
    stream: Stream = "",
    reason: Reason = "",
    since: Since = None,
    until: Until = None,
    *,
    letters_max: Annotated[int, typer.Option("--max", help="Letters to send.", min=1)] = 100_000,
    dry_run: Annotated[bool, typer.Option(help="Send nothing; tell what is refused.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Send records again as they were, after their contract or the code is mended.

    What would be refused again is left as it is, and counted. A record that is stored already
    counts as a repeat; one that fails all the same is a dead letter again.

        headrace dead-letters redrive --stream flights.departed --reason OUT_OF_RANGE --dry-run

        headrace dead-letters redrive --stream flights.departed --reason OUT_OF_RANGE

        headrace dead-letters redrive 2-4711 0-12
    """
    verb = "judged" if dry_run else "sent again"
    last = pb.RedriveDeadLettersResponse()
    with told_errors():
        progress = connect(data_dir).dead_letters.redrive(
            _filter(stream, reason, since, until),
            ids=tuple(dict.fromkeys(ids or ())),
            dry_run=dry_run,
            letters_max=letters_max,
        )
        with out.status("reading the dead letters") as shown:
            for last in progress:
                shown.update(f"{last.sent:,} {verb}")
    if dry_run:
        fit = last.sent - sum(last.refused_by_reason.values())
        out.print(f"{fit:,} would be sent, of {last.sent:,} judged")
    else:
        out.print(f"{last.sent:,} {verb}")
    _tell("would be refused again" + ("" if dry_run else ", left"), last.refused_by_reason)
    _tell("left", last.skipped_by_reason)
    if last.skipped_by_reason.get(POISON_CRASH):
        out.print("What ended a process is sent by its id alone: headrace dead-letters redrive ID")
    if last.more:
        out.print("More wait: run it again.")
    if not dry_run:
        out.print("What became of them: headrace streams")


def _filter(
    stream: str, reason: str, since: datetime | None, until: datetime | None
) -> LetterFilter:
    bounds = [0 if each is None else to_us(each) // 1_000 for each in (since, until)]
    return LetterFilter(stream, reason, *bounds)


def _row(letter: pb.DeadLetter) -> tuple[str, ...]:
    state = " (sent again)" if letter.redriven else ""
    place = f"{letter.partition}:{letter.offset}"
    reasons = _reasons(letter.faults) + state
    return letter.id, letter.stream, place, reasons, str(letter.attempt), _time(letter)


def _reasons(faults: Iterable[pb.RecordFault]) -> str:
    """Each with its column or rule."""
    return ", ".join(" ".join(filter(None, (each.reason, each.place))) for each in faults)


def _times(letter: pb.DeadLetter) -> str:
    return "once" if letter.attempt == 1 else f"{letter.attempt} times"


def _time(letter: pb.DeadLetter) -> str:
    return second_text(letter.set_aside_ms * 1_000)


def _now(found: pb.GetDeadLetterResponse) -> str:
    if found.letter.redriven:
        return "sent again, or set aside once more as another letter"
    if POISON_CRASH in found.reasons_now:
        return "not judged, since it ended a process: send it by its id once ingest is mended"
    if found.faults_now:
        return f"the applied contract would refuse it: {_reasons(found.faults_now)}"
    return "the applied contract would take it; send it: headrace dead-letters redrive"


def _tell(what: str, count_by_reason: Mapping[str, int]) -> None:
    for reason, count in sorted(count_by_reason.items()):
        if count:
            out.print(f"  {what}: {count:,} {reason}")
