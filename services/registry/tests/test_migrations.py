# SPDX-License-Identifier: Apache-2.0
"""The way up and down between versions of the tables, with rows, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.pool import QueuePool

from headrace.errors import Unavailable
from headrace_kit.failpoints import FailpointRaised, arm
from headrace_kit.sql import INBOX, OUTBOX, connect
from headrace_kit.sql_migrations import NOTHING, VERSION
from headrace_registry.adapters.sql_tables import METADATA, MIGRATIONS

ROWS = """
insert into versions values ('delay', 1, 'd1', 'run-1', 'delay', '', '{}', true, '["good"]', 5);
insert into versions values ('delay', 2, 'd2', 'run-2', 'delay', 'i-1', '{}', false, '["bad"]', 6);
insert into passed_gates values ('delay', 1, 'd1');
insert into aliases values ('delay', 'champion', 1, 'd1', 1, 7);
insert into alias_moves values ('delay', 'champion', 1, 1, 'd1', 7);
insert into rollouts values ('delay', 'delay', 1, 1, 'd1', null, null, 0, 'first version', 7);
"""
# As the first tables had them, where later steps add columns.
COLUMNS = {
    "rollouts": "endpoint, model, generation, champion_version, champion_digest, canary_version, "
    "canary_digest, canary_percent, change, changed_at_us"
}
POINTERS = ("passed_gates", "aliases", "alias_moves", "rollouts")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database."""
    if request.param == "sqlite":
        made = connect(f"sqlite:///{tmp_path}/registry.sqlite")
    else:
        made = connect(request.getfixturevalue("postgres_server"), schema="registry_migrations")
    yield made
    MIGRATIONS.downgrade(made, NOTHING)
    made.dispose()


def fill(engine: Engine) -> None:
    with engine.begin() as connection:
        for statement in ROWS.strip().split("\n"):
            connection.execute(text(statement))


def rows(engine: Engine, table: str) -> list[tuple[object, ...]]:
    with engine.begin() as connection:
        columns = COLUMNS.get(table, "*")
        found = connection.execute(text(f"select {columns} from {table}")).all()  # noqa: S608
    return sorted((tuple(row) for row in found), key=repr)


def versions(engine: Engine) -> list[tuple[object, ...]]:
    columns = "version, run_id, gate_state, approver, evidence_json, tags_json, card"
    with engine.begin() as connection:
        found = connection.execute(text(f"select {columns} from versions order by version"))  # noqa: S608
        return [tuple(row) for row in found]


def test_steps_lead_to_the_tables_that_the_store_uses(engine):
    MIGRATIONS.upgrade(engine)

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = compare_metadata(context, METADATA)
    of_kit = {OUTBOX.name, INBOX.name, VERSION.name}
    own = [each for each in found if not (each[0] == "remove_table" and each[1].name in of_kit)]
    assert [] == own


def test_rows_keep_their_meaning_on_the_way_up(engine):
    MIGRATIONS.upgrade(engine, "0001")
    fill(engine)
    before = {table: rows(engine, table) for table in POINTERS}

    MIGRATIONS.upgrade(engine)

    assert [
        (1, "run-1", "passed", "", '["good"]', "{}", ""),
        (2, "run-2", "failed", "", '["bad"]', "{}", ""),
    ] == versions(engine)
    assert before == {table: rows(engine, table) for table in POINTERS}


def test_versions_of_before_are_found_by_what_they_came_of(engine):
    MIGRATIONS.upgrade(engine, "0001")
    fill(engine)
    trained = {
        "features": ["origin-delay:mean_1h", "origin-delay:count_1h"],
        "manifest": {"seed": "1", "training_set": "5e7", "delta_version:flights": "12"},
    }
    with engine.begin() as connection:
        changed = text("update versions set trained_json = :trained where version = 2")
        connection.execute(changed, {"trained": json.dumps(trained)})

    MIGRATIONS.upgrade(engine)

    artifact, run = ("artifact", "", "delay"), ("run", "", "delay")
    assert {
        ("d1", *artifact, 1), ("run-1", *run, 1), ("delay", "recipe", "", "delay", 1),
        ("d2", *artifact, 2), ("run-2", *run, 2), ("delay", "recipe", "", "delay", 2),
        ("i-1", "incident", "", "delay", 2), ("origin-delay", "view", "", "delay", 2),
        ("5e7", "training-set", "", "delay", 2), ("flights", "stream", "12", "delay", 2),
    } == {*rows(engine, "version_sources")}  # fmt: skip


def test_graph_is_found_by_what_it_is_made_of_after_the_way_down_and_up(engine):
    MIGRATIONS.upgrade(engine, "0001")
    fill(engine)
    trained = {"manifest": {"graph": "6a4", "component:fraud": "f1", "component:delay": "d1"}}
    with engine.begin() as connection:
        changed = text("update versions set trained_json = :trained where version = 2")
        connection.execute(changed, {"trained": json.dumps(trained)})

    MIGRATIONS.upgrade(engine)
    MIGRATIONS.downgrade(engine, "0005")
    MIGRATIONS.upgrade(engine)

    found = {each[:3] for each in rows(engine, "version_sources") if each[-1] == 2}
    assert {
        ("d2", "artifact", ""), ("run-2", "run", ""), ("delay", "graph", ""),
        ("i-1", "incident", ""), ("6a4", "definitions", ""), ("fraud", "component", "f1"),
        ("delay", "component", "d1"),
    } == found  # fmt: skip


