# SPDX-License-Identifier: Apache-2.0
"""TrainingProcess as a child: torch and ONNX never enter the service, and its memory goes with it.

The child holds the read end of a pipe as its standard input and ends itself when that closes, so a
killed trainer leaves no training behind.
"""

from __future__ import annotations

import hashlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

import structlog

import headrace_trainer
from headrace.application import definition_digest, definition_json
from headrace.errors import HeadraceError, error_by_reason
from headrace.graph_signature import Signature
from headrace_trainer.adapters.training_child import EXIT_REFUSED, JOB, MODEL, REFUSED, RESULT
from headrace_trainer.domain.run import COMPONENT, Histogram, TrainedModel
from headrace_trainer.ports import (
    CompositionJob,
    Progress,
    TrainingJob,
    TrainingResult,
    TrainingSet,
)

HEARTBEAT_S = 1.0
LOG_CHARS_MAX = 4_000
PROBLEM_CHARS_MAX = 500
_TRAINS = "headrace_trainer.adapters.torch_training"
_COMPOSES = "headrace_trainer.adapters.graph_training"

log = structlog.get_logger(__name__)


class ChildTrainingProcess:
    """Runs one child on the job's folder, for `duration_s_max` at most."""

    def __init__(self, *, duration_s_max: float) -> None:
        self._duration_s_max = duration_s_max

    def train(self, job: TrainingJob, *, progress: Progress) -> TrainingResult:
        document = {
            "recipe": json.loads(definition_json(job.recipe)),
            "category_sizes": dict(job.category_sizes),
            "window_s": job.window_s,
        }
        self._run(_TRAINS, job.folder, document, progress)
        made_from = {"seed": str(job.recipe.network.seed), **_training_set(job.training_set)}
        return _result(job.folder, job.recipe.model, job.recipe.features, made_from)

    def compose(self, job: CompositionJob, *, progress: Progress) -> TrainingResult:
        features = () if job.measured is None else job.measured.recipe.features
        self._run(_COMPOSES, job.folder, _composition(job), progress)
        made_from = {
            "graph": definition_digest(job.graph),
            **{f"{COMPONENT}{each.reference}": each.digest for each in job.components.values()},
            **({} if job.measured is None else _training_set(job.measured.training_set)),
        }
        return _result(job.folder, job.graph.name, features, made_from)

    def _run(
        self, module: str, folder: Path, document: Mapping[str, Any], progress: Progress
    ) -> None:
        (folder / JOB).write_text(json.dumps(document), encoding="utf-8")
        errors = folder / "errors.log"
        command = [sys.executable, "-m", module, str(folder)]
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
        if child.returncode == EXIT_REFUSED:
            refused = json.loads((folder / REFUSED).read_text(encoding="utf-8"))
            raise error_by_reason(refused["reason"], **refused["metadata"])
        if child.returncode != 0:
            raise _failure(folder, child.returncode, errors)

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


def _composition(job: CompositionJob) -> dict[str, Any]:
    measured = job.measured
    return {
        "graph": json.loads(definition_json(job.graph)),
        "components": {
            step: {"file": f"{each.digest}.onnx", **_signature(each.signature)}
            for step, each in job.components.items()
        },
        "recipe": None if measured is None else json.loads(definition_json(measured.recipe)),
        "window_s": None if measured is None else measured.window_s,
    }


def _signature(signature: Signature) -> dict[str, Any]:
    return {
        "inputs": {name: str(type_) for name, type_ in signature.inputs.items()},
        "outputs": {name: str(type_) for name, type_ in signature.outputs.items()},
        "features": list(signature.features),
    }


def _result(
    folder: Path, model: str, features: tuple[str, ...], made_from: Mapping[str, str]
) -> TrainingResult:
    document = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    trained = TrainedModel(
        model=model,
        digest="",
        features=features,
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
        manifest={**document["manifest"], "code": _code_digest(), **made_from},
    )
    return TrainingResult((folder / MODEL).read_bytes(), trained)


def _failure(folder: Path, exit_code: int, errors: Path) -> HeadraceError:
    """Callers get the last line, which names the error; its traceback is for the log alone."""
    tail = errors.read_text(encoding="utf-8", errors="replace").strip()[-LOG_CHARS_MAX:]
    log.error("training_process_failed", run=folder.name, exit_code=exit_code, log=tail)
    problem = tail.rpartition("\n")[2][:PROBLEM_CHARS_MAX]
    return HeadraceError("TRAINING_FAILED", exit_code=exit_code, problem=problem)


@cache
def _code_digest() -> str:
    """Of the trainer's own source, file by file in the order of their names."""
    root, digest = Path(headrace_trainer.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _training_set(made: TrainingSet) -> dict[str, str]:
    versions = made.delta_version_by_stream
    return {
        "training_set": made.digest,
        "definitions": made.definitions_digest,
        **{f"delta_version:{stream}": str(version) for stream, version in versions.items()},
        **{f"raw_offsets:{stream}": each for stream, each in made.offsets_by_stream.items()},
    }
