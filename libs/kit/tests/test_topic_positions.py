# SPDX-License-Identifier: Apache-2.0
"""Positions are of a topic by its id: laws of the SQL ones, on both databases, and of memory's."""

from __future__ import annotations

import pytest
from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, text, update

from headrace_kit.sql import connect, transaction
from headrace_kit.topic_positions import MemoryPositions, SqlPositions

METADATA = MetaData()
TABLE = Table(
    "test_positions",
    METADATA,
    Column("topic", String, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("topic_id", String, nullable=False, server_default=""),
)
POSTGRES = pytest.param("postgres", marks=pytest.mark.integration)
A0, A1, B0 = ("a", 0), ("a", 1), ("b", 0)


class Replica:
    """One process on the database: a transaction for each call, as the stores have it."""

    def __init__(self, engine):
        self.engine, self.positions = engine, SqlPositions(TABLE)

    def follow_topics(self, topic_ids):
        with transaction(self.engine) as connection:
            self.positions.follow_topics(connection, topic_ids)

    def get(self):
        with transaction(self.engine) as connection:
            return self.positions.get(connection)

    def save(self, next_offsets):
        with transaction(self.engine) as connection:
            self.positions.save(connection, next_offsets)


def open_database(request, tmp_path, *, kind):
    sqlite = kind == "sqlite"
    uri = f"sqlite:///{tmp_path}/x.db" if sqlite else request.getfixturevalue("postgres_server")
    engine = connect(uri)
    with transaction(engine) as connection:
        METADATA.drop_all(connection)
        METADATA.create_all(connection)
    return engine


@pytest.fixture(params=["sqlite", POSTGRES])
def engine(request, tmp_path):
    made = open_database(request, tmp_path, kind=request.param)
    yield made
    made.dispose()


@pytest.fixture(params=["memory", "sqlite", POSTGRES])
def positions(request, tmp_path):
    if request.param == "memory":
        yield MemoryPositions()
        return
    made = open_database(request, tmp_path, kind=request.param)
    yield Replica(made)
    made.dispose()


def test_position_never_goes_back(positions):
    positions.follow_topics({"a": "1st"})
    assert {} == positions.get()
    positions.save({A0: 5, A1: 1})
    positions.save({A0: 3, A1: 2})

    assert {A0: 5, A1: 2} == positions.get()


def test_positions_of_a_topic_that_was_made_again_are_none(positions):
    positions.follow_topics({"a": "1st", "b": "1st"})
    positions.save({A0: 5, A1: 7, B0: 9})
    positions.follow_topics({"a": "2nd"})
    assert {B0: 9} == positions.get()
    positions.save({A0: 2})
    positions.follow_topics({"a": "2nd"})

    assert {A0: 2, B0: 9} == positions.get()


def test_positions_that_name_no_topic_are_of_the_one_that_is_there(positions):
    positions.save({A0: 5})
    positions.follow_topics({"a": "1st"})
    assert {A0: 5} == positions.get()
    positions.follow_topics({"a": "2nd"})

    assert {} == positions.get()


def test_position_that_a_version_before_moves_stays_that_of_its_topic(engine):
    replica = Replica(engine)
    replica.follow_topics({"a": "1st"})
    replica.save({A0: 5})
    with transaction(engine) as connection:
        connection.execute(text("update test_positions set next_offset = 6"))
        connection.execute(
            text("insert into test_positions (topic, partition, next_offset) values ('a', 1, 3)")
        )
    assert {A0: 6} == replica.get()
    replica.follow_topics({"a": "1st"})

    assert {A0: 6, A1: 3} == replica.get()


def test_replica_that_knows_the_topic_of_before_moves_no_position(engine):
    late, ours = Replica(engine), Replica(engine)
    late.follow_topics({"a": "1st"})
    late.save({A0: 7})
    ours.follow_topics({"a": "2nd"})
    late.save({A0: 8})
    assert {} == ours.get()
    ours.save({A0: 2})

    assert {A0: 2} == ours.get()


def test_database_that_was_put_back_is_told_to_who_would_pass_what_it_lost(engine):
    replica = Replica(engine)
    replica.follow_topics({"a": "1st"})
    replica.save({A0: 5})
    replica.save({A0: 7})
    put_back(engine, 5)

    with pytest.raises(RuntimeError, match="was put back"):
        replica.save({A0: 8})
    assert {A0: 5} == replica.get()
    replica.save({A0: 6})
    assert {A0: 6} == replica.get()


def test_position_whose_transaction_failed_is_saved_when_it_is_tried_again(engine):
    replica = Replica(engine)
    replica.save({A0: 5})
    with engine.connect() as connection:  # and no commit
        replica.positions.save(connection, {A0: 9})

    for next_offset in (7, 9, 10):
        replica.save({A0: next_offset})

    assert {A0: 10} == replica.get()


def put_back(engine, next_offset):
    with transaction(engine) as connection:
        connection.execute(update(TABLE).values(next_offset=next_offset))
