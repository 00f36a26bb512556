# SPDX-License-Identifier: Apache-2.0
"""Requests are taken once and carried to an end, whatever happens in between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from headrace.errors import Conflict, Corrupt, Denied, HeadraceError, Invalid, NotFound, Unavailable
from headrace.graph_definition import STEPS_MAX, Graph
from headrace_kit.clock import CLOCK_SKEW_US
from headrace_kit.testing import FixedClock, RefusingChannel
from headrace_trainer import handlers
from headrace_trainer.adapters.feature_client import GrpcTrainingSetClient
from headrace_trainer.adapters.memory_run_store import MemoryRunStore
from headrace_trainer.adapters.registry_client import GrpcModelRegistryClient
from headrace_trainer.domain.run import (
    TRIES_MAX,
    TRY_DELAY_S_MAX,
    RunState,
    TrainingRequest,
)
from headrace_trainer.handlers import (
    RECIPE_WAIT_S_MAX,
    cancel_run,
    carry_next_run,
    submit_run,
    take_request,
)
from headrace_trainer.ports import Champion, TrainingSet
from headrace_trainer.testing import (
    FEATURES,
    FakeLeaseKeeper,
    FakeModels,
    FakeProcess,
    FakeTrainingSets,
    OneRecipe,
    a_graph,
    a_pinned_version,
    a_request,
    write_training_set,
)

NOW_US = FixedClock().now_us()


def carry(runs: MemoryRunStore, tmp_path: Path, **parts: object) -> bool:
    defaults = {
        "recipes": OneRecipe(),
        "training_sets": FakeTrainingSets(),
        "models": FakeModels(),
        "process": FakeProcess(),
    }
    leases = FakeLeaseKeeper(runs)
    return carry_next_run(runs=runs, leases=leases, work_dir=tmp_path, **{**defaults, **parts})


def submit(runs: MemoryRunStore, **changes: object) -> None:
    submit_run(a_request(**changes), now_us=NOW_US, runs=runs, recipes=OneRecipe())


def test_unknown_recipe_is_refused(runs: MemoryRunStore) -> None:
    with pytest.raises(NotFound, match="DEFINITION_UNKNOWN"):
        submit(runs, recipe="nobody")


@pytest.mark.parametrize("request_id", ["", "UPPER", "../etc", "x" * 129])
def test_bad_request_id_is_refused(runs: MemoryRunStore, request_id: str) -> None:
    with pytest.raises(Invalid, match="BAD_NAME"):
        submit(runs, request_id=request_id)


def test_negative_time_is_refused(runs: MemoryRunStore) -> None:
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        submit(runs, known_until_us=-1)


@pytest.mark.parametrize("ahead_us", [CLOCK_SKEW_US + 1, 10**18])
def test_time_that_is_still_to_come_is_refused(runs: MemoryRunStore, ahead_us: int) -> None:
    with pytest.raises(Invalid, match="still to come"):
        submit(runs, known_until_us=NOW_US + ahead_us)
    with pytest.raises(Invalid, match="still to come"):
        take(runs, a_request(known_until_us=NOW_US + ahead_us), age_s=0)


@pytest.mark.parametrize("known_until_us", [0, 10**15])
def test_run_without_a_time_is_made_from_what_had_been_published(
    runs: MemoryRunStore, tmp_path: Path, known_until_us: int
) -> None:
    submit(runs, known_until_us=known_until_us)
    training_sets = FakeTrainingSets()

    carry(runs, tmp_path, training_sets=training_sets)

    assert [known_until_us == 0] == training_sets.published


@pytest.mark.parametrize(
    "part", [{"training_sets": GrpcTrainingSetClient}, {"models": GrpcModelRegistryClient}]
)
def test_run_waits_while_another_service_refuses_the_token(
    runs: MemoryRunStore, clock: FixedClock, tmp_path: Path, part: dict[str, type]
) -> None:
    stale = RefusingChannel(Denied("TOKEN_UNKNOWN"))
    submit(runs)

    carry(runs, tmp_path, **{name: client(stale) for name, client in part.items()})
    waiting = runs.get("run-1")
    clock.advance(TRY_DELAY_S_MAX * 1_000_000)
    carry(runs, tmp_path)

    assert "SERVICE_UNAVAILABLE" in waiting.progress
    assert RunState.QUEUED is waiting.state
    assert RunState.COMPLETED is runs.get("run-1").state


@pytest.mark.parametrize("act", ["champion", "download", "upload"])
def test_registry_that_refuses_the_token_is_away(act: str) -> None:
    models = GrpcModelRegistryClient(RefusingChannel(Denied("ACTION_FORBIDDEN")))

    with pytest.raises(Unavailable, match=r"SERVICE_UNAVAILABLE.*service=registry"):
        getattr(models, act)(b"onnx" if act == "upload" else "delay")


def test_run_that_is_cancelled_while_it_is_carried_stores_nothing(
    runs: MemoryRunStore, tmp_path: Path
) -> None:
    submit(runs)
    models = FakeModels()

    assert carry(
        runs, tmp_path, models=models, process=FakeProcess(lambda: cancel_run("run-1", runs=runs))
    )

    assert [] == models.uploaded
    assert (RunState.FAILED, "RUN_CANCELLED") == (
        runs.get("run-1").state,
        runs.get("run-1").reason,
    )
    assert not carry(runs, tmp_path)


def take(runs: MemoryRunStore, request: TrainingRequest, *, age_s: float) -> None:
    take_request(request, age_s=age_s, now_us=NOW_US, runs=runs, recipes=OneRecipe())


@pytest.mark.parametrize("age_s", [0.0, 29.0, -29.0])
def test_young_request_waits_for_its_recipe(runs: MemoryRunStore, age_s: float) -> None:
    with pytest.raises(Unavailable, match="DEFINITION_AWAITED"):
        take(runs, a_request(recipe="coming"), age_s=age_s)


@pytest.mark.parametrize("age_s", [RECIPE_WAIT_S_MAX, 86_400, -3_600])
def test_old_request_for_an_unknown_recipe_is_refused(runs: MemoryRunStore, age_s: float) -> None:
    with pytest.raises(NotFound, match="DEFINITION_UNKNOWN"):
        take(runs, a_request(recipe="nobody"), age_s=age_s)


def test_request_on_the_topic_must_say_its_time(runs: MemoryRunStore) -> None:
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        take(runs, a_request(known_until_us=0), age_s=0)


def test_submitted_run_without_a_time_trains_on_what_is_known_now(
    runs: MemoryRunStore, clock: FixedClock, tmp_path: Path
) -> None:
    submit(runs, known_until_us=0)
    submitted_us = clock.now_us()
    clock.advance(60_000_000)

    carry(runs, tmp_path)

    assert submitted_us == runs.get("run-1").trained.trained_until_us


def test_nothing_to_carry(runs: MemoryRunStore, tmp_path: Path) -> None:
    assert not carry(runs, tmp_path)


def test_run_ends_with_the_uploaded_digest(runs: MemoryRunStore, tmp_path: Path) -> None:
    submit(runs)
    models = FakeModels()

    assert carry(runs, tmp_path, models=models)

    assert [b"onnx"] == models.uploaded
    trained = runs.get("run-1").trained
    assert ("a" * 64, 10**15, 0) == (
        trained.digest,
        trained.trained_until_us,
        trained.champion_version,
    )
    assert [("run-1", RunState.RUNNING), ("run-1", RunState.COMPLETED)] == runs.events


def test_champion_of_the_same_features_is_compared(runs: MemoryRunStore, tmp_path: Path) -> None:
    submit(runs)
    process = FakeProcess()
    champion = Champion(4, "c" * 64, ("request:distance", "request:carrier"))

    carry(runs, tmp_path, models=FakeModels(champion), process=process)

    assert process.jobs[0].champion_onnx is not None
    assert 4 == runs.get("run-1").trained.champion_version


def test_champion_of_other_features_is_not_compared(runs: MemoryRunStore, tmp_path: Path) -> None:
    submit(runs)
    process = FakeProcess()

    carry(runs, tmp_path, models=FakeModels(Champion(4, "c" * 64, ("x:y",))), process=process)

    assert process.jobs[0].champion_onnx is None
    assert 0 == runs.get("run-1").trained.champion_version


def test_graph_is_composed_of_the_versions_that_its_steps_name(
    runs: MemoryRunStore, tmp_path: Path
) -> None:
    submit(runs, recipe="delay-guarded")
    process, models = FakeProcess(), FakeModels(Champion(4, "c" * 64, FEATURES))

    assert carry(runs, tmp_path, process=process, models=models)

    (job,) = process.compositions
    assert {"learnt": ("models:/delay/7", "7" * 64)} == {
        step: (each.reference, each.digest) for step, each in job.components.items()
    }
    assert "delay" == job.measured.recipe.name
    trained = runs.get("run-1").trained
    assert ("delay-guarded", "a" * 64, 4) == (
        trained.model,
        trained.digest,
        trained.champion_version,
    )


@pytest.mark.parametrize("features", [("request:distance", "x:y"), ("request:distance",)])
def test_graph_whose_model_takes_other_features_asks_for_no_training_set(
    runs: MemoryRunStore, tmp_path: Path, features: tuple[str, ...]
) -> None:
    submit(runs, recipe="delay-guarded")
    tensors = replace(a_pinned_version().tensors, features=features)
    models, training_sets = FakeModels(pinned=a_pinned_version(tensors=tensors)), FakeTrainingSets()

    carry(runs, tmp_path, models=models, training_sets=training_sets)

    run = runs.get("run-1")
    assert (RunState.FAILED, "BAD_DEFINITION") == (run.state, run.reason)
    assert "key=steps.learnt.inputs.features" in run.detail
    assert [] == training_sets.published


class ManyStepsBook(OneRecipe):
    """Its graph has 64 steps that all name one model."""

    def trainee(self, name: str, *, wait_s: float = 0.0) -> Graph:
        steps = {f"s{n}": {"model": "delay@champion"} for n in range(STEPS_MAX)}
        return a_graph(steps=steps, outputs={"score": "s0"})


def test_version_that_many_steps_name_is_asked_for_once(
    runs: MemoryRunStore, tmp_path: Path
) -> None:
    submit(runs, recipe="delay-guarded")
    models = FakeModels()

    carry(runs, tmp_path, models=models, recipes=ManyStepsBook())

    assert runs.get("run-1").trained is not None
    assert ["models:/delay@champion"] == [str(each) for each in models.asked]


def test_graph_of_too_many_bytes_is_refused_before_it_is_compiled(
    runs: MemoryRunStore, tmp_path: Path, monkeypatch
) -> None:
    file_bytes = len(FakeModels().download(""))
    monkeypatch.setattr(handlers, "COMPILED_BYTES_MAX", STEPS_MAX * file_bytes - 1)
    submit(runs, recipe="delay-guarded")
    process = FakeProcess()

    carry(runs, tmp_path, process=process, recipes=ManyStepsBook())

    run = runs.get("run-1")
    assert (RunState.FAILED, "BAD_DEFINITION") == (run.state, run.reason)
    assert f"have {STEPS_MAX * file_bytes} bytes together" in run.detail
    assert not process.compositions


def test_graph_of_a_version_whose_bytes_are_others_fails(
    runs: MemoryRunStore, tmp_path: Path
) -> None:
    submit(runs, recipe="delay-guarded")

    class ChangedModels(FakeModels):
        def download(self, digest: str) -> bytes:
            raise Corrupt("DIGEST_MISMATCH", digest=digest)

    models = ChangedModels()
    carry(runs, tmp_path, models=models)

    assert "DIGEST_MISMATCH" == runs.get("run-1").reason
    assert [] == models.uploaded


@pytest.mark.parametrize(
    "error", [Conflict("TOO_FEW_ROWS"), HeadraceError("TRAINING_FAILED", exit_code=1)]
)
def test_known_error_fails_the_run(
    runs: MemoryRunStore, tmp_path: Path, error: HeadraceError
) -> None:
    submit(runs)

    assert carry(runs, tmp_path, process=FakeProcess(error=error))

    assert (RunState.FAILED, error.reason) == (runs.get("run-1").state, runs.get("run-1").reason)


def test_run_whose_recipe_has_not_come_to_the_feature_service_waits(
    runs: MemoryRunStore, tmp_path: Path
) -> None:
    submit(runs)

    carry(runs, tmp_path, training_sets=FakeTrainingSets(NotFound("DEFINITION_UNKNOWN")))

    run = runs.get("run-1")
    assert (RunState.QUEUED, "waits after try 1: DEFINITION_AWAITED") == (run.state, run.progress)


@pytest.mark.parametrize("trainee", ["delay", "delay-guarded"])
def test_run_of_too_few_rows_tells_what_there_is(
    runs: MemoryRunStore, tmp_path: Path, trainee: str
) -> None:
    submit(runs, recipe=trainee)
    sets = FakeTrainingSets(spine={"stream": "flights", "records": 7, "known_after_asked": 7})
    error = Conflict("TOO_FEW_ROWS", part="to learn from", rows=0, positives=0)

    carry(runs, tmp_path, training_sets=sets, process=FakeProcess(error=error))

    run, there = runs.get("run-1"), "stream=flights, records=7, known_after_asked=7"
    assert "TOO_FEW_ROWS" == run.reason
    assert f"part=to learn from, rows=0, positives=0, {there}" == run.detail


def test_failed_run_tells_what_went_wrong(runs: MemoryRunStore, tmp_path: Path) -> None:
    submit(runs)
    error = HeadraceError("TRAINING_FAILED", exit_code=1, problem="MemoryError")

    carry(runs, tmp_path, process=FakeProcess(error=error))

    assert "exit_code=1, problem=MemoryError" == runs.get("run-1").detail


class OneIsBehind:
    """TrainingSetClient for which the records of one time never come."""

    def create(
        self, recipe: str, known_until_us: int, file: Path, *, published: bool
    ) -> TrainingSet:
        if known_until_us == a_request().known_until_us:
            return write_training_set(file)
        raise Unavailable("RECORDS_BEHIND", waits_for="air: 3 published records")

    def abandon(self) -> None:
        """It never waits."""


def test_run_that_can_never_be_complete_lets_the_others_pass_and_fails_in_the_end(
    runs: MemoryRunStore, clock: FixedClock, tmp_path: Path
) -> None:
    submit(runs, request_id="never", known_until_us=10**15 + 1)
    submit(runs, request_id="good")

    assert carry(runs, tmp_path, training_sets=OneIsBehind())
    assert (RunState.QUEUED, "waits after try 1: RECORDS_BEHIND, air: 3 published records") == (
        runs.get("never").state,
        runs.get("never").progress,
    )
    assert carry(runs, tmp_path, training_sets=OneIsBehind())
    assert RunState.COMPLETED is runs.get("good").state

    tries = 1
    for _ in range(TRIES_MAX * 2):
        clock.advance(TRY_DELAY_S_MAX * 1_000_000)
        tries += carry(runs, tmp_path, training_sets=OneIsBehind())
    assert TRIES_MAX == tries
    assert (RunState.FAILED, "RECORDS_BEHIND", "waits_for=air: 3 published records") == (
        runs.get("never").state,
        runs.get("never").reason,
        runs.get("never").detail,
    )


def test_dependency_that_comes_back_finds_the_run_waiting(
    runs: MemoryRunStore, clock: FixedClock, tmp_path: Path
) -> None:
    submit(runs)
    carry(runs, tmp_path, training_sets=FakeTrainingSets(Unavailable("RECORDS_BEHIND")))
    assert not carry(runs, tmp_path)

    clock.advance(1_000_000)

    assert carry(runs, tmp_path)
    assert RunState.COMPLETED is runs.get("run-1").state


def test_run_whose_every_try_ends_the_trainer_fails(
    runs: MemoryRunStore, clock: FixedClock, tmp_path: Path
) -> None:
    submit(runs)
    for _ in range(TRIES_MAX):
        runs.claim()  # and the process is killed
        clock.advance(6_000_000)

    assert carry(runs, tmp_path)

    assert "TRAINING_FAILED" == runs.get("run-1").reason
    assert not carry(runs, tmp_path)


def test_result_that_comes_after_the_lease_was_lost_is_dropped(
    runs: MemoryRunStore, clock: FixedClock, tmp_path: Path
) -> None:
    submit(runs)

    class SlowModels(FakeModels):
        def upload(self, onnx: bytes) -> str:
            clock.advance(6_000_000)
            runs.claim()
            return super().upload(onnx)

    with structlog.testing.capture_logs() as logs:
        assert carry(runs, tmp_path, models=SlowModels())

    assert RunState.RUNNING is runs.get("run-1").state
    assert ["run_given_up_to_another_worker"] == [entry["event"] for entry in logs]


def test_run_leaves_no_file_behind(runs: MemoryRunStore, tmp_path: Path) -> None:
    submit(runs)

    carry(runs, tmp_path, process=FakeProcess(error=HeadraceError("TRAINING_FAILED")))

    assert [] == list(tmp_path.iterdir())


def test_worker_whose_lease_was_taken_stores_nothing(
    runs: MemoryRunStore, clock: FixedClock, tmp_path: Path
) -> None:
    submit(runs)

    def another_takes_it() -> None:
        clock.advance(6_000_000)
        runs.claim()

    models = FakeModels()
    assert carry(runs, tmp_path, models=models, process=FakeProcess(another_takes_it))

    assert [] == models.uploaded
    assert RunState.RUNNING is runs.get("run-1").state
