# SPDX-License-Identifier: Apache-2.0
"""headrace datasets: rows that never change, by name, number and tag."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.moments import EPOCH, minute_text, time_option, to_us
from headrace.cli.output import out, show_table, told_errors
from headrace.connection import connect
from headrace.errors import Invalid
from headrace.ingest.v1 import datasets_pb2 as pb

app = typer.Typer(
    no_args_is_help=True,
    help="Rows that never change: NAME is the newest one, NAME/3 a number, NAME@gold a tag.",
)
Name = Annotated[str, typer.Argument(help="The name of the datasets.")]
Dataset = Annotated[str, typer.Argument(help="NAME, NAME/NUMBER or NAME@TAG.")]
Number = Annotated[int, typer.Argument(help="The number of the dataset.", min=1, max=999_999)]


@app.command()
def create(
    name: Name,
    *,
    stream: Annotated[str, typer.Option(help="The stream that the rows are of.")] = "",
    view: Annotated[str, typer.Option(help="A view, for the rows of its feature table.")] = "",
    filter: Annotated[str, typer.Option(help="Which rows, as an expression of columns.")] = "",
    version: Annotated[
        int | None, typer.Option(help="Version of the table; the newest if absent.", min=0)
    ] = None,
    until: Annotated[datetime | None, time_option("Only what was known then")] = None,
    description: Annotated[str, typer.Option(help="What it is for, for people.")] = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Name rows of a stream for good, with statistics and a digest.

    headrace datasets create winter --stream flights.departed --filter "origin = 'JFK'"
    """
    with told_errors():
        made = connect(data_dir).datasets.create(
            name,
            stream=stream,
            view=view,
            filter=filter,
            description=description,
            delta_version=version,
            known_until_us=0 if until is None else to_us(until),
        )
    out.print(f"{made.name}/{made.number}: {made.rows:,} rows, digest {made.digest}")


@app.command("list")
def list_datasets(
    name: Annotated[str, typer.Argument(help="Of this name only.")] = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """List the datasets, newest first.

    headrace datasets list
    """
    table = Table("dataset", "tags", "rows", "stream", "version", "filter", "created")
    with told_errors():
        for each in connect(data_dir).datasets.list(name):
            table.add_row(
                f"{each.name}/{each.number}",
                ", ".join(each.tags),
                f"{each.rows:,}",
                each.view or each.stream,
                str(each.delta_version),
                each.filter,
                minute_text(each.created_at_us),
            )
    show_table(table)


@app.command()
def show(dataset: Dataset, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show what a dataset is made of and how its columns look.

    headrace datasets show winter@gold
    """
    with told_errors():
        found = connect(data_dir).datasets.get(dataset)
    table = Table("column", "type", "null", "distinct", "least", "mean", "median", "most", "values")
    all_rows = found.rows + found.rows_erased  # statistics and digest are of these
    for each in found.columns:
        table.add_row(*_column_row(each, all_rows))
    source = f"{found.stream} at version {found.delta_version}"
    out.print(f"{found.name}/{found.number} {' '.join(found.tags)}: {found.description}")
    out.print(f"{found.rows:,} rows of {source}, contract {found.contract_version}")
    if found.filter:
        out.print(f"filter: {found.filter}")
    out.print(f"digest {found.digest}, created {minute_text(found.created_at_us)}")
    if found.rows_erased:
        out.print(f"{found.rows_erased:,} more rows were erased since: the digest and the columns")
        out.print(f"are of all {all_rows:,}, and the digest is no longer that of the rows")
    show_table(table)


@app.command()
def tag(
    name: Name,
    number: Number,
    tag: Annotated[str, typer.Argument(help="The tag, such as gold.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Point a tag to a dataset; it moves if it points elsewhere.

    headrace datasets tag winter 3 gold
    """
    with told_errors():
        moved = connect(data_dir).datasets.tag(name, number, tag)
    out.print(f"{moved.name}@{moved.tag} is {moved.name}/{moved.number}")


@app.command()
def diff(base: Dataset, other: Dataset, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Compare two datasets: rows by event id, columns, distributions.

    headrace datasets diff winter/1 winter/2
    """
    with told_errors(), out.status("comparing") as shown:
        client = connect(data_dir)
        found = client.datasets.diff(base, other, said=lambda step: shown.update(f"{step}"))
    table = Table("rows", "number", "some ids")
    for kind in ("added", "removed", "changed"):
        ids = ", ".join(getattr(found, f"{kind}_ids"))
        table.add_row(kind, f"{getattr(found, f'rows_{kind}'):,}", ids)
    show_table(table)
    for change in found.columns:
        before, after = change.type_before or "absent", change.type_after or "absent"
        out.print(f"column {change.column}: {before} became {after}")
    shifts = Table("column", "PSI beyond chance", "chance of so much")
    for each in sorted(found.shifts, key=lambda shift: shift.p_value):
        shifts.add_row(each.column, f"{each.psi:.4f}", f"{each.p_value:.3g}")
    show_table(shifts)


@app.command()
def read(
    dataset: Dataset,
    to: Annotated[Path, typer.Option(help="A new file: .parquet, .csv or .arrow.")],
    column: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write the rows of a dataset to a file, however many they are.

    headrace datasets read winter@gold --to winter.parquet
    """
    with told_errors():
        rows = connect(data_dir).datasets.read(dataset, column or ())
        try:
            count = _write(rows.batches(), to)
        except OSError as err:
            raise typer.BadParameter(f"{to}: {err.strerror or err}", param_hint="--to") from err
    out.print(f"{count:,} rows written to {to}")


@app.command()
def delete(name: Name, number: Number, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Give a dataset up: its number stays used, its rows go when the stream's retention says so.

    headrace datasets delete winter 1
    """
    with told_errors():
        connect(data_dir).datasets.delete(name, number)
    out.print(f"{name}/{number} is deleted.")


def _write(batches: object, file: Path) -> int:
    """Batch by batch; raises Invalid BAD_REQUEST for a file that exists or of another kind."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    writers = {
        ".parquet": parquet.ParquetWriter,
        ".csv": csv.CSVWriter,
        ".arrow": pa.ipc.new_file,
    }
    if file.suffix not in writers or file.exists():
        problem = f"must be new and end in one of {', '.join(writers)}"
        raise Invalid("BAD_REQUEST", file=file, problem=problem)
    count = 0
    with batches as reader, writers[file.suffix](str(file), reader.schema) as writer:  # type: ignore[attr-defined]
        for batch in reader:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def _column_row(each: pb.ColumnStatistics, rows: int) -> tuple[str, ...]:
    numbers = ["", "", "", ""]
    if each.quantiles:
        shown = _moment if each.type == "timestamp" else "{:.6g}".format
        numbers = [shown(n) for n in (each.min, each.mean, each.quantiles[3], each.max)]
    null = f"{each.nulls / rows:.1%}" if rows else ""
    distinct = min(each.distinct, rows)  # older datasets keep the bare estimate
    return each.column, each.type, null, f"{distinct:,}", *numbers, ", ".join(each.values)


def _moment(time_us: float) -> str:
    """As ISO 8601 writes it; one that no calendar holds stays a number."""
    try:
        return (EPOCH + timedelta(microseconds=round(time_us))).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:
        return f"{time_us:.6g}"
