# SPDX-License-Identifier: Apache-2.0
"""What the service does: answer a request, and serve a rollout.

An answer is given only after its log records are delivered, so that every answer that a caller saw
can be joined with its outcome. A caller that got none retries with the same request id: the ids of
the records are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from headrace.errors import HeadraceError
from headrace_inference.domain.prediction import Prediction, Shadow, prediction_ids
from headrace_inference.domain.request import (
    Batch,
    InferRequest,
    check_outputs,
    check_width,
    read_batch,
)
from headrace_inference.domain.rollout import Rollout, ServedVersion
from headrace_inference.domain.serving import Choice, Floats, LoadedVersion, Serving, ServingTable
from headrace_inference.ports import (
    ArtifactStore,
    Clock,
    FeatureReader,
    ModelRuntime,
    PredictionLog,
)
from headrace_kit.failpoints import failpoint

FEATURES_TIMEOUT_S = 1.0
DELIVERY_TIMEOUT_S = 10.0


class TooLate(Exception):
    """The caller's deadline comes before the answer can be there."""


def infer(
    request: InferRequest,
    *,
    table: ServingTable,
    features: FeatureReader,
    log: PredictionLog,
    clock: Clock,
    time_left_s: Callable[[], float],
    rows_max: int,
    on_shadow_failed: Callable[[], None],
) -> Prediction:
    """Answers every row by one version (P9), with the log records delivered.

    Raises TooLate without running the model when the caller's deadline cannot be kept.
    """
    endpoint, serving = table.ready(request.endpoint)
    check_outputs(request.outputs)
    batch = read_batch(request, endpoint, now_us=clock.now_us(), rows_max=rows_max)
    choice = serving.choose(
        version=request.version,
        sticky_key=batch.entity_keys[0] or request.id,
        tensors=batch.features is not None,
    )
    _require_time(choice, batch.rows, time_left_s())
    ids = prediction_ids(request.id, request.endpoint, batch.rows)
    vectors, shadow_vectors = _vectors(batch, ids, choice, features, time_left_s)
    _require_time(choice, batch.rows, time_left_s())
    scores = _scores(choice.answering, vectors)
    prediction = Prediction(
        request_id=request.id,
        endpoint=request.endpoint,
        model=serving.rollout.model,
        served=choice.answering.served,
        arm=choice.arm,
        rollout_generation=serving.rollout.generation,
        door=batch.door,
        entity_keys=batch.entity_keys,
        as_of_us=batch.as_of_us,
        features=vectors,
        scores=scores,
        shadow=_shadow(choice, shadow_vectors, on_shadow_failed),
        served_at_us=clock.now_us(),
        prediction_ids=ids,
    )
    failpoint("inference.request.half")
    log.append(prediction, timeout_s=min(DELIVERY_TIMEOUT_S, time_left_s()))
    failpoint("inference.request.answered")
    return prediction


def serve_rollout(
    rollout: Rollout, *, table: ServingTable, artifacts: ArtifactStore, runtime: ModelRuntime
) -> None:
    """Loads the rollout's versions aside, then swaps the endpoint's pointer to them."""
    canary = rollout.canary
    serving = Serving(
        rollout=rollout,
        champion=_loaded(rollout.champion, table, artifacts, runtime),
        canary=None if canary is None else _loaded(canary, table, artifacts, runtime),
    )
    failpoint("inference.model.verified")
    table.install(serving)


def _loaded(
    served: ServedVersion, table: ServingTable, artifacts: ArtifactStore, runtime: ModelRuntime
) -> LoadedVersion:
    model = table.loaded(served.digest)
    return LoadedVersion(served, model or runtime.load(artifacts.get(served.digest), served))


def _require_time(choice: Choice, rows: int, left_s: float) -> None:
    needed_s = choice.answering.model.least_s(rows)
    if left_s <= needed_s:
        raise TooLate


def _vectors(
    batch: Batch,
    ids: Sequence[str],
    choice: Choice,
    features: FeatureReader,
    time_left_s: Callable[[], float],
) -> tuple[Floats, Floats]:
    """Features of the answering version and of its shadow, read from the feature service once."""
    wanted = choice.answering.served.features
    if batch.features is not None:
        check_width(batch.features, width=len(wanted))
        return batch.features, batch.features
    extra = choice.shadow.served.features if choice.shadow is not None else ()
    names = list(dict.fromkeys((*wanted, *extra)))
    timeout_s = min(FEATURES_TIMEOUT_S, time_left_s())
    read = features.read(names, batch, prediction_ids=ids, timeout_s=timeout_s)
    if len(names) == len(wanted):
        return read, read if extra == wanted else read[:, [names.index(name) for name in extra]]
    return read[:, : len(wanted)], read[:, [names.index(name) for name in extra]]


def _scores(loaded: LoadedVersion, vectors: Floats) -> Floats:
    scores = loaded.model.score(vectors)
    if not np.isfinite(scores).all():
        raise HeadraceError("MODEL_NONFINITE", version=loaded.served.version)
    return scores


def _shadow(choice: Choice, vectors: Floats, on_shadow_failed: Callable[[], None]) -> Shadow | None:
    """A shadow that fails is left out of the log and counted; the answer does not depend on it."""
    if choice.shadow is None:
        return None
    try:
        return Shadow(choice.shadow.served.version, _scores(choice.shadow, vectors))
    except HeadraceError:
        on_shadow_failed()
        return None
