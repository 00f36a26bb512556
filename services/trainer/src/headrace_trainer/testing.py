# SPDX-License-Identifier: Apache-2.0
"""Fakes and builders of the trainer, shipped so that tests and replacements share them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace.application import Recipe, parse_definition
from headrace.errors import HeadraceError, NotFound
from headrace.graph_definition import Graph
from headrace.graph_signature import RegisteredTensor, RegisteredTensors
from headrace.model_reference import ModelReference
from headrace_trainer.domain.run import Lease, LeaseLost, TrainedModel, TrainingRequest
from headrace_trainer.ports import (
    Champion,
    CompositionJob,
    NamedVersion,
    PinnedVersion,
    Progress,
    RunStore,
    TrainingJob,
    TrainingResult,
    TrainingSet,
)

FEATURES = ("request:distance", "request:carrier")


def a_request(request_id: str = "run-1", **changes: object) -> TrainingRequest:
    return replace(TrainingRequest(request_id, "delay", 10**15), **changes)  # type: ignore[arg-type]


def a_trained_model(**changes: object) -> TrainedModel:
    model = TrainedModel(
        model="delay",
        digest="d" * 64,
        features=FEATURES,
        trained_until_us=10**15,
        metrics={"auc": 0.7},
        champion_version=0,
        reference=(),
    )
    return replace(model, **changes)  # type: ignore[arg-type]


def a_recipe(**network: object) -> Recipe:
    recipe = parse_definition(
        {
            "kind": "recipe",
            "name": "delay",
            "description": "A test's recipe.",
            "model": "delay",
            "spine": {
                "stream": "flights.scheduled",
                "entity_key": "flight_id",
                "time": "scheduled_at",
                "offset": "-1h",
            },
            "label": {
                "stream": "flights.arrived",
                "key": "flight_id",
                "column": "arr_delay",
                "above": 15,
                "absent_after": "24h",
            },
            "features": FEATURES,
            "network": {
                "hidden": [16],
                "dropout": 0.0,
                "learning_rate": 0.01,
                "weight_decay": 0.0,
                "batch_rows": 128,
                "epochs_max": 8,
                "members": 2,
                "embedding_size": 2,
                "seed": 7,
                **network,
            },
            "gate": {"holdout": "7d", "auc_min": 0.6, "champion_margin": 0.01},
        }
    )
    assert isinstance(recipe, Recipe)  # noqa: S101 (the document says so)
    return recipe


def write_training_set(file: Path, rows: int = 2_000, seed: int = 3) -> TrainingSet:
    """Late when far and with carrier 2; a tenth of the distances is absent. Ten days of rows."""
    random = np.random.default_rng(seed)
    distance = random.normal(1000, 300, rows).astype(np.float32)
    carrier = random.integers(0, 4, rows).astype(np.float32)
    logit = (distance - 1000) / 150 + 2 * (carrier == 2) - 0.5
    label = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    distance[random.random(rows) < 0.1] = np.nan
    matrix = np.stack([distance, carrier], axis=1)
    table = pa.table(
        {
            "entity_key": [f"flight-{row}" for row in range(rows)],
            "as_of_us": pa.array(np.linspace(0, 14 * 86_400e6, rows).astype(np.int64)),
            "label": label,
            "features": pa.FixedSizeListArray.from_arrays(matrix.ravel(), 2),
        }
    )
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return TrainingSet(
        file,
        FEATURES,
        rows,
        "digest",
        {"flights.scheduled": 3},
        "made-by",
        offsets_by_stream={"flights.scheduled": "0:17-1233 1:0-998"},
    )


def a_graph(**changes: object) -> Graph:
    """Of the recipe `delay`: its model where a flight is short, and a rule elsewhere."""
    graph = parse_definition(
        {
            "kind": "graph",
            "name": "delay-guarded",
            "description": "A test's graph.",
            "recipe": "delay",
            "steps": {
                "learnt": {"model": "delay@champion"},
                "rule": {"expression": 'COALESCE("request:distance", 1000) / 2000'},
                "chosen": {
                    "branch": [{"when": '"request:distance" < 1000', "then": "learnt"}],
                    "otherwise": "rule",
                },
            },
            "outputs": {"score": "chosen"},
            **changes,
        }
    )
    assert isinstance(graph, Graph)  # noqa: S101 (the document says so)
    return graph


def a_pinned_version(**changes: object) -> PinnedVersion:
    """Of `delay`, as a_recipe trains it."""
    tensors = RegisteredTensors(
        (RegisteredTensor("features", "FP32", (-1, len(FEATURES))),),
        (RegisteredTensor("score", "FP32", (-1,)),),
        FEATURES,
    )
    return replace(PinnedVersion("delay", 7, "7" * 64, tensors), **changes)  # type: ignore[arg-type]


class OneRecipe:
    """RecipeBook that knows the recipe `delay` and the graph `delay-guarded`."""

    def trainee(self, name: str, *, wait_s: float = 0.0) -> Recipe | Graph:
        return a_graph() if name == "delay-guarded" else self.recipe(name)

    def recipe(self, name: str) -> Recipe:
        if name != "delay":
            raise NotFound("DEFINITION_UNKNOWN", recipe=name)
        return a_recipe()

    def graphs(self) -> Sequence[Graph]:
        return [a_graph()]

    def category_sizes(self, recipe: Recipe) -> Mapping[str, int]:
        return {"request:carrier": 3}

    def window_s(self, recipe: Recipe) -> int | None:
        return 86_400


@dataclass
class FakeVersions:
    """VersionBook that a test writes: `aliases` by reference, `inside` by graph."""

    aliases: dict[str, NamedVersion] = field(default_factory=dict)
    inside: dict[str, frozenset[str]] = field(default_factory=dict)

    def alias(self, reference: ModelReference) -> NamedVersion | None:
        return self.aliases.get(str(reference))

    def components(self, graph: str) -> frozenset[str] | None:
        return self.inside.get(graph)


@dataclass
class FakeLeaseKeeper:
    """LeaseKeeper that renews only when it is told something, so that a test's clock rules."""

    runs: RunStore

    @contextmanager
    def hold(self, lease: Lease, *, lost: Callable[[], None]) -> Iterator[Progress]:
        def report(text: str) -> None:
            if not self.runs.renew(lease, text):
                lost()
                raise LeaseLost(lease.run_id)

        yield report


