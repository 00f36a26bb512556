# SPDX-License-Identifier: Apache-2.0
"""Datasets over real Delta tables, in a folder and on S3, through the gRPC door and the client."""

from __future__ import annotations

import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileType, PyFileSystem
from pydantic import SecretStr

from headrace import topics
from headrace.application import definition_json, parse_definition
from headrace.datasets import Datasets
from headrace.errors import Conflict, Invalid, NotFound, Unavailable
from headrace.ingest.v1 import ingest_service_pb2_grpc
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace.rpc import open_channel
from headrace_ingest.adapters import delta_orphans
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.datasets_grpc import DatasetApi
from headrace_ingest.adapters.delta_archive import DeltaArchive
from headrace_ingest.adapters.delta_tables import DeltaTables
from headrace_ingest.adapters.duckdb_rows import DuckDbRows
from headrace_ingest.adapters.erasure_conversions import KafkaErasureNews, to_entity
from headrace_ingest.adapters.kafka_published_rows import KafkaPublishedRows
from headrace_ingest.adapters.label_book import AppliedLabels
from headrace_ingest.adapters.object_dataset_book import ObjectDatasetBook
from headrace_ingest.adapters.object_erasure_book import ObjectErasureBook
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.dataset_copies import dataset_in
from headrace_ingest.domain.judging import ARCHIVE_COLUMNS, judge
from headrace_ingest.handlers.erased_tasks import TaskEraser
from headrace_ingest.handlers.erasures import SETTLE_US, EraseEntity, Eraser
from headrace_ingest.handlers.retention import Keeper
from headrace_ingest.testing import (
    DroppedTexts,
    MemoryRetracted,
    NoTasks,
    a_contract,
    a_raw,
    never_read,
)
from headrace_kit.auth import Guard
from headrace_kit.clock import SystemClock
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.json_strict import decode
from headrace_kit.objects import (
    S3Settings,
    delta_storage_options,
    delta_table_uri,
    object_store,
)
from headrace_kit.testing import FixedClock, MemoryPublisher, MemoryTopicLog, a_batch, a_record

pytestmark = pytest.mark.integration

STREAM = "flights.departed"


class NoVersions:
    """A registry without models."""

    def trainings(self, models, after):
        return iter(())


class World:
    """An archive that a test appends to, and a served DatasetService over it."""

    def __init__(self, uri, s3, spill):
        self.uri, self.options = uri, (options := delta_storage_options(uri, s3))
        self.objects = object_store(uri, s3)
        contracts = AppliedContracts()
        contracts.put(a_contract())
        self.archive = DeltaArchive(uri, options, was_read=never_read)
        self.archive.open(a_contract(), "topic", [0], ids_max=10)
        self.account = Account()
        self.publisher, self.texts = MemoryPublisher(), DroppedTexts()
        self.clock = FixedClock(SystemClock().now_us())
        self.eraser = eraser = Eraser(
            contracts=contracts,
            retracted=MemoryRetracted(),
            datasets=ObjectDatasetBook(self.objects),
            erasures=ObjectErasureBook(self.objects),
            rows=DuckDbRows(DeltaTables(uri, options, was_read=never_read), spill),
            published=KafkaPublishedRows(MemoryTopicLog(self.publisher), topics.FEATURE_ROWS),
            models=NoVersions(),
            news=KafkaErasureNews(self.publisher),
            tasks=TaskEraser(AppliedLabels(), NoTasks()),
            texts=self.texts,
            clock=self.clock,
        )
        self.keeper = Keeper(
            contracts, eraser.retracted, eraser.datasets, eraser.rows, eraser.clock
        )
        self.contracts = contracts
        api = DatasetApi(
            contracts=contracts,
            catalogue=None,
            archive=self.archive,
            stops=dict,
            waits=lambda: None,
            book=eraser.datasets,
            rows=eraser.rows,
            clock=eraser.clock,
            eraser=eraser,
            catalogue_index=None,
            texts=None,
        )
        add = ingest_service_pb2_grpc.add_DatasetServiceServicer_to_server
        self.server = GrpcServer(
            host="127.0.0.1",
            port=0,
            services=[(add, api)],
            names=["headrace.ingest.v1.DatasetService"],
            guard=Guard("tests", None),
        )
        port = self.server.start()
        self.datasets = Datasets(open_channel(f"127.0.0.1:{port}"))

    def manifests(self):
        return b"".join(map(self.objects.get, self.objects.keys("datasets")))

    def append(self, *numbers, flight="UA1", **changes):
        key = {"key": flight.encode()}
        records = [a_raw(number, flight=flight, record=key, **changes) for number in numbers]
        columns = (*ARCHIVE_COLUMNS, *a_contract().stream.columns)
        rows = judge(a_batch(records), a_contract(), decode=decode).rows.select(columns)
        after = Account(self.account.offset + len(rows), self.account.stored + len(rows))
        self.archive.append(a_contract(), rows, {0: self.account}, {0: after})
        self.account = after


