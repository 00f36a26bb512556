# SPDX-License-Identifier: Apache-2.0
"""`headrace datasets show` tells how columns look: times as times, and no more values than rows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from headrace.cli import datasets
from headrace.cli.main import app
from headrace.ingest.v1 import datasets_pb2 as pb

HOUR_US = 3_600_000_000
NOON_US = 1_362_139_200_000_000  # 2013-03-01T12:00:00Z


def a_column(name: str, type_: str, least: float, most: float) -> pb.ColumnStatistics:
    middle = (least + most) / 2
    return pb.ColumnStatistics(
        column=name, type=type_, nulls=2, distinct=11, min=least, max=most, mean=middle,
        quantiles=[middle] * 7,
    )  # fmt: skip


def shown_of(monkeypatch: pytest.MonkeyPatch, found: pb.Dataset) -> str:
    client = SimpleNamespace(datasets=SimpleNamespace(get=lambda reference: found))
    monkeypatch.setattr(datasets, "connect", lambda data_dir: client)
    return CliRunner().invoke(app, ["datasets", "show", "winter"]).stdout


def row_of(
    monkeypatch: pytest.MonkeyPatch, column: pb.ColumnStatistics, *, rows_erased: int = 0
) -> list[str]:
    rows = 10 - rows_erased
    shown = shown_of(
        monkeypatch,
        pb.Dataset(name="winter", number=1, rows=rows, rows_erased=rows_erased, columns=[column]),
    )
    [row] = [line for line in shown.splitlines() if column.column in line]
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_moments_of_a_column_of_times_are_shown_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_of(
        monkeypatch, a_column("left_at", "timestamp", NOON_US - HOUR_US, NOON_US + HOUR_US)
    )

    assert [
        "2013-03-01T11:00:00Z",
        "2013-03-01T12:00:00Z",
        "2013-03-01T12:00:00Z",
        "2013-03-01T13:00:00Z",
    ] == row[4:8]


def test_numbers_stay_numbers_and_distinct_ones_are_at_most_the_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = row_of(monkeypatch, a_column("delay", "int64", -2, 4))

    assert ["delay", "int64", "20.0%", "10", "-2", "1", "1", "4"] == row[:8]


def test_figures_of_a_dataset_that_lost_rows_are_of_all_it_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = row_of(monkeypatch, a_column("delay", "int64", -2, 4), rows_erased=9)

    assert ["delay", "int64", "20.0%", "10"] == row[:4]


def test_dataset_that_lost_rows_says_so_and_that_its_digest_is_not_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = pb.Dataset(name="winter", number=1, rows=7, rows_erased=3, digest="d0")
    shown = " ".join(shown_of(monkeypatch, found).split())

    assert "3 more rows were erased since" in shown
    assert "are of all 10, and the digest is no longer that of the rows" in shown
    assert "erased" not in shown_of(monkeypatch, pb.Dataset(name="winter", number=1, rows=7))