@dataclass
class FakeTrainingSets:
    error: HeadraceError | None = None
    spine: Mapping[str, str | int] = field(default_factory=dict)

    published: list[bool] = field(default_factory=list)
    abandoned: bool = False

    def create(
        self, recipe: str, known_until_us: int, file: Path, *, published: bool
    ) -> TrainingSet:
        self.published.append(published)
        if self.error is not None:
            raise self.error
        return replace(write_training_set(file), spine=self.spine)

    def abandon(self) -> None:
        self.abandoned = True


@dataclass
class FakeModels:
    champion_now: Champion | None = None
    pinned: PinnedVersion = field(default_factory=a_pinned_version)
    uploaded: list[bytes] = field(default_factory=list)
    asked: list[ModelReference] = field(default_factory=list)

    def champion(self, model: str) -> Champion | None:
        return self.champion_now

    def pin(self, reference: ModelReference) -> PinnedVersion:
        self.asked.append(reference)
        return self.pinned

    def download(self, digest: str) -> bytes:
        return b"champion"

    def upload(self, onnx: bytes) -> str:
        self.uploaded.append(onnx)
        return "a" * 64


@dataclass
class FakeProcess:
    """TrainingProcess that answers at once, after what a test wants to happen meanwhile."""

    meanwhile: object = None
    error: HeadraceError | None = None
    jobs: list[TrainingJob] = field(default_factory=list)
    compositions: list[CompositionJob] = field(default_factory=list)

    def train(self, job: TrainingJob, *, progress: Progress) -> TrainingResult:
        self.jobs.append(job)
        return self._answer("delay", progress)

    def compose(self, job: CompositionJob, *, progress: Progress) -> TrainingResult:
        self.compositions.append(job)
        return self._answer(job.graph.name, progress)

    def _answer(self, model: str, progress: Progress) -> TrainingResult:
        progress("training")
        if callable(self.meanwhile):
            self.meanwhile()
            progress("still training")
        if self.error is not None:
            raise self.error
        return TrainingResult(b"onnx", a_trained_model(model=model, digest=""))
