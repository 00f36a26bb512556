# SPDX-License-Identifier: Apache-2.0
"""headrace erase can be followed up, also when it was cut off; it asks nothing in vain."""

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from headrace.application import parse_definition
from headrace.cli import erase
from headrace.cli.main import app
from headrace.errors import Unavailable

ORDERS = parse_definition(
    {
        "kind": "stream",
        "name": "orders",
        "description": "Orders.",
        "owner": "tests",
        "key": "customer_id",
        "id": "id",
        "event_time": "at",
        "lateness_allowed": "1h",
        "columns": {
            "id": {"type": "string"},
            "customer_id": {"type": "string"},
            "at": {"type": "timestamp"},
        },
    }
)


class Datasets:
    """A platform that goes away while it works."""

    def __init__(self):
        self.asked = []

    def erase(self, column, value, *, request_id):
        self.asked.append(request_id)
        raise Unavailable("SERVICE_UNAVAILABLE")


@pytest.fixture
def datasets(monkeypatch):
    made = Datasets()
    client = SimpleNamespace(datasets=made, definitions={("stream", "orders"): ORDERS})
    monkeypatch.setattr(erase, "connect", lambda data_dir: client)
    return made


def run(*arguments):
    return CliRunner().invoke(app, ["erase", *arguments])


def test_erasure_that_is_cut_off_has_told_the_id_by_which_it_goes_on(datasets):
    done = run("customer_id", "c42", "--yes")

    assert 1 == done.exit_code
    told, _, _ = done.stderr.partition("SERVICE_UNAVAILABLE")
    assert f"--request-id {datasets.asked[0]}" in told


def test_erasure_goes_on_by_the_id_that_is_given(datasets):
    run("customer_id", "c42", "--yes", "--request-id", "mine")

    assert ["mine"] == datasets.asked


def test_column_that_no_stream_has_is_told_before_anything_is_asked_or_noted(datasets):
    done = run("customer", "c42")

    assert 1 == done.exit_code
    assert "COLUMN_UNKNOWN" in done.stderr
    assert "request-id" not in done.stderr
    assert "Erase all rows" not in done.output
    assert [] == datasets.asked


def test_erasure_whose_column_is_gone_since_goes_on_by_its_id(datasets):
    run("customer", "c42", "--yes", "--request-id", "mine")

    assert ["mine"] == datasets.asked
