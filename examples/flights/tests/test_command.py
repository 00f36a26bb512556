# SPDX-License-Identifier: Apache-2.0
"""`headrace demo flights` beside a platform that runs on the same folder."""

import pytest
import typer
from typer.testing import CliRunner

from flights_example.command import flights
from headrace.local.locks import exclusive
from headrace.local.state import DataFolder


@pytest.fixture
def demo():
    app = typer.Typer()
    app.command()(flights)
    return app


def test_demo_leaves_the_data_of_a_running_platform_alone(tmp_path, demo):
    archive = tmp_path / "data" / "objects" / "record"
    archive.parent.mkdir(parents=True)
    archive.write_text("kept")

    with exclusive(DataFolder(tmp_path).lock, deadline_s=0):
        ended = CliRunner().invoke(demo, ["--data-dir", str(tmp_path)])

    assert (1, True) == (ended.exit_code, "ALREADY_RUNNING" in ended.output)
    assert "kept" == archive.read_text()