@pytest.fixture(params=["folder", "s3"])
def world(request, tmp_path):
    uri, s3 = tmp_path.as_uri(), None
    if request.param == "s3":
        server = request.getfixturevalue("s3_server")
        uri = f"s3://headrace/{uuid.uuid4().hex}"
        s3 = S3Settings(server.endpoint, server.access_key, SecretStr(server.secret_key))
    made = World(uri, s3, tmp_path / "spill")
    yield made
    made.server.stop(5.0)


def test_dataset_is_created_found_tagged_compared_read_and_deleted(world):
    world.append(*range(10))
    first = world.datasets.create("winter", stream=STREAM, request_id="r")
    world.append(*range(10, 15), delay=90.0)
    second = world.datasets.create("winter", stream=STREAM, filter="delay < 50 or delay >= 90")
    world.datasets.tag("winter", 1, "gold")
    said = []
    diff = world.datasets.diff("winter@gold", "winter", said=said.append)

    assert first == world.datasets.create("winter", stream=STREAM, request_id="r")
    assert (10, 15) == (first.rows, second.rows)
    assert ["rows", "distributions"] == said
    assert (5, 0, 0) == (diff.rows_added, diff.rows_removed, diff.rows_changed)
    assert ["gold"] == list(world.datasets.get("winter/1").tags)
    assert [2, 1] == [each.number for each in world.datasets.list()]
    read = world.datasets.read("winter@gold", ["event_id", "delay"]).to_polars()
    assert ([2.5] * 10, ["event_id", "delay"]) == (read["delay"].to_list(), read.columns)
    with pytest.raises(Conflict, match="DATASET_TAGGED"):
        world.datasets.delete("winter", 1)
    world.datasets.delete("winter", 2)
    assert [1] == [each.number for each in world.datasets.list("winter")]


def test_stream_is_read_as_it_was(world):
    world.append(0)
    version = world.datasets.create("one", stream=STREAM).delta_version
    world.append(1)

    assert 1 == world.datasets.read_stream(STREAM, delta_version=version).to_arrow().num_rows
    assert 2 == world.datasets.read_stream(STREAM).to_arrow().num_rows


def test_rows_come_in_batches_however_many_they_are(world):
    world.append(*range(20_000))
    reader = world.datasets.read_stream(STREAM).batches()

    assert isinstance(reader, pa.RecordBatchReader)
    assert 20_000 == sum(batch.num_rows for batch in reader)


def test_errors_come_back_as_the_error_tree(world):
    world.append(0)
    with pytest.raises(NotFound, match="DATASET_UNKNOWN"):
        world.datasets.get("absent")
    with pytest.raises(NotFound, match="DATASET_UNKNOWN"):
        world.datasets.read("absent").to_arrow()
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        world.datasets.create("x", stream=STREAM, filter="delay >")
    with pytest.raises(NotFound, match="STREAM_UNKNOWN"):
        world.datasets.create("x", stream="absent")


