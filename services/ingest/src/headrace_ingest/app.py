# SPDX-License-Identifier: Apache-2.0
"""The wiring of ingest: every subscription, every RPC, and what stands behind each port."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
from sqlalchemy import Engine

from headrace import topics
from headrace.ingest.v1 import (
    dead_letter_service_pb2_grpc,
    ingest_service_pb2_grpc,
    label_service_pb2_grpc,
)
from headrace.tokens import LABEL, PUBLISH
from headrace_ingest.adapters import sql_tables
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.datasets_grpc import DatasetApi
from headrace_ingest.adapters.dead_letter_api import DeadLetterApi
from headrace_ingest.adapters.delta_archive import DeltaArchive
from headrace_ingest.adapters.delta_rows import DeltaRows
from headrace_ingest.adapters.delta_tables import DeltaTables
from headrace_ingest.adapters.duckdb_rows import DuckDbRows
from headrace_ingest.adapters.erasure_conversions import KafkaErasureNews, to_entity, to_erasure_id
from headrace_ingest.adapters.grpc_api import WORKERS, IngestApi
from headrace_ingest.adapters.grpc_model_versions import GrpcModelVersions
from headrace_ingest.adapters.grpc_retracted_definitions import GrpcRetractedDefinitions
from headrace_ingest.adapters.kafka_published_rows import KafkaPublishedRows
from headrace_ingest.adapters.kafka_quality_log import KafkaQualityLog
from headrace_ingest.adapters.kafka_topics import KafkaTopicCatalogue
from headrace_ingest.adapters.label_api import LabelApi
from headrace_ingest.adapters.label_book import AppliedLabels
from headrace_ingest.adapters.object_dataset_book import ObjectDatasetBook
from headrace_ingest.adapters.object_erasure_book import ObjectErasureBook
from headrace_ingest.adapters.periodic_loop import PeriodicLoop
from headrace_ingest.adapters.prediction_sampler import OpenIncidents, PredictionSampler
from headrace_ingest.adapters.sql_catalogue import SqlCatalogueIndex
from headrace_ingest.adapters.sql_redrive_key import SqlRedriveKey
from headrace_ingest.adapters.sql_task_store import MIGRATIONS, SqlTaskStore
from headrace_ingest.adapters.sql_text_index import SqlTextIndex
from headrace_ingest.domain.passages import HashedEmbedder
from headrace_ingest.domain.recent_ids import RecentIds
from headrace_ingest.domain.redrive_seal import RedriveSeal
from headrace_ingest.domain.tolerance import Tolerance
from headrace_ingest.handlers.catalogue import CatalogueKeeper
from headrace_ingest.handlers.erased_tasks import TaskEraser
from headrace_ingest.handlers.erasures import Eraser
from headrace_ingest.handlers.noted_erasures import tell_again
from headrace_ingest.handlers.publish import REQUEST_BYTES_MAX, PublishDoor
from headrace_ingest.handlers.quality import QualityWatch
from headrace_ingest.handlers.retention import Keeper, forget_unended
from headrace_ingest.handlers.sink import RecordSink
from headrace_ingest.handlers.storing import Pace
from headrace_ingest.handlers.text_search import TextKeeper
from headrace_ingest.ports.erasures import ErasureBook, ErasureNews
from headrace_ingest.settings import IngestSettings
from headrace_kit.admin_http import AdminServer
from headrace_kit.attempt_log import FileAttemptLog
from headrace_kit.auth import Guard
from headrace_kit.bulk import KafkaBulkPublisher
from headrace_kit.clock import SystemClock
from headrace_kit.consume import ConsumeLoop
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.follow import TableFollower
from headrace_kit.grpc_client import open_channel
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.json_strict import decode_record
from headrace_kit.kafka import KafkaPublisher, Record
from headrace_kit.lifecycle import Part, run_service
from headrace_kit.objects import delta_storage_options, object_store, self_test
from headrace_kit.outbox import OutboxRelay
from headrace_kit.sql import connect
from headrace_kit.sql_clock import database_clock
from headrace_kit.sql_migrations import MigratedDatabase
from headrace_kit.topic_log import KafkaTopicLog

GRPC_SERVICES = (
    "headrace.ingest.v1.IngestService",
    "headrace.ingest.v1.DatasetService",
    "headrace.ingest.v1.DeadLetterService",
    "headrace.ingest.v1.LabelService",
)
ACTIONS = {
    "/headrace.ingest.v1.IngestService/Publish": PUBLISH,
    "/headrace.ingest.v1.IngestService/PublishStream": PUBLISH,
    "/headrace.ingest.v1.LabelService/ClaimTask": LABEL,
    "/headrace.ingest.v1.LabelService/SubmitLabel": LABEL,
    "/headrace.ingest.v1.LabelService/SkipTask": LABEL,
}
GROUP = topics.RAW.owner
# A batch is judged and delivered as a whole: larger ones wait less, and hold more in memory.
BATCH_RECORDS_MAX = 20_000
# While a batch is handed over, its messages gather: sent in fewer requests they cost half.
LINGER_MS = 20
ERASURE_INTERVAL_S = 30.0
CATALOGUE_INTERVAL_S = 10.0
TEXT_INTERVAL_S = 2.0
KEEP_INTERVAL_S = 3_600.0
# What is published waits in a queue of its own, so that neither it nor the sink fills the other's.
DOOR_RECORDS_MAX = 50_000
# A request above its cap is told so by its reason; one far above is refused before it is read.
MIB = 1 << 20


log = structlog.get_logger(__name__)


class StoreCheck:
    """Part that refuses to start on an object store that loses races."""

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings

    def start(self) -> None:
        self_test(object_store(self._settings.objects, self._settings.s3))

    def stop(self, timeout_s: float) -> None:
        """Nothing is held."""

    def failed(self) -> BaseException | None:
        return None


class ToldErasures:
    """Part that starts between the log of erasures and the records: nothing noted may be unknown.

    The log is a topic, and may have been deleted; a record of an erased entity would be stored.
    """

    def __init__(
        self,
        erasures: ErasureBook,
        told: Collection[str],
        erased: ErasedEntities,
        news: ErasureNews,
    ) -> None:
        """`told`: the ids that are on the topic, once it is followed."""
        self._erasures, self._told, self._erased, self._news = erasures, told, erased, news

    def start(self) -> None:
        lost = tell_again(
            erasures=self._erasures, told=self._told, erased=self._erased, news=self._news
        )
        if lost:
            log.warning("erasures_told_again", erasures=[each.id for each in lost])

    def stop(self, timeout_s: float) -> None:
        """Nothing is held."""

    def failed(self) -> BaseException | None:
        return None


def run(settings: IngestSettings) -> int:
    """Run until told to stop; the exit code."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    shared = Shared.of(
        settings,
        on_streams=lambda streams: records.loop.subscribe([topics.RAW.of(s) for s in streams]),
        on_labels=lambda: labels.sampling.subscribe(_queued(shared.labels)),
    )
    labels = _label_queue(shared)
    redrive_key = SqlRedriveKey(labels.engine)
    seal = RedriveSeal(redrive_key)
    records = _records(shared, seal)
    datasets, publishing = _datasets(shared, labels.tasks), _publishing(shared)
    server = _server(shared, seal, records, labels.tasks, datasets, publishing)
    parts: tuple[Part, ...] = (
        StoreCheck(settings),
        MigratedDatabase(labels.engine, MIGRATIONS),
        redrive_key,
        MigratedDatabase(datasets.engine, sql_tables.MIGRATIONS),
        shared.publisher,
        records.publisher,
        publishing.publisher,
        labels.relay,
        labels.incidents,
        shared.follow(topics.REGISTRY_DEFINITIONS.name, shared.take_definition),
        shared.follow(topics.INGEST_ERASURES.name, shared.take_erasure),
        ToldErasures(datasets.eraser.erasures, shared.told, shared.erased, datasets.eraser.news),
        records.loop,
        labels.sampling,
        *datasets.loops,
        server,
    )
    admin = AdminServer(settings.http_host, settings.http_port, ready=records.loop.ready)
    return run_service("ingest", parts, admin=admin, on_ready=server.set_ready)


