# SPDX-License-Identifier: Apache-2.0
"""headrace erase can be followed up, also when it was cut off; it asks nothing in vain."""

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from headrace.application import parse_definition
from headrace.cli import erase
from headrace.cli.main import app
from headrace.errors import Unavailable
from headrace.ingest.v1 import erasures_pb2 as pb


def a_stream(name, key):
    return parse_definition(
        {
            "kind": "stream",
            "name": name,
            "description": "Orders, or what came back.",
            "owner": "tests",
            "key": key,
            "id": "id",
            "event_time": "at",
            "lateness_allowed": "1h",
            "columns": {
                "id": {"type": "string"},
                key: {"type": "string"},
                "at": {"type": "timestamp"},
            },
        }
    )


RISK = parse_definition(
    {
        "kind": "endpoint",
        "name": "risk",
        "description": "Will it be lost?",
        "model": "risk",
        "entity_key": "ticket",
        "columns": {"ticket": "string"},
        "rollout": {
            "canary_percent": 20,
            "outcomes_min": 10,
            "outcomes_max": 40,
            "alpha": 0.05,
        },
    }
)
ORDERS, RETURNS = a_stream("orders", "customer_id"), a_stream("returns", "buyer_id")


class Datasets:
    """A platform that goes away while it works, or answers what a test puts into `answer`."""

    def __init__(self):
        self.asked, self.answer = [], None

    def erase(self, column, value, *, request_id):
        self.asked.append(request_id)
        if self.answer is None:
            raise Unavailable("SERVICE_UNAVAILABLE")
        return self.answer


@pytest.fixture
def datasets(monkeypatch):
    made = Datasets()
    client = SimpleNamespace(
        datasets=made,
        definitions={("stream", "orders"): ORDERS, ("endpoint", "risk"): RISK},
        retracted=lambda: [RETURNS],
    )
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


def test_key_that_endpoints_alone_know_is_one(datasets):
    run("ticket", "t7", "--yes", "--request-id", "mine")
    run("ticket", "t7", "--yes")

    assert 2 == len(datasets.asked)


def test_erasure_whose_column_is_gone_since_goes_on_by_its_id(datasets):
    run("customer", "c42", "--yes", "--request-id", "mine")

    assert ["mine"] == datasets.asked


def test_column_of_a_stream_that_was_taken_back_is_known(datasets):
    run("buyer_id", "c42", "--yes", "--request-id", "mine")
    run("buyer_id", "c42", "--yes")

    assert 2 == len(datasets.asked)


def test_rows_of_a_view_that_was_taken_back_are_told_to_stay(datasets):
    views = [pb.ErasedView(view="spent", rows=2, taken_back=True), pb.ErasedView(view="sold")]
    datasets.answer = pb.Erasure(id="e", views=views)
    done = run("customer_id", "c42", "--yes")

    assert "Rows of view spent stay" in done.stderr
    assert "view sold stay" not in done.stderr
