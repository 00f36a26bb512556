# SPDX-License-Identifier: Apache-2.0
"""TrainingProcess as a child: torch never enters the service, and its memory goes with the child.

The child holds the read end of a pipe as its standard input and ends itself when that closes, so a
killed trainer leaves no training behind.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import structlog

from headrace.application import definition_json
from headrace.errors import Conflict, HeadraceError
from headrace_trainer.domain.run import Histogram, TrainedModel
from headrace_trainer.ports import Progress, TrainingJob, TrainingResult

# What the child leaves as exit code when the training set cannot teach anything.
EXIT_TOO_FEW_ROWS = 3
HEARTBEAT_S = 1.0
LOG_CHARS_MAX = 4_000
PROBLEM_CHARS_MAX = 500
_MODULE = "headrace_trainer.adapters.torch_training"

log = structlog.get_logger(__name__)


class ChildTrainingProcess:
    """Runs `torch_training` on the job's folder, for `duration_s_max` at most."""

    def __init__(self, *, duration_s_max: float) -> None:
        self._duration_s_max = duration_s_max

    def train(self, job: TrainingJob, *, progress: Progress) -> TrainingResult:
        _write_job(job)
        errors = job.folder / "errors.log"
        command = [sys.executable, "-m", _MODULE, str(job.folder)]
        with (
            errors.open("wb") as log,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            ) as child,
        ):
            try:
                self._follow(child, progress)
            finally:
                # Ended already, unless it took too long or the lease was lost.
                child.kill()
        return _result(job, child.returncode, errors)

    def _follow(self, child: subprocess.Popen[str], progress: Progress) -> None:
        """Passes each line on, and the last one again every heartbeat, until the output ends."""
        deadline = time.monotonic() + self._duration_s_max
        lines: queue.Queue[str | None] = queue.Queue(maxsize=1_000)
        threading.Thread(target=_read_lines, args=(child.stdout, lines), daemon=True).start()
        text: str | None = "starting the training process"
        while text is not None and time.monotonic() < deadline:
            progress(text)
            try:
                text = lines.get(timeout=HEARTBEAT_S)
            except queue.Empty:
                continue
        if text is not None:
            raise HeadraceError("TRAINING_FAILED", duration_s_max=self._duration_s_max)
        child.wait(timeout=self._duration_s_max)


def _read_lines(output: IO[str] | None, lines: queue.Queue[str | None]) -> None:
    for line in output or ():
        lines.put(line.strip())
    lines.put(None)


def _write_job(job: TrainingJob) -> None:
    document = {
        "recipe": json.loads(definition_json(job.recipe)),
        "category_sizes": dict(job.category_sizes),
        "window_s": job.window_s,
    }
    (job.folder / "job.json").write_text(json.dumps(document), encoding="utf-8")


def _result(job: TrainingJob, exit_code: int, errors: Path) -> TrainingResult:
    if exit_code == EXIT_TOO_FEW_ROWS:
        raise Conflict("TOO_FEW_ROWS", rows=job.training_set.rows)
    if exit_code != 0:
        raise _failure(job, exit_code, errors)
    document = json.loads((job.folder / "result.json").read_text(encoding="utf-8"))
    model = TrainedModel(
        model=job.recipe.model,
        digest="",
        features=job.recipe.features,
        trained_until_us=0,
        metrics=document["metrics"],
        champion_version=0,
        reference=tuple(
            Histogram(
                each["feature"],
                tuple(each["edges"]),
                tuple(each["counts"]),
                each["effective_rows"],
            )
            for each in document["reference"]
        ),
        manifest=document["manifest"] | _made_from(job),
    )
    return TrainingResult((job.folder / "model.onnx").read_bytes(), model)


def _failure(job: TrainingJob, exit_code: int, errors: Path) -> HeadraceError:
    """Callers get the last line, which names the error; its traceback is for the log alone."""
    tail = errors.read_text(encoding="utf-8", errors="replace").strip()[-LOG_CHARS_MAX:]
    log.error("training_process_failed", run=job.folder.name, exit_code=exit_code, log=tail)
    problem = tail.rpartition("\n")[2][:PROBLEM_CHARS_MAX]
    return HeadraceError("TRAINING_FAILED", exit_code=exit_code, problem=problem)


def _made_from(job: TrainingJob) -> dict[str, str]:
    versions = job.training_set.delta_version_by_stream
    return {
        "training_set": job.training_set.digest,
        "seed": str(job.recipe.network.seed),
        **{f"delta_version:{stream}": str(version) for stream, version in versions.items()},
    }
