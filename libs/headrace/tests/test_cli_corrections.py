# SPDX-License-Identifier: Apache-2.0
"""headrace corrections names the late record, whom it is about, and the predictions without it."""

import pytest
from typer.testing import CliRunner

from headrace.cli import corrections
from headrace.cli.main import app
from headrace.feature.v1.feature_events_pb2 import FeaturesCorrected


class Platform:
    def corrections(self, *, newest):
        return [told("zone", "a", "p-1"), told("user", "u", "p-2", "p-3", "p-4")][:newest]


def told(view, entity, *ids):
    return FeaturesCorrected(
        view=view,
        entity={"key": entity},
        event_id=f"late-{entity}",
        event_time_us=1_362_129_000_000_000,
        known_time_us=1_362_129_000_000_000 + 3_720_000_000,
        prediction_ids=ids,
        rows=len(ids),
    )


@pytest.fixture(autouse=True)
def platform(monkeypatch):
    monkeypatch.setattr(corrections, "connect", lambda data_dir: Platform())
    monkeypatch.setenv("COLUMNS", "160")


def run(*arguments):
    return CliRunner().invoke(app, ["corrections", *arguments]).output


def test_late_record_is_shown_with_its_predictions():
    shown = run()
    for text in ("zone", "late-a", "09:10:00Z", "1:02:00", "p-1", "p-2 and"):
        assert text in shown


def test_predictions_that_are_not_named_are_counted(monkeypatch):
    many = told("zone", "a")
    many.rows = 5_000
    monkeypatch.setattr(Platform, "corrections", lambda self, *, newest: [many])

    assert "5,000" in run()


def test_other_views_are_left_out():
    assert "late-u" not in run("--view", "zone")


def test_no_more_than_asked_for_are_looked_at():
    assert "late-u" not in run("--newest", "1")
