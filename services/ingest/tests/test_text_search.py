# SPDX-License-Identifier: Apache-2.0
"""Texts are found by likeness; each is indexed once, and what left the archive is found no more."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import count

import numpy as np
import polars as pl
import pytest
from deltalake import write_deltalake
from sqlalchemy import text

from headrace.errors import Invalid, NotFound, Unavailable
from headrace_ingest.adapters import graph_neighbours, sql_text_index
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.delta_tables import DeltaTables
from headrace_ingest.adapters.duckdb_rows import DuckDbRows
from headrace_ingest.adapters.memory_tables import MemoryTables
from headrace_ingest.adapters.sql_tables import MIGRATIONS
from headrace_ingest.adapters.sql_text_index import SqlTextIndex
from headrace_ingest.domain.datasets import Selection
from headrace_ingest.domain.judging import ARCHIVE_COLUMNS, judge
from headrace_ingest.domain.passages import HashedEmbedder, Indexed, Passage
from headrace_ingest.handlers import text_search
from headrace_ingest.handlers.text_search import FoundTexts, SearchText, TextKeeper, search_text
from headrace_ingest.testing import NOW_US, a_contract, a_raw, a_stream_document, never_read
from headrace_kit.erased_entities import Entity, entity_sha256
from headrace_kit.failpoints import FailpointRaised, arm
from headrace_kit.json_strict import decode
from headrace_kit.objects import delta_table_uri
from headrace_kit.sql import connect, transaction
from headrace_kit.testing import a_batch

STREAM, WORDS = "flights.departed", ["engine", "delay", "snow", "crew", "gate", "fuel", "bird"]
COLUMNS = {**a_stream_document()["columns"], "note": {"type": "string", "index": "text"}}
CONTRACT = a_contract(columns=COLUMNS)


def rows(notes, *, first=0):
    records = [
        a_raw(first + place, note=note, record={"partition": place % 2})
        for place, note in enumerate(notes)
    ]
    columns = (*ARCHIVE_COLUMNS, *CONTRACT.stream.columns)
    return judge(a_batch(records), CONTRACT, decode=decode).rows.select(columns)


class World:
    def __init__(self, folder):
        self.contracts, self.tables = AppliedContracts(), MemoryTables()
        self.contracts.put(CONTRACT)
        self.engine = connect(f"sqlite:///{folder}/catalogue.db")
        MIGRATIONS.upgrade(self.engine)
        self.embedder = HashedEmbedder()
        self.index = SqlTextIndex(self.engine, self.embedder.dimensions)
        self.rows = DuckDbRows(self.tables, folder / "spill")
        self.keeper = TextKeeper(self.contracts, self.rows, self.embedder, self.index)

    def append(self, *notes, first=0):
        self.tables.append(STREAM, rows(notes, first=first))

    def append_of(self, flight, note, first):
        row = rows([note], first=first).with_columns(flight=pl.lit(flight))
        self.tables.append(STREAM, row)

    def erase(self, flight):
        entity = Entity("flight", entity_sha256("flight", flight), NOW_US)
        selection = Selection(STREAM, self.tables.newest_version(STREAM), (("flight", "string"),))
        self.rows.erase(selection, entity, lambda events: None, timeout_s=60.0)

    def refresh(self):
        list(self.keeper.refresh(60.0))

    def search(self, query, column="note", limit=10, timeout_s=60.0):
        asked = SearchText(STREAM, column, query, limit)
        return search_text(asked, texts=self.keeper, timeout_s=timeout_s)

    def restart(self):
        """Another process: what was in memory is gone."""
        self.index = SqlTextIndex(self.engine, self.embedder.dimensions)
        self.keeper = replace(self.keeper, index=self.index)

    def found(self, query, column="note", limit=10):
        return self.search(query, column, limit).matches

    def texts(self, query, limit=10):
        self.refresh()
        return [match.text for match in self.found(query, limit=limit)]


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    arm(None)
    made.engine.dispose()


def test_text_that_reads_alike_is_nearest(world):
    world.append("Engine would not start", "Snow on the runway", "Crew was late")

    assert "Engine would not start" == world.texts("engines not starting")[0]
    assert "Snow on the runway" == world.texts("snowy runways")[0]


def test_missing_archive_of_a_stream_does_not_keep_others_from_the_index(world, monkeypatch):
    newest_version = world.rows.newest_version

    def version_of(stream):
        if stream == "a":
            raise Unavailable("ARCHIVE_MISSING", stream=stream)
        return newest_version(stream)

    monkeypatch.setattr(world.rows, "newest_version", version_of)
    world.contracts.put(a_contract(name="a", columns=COLUMNS))
    world.append("Snow on the runway")

    assert ["Snow on the runway"] == world.texts("snowy runways")


def test_same_text_has_similarity_one(world):
    world.append("Snow on the runway")
    world.refresh()

    assert 1.0 == pytest.approx(world.found("Snow on the runway")[0].similarity, abs=1e-3)


def test_rows_that_come_later_are_found_too(world):
    world.append("Snow on the runway")
    assert 1 == len(world.texts("snow"))
    world.append("More snow", first=1)

    assert 2 == len(world.texts("snow"))


def test_rows_are_taken_in_by_pieces(world, monkeypatch):
    monkeypatch.setattr(text_search, "PASSAGES_MAX", 3)
    world.append(*(f"snow {number}" for number in range(10)))

    assert 10 == len(world.texts("snow", limit=100))


def test_keeper_takes_in_one_piece_by_step(world, monkeypatch):
    monkeypatch.setattr(text_search, "PASSAGES_MAX", 3)
    world.append(*(f"snow {number}" for number in range(10)))
    indexed = [len(world.found("snow", limit=100)) for _ in world.keeper.refresh(60.0)]

    assert [3, 6, 9, 10] == indexed[:4]


def test_answer_says_that_the_index_is_being_built(world, monkeypatch):
    monkeypatch.setattr(text_search, "PASSAGES_MAX", 3)
    assert world.search("snow").complete  # of nothing
    world.append(*(f"snow {number}" for number in range(10)))

    told = [world.search("snow").complete for _ in world.keeper.refresh(60.0)]

    assert [False, False, False, False] == told
    assert world.search("snow").complete


def test_answer_says_that_an_index_that_an_erasure_dropped_is_built_again(world, monkeypatch):
    world.append("Snow on the runway")
    world.append_of("UA9", "Snow elsewhere", 1)
    world.refresh()
    world.erase("UA9")
    steps = world.keeper.refresh(60.0)
    next(steps)

    assert not world.search("snow").complete
    list(steps)
    assert world.search("snow").complete


def test_rows_without_a_text_are_left_out(world):
    world.append("snow", None, "")

    assert 2 >= len(world.texts("snow"))
    assert "snow" == world.texts("snow")[0]


def test_keeper_that_broke_off_indexes_each_row_once(world, monkeypatch):
    monkeypatch.setattr(text_search, "PASSAGES_MAX", 3)
    world.append(*(f"snow {number}" for number in range(10)))
    arm("ingest.text.indexed:2:raise")
    with pytest.raises(FailpointRaised):
        world.refresh()
    arm(None)
    found = world.texts("snow", limit=100)

    assert 10 == len(found) == len(set(found))


def test_row_that_is_erased_while_a_building_that_broke_off_rests_is_found_no_more(
    world, monkeypatch
):
    monkeypatch.setattr(text_search, "PASSAGES_MAX", 1)
    world.append_of("UA1", "Snow on the runway", first=0)
    world.append_of("UA2", "Snow elsewhere", first=1)
    arm("ingest.text.indexed:1:raise")
    with pytest.raises(FailpointRaised):
        world.refresh()
    arm(None)
    world.erase("UA1")

    assert ["Snow elsewhere"] == world.texts("snow", limit=100)


def test_keeper_that_read_before_another_began_the_index_adds_nothing(world):
    """What it read may have been taken out before the other one looked."""
    read = world.index.indexed(STREAM, "note")

    assert world.index.begin(STREAM, "note", read, 5)
    assert not world.index.begin(STREAM, "note", read, 3)
    assert Indexed(-1, 0, 5) == world.index.indexed(STREAM, "note")


def test_index_that_is_long_built_holds_up_no_other(world, monkeypatch):
    monkeypatch.setattr(text_search, "PASSAGES_MAX", 1)
    world.contracts.put(a_contract(name="z", columns=COLUMNS))
    world.append(*(f"snow {number}" for number in range(9)))
    building = world.keeper.refresh(60.0)
    next(building)
    world.tables.append("z", rows(["Crew was late"]))
    steps = 0
    while not world.index.indexed("z", "note").version >= 0:
        next(building)
        steps += 1

    assert -1 == world.index.indexed(STREAM, "note").version
    assert steps < 9


def test_second_writer_of_the_same_rows_adds_nothing(world):
    passages, vectors = [Passage("a", "snow")], world.embedder.embed(["snow"])
    for _ in range(2):
        world.index.add(STREAM, "note", passages, vectors, Indexed())
        world.index.settle(STREAM, "note", Indexed(), 3)

    assert 1 == len(world.found("snow"))
    assert Indexed(3) == world.index.indexed(STREAM, "note")


def test_writer_that_read_before_the_index_was_dropped_adds_nothing(world):
    passages, vectors = [Passage("a", "snow")], world.embedder.embed(["snow"])
    world.index.add(STREAM, "note", passages, vectors, Indexed())
    world.index.drop(STREAM)
    world.index.add(STREAM, "note", passages, vectors, Indexed())
    world.index.settle(STREAM, "note", Indexed(), 3)

    assert [] == world.found("snow")
    assert Indexed(-1, 1) == world.index.indexed(STREAM, "note")


def test_rows_of_a_topic_that_was_made_again_are_found_too(world):
    """Their offsets begin anew, below those that are indexed."""
    world.append(*(f"snow {number}" for number in range(6)), first=10)
    assert 6 == len(world.texts("snow", limit=100))
    world.append("snow again", "and again snow", first=0)

    assert 8 == len(world.texts("snow", limit=100))


def test_index_is_built_while_others_write_to_its_database_and_search_in_it(world, monkeypatch):
    """A write transaction is had, and a search answered, beside each step of the building."""
    monkeypatch.setattr(graph_neighbours, "VECTORS_AT_ONCE", 2)
    world.append(*(f"snow {number}" for number in range(5)))
    world.refresh()
    world.restart()
    found = []

    def add(graph, rows):
        with transaction(world.engine) as connection:
            connection.execute(text("update indexed set version = version"))
        answer = world.search("snow", timeout_s=0.0)
        found.append((len(answer.matches), answer.complete))
        added(graph, rows)

    added = graph_neighbours.Graph.add
    monkeypatch.setattr(graph_neighbours.Graph, "add", add)

    assert 5 == len(world.found("snow"))
    assert [(0, False), (2, False), (4, False)] == found


def test_search_builds_while_its_time_lasts_and_the_next_one_goes_on(world, monkeypatch):
    monkeypatch.setattr(graph_neighbours, "VECTORS_AT_ONCE", 2)
    world.append(*(f"snow {number}" for number in range(5)))
    world.refresh()
    world.restart()
    seconds = count()
    monkeypatch.setattr(graph_neighbours, "monotonic", lambda: float(next(seconds)))
    answers = [world.search("snow", timeout_s=4.0) for _ in range(3)]

    assert [2, 4, 5] == [len(answer.matches) for answer in answers]
    assert [False, False, True] == [answer.complete for answer in answers]


def test_search_does_not_wait_for_the_building_of_another_column(world, monkeypatch):
    vectors = world.embedder.embed(["snow"])
    for column in ("note", "remark"):
        world.index.add(STREAM, column, [Passage("a", "snow")], vectors, Indexed())
    found = []

    def add(graph, rows):
        monkeypatch.setattr(graph_neighbours.Graph, "add", added)
        found.append(world.index.catch_up(STREAM, "note", 0.0))
        found.append(world.index.catch_up(STREAM, "remark", 60.0))
        added(graph, rows)

    added = graph_neighbours.Graph.add
    monkeypatch.setattr(graph_neighbours.Graph, "add", add)

    assert world.index.catch_up(STREAM, "note", 60.0)
    assert [False, True] == found


def test_keeper_loads_the_index_after_a_restart_before_anybody_asks(world):
    world.append("Snow on the runway")
    world.refresh()
    world.restart()
    assert FoundTexts([], complete=False) == world.search("snow", timeout_s=0.0)
    world.refresh()

    assert 1 == len(world.search("snow", timeout_s=0.0).matches)


def test_erased_row_is_found_no_more(world):
    world.append("Snow on the runway")
    world.append_of("UA2", "Snow elsewhere", first=1)
    assert 2 == len(world.texts("snow"))
    world.erase("UA1")

    assert ["Snow elsewhere"] == world.texts("snow")


def test_row_that_is_erased_while_another_keeper_looks_is_found_no_more(world, monkeypatch):
    """The other one has read the version that still held it when the index is dropped."""
    world.append_of("UA2", "Snow elsewhere", first=0)
    world.refresh()
    world.append_of("UA1", "Snow on the runway", first=1)
    newest_version = world.rows.newest_version

    def and_then_erased(stream):
        version = newest_version(stream)
        monkeypatch.setattr(world.rows, "newest_version", newest_version)
        world.erase("UA1")
        world.refresh()
        return version

    monkeypatch.setattr(world.rows, "newest_version", and_then_erased)
    world.refresh()

    assert ["Snow elsewhere"] == [match.text for match in world.found("snow")]


def test_row_that_is_erased_while_another_keeper_drops_the_index_is_found_no_more(
    world, monkeypatch
):
    world.append_of("UA2", "Snow elsewhere", first=0)
    world.append_of("UA3", "More snow", first=1)
    world.refresh()
    world.erase("UA3")
    world.append_of("UA1", "Snow on the runway", first=2)
    drop = world.index.drop

    def and_then_erased(stream):
        drop(stream)
        monkeypatch.setattr(world.index, "drop", drop)
        world.erase("UA1")
        world.refresh()

    monkeypatch.setattr(world.index, "drop", and_then_erased)
    world.refresh()

    assert ["Snow elsewhere"] == [match.text for match in world.found("snow")]


def test_least_version_that_the_index_may_hold_rows_of_is_told(world):
    assert -1 == world.index.since(STREAM)
    world.index.begin(STREAM, "note", Indexed(), 4)
    world.index.begin(STREAM, "remark", Indexed(), 7)
    assert 4 == world.index.since(STREAM)
    world.index.settle(STREAM, "note", Indexed(), 9)
    assert 7 == world.index.since(STREAM)

    world.index.drop(STREAM)

    assert -1 == world.index.since(STREAM)


def test_texts_that_were_dropped_are_in_no_file(world, tmp_path):
    world.append("Snow on the runway")
    world.refresh()
    assert holding(tmp_path, b"Snow on the runway")
    world.index.drop(STREAM)

    world.index.wipe()

    assert [] == holding(tmp_path, b"Snow on the runway")


def holding(folder, needle):
    return [path.name for path in folder.glob("catalogue.db*") if needle in path.read_bytes()]


def test_passages_are_added_in_pieces_each_once(world, monkeypatch):
    monkeypatch.setattr(sql_text_index, "ADDED_ROWS_MAX", 2)
    notes = [f"Snow on runway {number}" for number in range(5)]
    world.append(*notes)

    assert sorted(notes) == sorted(world.texts("snow"))
    assert sorted(notes) == sorted(world.texts("snow"))


def test_lost_index_is_built_again_from_the_archive(world, tmp_path):
    world.append("Snow on the runway")
    world.texts("snow")
    world.index.drop(STREAM)
    assert [] == world.found("snow")

    assert ["Snow on the runway"] == world.texts("snow")


def test_ten_nearest_are_those_of_brute_force(world):
    dice = random.Random(7)
    texts = [" ".join(dice.choices(WORDS, k=6)) + f" {number}" for number in range(3_000)]
    passages = [Passage(f"e{number}", text) for number, text in enumerate(texts)]
    vectors = world.embedder.embed(texts)
    world.index.add(STREAM, "note", passages, vectors, Indexed())
    hits = 0
    for query in (" ".join(dice.choices(WORDS, k=4)) for _ in range(50)):
        [vector] = world.embedder.embed([query])
        wanted = np.sort(vectors @ vector)[-10]
        found = [match.similarity for match in world.found(query)]
        hits += sum(similarity >= wanted - 2e-3 for similarity in found)

    assert hits / 500 >= 0.95


def test_embedding_is_the_same_everywhere():
    [vector] = HashedEmbedder().embed(["Snow on the runway"])

    assert 1.0 == pytest.approx(float(np.linalg.norm(vector)))
    assert np.array_equal(vector, HashedEmbedder().embed(["snow  on the RUNWAY", "x"])[0])
    assert not HashedEmbedder().embed([""]).any()


@pytest.mark.parametrize(
    "wrong", [{"query": " "}, {"query": "x" * 8_193}, {"column": "origin"}, {"limit": 101}]
)
def test_search_that_makes_no_sense_is_refused(world, wrong):
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        world.found(**({"query": "snow"} | wrong))


def test_unknown_stream_is_not_found(world):
    asked = SearchText("absent", "note", "snow", 0)
    with pytest.raises(NotFound, match="STREAM_UNKNOWN"):
        search_text(asked, texts=world.keeper, timeout_s=60.0)


def ids(table):
    return sorted(table.to_table(columns=["_event_id"])["_event_id"].to_pylist())


def test_rows_that_were_added_since_a_version_are_those_of_its_later_files(tmp_path):
    tables, table_uri = (
        DeltaTables(tmp_path.as_uri(), {}, was_read=never_read),
        delta_table_uri(tmp_path.as_uri(), "records", STREAM),
    )
    for first in (0, 1, 2):
        part = rows([f"snow {first}"], first=first)
        write_deltalake(table_uri, part.to_arrow(), mode="append", partition_by=["_event_date"])
    newest = Selection(STREAM, 2, (("note", "string"),))

    assert [f"departed:{number}" for number in range(3)] == ids(tables.added(newest, -1))
    assert ["departed:1", "departed:2"] == ids(tables.added(newest, 0))
    assert [] == ids(tables.added(newest, 2))
