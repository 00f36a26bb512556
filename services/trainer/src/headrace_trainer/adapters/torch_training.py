# SPDX-License-Identifier: Apache-2.0
"""The child process that trains a recipe's network: `python -m` this, and the job's folder.

Seeds and thread count are fixed, so the same job gives the same bytes on the same machine.
"""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from headrace.application import Network, Recipe, parse_definition_json
from headrace.errors import HeadraceError
from headrace_trainer.adapters.measuring import (
    THREADS,
    Matrix,
    measured,
    read_rows,
    reference,
    run_onnx,
)
from headrace_trainer.adapters.torch_network import Ensemble
from headrace_trainer.adapters.training_child import (
    CHAMPION,
    TRAINING_SET,
    read_job,
    report,
    run_child,
    write_result,
)

WARM_UP_SHARE = 0.15
PARITY_MAX = 1e-5
OPSET = 17
Report = Callable[[str], None]


def train(folder: Path) -> None:
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)
    job = read_job(folder)
    recipe = parse_definition_json(json.dumps(job["recipe"]).encode())
    assert isinstance(recipe, Recipe)  # noqa: S101 (the parent wrote it)
    rows = read_rows(folder / TRAINING_SET, recipe)
    features, labels, held = rows.features, rows.labels, rows.held
    sizes = {recipe.features.index(name): size for name, size in job["category_sizes"].items()}
    model = fit(features[~held], labels[~held], recipe.network, sizes, report)
    report("exporting to ONNX")
    onnx = export_onnx(model, features[held])
    write_result(
        folder,
        onnx,
        metrics=measured(onnx, rows, folder / CHAMPION),
        reference=reference(recipe, rows, job["window_s"]),
        manifest={"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
    )


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


if __name__ == "__main__":
    sys.exit(run_child(train, Path(sys.argv[1])))
