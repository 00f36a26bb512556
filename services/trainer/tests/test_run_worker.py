# SPDX-License-Identifier: Apache-2.0
"""The worker starts clean and outlives a database that is away."""

from __future__ import annotations

from pathlib import Path

from headrace.errors import Unavailable
from headrace_kit.testing import wait_until
from headrace_trainer.adapters.run_worker import RunWorker


def test_files_of_a_killed_process_are_gone_at_the_next_start(tmp_path: Path) -> None:
    left = tmp_path / "runs" / "run-1.x"
    left.mkdir(parents=True)
    (left / "training.arrow").write_bytes(b"left")
    found: list[list[Path]] = []

    def carry_next() -> bool:
        found.append(list((tmp_path / "runs").iterdir()))
        return False

    worker = RunWorker(carry_next, lambda: None, work_dir=tmp_path / "runs")
    worker.start()
    wait_until(lambda: found)
    worker.stop(5.0)

    assert [] == found[0]


def test_worker_goes_on_when_the_database_is_back(tmp_path: Path) -> None:
    answers: list[bool] = []

    def carry_next() -> bool:
        answers.append(True)
        if len(answers) == 1:
            raise Unavailable("DATABASE_UNAVAILABLE")
        return False

    worker = RunWorker(carry_next, lambda: None, work_dir=tmp_path / "runs")
    worker.start()
    wait_until(lambda: len(answers) > 1)
    worker.stop(5.0)

    assert worker.failed() is None
