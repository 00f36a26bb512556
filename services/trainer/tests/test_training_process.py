# SPDX-License-Identifier: Apache-2.0
"""The child trains for real: it learns, repeats itself to the byte, and ends with its parent."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import structlog
from numpy.typing import ArrayLike

from headrace.errors import Conflict, HeadraceError, Invalid
from headrace.graph_signature import trained_signature
from headrace_trainer.adapters.measuring import run_onnx
from headrace_trainer.adapters.training_process import ChildTrainingProcess
from headrace_trainer.ports import (
    Component,
    CompositionJob,
    Measure,
    TrainingJob,
    TrainingResult,
)
from headrace_trainer.testing import FEATURES, a_graph, a_recipe, write_training_set

# Each test starts a process that imports torch: seconds, not milliseconds.
pytestmark = pytest.mark.integration


def train(folder: Path, *, rows: int = 2_000, champion: Path | None = None) -> TrainingResult:
    folder.mkdir()
    job = TrainingJob(
        recipe=a_recipe(),
        category_sizes={"request:carrier": 3},
        training_set=write_training_set(folder / "training.arrow", rows),
        champion_onnx=champion,
        folder=folder,
    )
    told: list[str] = []
    result = ChildTrainingProcess(duration_s_max=120).train(job, progress=told.append)
    assert "epoch 8 of 8" in told
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return train(tmp_path_factory.mktemp("trained") / "job")


def scores(onnx: bytes, rows: ArrayLike) -> np.ndarray:
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    return session.run(["score"], {"features": np.array(rows, np.float32)})[0]


def test_model_learns_what_is_there(trained: TrainingResult) -> None:
    assert trained.model.metrics["auc"] > 0.75
    near, far, other_carrier = scores(trained.onnx, [[700, 1], [1300, 1], [700, 2]])
    assert near < far
    assert near < other_carrier


def test_model_tells_where_the_records_of_its_set_lay(trained: TrainingResult) -> None:
    manifest = trained.model.manifest

    assert "3" == manifest["delta_version:flights.scheduled"]
    assert "0:17-1233 1:0-998" == manifest["raw_offsets:flights.scheduled"]


def exported(monkeypatch: pytest.MonkeyPatch, *, off_by: float) -> bytes:
    """The file of a network, of which the answers are off by as much."""
    from headrace_trainer.adapters import torch_training  # takes seconds: torch

    def run(onnx: bytes, features: np.ndarray) -> np.ndarray:
        return run_onnx(onnx, features) + np.float32(off_by)

    monkeypatch.setattr(torch_training, "run_onnx", run)
    rows = np.random.default_rng(5).normal(1_000, 300, (64, 2)).astype(np.float32)
    network = a_recipe(epochs_max=1).network
    model = torch_training.fit(rows, np.float32(rows[:, 0] > 1_000), network, {}, lambda _: None)
    return torch_training.export_onnx(model, rows)


# Of a file that is sound and could be smaller.
FOLDING = pytest.mark.filterwarnings("ignore:Constant folding:UserWarning")


@FOLDING
@pytest.mark.parametrize("off_by", [2e-5, -2e-5, float("nan")])
def test_file_that_answers_otherwise_than_what_was_trained_fails_the_training(
    monkeypatch: pytest.MonkeyPatch, off_by: float
) -> None:
    with pytest.raises(HeadraceError, match=r"TRAINING_FAILED.*ONNX and torch disagree"):
        exported(monkeypatch, off_by=off_by)


@FOLDING
def test_file_may_round_otherwise_than_what_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exported(monkeypatch, off_by=5e-6)


def test_absent_and_unknown_values_give_a_finite_score(trained: TrainingResult) -> None:
    got = scores(trained.onnx, [[np.nan, 1], [1000, np.nan], [1000, 99], [np.nan, np.nan]])

    assert np.isfinite(got).all()
    assert ((got > 0) & (got < 1)).all()


def test_score_is_the_same_bit_for_bit_whatever_rows_share_the_run(
    trained: TrainingResult,
) -> None:
    random = np.random.default_rng(5)
    rows = np.stack([random.normal(1_000, 400, 240), random.integers(0, 4, 240)], axis=1)
    rows[random.random(rows.shape) < 0.1] = np.nan
    whole = scores(trained.onnx, rows)

    for size in range(1, 41):
        runs = [scores(trained.onnx, rows[at : at + size]) for at in range(0, len(rows), size)]
        assert whole.tobytes() == np.concatenate(runs).tobytes(), size


def test_same_job_gives_the_same_bytes(trained: TrainingResult, tmp_path: Path) -> None:
    assert trained.onnx == train(tmp_path / "again").onnx


def test_champion_is_scored_on_the_same_holdout(trained: TrainingResult, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    champion = tmp_path / "champion.onnx"
    champion.write_bytes(trained.onnx)
    folder_champion = folder / "champion.onnx"

    def with_champion() -> TrainingResult:
        folder.mkdir()
        folder_champion.write_bytes(trained.onnx)
        job = TrainingJob(
            recipe=a_recipe(),
            category_sizes={"request:carrier": 3},
            training_set=write_training_set(folder / "training.arrow"),
            champion_onnx=folder_champion,
            folder=folder,
        )
        return ChildTrainingProcess(duration_s_max=120).train(job, progress=lambda _: None)

    metrics = with_champion().model.metrics
    assert metrics["auc"] == pytest.approx(metrics["champion_auc"])


def test_too_few_rows_are_a_conflict(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="TOO_FEW_ROWS") as refused:
        train(tmp_path / "job", rows=100)

    assert "to learn from" == refused.value.metadata["part"]


def test_broken_training_set_fails_the_training(tmp_path: Path) -> None:
    training_set = write_training_set(tmp_path / "training.arrow")
    training_set.file.write_bytes(b"not arrow")
    job = TrainingJob(a_recipe(), {}, training_set, None, tmp_path)

    with (
        structlog.testing.capture_logs() as logs,
        pytest.raises(HeadraceError, match="TRAINING_FAILED") as failed,
    ):
        ChildTrainingProcess(duration_s_max=60).train(job, progress=lambda _: None)

    assert "ArrowInvalid" in failed.value.metadata["problem"]
    assert "Traceback" not in str(failed.value)
    assert ["Traceback" in entry["log"] for entry in logs] == [True]


def test_slow_training_is_ended(tmp_path: Path) -> None:
    job = TrainingJob(
        a_recipe(epochs_max=100_000),
        {},
        write_training_set(tmp_path / "training.arrow"),
        None,
        tmp_path,
    )

    with pytest.raises(HeadraceError, match="duration_s_max=8"):
        ChildTrainingProcess(duration_s_max=8).train(job, progress=lambda _: None)


def test_lost_lease_ends_the_child(tmp_path: Path) -> None:
    class Lost(Exception):
        pass

    def lost(_: str) -> None:
        raise Lost

    job = TrainingJob(
        a_recipe(epochs_max=100_000),
        {},
        write_training_set(tmp_path / "training.arrow"),
        None,
        tmp_path,
    )

    with pytest.raises(Lost):
        ChildTrainingProcess(duration_s_max=60).train(job, progress=lost)


def test_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    child_pid = int(parent.stdout.readline())

    parent.kill()
    parent.wait(timeout=10)
    parent.stdout.close()

    deadline = time.monotonic() + 30
    while running(child_pid):
        assert time.monotonic() < deadline, "the child outlived its parent"
        os.sched_yield()


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


PARENT = """
import subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-m", "headrace_trainer.adapters.torch_training", sys.argv[1]],
    stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.wait()
