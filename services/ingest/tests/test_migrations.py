# SPDX-License-Identifier: Apache-2.0
"""The way up and down between versions of both databases, with rows, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from headrace_ingest.adapters import sql_tables, sql_task_store
from headrace_ingest.adapters.graph_neighbours import LATER
from headrace_ingest.adapters.sql_redrive_key import SqlRedriveKey
from headrace_kit.sql import INBOX, OUTBOX, connect, transaction
from headrace_kit.sql_migrations import NOTHING, VERSION

LABELS, INDEX = sql_task_store.MIGRATIONS, sql_tables.MIGRATIONS
TASK = """insert into label_tasks values
    ('t-1', 'delay', 'p-1', 'target', 5, 1, 0.5, 'rule', 2, 'open', '', 6)"""
ANSWER = "insert into label_answers values ('t-1', 'ann', 'late')"
PASSAGE = """insert into passages (stream, column_name, event_id, text, vector)
    values ('s', 'note', 'e-1', 'snow', :vector)"""
ENTRY = "insert into catalogue values (1, 'stream', 's', 'ann', 'Snow.', '{}', 's', 'snow')"
OF_KIT = {OUTBOX.name, INBOX.name, VERSION.name}
# What searches in the words is in no metadata; of SQLite's it has tables of its own.
WORDS = "catalogue_words"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def connected(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[object]:
    """`connected(name)`: an empty database."""
    made: list[Engine] = []

    def database(name: str) -> Engine:
        uri = f"sqlite:///{tmp_path}/{name}.db"
        if request.param == "postgres":
            uri = request.getfixturevalue("postgres_server")
        made.append(connect(uri, schema=f"migrations_{name}"))
        return made[-1]

    yield database
    for engine in made:
        engine.dispose()


@pytest.fixture
def labels(connected) -> Iterator[Engine]:
    engine = connected("labels")
    yield engine
    LABELS.downgrade(engine, NOTHING)


@pytest.fixture
def index(connected) -> Iterator[Engine]:
    engine = connected("index")
    yield engine
    INDEX.downgrade(engine, NOTHING)


def run(engine: Engine, statement: str, **values: object) -> list[tuple[object, ...]]:
    with transaction(engine) as connection:
        done = connection.execute(text(statement), values)
        return [tuple(row) for row in done] if done.returns_rows else []


def others(engine: Engine, metadata: object) -> list[object]:
    """What is in the database otherwise than in the tables that the code uses."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = compare_metadata(context, metadata)
    expected = [each for each in found if each[0].startswith("remove_")]
    names = {each[1].name for each in expected}
    assert not {name for name in names - OF_KIT if not name.startswith(WORDS)}
    return [each for each in found if each not in expected]


def test_steps_lead_to_the_tables_that_the_stores_use(labels, index):
    LABELS.upgrade(labels)
    INDEX.upgrade(index)

    assert [] == others(labels, sql_task_store.METADATA)
    assert [] == others(index, sql_tables.METADATA)


def key_of(engine: Engine) -> bytes:
    key = SqlRedriveKey(engine)
    key.start()
    return key()


def test_tasks_and_answers_are_there_after_the_way_down_and_up(labels):
    LABELS.upgrade(labels)
    run(labels, TASK)
    run(labels, ANSWER)
    key = key_of(labels)

    LABELS.downgrade(labels, "0001")
    LABELS.upgrade(labels)

    assert [("t-1", "open")] == run(labels, "select task_id, state from label_tasks")
    assert [("t-1", "ann", "late")] == run(labels, "select * from label_answers")
    assert key != key_of(labels)  # it was forgotten on the way


def test_positions_are_there_after_the_way_down_and_up_and_name_no_topic(labels):
    LABELS.upgrade(labels)
    run(labels, "insert into label_positions values ('predictions', 0, 7, '1st')")

    LABELS.downgrade(labels, "0004")
    assert [("predictions", 0, 7)] == run(labels, "select * from label_positions")
    LABELS.upgrade(labels)
    assert [("predictions", 0, 7, "")] == run(labels, "select * from label_positions")