def test_rows_are_filtered_by_a_text_among_those_of_a_file(world):
    world.append(0, 1, 2)
    one = world.datasets.create("one", stream=STREAM, filter="event_id = 'departed:1'")
    others = world.datasets.create("others", stream=STREAM, filter="event_id <> 'departed:1'")

    assert (1, 2) == (one.rows, others.rows)
    assert ["departed:1"] == world.datasets.read("one").to_polars()["event_id"].to_list()


def test_erased_entity_is_in_no_file_of_the_table_any_more(world):
    world.append(0, 1)
    world.append(2, flight="UA2")
    held = world.datasets.create("held", stream=STREAM)
    other = world.datasets.create("other", stream=STREAM, filter="flight = 'UA2'")
    world.append(3)
    report = world.datasets.erase("flight", "UA1", request_id="r")
    world.append(4, flight="UA3")

    assert {STREAM: 3} == {each.stream: each.rows for each in report.streams}
    assert [("held", 1, 2)] == [(each.name, each.number, each.rows) for each in report.datasets]
    assert ["UA2", "UA3"] == sorted(world.datasets.read_stream(STREAM).to_polars()["flight"])
    assert ["UA2"] == world.datasets.read("held").to_polars()["flight"].to_list()
    assert ["UA2"] == world.datasets.read("other").to_polars()["flight"].to_list()
    after = world.datasets.get("held")
    assert (1, 2, held.digest) == (after.rows, after.rows_erased, after.digest)
    assert 0 == world.datasets.get("other").rows_erased
    with pytest.raises(Conflict, match="VERSION_EXPIRED"):
        world.datasets.read_stream(STREAM, delta_version=other.delta_version).to_arrow()
    [message, *_] = world.publisher.published
    assert report.entity_sha256 == to_entity(a_record(message.value)).sha256
    assert report == world.datasets.erase("flight", "UA1", request_id="r")
    assert [report] == list(world.datasets.erasures())


def test_manifest_that_told_a_value_forgets_it(world):
    world.append(0, 1)
    world.append(2, origin="JFK")
    world.datasets.create("held", stream=STREAM)
    kept = world.manifests()
    world.datasets.erase("origin", "JFK")

    assert (True, False) == (b"JFK" in kept, b"JFK" in world.manifests())


def test_files_of_before_go_though_texts_could_not_be_dropped_at_once(world, monkeypatch):
    world.append(0, 1)
    world.append(2, flight="UA2")
    before = world.keeper.rows.newest_version(STREAM)
    world.texts.since_by_stream[STREAM] = before

    def away(stream):
        monkeypatch.undo()
        raise Unavailable("DATABASE_UNAVAILABLE", dialect="postgresql")

    monkeypatch.setattr(world.texts, "drop", away)
    with pytest.raises(Unavailable):
        world.eraser.erase(EraseEntity("flight", "UA1"), "r", timeout_s=60.0)
    assert 3 == world.datasets.read_stream(STREAM, delta_version=before).to_arrow().num_rows
    world.clock.advance(SETTLE_US + 1)
    list(world.eraser.go_on(60.0))

    assert [] == list(world.eraser.erasures.unsettled())
    assert [STREAM] == world.texts.dropped
    with pytest.raises(Conflict, match="VERSION_EXPIRED"):
        world.datasets.read_stream(STREAM, delta_version=before).to_arrow()
    assert ["UA2"] == world.datasets.read_stream(STREAM).to_polars()["flight"].to_list()


def test_erasure_goes_through_where_the_own_table_of_a_dataset_is_lost(world):
    world.append(0)
    world.append(1, flight="UA2")
    world.datasets.create("held", stream=STREAM)
    world.datasets.erase("flight", "UA2")
    for copy in world.keeper.rows.copies():
        world.keeper.rows.drop(copy)
    report = world.datasets.erase("flight", "UA1")

    assert ([1], []) == ([each.rows for each in report.streams], list(report.datasets))
    assert 0 == world.datasets.read_stream(STREAM).to_arrow().num_rows