@dataclass(frozen=True, slots=True)
class Shared:
    """What all subjects know: the definitions, who was erased, and the ways to Kafka and Delta.

    `told`: the ids of erasures that their topic names.
    """

    settings: IngestSettings
    contracts: AppliedContracts
    labels: AppliedLabels
    erased: ErasedEntities
    told: set[str]
    publisher: KafkaPublisher
    catalogue: KafkaTopicCatalogue
    archive: DeltaArchive

    @classmethod
    def of(
        cls,
        settings: IngestSettings,
        *,
        on_streams: Callable[[Collection[str]], None],
        on_labels: Callable[[], None],
    ) -> Shared:
        catalogue = KafkaTopicCatalogue(settings.kafka_bootstrap, GROUP)
        return cls(
            settings,
            contracts=AppliedContracts(on_streams, pii_key=settings.pii_key_bytes),
            labels=AppliedLabels(on_labels),
            erased=ErasedEntities(),
            told=set(),
            publisher=KafkaPublisher(settings.kafka_bootstrap, client_id="ingest"),
            catalogue=catalogue,
            archive=DeltaArchive(settings.objects, _delta(settings), was_read=catalogue.was_read),
        )

    def follow(self, topic: str, on_record: Callable[[Record], None]) -> TableFollower:
        return TableFollower(
            bootstrap=self.settings.kafka_bootstrap,
            topic=topic,
            on_record=on_record,
            service="ingest",
        )

    def take_definition(self, record: Record) -> None:
        self.contracts.take(record)
        self.labels.take(record)

    def take_erasure(self, record: Record) -> None:
        self.erased.take(to_entity(record))
        self.told.add(to_erasure_id(record))


