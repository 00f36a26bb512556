# SPDX-License-Identifier: Apache-2.0
"""What every RunStore holds: one run a request, one holder a run, state and event together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from headrace.errors import Conflict, NotFound
from headrace_kit.sql import OUTBOX, connect, transaction
from headrace_kit.testing import FixedClock
from headrace_trainer.adapters.memory_run_store import MemoryRunStore
from headrace_trainer.adapters.sql_run_store import MIGRATIONS, POSITIONS, RUNS, SqlRunStore
from headrace_trainer.domain.run import RunState
from headrace_trainer.ports import RunStore
from headrace_trainer.testing import a_request, a_trained_model

LEASE_TERM_US = 5_000_001
POSTGRES = pytest.param("postgres", marks=pytest.mark.integration)


@pytest.fixture(params=["memory", "sqlite", POSTGRES])
def store(request: pytest.FixtureRequest, clock: FixedClock, tmp_path: Path) -> Iterator[RunStore]:
    if request.param == "memory":
        yield MemoryRunStore(clock=clock)
        return
    sqlite = request.param == "sqlite"
    uri = f"sqlite:///{tmp_path}/runs.db" if sqlite else request.getfixturevalue("postgres_server")
    engine = connect(uri, schema="trainer")
    MIGRATIONS.upgrade(engine)
    with transaction(engine) as connection:
        for table in (RUNS, POSITIONS, OUTBOX):
            connection.execute(table.delete())
    yield SqlRunStore(engine, clock=clock)
    engine.dispose()


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


def test_repeated_request_for_now_meets_its_first_run(store: RunStore, clock: FixedClock) -> None:
    first = store.add(a_request(known_until_us=0))
    clock.advance(7_000_000)

    assert first == store.add(a_request(known_until_us=0))
    assert clock.now_us() - 7_000_000 == store.get("run-1").known_until_us


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
    assert not store.fail(old, "TRAINING_FAILED", "zombie")
    assert not store.postpone(old, 1, "zombie")
    assert store.complete(new, a_trained_model())
    assert "delay" == store.get("run-1").trained.model


def test_completed_run_keeps_its_evidence(store: RunStore) -> None:
    store.add(a_request())
    lease, _ = store.claim()
    trained = a_trained_model(metrics={"auc": 0.71, "rows": 2000.0}, manifest={"seed": "7"})

    store.complete(lease, trained)

    assert trained == store.get("run-1").trained


def test_failed_run_keeps_its_diagnosis_and_is_not_tried_again(store: RunStore) -> None:
    store.add(a_request())
    lease, _ = store.claim()

    store.fail(lease, "TRAINING_FAILED", "exit_code=1")

    run = store.get("run-1")
    assert (RunState.FAILED, "TRAINING_FAILED", "exit_code=1") == (
        run.state,
        run.reason,
        run.detail,
    )
    assert store.claim() is None


def test_postponed_run_waits_while_others_are_claimed(store: RunStore, clock: FixedClock) -> None:
    store.add(a_request("never"))
    store.add(a_request("next"))
    lease, _ = store.claim()

    assert store.postpone(lease, 8, "waits")

    assert (RunState.QUEUED, "waits") == (store.get("never").state, store.get("never").progress)
    assert "next" == store.claim()[0].run_id
    assert store.claim() is None
    clock.advance(8_000_000)
    assert {"never", "next"} == {store.claim()[0].run_id, store.claim()[0].run_id}
    assert "" == store.get("never").progress


def test_run_whose_tries_crash_goes_behind_those_that_wait(
    store: RunStore, clock: FixedClock
) -> None:
    store.add(a_request("crashes"))
    store.claim()
    clock.advance(1)
    store.add(a_request("waits"))
    clock.advance(LEASE_TERM_US)
    store.claim()
    clock.advance(LEASE_TERM_US)

    assert "waits" == store.claim()[0].run_id


def test_cancelled_run_is_over_for_whoever_has_it(store: RunStore) -> None:
    store.add(a_request("waits"))
    store.add(a_request("carried"))
    lease, _ = store.claim()

    cancelled = [store.cancel(run_id) for run_id in ("waits", "carried")]

    assert [(RunState.FAILED, "RUN_CANCELLED")] * 2 == [(r.state, r.reason) for r in cancelled]
    assert cancelled == [store.get(run_id) for run_id in ("waits", "carried")]
    assert not store.renew(lease, "goes on")
    assert not store.complete(lease, a_trained_model())
    assert store.claim() is None


def test_run_is_cancelled_once_and_not_behind_its_end(store: RunStore) -> None:
    store.add(a_request())
    assert store.cancel("run-1") == store.cancel("run-1")
    store.add(a_request("ended"))
    lease, _ = store.claim()
    store.complete(lease, a_trained_model())

    with pytest.raises(Conflict, match="RUN_ENDED"):
        store.cancel("ended")
    with pytest.raises(NotFound, match="RUN_UNKNOWN"):
        store.cancel("nobody")


def test_position_never_goes_back(store: RunStore) -> None:
    assert {} == store.positions()
    store.save_positions({("a", 0): 5, ("a", 1): 1})
    store.save_positions({("a", 0): 3, ("a", 1): 2})

    assert {("a", 0): 5, ("a", 1): 2} == store.positions()


def test_position_of_a_topic_that_was_made_again_is_forgotten(store: RunStore) -> None:
    store.follow_topics({"a": "1st", "b": "1st"})
    store.save_positions({("a", 0): 5, ("b", 0): 1})
    store.follow_topics({"a": "2nd"})

    assert {("b", 0): 1} == store.positions()


def test_newest_run_is_listed_first(store: RunStore) -> None:
    for name in ("a", "b", "c"):
        store.add(a_request(name))

    assert ["c", "b"] == [run.run_id for run in store.newest(2)]


@pytest.mark.parametrize("server", ["sqlite", POSTGRES])
def test_runs_of_the_first_tables_are_kept(
    server: str, request: pytest.FixtureRequest, clock: FixedClock, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/old.db"
    if server == "postgres":
        uri = request.getfixturevalue("postgres_server")
    engine = connect(uri, schema="trainer_old")
    with transaction(engine) as connection:
        if server == "postgres":
            connection.execute(text("create schema trainer_old"))
        connection.execute(text(FIRST_RUNS))
        connection.execute(
            text(
                "insert into runs values"
                " (1, 'run-1', 'delay', 1000000000000000, '', 'queued', '', '', null, 0, 0)"
            )
        )

    MIGRATIONS.upgrade(engine)

    store = SqlRunStore(engine, clock=clock)
    assert a_request() == store.add(a_request()).request
    assert "run-1" == store.claim()[0].run_id
    engine.dispose()


FIRST_RUNS = """
    create table runs (
        number bigint primary key, run_id varchar not null unique, recipe varchar not null,
        known_until_us bigint not null, incident_id varchar not null, state varchar not null,
        progress varchar not null, reason varchar not null, trained bytea,
        token bigint not null, lease_until_us bigint not null
    )
"""


def test_newest_run_of_a_recipe_is_found_by_what_its_id_begins_with(store: RunStore) -> None:
    for run_id, recipe in (("a-1", "delay"), ("a-2", "delay"), ("b_1", "delay"), ("a-3", "other")):
        store.add(a_request(run_id, recipe=recipe))

    assert "a-2" == store.newest_of("delay", prefix="a-").run_id
    assert store.newest_of("delay", prefix="a_") is None