"""


def compose(folder: Path, onnx: bytes, **changes: object) -> TrainingResult:
    """The graph `delay-guarded` of this file, measured on the recipe's holdout."""
    folder.mkdir()
    digest = hashlib.sha256(onnx).hexdigest()
    (folder / f"{digest}.onnx").write_bytes(onnx)
    signature = trained_signature(FEATURES)
    training_set = write_training_set(folder / "training.arrow")
    job = CompositionJob(
        graph=a_graph(**changes),
        components={"learnt": Component("models:/delay/7", digest, signature)},
        measured=Measure(a_recipe(), training_set, window_s=None),
        folder=folder,
    )
    return ChildTrainingProcess(duration_s_max=120).compose(job, progress=lambda _: None)


def test_graph_is_measured_on_the_holdout_of_its_recipe(
    trained: TrainingResult, tmp_path: Path
) -> None:
    made = compose(tmp_path / "job", trained.onnx)

    near, far = scores(made.onnx, [[700, 1], [1300, 1]])
    assert near == pytest.approx(scores(trained.onnx, [[700, 1]])[0], abs=1e-6)
    assert far == pytest.approx(0.65)
    assert 0.6 < made.model.metrics["auc"] != trained.model.metrics["auc"]
    assert trained.model.reference == made.model.reference
    assert ("delay-guarded", FEATURES) == (made.model.model, made.model.features)
    digest = hashlib.sha256(trained.onnx).hexdigest()
    assert digest == made.model.manifest["component:models:/delay/7"]
    assert "digest" == made.model.manifest["training_set"]


def test_same_graph_of_the_same_version_gives_the_same_bytes(
    trained: TrainingResult, tmp_path: Path
) -> None:
    made = [compose(tmp_path / name, trained.onnx).onnx for name in ("one", "two")]

    assert made[0] == made[1]


def test_graph_that_cannot_be_compiled_tells_why(trained: TrainingResult, tmp_path: Path) -> None:
    steps = {
        "learnt": {"model": "delay@champion"},
        "chosen": {"model": "delay@champion", "inputs": {"features": "features"}},
    }
    with pytest.raises(Invalid, match=r"BAD_DEFINITION.*key=steps.chosen.outputs"):
        compose(tmp_path / "job", trained.onnx, steps=steps)