def test_way_down_and_up_again_keeps_rows_and_versions_without_a_run(engine):
    MIGRATIONS.upgrade(engine, "0001")
    fill(engine)
    MIGRATIONS.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into versions (model, version, digest, recipe, incident_id, trained_json,"
                " evidence_json, registered_at_us, gate_state, approver, signature_json, tags_json,"
                " card, description_changes, bundle_digest, signer, signings) values"
                " ('fraud', 1, 'f1', '', '', '{}', '[]', 8, 'awaits_approval', '', '{}', '{}', '',"
                " 0, '', '', 0)"
            )
        )
    before = {table: rows(engine, table) for table in POINTERS}

    MIGRATIONS.downgrade(engine, "0001")
    with engine.begin() as connection:
        old = connection.execute(text("select run_id, gate_passed from versions order by run_id"))
        names = [(row.run_id, bool(row.gate_passed)) for row in old]
    MIGRATIONS.upgrade(engine)

    assert [("registered/fraud/1", False), ("run-1", True), ("run-2", False)] == names
    assert [None, "run-1", "run-2"] == sorted(
        (row[1] for row in versions(engine)), key=lambda run_id: run_id or ""
    )
    assert before == {table: rows(engine, table) for table in POINTERS}


def test_version_that_waits_for_a_signature_serves_nothing_behind_the_way_down(engine):
    MIGRATIONS.upgrade(engine, "0001")
    fill(engine)
    MIGRATIONS.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(
            text("update versions set gate_state = 'awaits_signature' where version = 2")
        )

    MIGRATIONS.downgrade(engine, "0005")
    MIGRATIONS.upgrade(engine)

    with engine.begin() as connection:
        found = connection.execute(
            text("select gate_state, bundle_digest, signer from versions order by version")
        ).all()
    assert [("passed", "", ""), ("failed", "", "")] == [tuple(row) for row in found]


def test_version_that_was_taken_back_serves_nothing_behind_the_way_down(engine):
    MIGRATIONS.upgrade(engine, "0001")
    fill(engine)
    MIGRATIONS.upgrade(engine)
    moved = ("update aliases set version = 3, digest = 'd3', generation = 2",
             "insert into alias_moves values ('delay', 'champion', 2, 3, 'd3', 8)",
             "update rollouts set champion_version = 3, champion_digest = 'd3', generation = 2",
             "delete from passed_gates where version = 1",
             "update versions set gate_state = 'retracted' where version = 1")  # fmt: skip
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into versions select model, 3, 'd3', 'run-3', recipe, incident_id,"
                " trained_json, evidence_json, registered_at_us, gate_state, approver,"
                " signature_json, tags_json, card, description_changes, bundle_digest, signer,"
                " signings from versions where version = 1"
            )
        )
        connection.execute(text("insert into passed_gates values ('delay', 3, 'd3')"))
        for statement in moved:
            connection.execute(text(statement))
    before = rows(engine, "alias_moves")

    MIGRATIONS.downgrade(engine, "0009")

    assert [(1, "failed"), (2, "failed"), (3, "passed")] == [
        (row[0], row[2]) for row in versions(engine)
    ]
    assert [row for row in before if row[3] == 3] == rows(engine, "alias_moves")
    assert [("delay", 3, "d3")] == rows(engine, "passed_gates")


def test_definitions_that_were_taken_back_are_gone_behind_the_way_down(engine):
    MIGRATIONS.upgrade(engine)
    insert = text(
        "insert into definitions (name, kind, version, application, spec_json, digest, retracted)"
        " values (:name, 'model', :version, 'tests', '{}', 'd', :retracted)"
    )
    with engine.begin() as connection:
        for name, version, retracted in (
            ("gone", 1, False), ("gone", 2, True), ("again", 1, True), ("again", 2, False),
        ):  # fmt: skip
            row = {"name": name, "version": version, "retracted": retracted}
            connection.execute(insert, row)

    MIGRATIONS.downgrade(engine, "0007")
    MIGRATIONS.upgrade(engine)

    with engine.begin() as connection:
        left = connection.execute(text("select name, version, retracted from definitions"))
        found = sorted((row.name, row.version, bool(row.retracted)) for row in left)
    assert [("again", 1, False), ("again", 2, False)] == found


def test_positions_of_before_are_there_on_the_way_up_and_name_no_topic(engine):
    MIGRATIONS.upgrade(engine, "0008")
    with engine.begin() as connection:
        connection.execute(text("insert into positions values ('trainer.runs.v1', 0, 7)"))
    for way in ("up", "again"):
        MIGRATIONS.upgrade(engine)
        assert [("trainer.runs.v1", 0, 7, "")] == rows(engine, "positions"), way
        with engine.begin() as connection:
            connection.execute(text("update positions set topic_id = '1st'"))
        MIGRATIONS.downgrade(engine, "0008")

    assert [("trainer.runs.v1", 0, 7)] == rows(engine, "positions")