@dataclass(frozen=True, slots=True)
class Records:
    """The way of a record from `raw.*` to `ingest.records.*` and the archive."""

    publisher: KafkaBulkPublisher
    sink: RecordSink
    loop: ConsumeLoop


def _records(shared: Shared, seal: RedriveSeal) -> Records:
    settings, bootstrap = shared.settings, shared.settings.kafka_bootstrap
    publisher = KafkaBulkPublisher(bootstrap, client_id="ingest-records", linger_ms=LINGER_MS)
    sink = RecordSink(
        contracts=shared.contracts,
        catalogue=shared.catalogue,
        archive=shared.archive,
        records=publisher,
        dead_letters=shared.publisher,
        attempt_log=FileAttemptLog(settings.data_dir),
        decode=decode_record,
        monotonic_s=time.monotonic,
        pace=Pace(
            commit_interval_s=settings.commit_interval_s, dedup_ids_max=settings.dedup_ids_max
        ),
        erased=shared.erased,
        news=KafkaErasureNews(shared.publisher),
        quality=QualityWatch(KafkaQualityLog(shared.publisher), SystemClock()),
        seal=seal,
        tolerance=Tolerance(settings.dead_letters_share_max, settings.dead_letters_window_records),
    )
    loop = ConsumeLoop(
        bootstrap=bootstrap,
        group=GROUP,
        handler=sink,
        dead_letters=shared.publisher,
        service="ingest",
        batch_records_max=BATCH_RECORDS_MAX,
    )
    return Records(publisher, sink, loop)


@dataclass(frozen=True, slots=True)
class Publishing:
    """What publishes for programs without a Kafka client."""

    publisher: KafkaPublisher
    door: PublishDoor


def _publishing(shared: Shared) -> Publishing:
    publisher = KafkaPublisher(
        shared.settings.kafka_bootstrap,
        client_id="ingest.publish",
        queue_records_max=DOOR_RECORDS_MAX,
    )
    door = PublishDoor(contracts=shared.contracts, publisher=publisher, ids=RecentIds())
    return Publishing(publisher, door)


@dataclass(frozen=True, slots=True)
class Datasets:
    """The archive's tables as datasets: found, searched, kept for their time, and erased from."""

    engine: Engine
    eraser: Eraser
    rows: DuckDbRows
    index: SqlCatalogueIndex
    texts: TextKeeper
    loops: Sequence[PeriodicLoop]


def _datasets(shared: Shared, tasks: SqlTaskStore) -> Datasets:
    engine = connect(shared.settings.index_database, schema="ingest_index")
    settings = shared.settings
    tables = DeltaTables(settings.objects, _delta(settings), was_read=shared.catalogue.was_read)
    rows = DuckDbRows(tables, settings.data_dir / "spill")
    index, embedder = SqlCatalogueIndex(engine), HashedEmbedder()
    text_index = SqlTextIndex(engine, embedder.dimensions)
    eraser = _eraser(shared, tasks, tables, text_index)
    texts = TextKeeper(shared.contracts, eraser.rows, embedder, text_index)
    catalogue = CatalogueKeeper(shared.contracts, eraser.datasets, index)
    keeper = Keeper(shared.contracts, eraser.retracted, eraser.datasets, rows, eraser.clock)
    objects = object_store(settings.objects, settings.s3)
    forget = partial(forget_unended, files=objects)
    loops = (
        PeriodicLoop("erasures", eraser.go_on, interval_s=ERASURE_INTERVAL_S),
        PeriodicLoop("catalogue", catalogue.refresh, interval_s=CATALOGUE_INTERVAL_S),
        PeriodicLoop("texts", texts.refresh, interval_s=TEXT_INTERVAL_S),
        PeriodicLoop("retention", keeper.keep, interval_s=KEEP_INTERVAL_S),
        # A store that does not let us look for these must not keep tables from ageing.
        PeriodicLoop("unended-files", forget, interval_s=KEEP_INTERVAL_S),
    )
    return Datasets(engine, eraser, rows, index, texts, loops)