@pytest.mark.parametrize("key", [True, False])
def test_label_tables_of_before_alembic_are_taken_over(labels, key):
    LABELS.upgrade(labels)
    run(labels, TASK)
    drawn = key_of(labels)
    run(labels, "drop table alembic_version")
    run(labels, "drop table label_items")
    run(labels, "drop table label_erased_entities")
    run(labels, "alter table label_positions drop column topic_id")
    run(labels, "update schema_version set version = 1")
    if not key:  # it came later, into tables of the same number
        run(labels, "drop table redrive_keys")

    LABELS.upgrade(labels)

    assert [("t-1",)] == run(labels, "select task_id from label_tasks")
    assert key is (drawn == key_of(labels))


def found(engine: Engine) -> int:
    """How many entries the words find."""
    query = "select count(*) from catalogue_words where catalogue_words match 'snow'"
    if engine.dialect.name == "postgresql":
        query = f"select count(*) from catalogue where {sql_tables.WEIGHED} @@ to_tsquery('snow')"  # noqa: S608
    return int(str(run(engine, query)[0][0]))


def test_catalogue_is_there_and_texts_are_read_again_after_the_way_down_and_up(index):
    INDEX.upgrade(index)
    run(index, ENTRY)
    if index.dialect.name == "sqlite":
        run(index, "insert into catalogue_words (rowid, name_words, words) values (1, 's', 'snow')")
    run(index, PASSAGE, vector=b"\x00")
    run(index, "insert into indexed values ('s', 'note', 3, 0, 1)")

    INDEX.downgrade(index, "0001")
    INDEX.upgrade(index)

    assert 1 == found(index)
    assert [] == run(index, "select * from passages") + run(index, "select * from indexed")


def test_index_of_texts_that_is_half_built_is_begun_anew(index):
    INDEX.upgrade(index, "0003")
    run(index, "insert into indexed values ('s', 'note', -1, 2), ('t', 'note', 3, 0)")
    run(index, PASSAGE, vector=b"\x00")
    run(index, PASSAGE.replace("'s'", "'t'"), vector=b"\x00")

    INDEX.upgrade(index)

    assert [("t",)] == run(index, "select stream from passages")
    kept = run(index, "select stream, version, epoch, begun from indexed order by stream")
    assert [("s", -1, 2, -1), ("t", 3, 0, -1)] == kept


def test_passages_behind_the_last_one_are_found_by_an_index(index):
    INDEX.upgrade(index)
    rows = """insert into passages (stream, column_name, event_id, text, vector)
        with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000)
        select 's', case i % 100 when 0 then 'rare' else 'often' end, 'e-' || i, 'snow', :vector
        from n"""
    run(index, rows, vector=b"\x00")
    run(index, "analyze passages")
    explain = "explain query plan" if index.dialect.name == "sqlite" else "explain"
    # Of a prepared statement PostgreSQL would plan for any place: this one is spelled out.
    asked = LATER.text.replace(":stream", "'s'").replace(":column_name", "'rare'")
    asked = asked.replace(":above", "0").replace(":rows_max", "10")

    plan = str(run(index, f"{explain} {asked}"))

    assert "passages_in_order" in plan
    assert "sort" not in plan.lower()
    assert "temp b-tree" not in plan.lower()


def test_index_of_before_alembic_is_taken_over_with_its_texts(index):
    INDEX.upgrade(index)
    run(index, PASSAGE, vector=b"\x00")
    run(index, "insert into indexed values ('s', 'note', 3, 0, 1)")
    run(index, "drop table alembic_version")

    INDEX.upgrade(index)

    assert [("snow",)] == run(index, "select text from passages")
    assert [("s", "note", 3, 0, 1)] == run(index, "select * from indexed")


def test_nothing_is_left_on_the_way_down_to_nothing(labels, index):
    for migrations, engine in ((LABELS, labels), (INDEX, index)):
        migrations.upgrade(engine)
        migrations.downgrade(engine, NOTHING)

        left = set(inspect(engine).get_table_names())
        assert {OUTBOX.name, INBOX.name, "alembic_version"} == left
