# SPDX-License-Identifier: Apache-2.0
"""The catalogue finds what is applied and named, by words; the index can be lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.errors import Invalid
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.object_dataset_book import ObjectDatasetBook
from headrace_ingest.adapters.sql_catalogue import SqlCatalogueIndex
from headrace_ingest.adapters.sql_tables import MIGRATIONS
from headrace_ingest.domain.catalogue import Entry
from headrace_ingest.domain.datasets import Claim, Description, Manifest, Origin, Selection, Tag
from headrace_ingest.handlers.catalogue import CatalogueKeeper, SearchCatalogue, search_catalogue
from headrace_ingest.testing import a_contract
from headrace_kit.objects import MemoryObjectStore
from headrace_kit.sql import connect

SELECTION = Selection("flights.departed", 3, ())


class World:
    def __init__(self, engine):
        self.contracts, self.book = AppliedContracts(), ObjectDatasetBook(MemoryObjectStore())
        self.index = SqlCatalogueIndex(engine)
        self.keeper = CatalogueKeeper(self.contracts, self.book, self.index)
        self.contracts.put(a_contract())

    def name(self, name, description=""):
        content = Description(7, "digest", ())
        manifest = Manifest(name, 0, description, Origin(SELECTION, 1), content, 0, name)
        self.book.add(manifest, Claim("", manifest.origin, ()))

    def search(self, query, *kinds, page_size=0, page_token=""):
        asked = SearchCatalogue(query, kinds, page_size, page_token)
        return search_catalogue(asked, index=self.index)

    def found(self, query, *kinds):
        list(self.keeper.refresh(1.0))
        return [(each.kind, each.name) for each in self.search(query, *kinds)[0]]


@pytest.fixture
def world(tmp_path):
    engine = connect(f"sqlite:///{tmp_path}/catalogue.db")
    MIGRATIONS.upgrade(engine)
    yield World(engine)
    engine.dispose()


def test_stream_and_its_columns_are_found_by_their_names(world):
    assert [("stream", "flights.departed")] == world.found("flights departed", "stream")
    assert [("column", "flights.departed:landing_at")] == world.found("landing")


def test_dataset_that_lost_rows_is_found_with_those_that_are_left(world):
    world.name("winter")
    world.book.revise(replace(world.book.get("winter", 1), rows_erased=3))
    list(world.keeper.refresh(1.0))

    [entry], _ = world.search("winter")
    assert "4 rows of flights.departed" == entry.details


def test_word_is_found_by_its_begin_and_in_any_case(world):
    assert [("column", "flights.departed:diverted")] == world.found("DIVER")
    assert [] == world.found("verted")


def test_accents_make_no_difference(world):
    world.name("winter", "Été à Zürich")

    assert [("dataset", "winter/1")] == world.found("ete zurich")


def test_every_word_must_be_there(world):
    assert [] == world.found("diverted nowhere")


def test_owner_and_class_of_a_column_are_words_too(world):
    assert ("stream", "flights.departed") in world.found("tests", "stream")
    assert ("column", "flights.departed:origin") in world.found("ewr jfk")


def test_dataset_and_tag_are_found_by_description(world):
    world.name("winter", "Snow and ice")
    world.book.move(Tag("winter", "gold", 1, 1, 0, "r"))

    assert {("dataset", "winter/1"), ("tag", "winter@gold")} == set(world.found("snow"))


def test_name_weighs_more_than_description(world):
    world.name("other", "a flight in winter")
    world.name("winter", "something else")

    assert "winter/1" == world.found("winter", "dataset")[0][1]


def test_exact_names_come_first(world):
    """Before a name that says the word more often, in fewer words."""
    long = "of all the airports and airlines that were asked for it in those years"
    world.index.replace(
        [
            Entry("dataset", "snow-snow-day"),
            Entry("column", "weather:snow", description=long),
            Entry("dataset", "snow", description=long),
        ]
    )

    assert ["snow", "weather:snow", "snow-snow-day"] == [
        each.name for each in world.search("snow")[0]
    ]


def test_what_is_gone_is_found_no_more(world):
    world.name("winter")
    assert world.found("winter")
    world.book.delete("winter", 1)

    assert [] == world.found("winter")


def test_nothing_is_filled_again_while_nothing_changes(world):
    list(world.keeper.refresh(1.0))
    world.index.replace([])

    assert [] == world.found("flights")


def test_pages_hold_every_match_once(world):
    list(world.keeper.refresh(1.0))
    token, seen = "", []
    while True:
        page, token = world.search("flights", page_size=3, page_token=token)
        seen += [each.name for each in page]
        if not token:
            break

    assert len(seen) == len(set(seen)) == 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"query": ""},
        {"query": "_ - ."},
        {"query": "a " * 17},
        {"query": "x" * 501},
        {"kinds": ("table",)},
        {"page_size": -1},
        {"page_token": "3.0"},
    ],
)
def test_search_that_makes_no_sense_is_refused(world, wrong):
    asked = {"query": "x", "kinds": (), "page_size": 0, "page_token": ""} | wrong
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        search_catalogue(SearchCatalogue(**asked), index=world.index)


@pytest.mark.parametrize("query", ["a* OR b", "NEAR(a b)", "a & !b", "'; drop table x"])
def test_query_is_words_and_never_a_language(world, query):
    list(world.keeper.refresh(1.0))

    assert ([], "") == world.search(query)


def test_entry_comes_back_whole(world):
    entry = Entry("stream", "a.b", "owner", "Description, with (signs).", "details")
    world.index.replace([entry])

    assert [entry] == world.search("a")[0]