def _eraser(
    shared: Shared, tasks: SqlTaskStore, tables: DeltaTables, texts: SqlTextIndex
) -> Eraser:
    """What takes entities out of datasets and of the archive."""
    settings = shared.settings
    objects = object_store(settings.objects, settings.s3)
    registry = open_channel(settings.registry_address, token=settings.token.get_secret_value())
    return Eraser(
        contracts=shared.contracts,
        retracted=GrpcRetractedDefinitions(registry, pii_key=settings.pii_key_bytes),
        datasets=ObjectDatasetBook(objects),
        erasures=ObjectErasureBook(objects),
        # A place of its own, with the texts: who creates datasets one after another must keep no
        # erasure waiting, and no index.
        rows=DuckDbRows(tables, settings.data_dir / "spill", in_turn=True),
        published=KafkaPublishedRows(KafkaTopicLog(settings.kafka_bootstrap), topics.FEATURE_ROWS),
        models=GrpcModelVersions(registry),
        news=KafkaErasureNews(shared.publisher),
        tasks=TaskEraser(shared.labels, tasks),
        texts=texts,
        clock=SystemClock(),
    )


@dataclass(frozen=True, slots=True)
class LabelQueue:
    """What puts predictions to people and publishes their labels."""

    engine: Engine
    tasks: SqlTaskStore
    relay: OutboxRelay
    incidents: TableFollower
    sampling: ConsumeLoop


def _label_queue(shared: Shared) -> LabelQueue:
    engine = connect(shared.settings.database, schema="ingest")
    relay = OutboxRelay(engine, shared.publisher)
    tasks = SqlTaskStore(engine, clock=database_clock(engine), notify=relay.notify)
    incidents = OpenIncidents()
    sampling = ConsumeLoop(
        bootstrap=shared.settings.kafka_bootstrap,
        group="ingest.labels",
        handler=PredictionSampler(
            labels=shared.labels, incidents=incidents, tasks=tasks, erased=shared.erased
        ),
        dead_letters=shared.publisher,
        service="ingest",
    )
    news = shared.follow(topics.MONITOR_INCIDENTS.name, incidents.take)
    return LabelQueue(engine, tasks, relay, news, sampling)


def _server(
    shared: Shared,
    seal: RedriveSeal,
    records: Records,
    tasks: SqlTaskStore,
    datasets: Datasets,
    publishing: Publishing,
) -> GrpcServer:
    settings, eraser = shared.settings, datasets.eraser
    ingest_api = IngestApi(publishing.door, draining=lambda: server.draining())
    dataset_api = DatasetApi(
        contracts=shared.contracts,
        catalogue=shared.catalogue,
        archive=shared.archive,
        stops=records.sink.stops,
        waits=records.loop.waits,
        book=eraser.datasets,
        rows=datasets.rows,
        clock=eraser.clock,
        eraser=eraser,
        catalogue_index=datasets.index,
        texts=datasets.texts,
    )
    archived = DeltaRows(settings.objects, _delta(settings), was_read=shared.catalogue.was_read)
    dead_letter_api = DeadLetterApi(
        log=KafkaTopicLog(settings.kafka_bootstrap),
        contracts=shared.contracts,
        publisher=shared.publisher,
        decode=decode_record,
        archived=archived,
        erased=shared.erased,
        seal=seal,
    )
    label_api = LabelApi(
        labels=shared.labels,
        contracts=shared.contracts,
        records=archived,
        tasks=tasks,
        publisher=shared.publisher,
        clock=SystemClock(),
        models=eraser.models,
    )
    server = GrpcServer(
        host=settings.grpc_host,
        port=settings.grpc_port,
        services=[
            (ingest_service_pb2_grpc.add_IngestServiceServicer_to_server, ingest_api),
            (ingest_service_pb2_grpc.add_DatasetServiceServicer_to_server, dataset_api),
            (dead_letter_service_pb2_grpc.add_DeadLetterServiceServicer_to_server, dead_letter_api),
            (label_service_pb2_grpc.add_LabelServiceServicer_to_server, label_api),
        ],
        names=GRPC_SERVICES,
        guard=Guard("ingest", settings.tokens_file, actions=ACTIONS),
        workers=WORKERS,
        message_bytes_max=REQUEST_BYTES_MAX + MIB,
    )
    return server


def _delta(settings: IngestSettings) -> Mapping[str, str]:
    return delta_storage_options(settings.objects, settings.s3)


def _queued(labels: AppliedLabels) -> set[str]:
    """The topics of the endpoints whose predictions people label."""
    queues = [label.queue for label in labels.all() if label.queue is not None]
    return {topics.INFERENCE_PREDICTIONS.of(queue.endpoint) for queue in queues}
