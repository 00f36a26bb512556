# SPDX-License-Identifier: Apache-2.0
"""The training process: reads a job's folder, trains, and leaves `model.onnx` and `result.json`.

It runs alone (`python -m headrace_trainer.adapters.torch_training FOLDER`), reads no network and no
environment, and tells its progress on standard output, a line at a time. Seeds and thread count
are fixed, so the same job gives the same bytes on the same machine.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headrace.application import Network, Recipe, parse_definition_json
from headrace.errors import Conflict, HeadraceError
from headrace_trainer.adapters.torch_network import Ensemble
from headrace_trainer.adapters.training_process import EXIT_TOO_FEW_ROWS
from headrace_trainer.domain.evaluation import auc, log_loss, reference_histogram

# More threads are slower on networks of this size.
THREADS = 1
WARM_UP_SHARE = 0.15
ROWS_MIN = 200
PARITY_MAX = 1e-5
OPSET = 17
EXIT_ORPHANED = 4
Matrix = NDArray[np.float32]
Report = Callable[[str], None]


def main(folder: Path) -> int:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    recipe = parse_definition_json(json.dumps(job["recipe"]).encode())
    assert isinstance(recipe, Recipe)  # noqa: S101 (the parent wrote it)
    try:
        _train(recipe, job["category_sizes"], folder, window_s=job["window_s"])
    except Conflict:
        return EXIT_TOO_FEW_ROWS
    return 0


def _train(
    recipe: Recipe, category_sizes: Mapping[str, int], folder: Path, *, window_s: int | None
) -> None:
    as_of_us, labels, features = read_training_set(folder / "training.arrow")
    held = as_of_us > as_of_us.max(initial=0) - recipe.gate.holdout_s * 1_000_000
    _require_rows(labels[~held])
    _require_rows(labels[held])
    sizes = {recipe.features.index(name): size for name, size in category_sizes.items()}
    model = fit(features[~held], labels[~held], recipe.network, sizes, _report)
    _report("exporting to ONNX")
    onnx = export_onnx(model, features[held])
    scores = run_onnx(onnx, features[held])
    metrics = {
        "auc": auc(scores, labels[held]),
        "log_loss": log_loss(scores, labels[held]),
        "rows": float(len(labels)),
        "holdout_rows": float(held.sum()),
        "holdout_positives": float(labels[held].sum()),
    }
    champion = folder / "champion.onnx"
    if champion.exists():
        theirs = run_onnx(champion.read_bytes(), features[held])
        metrics |= {
            "champion_auc": auc(theirs, labels[held]),
            "champion_log_loss": log_loss(theirs, labels[held]),
        }
    window = as_of_us // (window_s * 1_000_000) if window_s else None
    reference = [
        asdict(reference_histogram(name, features[:, column], window))
        for column, name in enumerate(recipe.features)
    ]
    manifest = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    (folder / "model.onnx").write_bytes(onnx)
    result = {"metrics": metrics, "reference": reference, "manifest": manifest}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def read_training_set(file: Path) -> tuple[NDArray[np.int64], Matrix, Matrix]:
    """as_of_us [rows], labels [rows] float32, features [rows, n] float32, in order of as_of."""
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_stream(source).read_all().sort_by(
            [("as_of_us", "ascending"), ("entity_key", "ascending")]
        )  # fmt: skip
    labels = table["label"].to_numpy().astype(np.float32)
    column = table["features"].combine_chunks()
    features = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return table["as_of_us"].to_numpy(), labels, features.reshape(len(labels), -1)


def fit(
    features: Matrix,
    labels: Matrix,
    network: Network,
    category_sizes: Mapping[int, int],
    report: Report,
) -> Ensemble:
    """AdamW with one cycle of the learning rate; the holdout stays unseen: no early stopping.

    features: [rows, n], labels: [rows]. Each member sees the rows in an order of its own.
    """
    torch.manual_seed(network.seed)
    model = Ensemble(*_scaling(features, category_sizes), network)
    with torch.no_grad():
        numbers, codes = model.prepare(torch.from_numpy(features))
    y = torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=network.learning_rate, weight_decay=network.weight_decay
    )
    steps = network.epochs_max * -(-len(y) // network.batch_rows)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, network.learning_rate, steps, pct_start=WARM_UP_SHARE
    )
    loss_of = nn.BCEWithLogitsLoss()
    model.train()
    for epoch in range(network.epochs_max):
        order = torch.stack([torch.randperm(len(y)) for _ in range(network.members)])
        for rows in order.split(network.batch_rows, dim=1):
            optimizer.zero_grad()
            logits = model.logits(numbers[rows], [code[rows] for code in codes])
            # The mean over members would divide each one's step by their number.
            (network.members * loss_of(logits, y[rows])).backward()
            optimizer.step()
            schedule.step()
        report(f"epoch {epoch + 1} of {network.epochs_max}")
    return model.eval()


def _scaling(
    features: Matrix, category_sizes: Mapping[int, int]
) -> tuple[list[int], Mapping[int, int], Tensor, Tensor]:
    """The columns that are numbers, the categories, and the numbers' centers and scales."""
    columns = [c for c in range(features.shape[1]) if c not in category_sizes]
    numbers = features[:, columns].astype(np.float64)
    with warnings.catch_warnings():
        # A column that is absent everywhere has no quantiles; it gets 0 and 1 below.
        warnings.simplefilter("ignore", RuntimeWarning)
        low, center, high = np.nanquantile(numbers, [0.25, 0.5, 0.75], axis=0)
        spread = np.nanstd(numbers, axis=0)
    # As wide as a standard deviation where the values are normal.
    scale = np.where(high > low, (high - low) / 1.35, spread)
    center, scale = np.nan_to_num(center), np.nan_to_num(scale)
    scale[scale == 0] = 1
    as_tensor = (torch.tensor(each, dtype=torch.float32) for each in (center, scale))
    return columns, category_sizes, *as_tensor


def export_onnx(model: Ensemble, sample: Matrix) -> bytes:
    """One file with the weights inside. Raises TRAINING_FAILED unless both give the same scores."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Deprecated, yet five to twenty times faster than the newer exporter on these graphs, and
        # what it made is held to torch's own scores below.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model,
            (torch.from_numpy(sample[:2]),),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=["features"],
            output_names=["score"],
            dynamic_axes={"features": {0: "rows"}, "score": {0: "rows"}},
        )
    onnx = buffer.getvalue()
    with torch.no_grad():
        expected = model(torch.from_numpy(sample)).numpy()
    if not np.allclose(run_onnx(onnx, sample), expected, atol=PARITY_MAX, rtol=0):
        raise HeadraceError("TRAINING_FAILED", problem="ONNX and torch disagree")
    return onnx


def run_onnx(onnx: bytes, features: Matrix) -> Matrix:
    """Scores [rows] of features [rows, n], by the runtime that serves."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    scores: Matrix = session.run(["score"], {"features": features})[0]
    return scores


def _require_rows(labels: Matrix) -> None:
    positives = int(labels.sum())
    if len(labels) < ROWS_MIN or positives in (0, len(labels)):
        raise Conflict("TOO_FEW_ROWS", rows=len(labels), positives=positives)


def _end_with_parent() -> None:
    """Standard input closes when the trainer is gone: nobody waits for this run then."""
    sys.stdin.read()
    os._exit(EXIT_ORPHANED)


def _report(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
