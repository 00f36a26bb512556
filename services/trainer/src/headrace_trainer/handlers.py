# SPDX-License-Identifier: Apache-2.0
"""What the trainer does: takes requests, and carries one run from training set to result."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from headrace.application import NAME, Recipe
from headrace.errors import Busy, HeadraceError, Invalid, Unavailable
from headrace_trainer.domain.run import Lease, Run, TrainingRequest
from headrace_trainer.ports import (
    Champion,
    ModelRegistryClient,
    Progress,
    RecipeBook,
    RunStore,
    TrainingJob,
    TrainingProcess,
    TrainingSetClient,
)

RUNS_LISTED_MAX = 100


class LeaseLost(Exception):
    """Another worker has the run: stop, and write nothing."""


def submit_run(request: TrainingRequest, *, runs: RunStore, recipes: RecipeBook) -> Run:
    """Queues a run; the same request_id answers with the first one.

    Raises NotFound DEFINITION_UNKNOWN, Invalid BAD_NAME or BAD_REQUEST.
    """
    if not NAME.fullmatch(request.request_id):
        raise Invalid("BAD_NAME", field="request_id")
    if request.known_until_us <= 0:
        raise Invalid("BAD_REQUEST", field="known_until_us")
    recipes.recipe(request.recipe)
    return runs.add(request)


def get_run(run_id: str, *, runs: RunStore) -> Run:
    return runs.get(run_id)


def list_runs(*, runs: RunStore) -> list[Run]:
    return runs.newest(RUNS_LISTED_MAX)


def carry_next_run(
    *,
    runs: RunStore,
    recipes: RecipeBook,
    training_sets: TrainingSetClient,
    models: ModelRegistryClient,
    process: TrainingProcess,
    work_dir: Path,
) -> bool:
    """Carries the next waiting run to its end; False when none waits.

    A dependency that is down leaves the run to the next claim; any other known error fails it.
    """
    claimed = runs.claim()
    if claimed is None:
        return False
    lease, run = claimed
    try:
        with tempfile.TemporaryDirectory(dir=work_dir) as folder:
            _carry(
                lease,
                run,
                Path(folder),
                runs=runs,
                recipes=recipes,
                training_sets=training_sets,
                models=models,
                process=process,
            )
    except (Busy, Unavailable):
        raise
    except HeadraceError as err:
        runs.fail(lease, err.reason)
    except LeaseLost:
        pass
    return True


def _carry(
    lease: Lease,
    run: Run,
    folder: Path,
    *,
    runs: RunStore,
    recipes: RecipeBook,
    training_sets: TrainingSetClient,
    models: ModelRegistryClient,
    process: TrainingProcess,
) -> None:
    progress = _progress(lease, runs)
    recipe = recipes.recipe(run.request.recipe)
    progress("joining the training set")
    known_until_us = run.request.known_until_us
    training_set = training_sets.create(recipe.name, known_until_us, folder / "training.arrow")
    champion = models.champion(recipe.model)
    job = TrainingJob(
        recipe=recipe,
        category_sizes=recipes.category_sizes(recipe),
        training_set=training_set,
        champion_onnx=_champion_onnx(champion, recipe, models, folder),
        folder=folder,
        window_s=recipes.window_s(recipe),
    )
    result = process.train(job, progress=progress)
    progress("uploading the model")
    digest = models.upload(result.onnx)
    compared = champion.version if champion and job.champion_onnx else 0
    trained = replace(
        result.model, digest=digest, trained_until_us=known_until_us, champion_version=compared
    )
    runs.complete(lease, trained)


def _champion_onnx(
    champion: Champion | None, recipe: Recipe, models: ModelRegistryClient, folder: Path
) -> Path | None:
    """The champion's bytes, when it can be scored on the same holdout: same features."""
    if champion is None or champion.features != recipe.features:
        return None
    file = folder / "champion.onnx"
    file.write_bytes(models.download(champion.digest))
    return file


def _progress(lease: Lease, runs: RunStore) -> Progress:
    def report(text: str) -> None:
        if not runs.renew(lease, text):
            raise LeaseLost(lease.run_id)

    return report
