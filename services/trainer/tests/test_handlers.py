# SPDX-License-Identifier: Apache-2.0
"""Requests are taken once and carried to an end, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.errors import Conflict, HeadraceError, Invalid, NotFound, Unavailable
from headrace_kit.testing import FixedClock
from headrace_trainer.adapters.memory_run_store import MemoryRunStore
from headrace_trainer.domain.run import RunState
from headrace_trainer.handlers import carry_next_run, submit_run
from headrace_trainer.ports import Champion
from headrace_trainer.testing import FakeModels, FakeProcess, FakeTrainingSets, OneRecipe, a_request


def carry(runs: MemoryRunStore, tmp_path: Path, **parts: object) -> bool:
    defaults = {
        "recipes": OneRecipe(),
        "training_sets": FakeTrainingSets(),
        "models": FakeModels(),
        "process": FakeProcess(),
    }
    return carry_next_run(runs=runs, work_dir=tmp_path, **{**defaults, **parts})


def submit(runs: MemoryRunStore, **changes: object) -> None:
    submit_run(a_request(**changes), runs=runs, recipes=OneRecipe())


def test_unknown_recipe_is_refused(runs: MemoryRunStore) -> None:
    with pytest.raises(NotFound, match="DEFINITION_UNKNOWN"):
        submit(runs, recipe="nobody")


@pytest.mark.parametrize("request_id", ["", "UPPER", "../etc", "x" * 129])
def test_bad_request_id_is_refused(runs: MemoryRunStore, request_id: str) -> None:
    with pytest.raises(Invalid, match="BAD_NAME"):
        submit(runs, request_id=request_id)


def test_negative_time_is_refused(runs: MemoryRunStore) -> None:
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        submit(runs, known_until_us=-1)


def test_nothing_to_carry(runs: MemoryRunStore, tmp_path: Path) -> None:
    assert not carry(runs, tmp_path)


def test_run_ends_with_the_uploaded_digest(runs: MemoryRunStore, tmp_path: Path) -> None:
    submit(runs)
    models = FakeModels()

    assert carry(runs, tmp_path, models=models)

    assert [b"onnx"] == models.uploaded
    trained = runs.get("run-1").trained
    assert ("a" * 64, 10**15, 0) == (
        trained.digest,
        trained.trained_until_us,
        trained.champion_version,
    )
    assert [("run-1", RunState.RUNNING), ("run-1", RunState.COMPLETED)] == runs.events


def test_champion_of_the_same_features_is_compared(runs: MemoryRunStore, tmp_path: Path) -> None:
    submit(runs)
    process = FakeProcess()
    champion = Champion(4, "c" * 64, ("request:distance", "request:carrier"))

    carry(runs, tmp_path, models=FakeModels(champion), process=process)

    assert process.jobs[0].champion_onnx is not None
    assert 4 == runs.get("run-1").trained.champion_version


def test_champion_of_other_features_is_not_compared(runs: MemoryRunStore, tmp_path: Path) -> None:
    submit(runs)
    process = FakeProcess()

    carry(runs, tmp_path, models=FakeModels(Champion(4, "c" * 64, ("x:y",))), process=process)

    assert process.jobs[0].champion_onnx is None
    assert 0 == runs.get("run-1").trained.champion_version


@pytest.mark.parametrize(
    "error", [Conflict("TOO_FEW_ROWS"), HeadraceError("TRAINING_FAILED", exit_code=1)]
)
def test_known_error_fails_the_run(
    runs: MemoryRunStore, tmp_path: Path, error: HeadraceError
) -> None:
    submit(runs)

    assert carry(runs, tmp_path, process=FakeProcess(error=error))

    assert (RunState.FAILED, error.reason) == (runs.get("run-1").state, runs.get("run-1").reason)


def test_missing_dependency_leaves_the_run_to_the_next_claim(
    runs: MemoryRunStore, clock: FixedClock, tmp_path: Path
) -> None:
    submit(runs)

    with pytest.raises(Unavailable):
        carry(runs, tmp_path, training_sets=FakeTrainingSets(Unavailable("RECORDS_BEHIND")))

    clock.advance(6_000_000)
    assert carry(runs, tmp_path)
    assert RunState.COMPLETED is runs.get("run-1").state


def test_worker_whose_lease_was_taken_stores_nothing(
    runs: MemoryRunStore, clock: FixedClock, tmp_path: Path
) -> None:
    submit(runs)

    def another_takes_it() -> None:
        clock.advance(6_000_000)
        runs.claim()

    models = FakeModels()
    assert carry(runs, tmp_path, models=models, process=FakeProcess(another_takes_it))

    assert [] == models.uploaded
    assert RunState.RUNNING is runs.get("run-1").state
