# SPDX-License-Identifier: Apache-2.0
"""The way up and down between versions of the tables, with runs, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from headrace_kit.sql import INBOX, OUTBOX, connect, transaction
from headrace_kit.sql_migrations import NOTHING, VERSION
from headrace_kit.testing import FixedClock
from headrace_trainer.adapters.sql_run_store import METADATA, MIGRATIONS, SqlRunStore
from headrace_trainer.domain.run import RunState
from headrace_trainer.testing import a_request, a_trained_model

OF_KIT = {OUTBOX.name, INBOX.name, VERSION.name}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database."""
    if request.param == "sqlite":
        made = connect(f"sqlite:///{tmp_path}/runs.db")
    else:
        made = connect(request.getfixturevalue("postgres_server"), schema="trainer_migrations")
    yield made
    MIGRATIONS.downgrade(made, NOTHING)
    made.dispose()


@pytest.fixture
def store(engine: Engine, clock: FixedClock) -> SqlRunStore:
    """A run that completed, one that waits, and where the requests were read."""
    MIGRATIONS.upgrade(engine)
    made = SqlRunStore(engine, clock=clock)
    made.add(a_request("done"))
    lease, _ = made.claim()
    made.complete(lease, a_trained_model())
    made.add(a_request("waits", known_until_us=0))
    made.save_positions({("trainer.requests.v1", 0): 7})
    return made


def test_steps_lead_to_the_tables_that_the_store_uses(engine):
    MIGRATIONS.upgrade(engine)

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = compare_metadata(context, METADATA)
    assert [] == [
        each for each in found if not (each[0] == "remove_table" and each[1].name in OF_KIT)
    ]


def test_runs_and_positions_are_there_after_the_way_down_and_up(engine, store):
    MIGRATIONS.downgrade(engine, "0001")
    MIGRATIONS.upgrade(engine)

    done, waits = store.get("done"), store.get("waits")
    assert (RunState.COMPLETED, a_trained_model()) == (done.state, done.trained)
    assert RunState.QUEUED is waits.state
    assert "waits" == store.claim()[0].run_id
    assert {("trainer.requests.v1", 0): 7} == dict(store.positions())


def test_position_of_before_is_of_the_topic_that_is_there(engine, store):
    MIGRATIONS.downgrade(engine, "0002")
    MIGRATIONS.upgrade(engine)
    store.follow_topics({"trainer.requests.v1": "1st"})
    assert {("trainer.requests.v1", 0): 7} == dict(store.positions())

    MIGRATIONS.downgrade(engine, "0002")
    MIGRATIONS.upgrade(engine)
    store.follow_topics({"trainer.requests.v1": "1st"})
    assert {("trainer.requests.v1", 0): 7} == dict(store.positions())
    store.follow_topics({"trainer.requests.v1": "2nd"})
    assert {} == store.positions()


def test_tables_of_before_alembic_are_taken_over(engine, store):
    before = store.newest(9)
    with transaction(engine) as connection:
        connection.execute(text("drop table alembic_version"))

    MIGRATIONS.upgrade(engine)

    assert before == store.newest(9)
    with transaction(engine) as connection:
        told = connection.scalar(text("select version_num from alembic_version"))
        assert (3, "0003") == (connection.scalar(VERSION.select()), told)


def test_number_of_a_run_is_never_given_again(engine, store):
    with transaction(engine) as connection:
        last = connection.scalar(text("select max(number) from runs"))
        connection.execute(text("delete from runs"))

    store.add(a_request("later"))

    with transaction(engine) as connection:
        assert last < connection.scalar(text("select max(number) from runs"))


def test_nothing_is_left_on_the_way_down_to_nothing(engine, store):
    MIGRATIONS.downgrade(engine, NOTHING)

    assert set() == {*METADATA.tables, VERSION.name} & set(inspect(engine).get_table_names())
