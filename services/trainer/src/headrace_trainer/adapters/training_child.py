# SPDX-License-Identifier: Apache-2.0
"""What every child process of a run does: it reads a folder, and leaves a model there or a reason.

It ends itself when its parent is gone, reads no network and no environment, and tells its progress
on standard output, a line at a time.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.errors import HeadraceError

# The child knows why there is no model, and says so in its folder.
EXIT_REFUSED = 3
EXIT_ORPHANED = 4
JOB, REFUSED, RESULT, MODEL, CHAMPION, TRAINING_SET = (
    "job.json", "refused.json", "result.json", "model.onnx", "champion.onnx", "training.arrow",
)  # fmt: skip


def run_child(make: Callable[[Path], None], folder: Path) -> int:
    """The exit code once `make` has worked in the folder."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        make(folder)
    except HeadraceError as err:
        _write(folder / REFUSED, {"reason": err.reason, "metadata": err.metadata})
        return EXIT_REFUSED
    return 0


def read_job(folder: Path) -> dict[str, Any]:
    job: dict[str, Any] = json.loads((folder / JOB).read_text(encoding="utf-8"))
    return job


def write_result(
    folder: Path,
    onnx: bytes,
    *,
    metrics: Mapping[str, float],
    reference: Sequence[Mapping[str, Any]],
    manifest: Mapping[str, str],
) -> None:
    (folder / MODEL).write_bytes(onnx)
    result = {"metrics": metrics, "reference": reference, "manifest": manifest}
    _write(folder / RESULT, result)


def report(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _write(file: Path, document: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(document), encoding="utf-8")


def _end_with_parent() -> None:
    """Standard input closes when the trainer is gone: nobody waits for this run then."""
    sys.stdin.read()
    os._exit(EXIT_ORPHANED)
