# SPDX-License-Identifier: Apache-2.0
"""What the trainer's handlers need from the outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from headrace.application import Recipe
from headrace.graph_definition import Graph
from headrace.graph_signature import RegisteredTensors, Signature
from headrace.model_reference import ModelReference
from headrace_trainer.domain.run import Lease, Run, TrainedModel, TrainingRequest

Progress = Callable[[str], None]


class RunStore(Protocol):
    """Runs and their leases. State changes and their events are stored both or neither."""

    def add(self, request: TrainingRequest) -> Run:
        """Queues the request, or answers the run that its id has already.

        Raises Conflict REQUEST_REUSED when that run was asked for with other content.
        """

    def get(self, run_id: str) -> Run:
        """Raises NotFound RUN_UNKNOWN."""

    def newest(self, runs_max: int) -> list[Run]:
        """Newest first."""

    def newest_of(self, recipe: str, *, prefix: str) -> Run | None:
        """The newest run of this recipe or graph whose id begins so."""

    def claim(self) -> tuple[Lease, Run] | None:
        """Takes a run that is due: queued and its next try has come, or its lease ran out.

        The one whose try is due longest goes first; None when there is none.
        """

    def renew(self, lease: Lease, progress: str) -> bool:
        """Holds the lease for another term; False when it was lost."""

    def complete(self, lease: Lease, trained: TrainedModel) -> bool:
        """Stores the result and its event; False, and nothing stored, when the lease was lost."""

    def fail(self, lease: Lease, reason: str, detail: str) -> bool:
        """As `complete`, for a run that failed."""

    def postpone(self, lease: Lease, delay_s: int, progress: str) -> bool:
        """Gives the run back, due again after `delay_s`; False when the lease was lost."""

    def cancel(self, run_id: str) -> Run:
        """Fails a run that has not ended, with its event, whoever carries it: its lease is lost.

        Raises NotFound RUN_UNKNOWN, Conflict RUN_ENDED unless it was cancelled before.
        """

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        """Positions are about the topics with these ids; those of another one are forgotten."""

    def positions(self) -> Mapping[tuple[str, int], int]:
        """Next offset by topic and partition: requests before it are runs, or dead letters."""

    def save_positions(self, next_offsets: Mapping[tuple[str, int], int]) -> None:
        """Never goes back: of two that save, the further one is right."""


class LeaseKeeper(Protocol):
    """Keeps leases while steps are in work that may take longer than a lease."""

    def hold(self, lease: Lease, *, lost: Callable[[], None]) -> AbstractContextManager[Progress]:
        """Renews the lease until the block ends; its Progress raises LeaseLost once it is lost.

        `lost` is called then, maybe from another thread, for what says no progress.
        """


class RecipeBook(Protocol):
    """What is applied: recipes, graphs, and what views say of the features."""

    def trainee(self, name: str, *, wait_s: float = 0.0) -> Recipe | Graph:
        """The one that a request names, which may still come within the time.

        Raises NotFound DEFINITION_UNKNOWN.
        """

    def recipe(self, name: str) -> Recipe:
        """Raises NotFound DEFINITION_UNKNOWN."""

    def graphs(self) -> Sequence[Graph]: ...

    def category_sizes(self, recipe: Recipe) -> Mapping[str, int]:
        """Number of categories of each feature of the recipe that is a code."""

    def window_s(self, recipe: Recipe) -> int | None:
        """Length of the windows in which the model's inputs are watched; None when they are not."""


@dataclass(frozen=True, slots=True)
class NamedVersion:
    """What an alias names since its `generation`-th move."""

    reference: str
    generation: int


class VersionBook(Protocol):
    """What the registry tells: where aliases stand, and what versions of graphs were made of."""

    def alias(self, reference: ModelReference) -> NamedVersion | None: ...

    def components(self, graph: str) -> frozenset[str] | None:
        """References of the versions inside the graph's newest version; None: it has none yet."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """An Arrow IPC file and what it was made from.

    Columns: entity_key string, as_of_us int64, label float32, features list of float32 [n].
    `spine`: of a set with few rows, what there was and why it is no row, as an error tells it.
    `offsets_by_stream`: where its records lay in the raw topic, as `0:17-1233 1:0-998`: of each
    partition the first and the last one.
    """

    file: Path
    features: tuple[str, ...]
    rows: int
    digest: str
    delta_version_by_stream: dict[str, int]
    definitions_digest: str
    spine: Mapping[str, str | int] = field(default_factory=dict)
    offsets_by_stream: Mapping[str, str] = field(default_factory=dict)


class TrainingSetClient(Protocol):
    """Point-in-time training sets from the feature service."""

    def create(
        self, recipe: str, known_until_us: int, file: Path, *, published: bool
    ) -> TrainingSet:
        """Writes the set to `file`; with `published`, of all that has been published by now.

        Raises Unavailable RECORDS_BEHIND, which says what it `waits_for`, and SERVICE_UNAVAILABLE
        once it is abandoned.
        """

    def abandon(self) -> None:
        """End the `create` that is in work, if one is; from any thread."""


@dataclass(frozen=True, slots=True)
class Champion:
    """The version that serves the model now."""

    version: int
    digest: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PinnedVersion:
    """A version that passed its gate, and its tensors as its file has them."""

    model: str
    version: int
    digest: str
    tensors: RegisteredTensors

    @property
    def reference(self) -> str:
        return f"models:/{self.model}/{self.version}"


class ModelRegistryClient(Protocol):
    """The registry's artifacts and versions."""

    def champion(self, model: str) -> Champion | None: ...

    def pin(self, reference: ModelReference) -> PinnedVersion:
        """The version that the reference names now.

        Raises NotFound VERSION_UNKNOWN or ALIAS_UNKNOWN, Conflict GATE_NOT_PASSED.
        """

    def download(self, digest: str) -> bytes:
        """Raises Corrupt DIGEST_MISMATCH for bytes that do not hash to it."""

    def upload(self, onnx: bytes) -> str:
        """Stores the bytes and answers their digest."""


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """All that a training process reads; it needs no network."""

    recipe: Recipe
    # Number of categories by feature, for the features that are codes.
    category_sizes: Mapping[str, int]
    training_set: TrainingSet
    champion_onnx: Path | None
    folder: Path
    # Length of the windows in which a monitor will compare the inputs; None: nobody watches.
    window_s: int | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """A version as a step of a graph: its bytes lie in the job's folder as `<digest>.onnx`."""

    reference: str
    digest: str
    signature: Signature


@dataclass(frozen=True, slots=True)
class Measure:
    """What a graph with a recipe is measured on: the holdout of a training set of that."""

    recipe: Recipe
    training_set: TrainingSet
    window_s: int | None


@dataclass(frozen=True, slots=True)
class CompositionJob:
    """All that a process needs to compile a graph; it needs no network."""

    graph: Graph
    components: Mapping[str, Component]  # by step
    measured: Measure | None
    folder: Path


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training process leaves: the model's bytes and what was measured."""

    onnx: bytes
    model: TrainedModel


class TrainingProcess(Protocol):
    """Works in a process of its own, so that its memory goes and its crash harms nobody."""

    def train(self, job: TrainingJob, *, progress: Progress) -> TrainingResult:
        """Raises HeadraceError TRAINING_FAILED, Conflict TOO_FEW_ROWS. Calls `progress` often."""

    def compose(self, job: CompositionJob, *, progress: Progress) -> TrainingResult:
        """Compiles a graph. Raises as `train` does, and Invalid BAD_DEFINITION or OPSET."""