def test_canary_of_before_is_judged_on_the_way_up(engine):
    MIGRATIONS.upgrade(engine, "0002")
    with engine.begin() as connection:
        for version in (1, 2):
            connection.execute(
                text(
                    "insert into versions (model, version, digest, recipe, incident_id,"
                    " trained_json, evidence_json, registered_at_us, gate_state, approver,"
                    " signature_json, tags_json, card, description_changes) values"
                    " ('delay', :v, 'd', '', '', '{}', '[]', 8, 'passed', '', '{}', '{}', '', 0)"
                ),
                {"v": version},
            )
            connection.execute(
                text("insert into passed_gates values ('delay', :v, 'd')"), {"v": version}
            )
        connection.execute(
            text(
                "insert into rollouts values ('a', 'delay', 1, 1, 'd', null, null, 0, '', 7),"
                " ('b', 'delay', 2, 1, 'd', 2, 'd', 20, '', 7)"
            )
        )

    MIGRATIONS.upgrade(engine)

    with engine.begin() as connection:
        found = connection.execute(
            text("select judged, stopped from rollouts order by endpoint")
        ).all()
    assert [(False, False), (True, False)] == [(bool(row[0]), bool(row[1])) for row in found]


def test_foreign_keys_hold_after_the_way(engine):
    MIGRATIONS.upgrade(engine, "0001")
    fill(engine)
    MIGRATIONS.upgrade(engine)

    with pytest.raises(Exception, match=r"(?i)foreign key"), engine.begin() as connection:
        connection.execute(text("update aliases set digest = 'other'"))


def test_nothing_is_left_on_the_way_down_to_nothing(engine):
    MIGRATIONS.upgrade(engine)
    MIGRATIONS.downgrade(engine, NOTHING)

    own = {*METADATA.tables, VERSION.name}
    assert set() == own & set(inspect(engine).get_table_names())


def test_step_that_breaks_leaves_the_tables_of_before(engine):
    MIGRATIONS.upgrade(engine, "0001")
    fill(engine)

    arm("kit.migrate.half:1:raise")
    with pytest.raises(FailpointRaised):
        MIGRATIONS.upgrade(engine)

    assert 10 == len(rows(engine, "versions")[0])
    MIGRATIONS.upgrade(engine)
    assert "passed" == versions(engine)[0][2]


KILLED = """
import sys
from headrace_kit.failpoints import arm
from headrace_kit.sql import connect
from headrace_registry.adapters.sql_tables import MIGRATIONS

uri, schema, failpoint = sys.argv[1:]
arm(failpoint)
MIGRATIONS.upgrade(connect(uri, schema=schema))
"""


@pytest.mark.parametrize("step", [1, 4])
def test_way_that_a_kill_cuts_short_is_gone_at_the_next_start(engine, step):
    """G6: whoever reads meanwhile finds the tables of before, whole."""
    MIGRATIONS.upgrade(engine, "0001")
    fill(engine)
    uri = engine.url.render_as_string(hide_password=False)
    arguments = [uri, "registry_migrations", f"kit.migrate.half:{step}:kill"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], timeout=60, check=False)
    assert -signal.SIGKILL == killed.returncode

    assert [("0001",)] == rows(engine, "alembic_version")
    assert 10 == len(rows(engine, "versions")[0])

    MIGRATIONS.upgrade(engine)
    assert "passed" == versions(engine)[0][2]


def test_tables_of_before_alembic_are_taken_over(engine):
    MIGRATIONS.upgrade(engine, "0001")
    fill(engine)
    with engine.begin() as connection:
        connection.execute(text("drop table alembic_version"))

    MIGRATIONS.upgrade(engine)

    assert "passed" == versions(engine)[0][2]


def test_registry_of_before_alembic_is_told_the_number_of_the_tables(engine):
    MIGRATIONS.upgrade(engine)
    ((newest,),) = rows(engine, "alembic_version")
    assert [(int(newest),)] == rows(engine, VERSION.name)

    MIGRATIONS.downgrade(engine, "0001")
    assert [(1,)] == rows(engine, VERSION.name)


def test_tables_of_a_newer_registry_are_refused(engine):
    MIGRATIONS.upgrade(engine)
    ((newest,),) = rows(engine, "alembic_version")
    with engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))

    with pytest.raises(Unavailable, match="DATABASE_UNAVAILABLE"):
        MIGRATIONS.upgrade(engine)

    with engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = :was"), {"was": newest})


def test_way_for_which_no_connection_is_left_is_unavailable(engine):
    one = create_engine(
        engine.url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0
    )

    with one.connect(), pytest.raises(Unavailable, match="DATABASE_UNAVAILABLE"):
        MIGRATIONS.upgrade(one)
    one.dispose()