def test_rows_are_filtered_by_a_text_in_a_file_that_an_erasure_wrote(world):
    world.append(0, 1, 2, 3)
    assert [1] == [e.rows for e in world.datasets.erase("event_id", "departed:1").streams]
    filters = [
        "event_id = 'departed:2'",
        "event_id <> 'departed:2'",
        "event_id in ('departed:0', 'departed:3')",
        "event_id > 'departed:0' and delay < 50",
    ]

    for number, text in enumerate(filters):
        world.datasets.create(f"by-{number}", stream=STREAM, filter=text)
    read = [world.datasets.read(f"by-{n}").to_polars()["event_id"] for n in range(len(filters))]
    told = [sorted(each.removeprefix("departed:") for each in ids) for ids in read]
    assert [["2"], ["0", "3"], ["0", "3"], ["2", "3"]] == told


def test_days_beyond_the_retention_leave_the_table_and_stay_in_the_dataset(world):
    world.append(0, 1)
    world.datasets.create("all", stream=STREAM)
    world.contracts.put(a_contract(2, retention="365d"))
    list(world.keeper.keep(60.0))
    world.append(2)

    assert ["departed:2"] == world.datasets.read_stream(STREAM).to_polars()["event_id"].to_list()
    assert 2 == world.datasets.read("all").to_arrow().num_rows


class Orphan:
    """A file that no version of a table names."""

    def __init__(self, world, *table):
        uri = delta_table_uri(world.uri, *table)
        self.files = PyFileSystem(DeltaStorageHandler(uri, world.options))
        self.path = f"part-{uuid.uuid4().hex}.parquet"
        pq.write_table(pa.table({"n": [1]}), self.path, filesystem=self.files)

    def there(self):
        return self.files.get_file_info(self.path).type == FileType.File


def materialized_view(world):
    """Its name; its table is there."""
    view = parse_definition(
        {
            "kind": "view",
            "name": "delays",
            "description": "Delays.",
            "stream": STREAM,
            "entity": ["origin"],
            "features": {"departures": {"aggregate": "count", "window": "1h"}},
        }
    )
    applied = Definition(kind="view", name="delays", version=1, spec_json=definition_json(view))
    world.contracts.take(a_record(applied.SerializeToString(), key=b"view/delays"))
    uri = delta_table_uri(world.uri, "features", "delays")
    write_deltalake(uri, pa.table({"origin": ["JFK"]}), storage_options=world.options)
    return "delays"


def test_hourly_pass_removes_orphans_of_streams_views_and_datasets(world, monkeypatch):
    monkeypatch.setattr(delta_orphans, "ORPHAN_AGE_H", 0)
    world.append(0, 1)
    world.datasets.create("held", stream=STREAM)
    world.datasets.erase("event_id", "departed:1")
    (copy,) = world.keeper.rows.copies()
    tables = [
        ("records", STREAM),
        ("features", materialized_view(world)),
        ("dataset-rows", *copy.split("/")),
    ]
    orphans = [Orphan(world, *table) for table in tables]
    assert [True] * 3 == [each.there() for each in orphans]
    list(world.keeper.keep(60.0))

    assert [False] * 3 == [each.there() for each in orphans]
    assert 1 == world.datasets.read_stream(STREAM).to_arrow().num_rows
    assert 1 == world.datasets.read("held").to_arrow().num_rows


def test_rows_of_a_deleted_dataset_go_with_the_next_hourly_pass(world):
    world.append(0, 1)
    for name in ("held", "kept"):
        world.datasets.create(name, stream=STREAM)
    world.datasets.erase("event_id", "departed:1")
    tables = DeltaTables(world.uri, world.options, was_read=never_read)
    list(world.keeper.keep(60.0))
    assert ["held/1", "kept/1"] == sorted(map(dataset_in, tables.copies()))
    world.datasets.delete("held", 1)
    for _ in range(2):  # the second has nothing to do
        list(world.keeper.keep(60.0))

    assert ["kept/1"] == [*map(dataset_in, tables.copies())]
    assert 1 == world.datasets.read("kept").to_arrow().num_rows
