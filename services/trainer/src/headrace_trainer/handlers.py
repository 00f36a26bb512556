# SPDX-License-Identifier: Apache-2.0
"""What the trainer does: takes requests, makes those of graphs that aliases leave behind, and
carries one run from training set to result."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from headrace.application import Recipe
from headrace.definition_types import NAME
from headrace.errors import Busy, Conflict, HeadraceError, Invalid, NotFound, Unavailable
from headrace.graph_definition import Graph, refuse
from headrace.graph_plan import plan_graph
from headrace.graph_signature import registered_signature
from headrace_kit.clock import CLOCK_SKEW_US
from headrace_trainer.domain.run import (
    TRIES_MAX,
    Lease,
    LeaseLost,
    Run,
    TrainingRequest,
    next_try_delay_s,
)
from headrace_trainer.ports import (
    Champion,
    Component,
    CompositionJob,
    LeaseKeeper,
    Measure,
    ModelRegistryClient,
    NamedVersion,
    Progress,
    RecipeBook,
    RunStore,
    TrainingJob,
    TrainingProcess,
    TrainingResult,
    TrainingSet,
    TrainingSetClient,
    VersionBook,
)

RUNS_LISTED_MAX = 100
# Definitions come on a topic of their own, so a request can be here before its recipe.
RECIPE_WAIT_S_MAX = 30
CHAMPION = "champion.onnx"
# The largest file that a registry can be set to take.
COMPILED_BYTES_MAX = 1 << 30
# An alias that flutters makes so many versions an hour at most, each for somebody to judge.
FOLLOW_INTERVAL_S = 300
FOLLOWS = "follow-"

log = structlog.get_logger(__name__)


def submit_run(
    request: TrainingRequest,
    *,
    now_us: int,
    runs: RunStore,
    recipes: RecipeBook,
    recipe_wait_s: float = 0.0,
) -> Run:
    """Queues a run; the same request_id answers with the first one.

    A recipe that is not there is waited for so long. Raises NotFound DEFINITION_UNKNOWN, Invalid
    BAD_NAME or BAD_REQUEST.
    """
    if not NAME.fullmatch(request.request_id):
        raise Invalid("BAD_NAME", field="request_id")
    if request.known_until_us < 0:
        raise Invalid("BAD_REQUEST", field="known_until_us")
    if request.known_until_us > now_us + CLOCK_SKEW_US:
        raise Invalid("BAD_REQUEST", field="known_until_us", problem="is still to come")
    recipes.trainee(request.recipe, wait_s=recipe_wait_s)
    return runs.add(request)


def take_request(
    request: TrainingRequest, *, age_s: float, now_us: int, runs: RunStore, recipes: RecipeBook
) -> Run:
    """As `submit_run`, for a request that was published `age_s` ago; raises what that raises.

    Raises Unavailable DEFINITION_AWAITED instead while the recipe may still come, and Invalid
    BAD_REQUEST without a time: what is read again must mean what it meant before.
    """
    if request.known_until_us == 0:
        raise Invalid("BAD_REQUEST", field="known_until_us")
    try:
        return submit_run(request, now_us=now_us, runs=runs, recipes=recipes)
    except NotFound as err:
        # A producer's clock that is far ahead must not make the wait longer.
        if abs(age_s) < RECIPE_WAIT_S_MAX:
            raise Unavailable("DEFINITION_AWAITED", **err.metadata) from err
        raise


def get_run(run_id: str, *, runs: RunStore) -> Run:
    return runs.get(run_id)


def cancel_run(run_id: str, *, runs: RunStore) -> Run:
    """Raises NotFound RUN_UNKNOWN, Conflict RUN_ENDED."""
    return runs.cancel(run_id)


def list_runs(*, runs: RunStore) -> list[Run]:
    return runs.newest(RUNS_LISTED_MAX)


def follow_aliases(
    *, now_us: int, runs: RunStore, recipes: RecipeBook, versions: VersionBook
) -> None:
    """Queues a run of each graph whose newest version is not of what its aliases name now.

    A graph without a version is left to whoever trains it first.
    """
    for graph in recipes.graphs():
        inside = versions.components(graph.name)
        references = {step.reference for step in graph.model_steps().values()}
        aliases = [reference for reference in references if reference.alias]
        named = {str(each): found for each in aliases if (found := versions.alias(each))}
        if inside is None or len(named) < len(aliases):
            continue
        if not inside.issuperset(each.reference for each in named.values()):
            _follow(graph, named, now_us=now_us, runs=runs)


def _follow(
    graph: Graph, named: Mapping[str, NamedVersion], *, now_us: int, runs: RunStore
) -> None:
    """The id is of the moves, so that they have one run, however many trainers see them.

    A run that waits pins what is named when it is carried: a second one beside it adds nothing.
    """
    moves = sorted(f"{alias} {each.generation}" for alias, each in named.items())
    told = "\n".join([graph.name, *moves])
    run_id = FOLLOWS + hashlib.sha256(told.encode()).hexdigest()[:32]
    newest = runs.newest_of(graph.name, prefix=FOLLOWS)
    if newest is not None:
        early = now_us - newest.known_until_us < FOLLOW_INTERVAL_S * 1_000_000
        if newest.run_id == run_id or early or not newest.ended:
            return
    log.info("graph_follows_aliases", graph=graph.name, run_id=run_id, moves=moves)
    runs.add(TrainingRequest(run_id, graph.name, 0))


def carry_next_run(
    *,
    runs: RunStore,
    leases: LeaseKeeper,
    recipes: RecipeBook,
    training_sets: TrainingSetClient,
    models: ModelRegistryClient,
    process: TrainingProcess,
    work_dir: Path,
) -> bool:
    """Carries the run that is due to the end of this try; False when none is due.

    A dependency that is down leaves the run to a later try; any other known error fails it.
    """
    claimed = runs.claim()
    if claimed is None:
        return False
    lease, run = claimed
    try:
        with (
            leases.hold(lease, lost=training_sets.abandon) as progress,
            tempfile.TemporaryDirectory(dir=work_dir, prefix=f"{run.run_id}.") as folder,
        ):
            held = _carry(
                lease,
                run,
                Path(folder),
                progress=progress,
                runs=runs,
                recipes=recipes,
                training_sets=training_sets,
                models=models,
                process=process,
            )
    except LeaseLost:
        held = False
    except (Busy, Unavailable) as err:
        held = _try_later(lease, err, runs)
    except HeadraceError as err:
        held = _fail(lease, err, runs)
    if not held:
        log.warning("run_given_up_to_another_worker", run_id=run.run_id)
    return True


def _carry(
    lease: Lease,
    run: Run,
    folder: Path,
    *,
    progress: Progress,
    runs: RunStore,
    recipes: RecipeBook,
    training_sets: TrainingSetClient,
    models: ModelRegistryClient,
    process: TrainingProcess,
) -> bool:
    """False when the lease was lost before the result could be stored."""
    if lease.token > TRIES_MAX:
        # A dependency that is down ends the last try: only a crash leads here.
        raise HeadraceError("TRAINING_FAILED", problem="its tries ended the trainer")
    made_by = recipes.trainee(run.request.recipe)
    if isinstance(made_by, Graph):
        result, compared = _compose(
            made_by,
            run,
            folder,
            progress=progress,
            recipes=recipes,
            training_sets=training_sets,
            models=models,
            process=process,
        )
    else:
        result, compared = _train(
            made_by,
            run,
            folder,
            progress=progress,
            recipes=recipes,
            training_sets=training_sets,
            models=models,
            process=process,
        )
    progress("uploading the model")
    digest = models.upload(result.onnx)
    trained = replace(
        result.model,
        digest=digest,
        trained_until_us=run.known_until_us,
        champion_version=compared,
    )
    return runs.complete(lease, trained)


def _train(
    recipe: Recipe,
    run: Run,
    folder: Path,
    *,
    progress: Progress,
    recipes: RecipeBook,
    training_sets: TrainingSetClient,
    models: ModelRegistryClient,
    process: TrainingProcess,
) -> tuple[TrainingResult, int]:
    """The result, and the version of the champion that it was compared with, or 0."""
    training_set = _training_set(recipe, run, folder, progress, training_sets)
    champion = _champion(recipe.model, recipe, models, folder)
    job = TrainingJob(
        recipe=recipe,
        category_sizes=recipes.category_sizes(recipe),
        training_set=training_set,
        champion_onnx=folder / CHAMPION if champion else None,
        folder=folder,
        window_s=recipes.window_s(recipe),
    )
    with _told_why(training_set):
        result = process.train(job, progress=progress)
    return result, champion.version if champion else 0


def _compose(
    graph: Graph,
    run: Run,
    folder: Path,
    *,
    progress: Progress,
    recipes: RecipeBook,
    training_sets: TrainingSetClient,
    models: ModelRegistryClient,
    process: TrainingProcess,
) -> tuple[TrainingResult, int]:
    """As `_train`. What cannot fit is told before the training set is asked for."""
    recipe = None if graph.recipe is None else recipes.recipe(graph.recipe)
    progress("asking for the versions of its models")
    components = _components(graph, models)
    signatures = {step: each.signature for step, each in components.items()}
    plan_graph(graph, recipe.features if recipe else (), signatures)
    measured, champion = None, None
    if recipe is not None:
        training_set = _training_set(recipe, run, folder, progress, training_sets)
        measured = Measure(recipe, training_set, recipes.window_s(recipe))
        champion = _champion(graph.name, recipe, models, folder)
    for digest in sorted({each.digest for each in components.values()}):
        (folder / f"{digest}.onnx").write_bytes(models.download(digest))
    _check_size(graph, components, folder)
    job = CompositionJob(graph, components, measured, folder)
    with _told_why(measured.training_set if measured else None):
        result = process.compose(job, progress=progress)
    return result, champion.version if champion else 0


def _check_size(graph: Graph, components: Mapping[str, Component], folder: Path) -> None:
    """A file is in the compiled one for each step that names it: levels of graphs multiply it."""
    sizes = ((folder / f"{each.digest}.onnx").stat().st_size for each in components.values())
    if (size_bytes := sum(sizes)) > COMPILED_BYTES_MAX:
        problem = f"the files of its models have {size_bytes} bytes together, each counted for"
        refuse(graph, "steps", f"{problem} every step that names it; {COMPILED_BYTES_MAX} may be")


def _components(graph: Graph, models: ModelRegistryClient) -> dict[str, Component]:
    """By step. One reference is one version, however many steps name it."""
    steps = graph.model_steps()
    references = {step.model: step.reference for step in steps.values()}
    pinned = {written: models.pin(reference) for written, reference in references.items()}
    return {
        name: Component(
            pinned[step.model].reference,
            pinned[step.model].digest,
            registered_signature(graph, name, pinned[step.model].tensors),
        )
        for name, step in steps.items()
    }


def _training_set(
    recipe: Recipe, run: Run, folder: Path, progress: Progress, training_sets: TrainingSetClient
) -> TrainingSet:
    """Raises Unavailable DEFINITION_AWAITED where the recipe has come here alone by now."""
    progress("asking for the training set, once the archive holds all of it")
    file = folder / "training.arrow"
    try:
        return training_sets.create(recipe.name, run.known_until_us, file, published=run.published)
    except NotFound as err:
        if err.reason != "DEFINITION_UNKNOWN":
            raise
        raise Unavailable("DEFINITION_AWAITED", service="feature", **err.metadata) from err


@contextmanager
def _told_why(training_set: TrainingSet | None) -> Iterator[None]:
    """What has too few rows is told with what it could have had."""
    try:
        yield
    except Conflict as err:
        if err.reason != "TOO_FEW_ROWS" or training_set is None:
            raise
        raise Conflict(err.reason, **err.metadata, **training_set.spine) from err


def _try_later(lease: Lease, error: HeadraceError, runs: RunStore) -> bool:
    delay_s = next_try_delay_s(lease.token)
    if delay_s is None:
        return _fail(lease, error, runs)
    log.warning("run_waits", run_id=lease.run_id, error=str(error), delay_s=delay_s)
    waits_for = error.metadata.get("waits_for", "")
    said = f"waits after try {lease.token}: {error.reason}" + (f", {waits_for}" * bool(waits_for))
    return runs.postpone(lease, delay_s, said)


def _fail(lease: Lease, error: HeadraceError, runs: RunStore) -> bool:
    log.error("run_failed", run_id=lease.run_id, error=str(error))
    detail = ", ".join(f"{name}={value}" for name, value in error.metadata.items())
    return runs.fail(lease, error.reason, detail)


def _champion(
    model: str, recipe: Recipe, models: ModelRegistryClient, folder: Path
) -> Champion | None:
    """The champion, its bytes in the folder, if it can be scored on the holdout: same features."""
    champion = models.champion(model)
    if champion is None or champion.features != recipe.features:
        return None
    (folder / CHAMPION).write_bytes(models.download(champion.digest))
    return champion
