# SPDX-License-Identifier: Apache-2.0
"""What every RunStore holds: one run a request, one holder a run, state and event together."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.errors import Conflict, NotFound
from headrace_kit.sql import connect
from headrace_kit.sql_schema import prepare
from headrace_kit.testing import FixedClock
from headrace_trainer.adapters.memory_run_store import MemoryRunStore
from headrace_trainer.adapters.sql_run_store import SCHEMA, SqlRunStore
from headrace_trainer.domain.run import RunState
from headrace_trainer.ports import RunStore
from headrace_trainer.testing import a_request, a_trained_model

LEASE_TERM_US = 5_000_001


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, clock: FixedClock, tmp_path: Path) -> RunStore:
    if request.param == "memory":
        return MemoryRunStore(clock=clock)
    engine = connect(f"sqlite:///{tmp_path}/runs.db")
    prepare(engine, SCHEMA)
    return SqlRunStore(engine, clock=clock)


def test_repeated_request_meets_its_first_run(store: RunStore) -> None:
    store.add(a_request())
    lease, _ = store.claim()
    store.complete(lease, a_trained_model())

    assert store.add(a_request()).state is RunState.COMPLETED
    assert store.claim() is None


def test_request_id_with_other_content_conflicts(store: RunStore) -> None:
    store.add(a_request())

    with pytest.raises(Conflict, match="REQUEST_REUSED"):
        store.add(a_request(known_until_us=5))


def test_unknown_run_is_not_found(store: RunStore) -> None:
    with pytest.raises(NotFound, match="RUN_UNKNOWN"):
        store.get("nobody")


def test_oldest_request_is_claimed_first_and_once(store: RunStore) -> None:
    store.add(a_request("first"))
    store.add(a_request("second"))

    claimed = [store.claim()[1].run_id, store.claim()[1].run_id]

    assert ["first", "second"] == claimed
    assert store.claim() is None


def test_lease_that_ran_out_passes_to_the_next_claim(store: RunStore, clock: FixedClock) -> None:
    store.add(a_request())
    first, _ = store.claim()
    clock.advance(LEASE_TERM_US)

    second, run = store.claim()

    assert (first.token + 1, "run-1") == (second.token, run.run_id)


def test_renewed_lease_is_kept(store: RunStore, clock: FixedClock) -> None:
    store.add(a_request())
    lease, _ = store.claim()
    clock.advance(LEASE_TERM_US - 1_000_000)

    assert store.renew(lease, "epoch 3")
    clock.advance(LEASE_TERM_US - 1_000_000)
    assert store.claim() is None
    assert "epoch 3" == store.get("run-1").progress


def test_holder_of_an_old_lease_writes_nothing(store: RunStore, clock: FixedClock) -> None:
    store.add(a_request())
    old, _ = store.claim()
    clock.advance(LEASE_TERM_US)
    new, _ = store.claim()

    assert not store.renew(old, "zombie")
    assert not store.complete(old, a_trained_model(model="zombie"))
    assert not store.fail(old, "TRAINING_FAILED")
    assert store.complete(new, a_trained_model())
    assert "delay" == store.get("run-1").trained.model


def test_completed_run_keeps_its_evidence(store: RunStore) -> None:
    store.add(a_request())
    lease, _ = store.claim()
    trained = a_trained_model(metrics={"auc": 0.71, "rows": 2000.0}, manifest={"seed": "7"})

    store.complete(lease, trained)

    assert trained == store.get("run-1").trained


def test_failed_run_keeps_its_reason_and_is_not_tried_again(store: RunStore) -> None:
    store.add(a_request())
    lease, _ = store.claim()

    store.fail(lease, "TOO_FEW_ROWS")

    assert (RunState.FAILED, "TOO_FEW_ROWS") == (
        store.get("run-1").state,
        store.get("run-1").reason,
    )
    assert store.claim() is None


def test_newest_run_is_listed_first(store: RunStore) -> None:
    for name in ("a", "b", "c"):
        store.add(a_request(name))

    assert ["c", "b"] == [run.run_id for run in store.newest(2)]
