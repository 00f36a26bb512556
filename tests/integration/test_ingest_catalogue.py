# SPDX-License-Identifier: Apache-2.0
"""The catalogue's index answers alike on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest

from headrace_ingest.adapters.sql_catalogue import SCHEMA, SqlCatalogueIndex
from headrace_ingest.domain.catalogue import KINDS, Entry
from headrace_kit.sql import connect
from headrace_kit.sql_schema import prepare

pytestmark = pytest.mark.integration

ENTRIES = [
    Entry("stream", "flights.departed", "ops", "Departures of the day"),
    Entry("column", "flights.departed:dep_delay", "ops", "Minutes late", "type int64, unit min"),
    Entry("dataset", "winter/1", "", "Late flights in snow", "7 rows of flights.departed"),
    Entry("tag", "winter@gold", "", "Late flights in snow", "is winter/1"),
]


@pytest.fixture(params=["sqlite", "postgresql"])
def index(request, tmp_path):
    uri = f"sqlite:///{tmp_path}/catalogue.db"
    if request.param == "postgresql":
        uri = request.getfixturevalue("postgres_server")
    engine = connect(uri, schema="ingest")
    prepare(engine, SCHEMA)
    made = SqlCatalogueIndex(engine)
    made.replace(ENTRIES)
    yield made
    engine.dispose()


def names(index, *words, kinds=KINDS, offset=0, limit=10):
    return [each.name for each in index.search(words, kinds, offset=offset, limit=limit)]


def test_words_find_by_begin_and_names_weigh_more(index):
    assert "flights.departed" == names(index, "flights", kinds=["stream", "dataset"])[0]
    assert {"winter/1", "winter@gold"} == set(names(index, "snow", "lat"))
    assert ["flights.departed:dep_delay"] == names(index, "min", "dep")
    assert [] == names(index, "snow", "absent")


def test_kinds_and_pages_cut_alike(index):
    assert ["winter@gold"] == names(index, "snow", kinds=["tag"])
    assert 1 == len(names(index, "snow", limit=1))
    assert names(index, "snow")[1:] == names(index, "snow", offset=1)


def test_entries_come_back_whole_and_are_replaced_as_a_whole(index):
    assert ENTRIES[1:2] == index.search(["minutes"], KINDS, offset=0, limit=10)
    index.replace(ENTRIES[:1])

    assert [] == names(index, "snow")
