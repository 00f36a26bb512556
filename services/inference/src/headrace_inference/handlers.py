# SPDX-License-Identifier: Apache-2.0
"""What the service does: answer a request, and serve a rollout.

No answer waits for the log. A caller that got none retries with the same request id: the ids of the
logged rows are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter_ns
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.application import Endpoint
from headrace.errors import HeadraceError, Unavailable
from headrace_inference.domain.explanation import attributions, occluded_rows, wanted_attributions
from headrace_inference.domain.model_tensors import (
    as_numbers,
    fed,
    holds_nan,
    nonfinite,
    read_tensors,
    told,
    wanted_outputs,
)
from headrace_inference.domain.prediction import (
    Failure,
    Prediction,
    PredictionIds,
    Shadow,
    id_base,
    prediction_ids,
    row_id,
)
from headrace_inference.domain.request import (
    FEATURES,
    SCORE,
    Batch,
    Door,
    FeatureRows,
    InferRequest,
    Tensor,
    check_outputs,
    check_width,
    joined,
    read_batch,
)
from headrace_inference.domain.rollout import Rollout, ServedVersion
from headrace_inference.domain.serving import (
    Choice,
    Ending,
    Floats,
    LoadedVersion,
    Serving,
    ServingTable,
)
from headrace_inference.ports import (
    Clock,
    FeatureReader,
    ModelStore,
    PredictionLog,
)
from headrace_kit import tracing
from headrace_kit.failpoints import failpoint

# However patient the caller: who reads holds a thread that others wait for.
FEATURES_S_MAX = 10.0


@dataclass(slots=True)
class Work:
    """Rows that one choice of versions answers: what both models take, in the models' terms.

    Not frozen, as Prediction.
    """

    serving: Serving
    choice: Choice
    door: Door
    inputs: Mapping[str, Tensor]
    shadow_inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    entity_keys: Sequence[str]
    as_of_us: NDArray[np.int64]
    ids: PredictionIds
    # Of the features that were read for the answering version.
    event_times: Tensor | None = None
    # Of the answering run, where its callers may all hang up before its end.
    ending: Ending | None = None

    def of_requests(self, places: Sequence[int]) -> Work:
        """What is for these requests alone."""
        counts = self.ids.rows
        kept = np.isin(np.repeat(np.arange(len(counts)), counts), places)
        keys = self.entity_keys
        return replace(
            self,
            inputs=_some_rows(self.inputs, kept),
            shadow_inputs=_some_rows(self.shadow_inputs, kept),
            event_times=_rows_of(self.event_times, kept) if self.event_times else None,
            entity_keys=[key for key, stays in zip(keys, kept, strict=True) if stays],
            as_of_us=self.as_of_us[kept],
            ids=self.ids.of_requests(places),
        )


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """A request to a version that takes features: its rows, and who answers them."""

    request: InferRequest
    endpoint: Endpoint
    serving: Serving
    choice: Choice
    batch: Batch


class Predict(Protocol):
    def __call__(
        self,
        request: InferRequest,
        *,
        time_left_s: Callable[[], float],
        ending: Ending | None = None,
    ) -> Prediction:
        """`predict`, its ports bound."""


def infer(
    request: InferRequest,
    *,
    predict: Predict,
    log: PredictionLog,
    time_left_s: Callable[[], float],
    ending: Ending | None = None,
) -> Prediction:
    """What `predict` says, its rows given to the log."""
    prediction = predict(request, time_left_s=time_left_s, ending=ending)
    failpoint("inference.request.half")
    log.append(prediction, traces=tracing.traces())
    failpoint("inference.request.answered")
    return prediction


def predict(
    request: InferRequest,
    *,
    table: ServingTable,
    features: FeatureReader,
    clock: Clock,
    time_left_s: Callable[[], float],
    rows_max: int,
    explaining: Callable[[], AbstractContextManager[None]],
    on_failed: Callable[[Failure], None],
    ending: Ending | None = None,
) -> Prediction:
    """Answers every row by one version (P9).

    Raises Unavailable DEADLINE_UNMET without running the model when the caller's deadline cannot
    be kept. `explaining` gives a place to a request that asks for attributions, or raises Busy.
    `on_failed` hears of each request that a model fails, be it as the shadow.
    """
    begin_ns = perf_counter_ns()
    endpoint, serving = table.ready(request.endpoint)
    named = serving.version(request.version)
    if named.served.features:
        asked = read_rows(request, endpoint, serving, now_us=clock.now_us(), rows_max=rows_max)
        work = _features_work([asked], features, time_left_s)
    else:
        work = _tensors_work(request, serving, named, now_us=clock.now_us(), rows_max=rows_max)
    _require_model(work.choice, time_left_s)
    wanted = wanted_attributions(request.outputs, work.choice.answering)
    rows = len(work.ids) + occluded_rows(work.inputs, wanted)
    _require_time(work.choice, rows, time_left_s())
    answered = partial(
        answer,
        replace(work, ending=ending),
        request.id,
        begin_ns=begin_ns,
        now_us=clock.now_us,
        on_failed=on_failed,
    )
    if not wanted:
        return answered()
    with explaining():
        return _explained(answered(), work, wanted, rows_max=rows_max, time_left_s=time_left_s)


def answer(
    work: Work,
    request_id: str,
    *,
    begin_ns: int,
    now_us: Callable[[], int],
    on_failed: Callable[[Failure], None],
) -> Prediction:
    """Runs the models; raises HeadraceError MODEL_ERROR, MODEL_NONFINITE for the answering one,
    Invalid TENSOR_NONFINITE where the caller sent what is no number.
    """
    serving, choice = work.serving, work.choice
    read_ns = perf_counter_ns()
    try:
        outputs = _run(choice.answering, work, work.inputs, work.ending)
    except HeadraceError as err:
        ended = work.ending is not None and work.ending.asked  # by its callers: no fault of it
        # Of several it is not known whose: each is tried again alone.
        if len(work.ids.bases) == 1 and not ended:
            on_failed(_failure(work, err.reason, shadow=False))
        raise
    ran_ns = perf_counter_ns()
    return Prediction(
        request_id=request_id,
        endpoint=serving.rollout.endpoint,
        model=serving.rollout.model,
        served=choice.answering.served,
        arm=choice.arm,
        rollout_generation=serving.rollout.generation,
        door=work.door,
        entity_keys=work.entity_keys,
        as_of_us=work.as_of_us,
        inputs=work.inputs,
        outputs=outputs,
        shadow=_shadow(work, on_failed),
        served_at_us=now_us(),
        ids=work.ids,
        event_times=work.event_times,
        read_ns=read_ns - begin_ns,
        run_ns=ran_ns - read_ns,
    )


def _explained(
    prediction: Prediction,
    work: Work,
    wanted: Mapping[str, str],
    *,
    rows_max: int,
    time_left_s: Callable[[], float],
) -> Prediction:
    found = attributions(
        work.choice.answering,
        work.inputs,
        prediction.outputs,
        wanted,
        rows_max=rows_max,
        before_run=lambda rows: _require_time(work.choice, rows, time_left_s()),
    )
    return replace(prediction, attributions=found)


def read_rows(
    request: InferRequest, endpoint: Endpoint, serving: Serving, *, now_us: int, rows_max: int
) -> FeatureRequest:
    """Raises Invalid and Busy as `read_batch`, NotFound MODEL_UNKNOWN."""
    check_outputs(request.outputs)
    batch = read_batch(request, endpoint, now_us=now_us, rows_max=rows_max)
    choice = serving.choose(
        version=request.version,
        sticky_key=batch.entity_keys[0] or request.id,
        tensors=batch.features is not None,
    )
    return FeatureRequest(request, endpoint, serving, choice, batch)


def predict_together(
    asked: Sequence[FeatureRequest],
    *,
    features: FeatureReader,
    now_us: Callable[[], int],
    time_left_s: Callable[[], float],
    in_time: Callable[[float], Sequence[int]],
    ending: Ending | None,
    on_failed: Callable[[Failure], None],
) -> Prediction:
    """Answers requests by entity keys, all of one choice of versions, as one: their features are
    read in one call.

    `in_time` is asked once they are: the places of the requests that can wait for a run of so long,
    which alone are answered. Raises Unavailable DEADLINE_UNMET when there is none.
    """
    begin_ns = perf_counter_ns()
    work = replace(_features_work(asked, features, time_left_s), ending=ending)
    needed_s = work.choice.answering.model.least_s(len(work.ids))
    places = in_time(needed_s)
    if not places:
        raise Unavailable("DEADLINE_UNMET", needed_s=needed_s)
    if len(places) < len(asked):
        work = work.of_requests(places)
    return answer(work, "", begin_ns=begin_ns, now_us=now_us, on_failed=on_failed)


def _features_work(
    asked: Sequence[FeatureRequest], features: FeatureReader, time_left_s: Callable[[], float]
) -> Work:
    first, batch = asked[0], joined([each.batch for each in asked])
    _require_time(first.choice, batch.rows, time_left_s())
    endpoint = first.serving.rollout.endpoint
    ids = PredictionIds(
        [id_base(each.request.id, endpoint) for each in asked], [each.batch.rows for each in asked]
    )
    rows, shadow_vectors = _rows(batch, ids.each(), first.choice, features, time_left_s)
    vectors = rows.values
    return Work(
        serving=first.serving,
        choice=first.choice,
        door=batch.door,
        inputs={FEATURES: Tensor(FEATURES, "FP32", vectors.shape, vectors)},
        shadow_inputs={FEATURES: Tensor(FEATURES, "FP32", shadow_vectors.shape, shadow_vectors)},
        outputs=(SCORE,),
        entity_keys=batch.entity_keys,
        as_of_us=batch.as_of_us,
        ids=ids,
        event_times=rows.event_times(),
    )


def _tensors_work(
    request: InferRequest, serving: Serving, named: LoadedVersion, *, now_us: int, rows_max: int
) -> Work:
    outputs = wanted_outputs(request.outputs, named.model)
    rows = read_tensors(request.inputs, named.model, rows_max=rows_max)
    return Work(
        serving=serving,
        choice=serving.choose(
            version=request.version, sticky_key=request.key or request.id, tensors=True
        ),
        door=Door.TENSORS,
        inputs=request.inputs,
        shadow_inputs=request.inputs,
        outputs=outputs,
        entity_keys=(request.key,) * rows if request.key else (),
        as_of_us=np.full(rows, now_us, dtype=np.int64),
        ids=prediction_ids(request.id, request.endpoint, rows),
    )


def serve_rollout(rollout: Rollout, *, table: ServingTable, models: ModelStore) -> None:
    """Loads the rollout's versions aside, then swaps the endpoint's pointer to them."""
    before = table.state(rollout.endpoint).serving
    like = None if before is None else before.champion.model

    def loaded(served: ServedVersion) -> LoadedVersion:
        model = table.loaded(served.digest) or models.load(served, like=like)
        return LoadedVersion(served, model)

    canary = rollout.canary
    serving = Serving(
        rollout=rollout,
        champion=loaded(rollout.champion),
        canary=None if canary is None else loaded(canary),
    )
    failpoint("inference.model.verified")
    table.install(serving)


def _some_rows(tensors: Mapping[str, Tensor], kept: NDArray[np.bool_]) -> dict[str, Tensor]:
    return {name: _rows_of(tensor, kept) for name, tensor in tensors.items()}


def _rows_of(tensor: Tensor, kept: NDArray[np.bool_]) -> Tensor:
    values = np.asarray(tensor.values)[kept]
    return replace(tensor, shape=values.shape, values=values)


def _require_model(choice: Choice, time_left_s: Callable[[], float]) -> None:
    """A model that is not in memory is waited for, no longer than the caller waits."""
    model = choice.answering.model
    if not model.resident:
        model.await_load(time_left_s)


def _require_time(choice: Choice, rows: int, left_s: float) -> None:
    needed_s = choice.answering.model.least_s(rows)
    if left_s <= needed_s:
        raise Unavailable("DEADLINE_UNMET", needed_s=needed_s)


def _rows(
    batch: Batch,
    ids: Sequence[str],
    choice: Choice,
    features: FeatureReader,
    time_left_s: Callable[[], float],
) -> tuple[FeatureRows, Floats]:
    """Of the answering version and of its shadow, read from the feature service once."""
    wanted = choice.answering.served.features
    if batch.features is not None:
        check_width(batch.features, width=len(wanted))
        return FeatureRows(batch.features), batch.features
    extra = choice.shadow.served.features if choice.shadow is not None else ()
    names = list(dict.fromkeys((*wanted, *extra)))
    timeout_s = min(FEATURES_S_MAX, time_left_s())
    try:
        read = features.read(names, batch, prediction_ids=ids, timeout_s=timeout_s)
    except Unavailable as err:
        if time_left_s() > 0.0:
            raise
        # The caller's own time ended the read, which says nothing of the feature service.
        raise Unavailable("DEADLINE_UNMET", needed_s=timeout_s) from err
    own = read if len(names) == len(wanted) else read.first(len(wanted))
    if extra == wanted:
        return own, own.values
    return own, read.values[:, [names.index(name) for name in extra]]


def _run(
    loaded: LoadedVersion, work: Work, inputs: Mapping[str, Tensor], ending: Ending | None = None
) -> dict[str, Tensor]:
    specs = {spec.name: spec for spec in loaded.model.outputs}
    arrays = {name: fed(tensor) for name, tensor in inputs.items()}
    values = loaded.model.run(arrays, work.outputs, ending)
    if loaded.served.features and values[0].shape != inputs[FEATURES].shape[:1]:
        raise HeadraceError("MODEL_ERROR")
    for name, each in zip(work.outputs, values, strict=True):
        if _nonfinite(loaded, as_numbers(specs[name].datatype, each)):
            given = inputs if work.door is Door.TENSORS else {}
            sent = {name: as_numbers(of.datatype, arrays[name]) for name, of in given.items()}
            raise nonfinite(sent, version=loaded.served.version)
    return {name: told(specs[name], each) for name, each in zip(work.outputs, values, strict=True)}


def _nonfinite(loaded: LoadedVersion, values: NDArray[Any]) -> bool:
    """A score is a number; another output may be infinite, as the logarithm of 0 is."""
    return not np.isfinite(values).all() if loaded.served.features else holds_nan(values)


def _shadow(work: Work, on_failed: Callable[[Failure], None]) -> Shadow | None:
    """A shadow that fails is left out of the log; the answer does not depend on it, nor waits for
    its load."""
    loaded = work.choice.shadow
    if loaded is None:
        return None
    if not loaded.model.resident:
        loaded.model.load()
        on_failed(_failure(work, "RESTORING", shadow=True))
        return None
    try:
        return Shadow(loaded.served.version, _run(loaded, work, work.shadow_inputs))
    except HeadraceError as err:
        on_failed(_failure(work, err.reason, shadow=True))
        return None


def _failure(work: Work, reason: str, *, shadow: bool) -> Failure:
    """Of the first request; those that share a run with a shadow that fails count as one."""
    choice, rollout = work.choice, work.serving.rollout
    failed = choice.shadow if shadow and choice.shadow is not None else choice.answering
    return Failure(
        endpoint=rollout.endpoint,
        model=rollout.model,
        served=failed.served,
        arm=choice.arm.other if shadow else choice.arm,
        rollout_generation=rollout.generation,
        prediction_id=row_id(work.ids.bases[0], 0),
        as_of_us=int(work.as_of_us[0]),
        reason=reason,
        shadow=shadow,
    )
