# SPDX-License-Identifier: Apache-2.0
"""The wiring of ingest: every subscription, every RPC, and what stands behind each port."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Engine

from headrace import topics
from headrace.ingest.v1 import (
    dead_letter_service_pb2_grpc,
    ingest_service_pb2_grpc,
    label_service_pb2_grpc,
)
from headrace.rpc import open_channel
from headrace_ingest.adapters import sql_tables
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.datasets_grpc import DatasetApi
from headrace_ingest.adapters.dead_letter_api import DeadLetterApi
from headrace_ingest.adapters.delta_archive import DeltaArchive
from headrace_ingest.adapters.delta_rows import DeltaRows
from headrace_ingest.adapters.delta_tables import DeltaTables
from headrace_ingest.adapters.duckdb_rows import DuckDbRows
from headrace_ingest.adapters.erasure_conversions import KafkaErasureNews, to_entity
from headrace_ingest.adapters.grpc_api import WORKERS, IngestApi
from headrace_ingest.adapters.grpc_model_versions import GrpcModelVersions
from headrace_ingest.adapters.kafka_quality_log import KafkaQualityLog
from headrace_ingest.adapters.kafka_topics import KafkaTopicCatalogue
from headrace_ingest.adapters.label_api import LabelApi
from headrace_ingest.adapters.label_book import AppliedLabels
from headrace_ingest.adapters.object_dataset_book import ObjectDatasetBook
from headrace_ingest.adapters.object_erasure_book import ObjectErasureBook
from headrace_ingest.adapters.periodic_loop import PeriodicLoop
from headrace_ingest.adapters.prediction_sampler import OpenIncidents, PredictionSampler
from headrace_ingest.adapters.sql_catalogue import SqlCatalogueIndex
from headrace_ingest.adapters.sql_task_store import SCHEMA, SqlTaskStore
from headrace_ingest.adapters.sql_text_index import SqlTextIndex
from headrace_ingest.domain.passages import HashedEmbedder
from headrace_ingest.domain.recent_ids import RecentIds
from headrace_ingest.domain.tolerance import Tolerance
from headrace_ingest.handlers.catalogue import CatalogueKeeper
from headrace_ingest.handlers.erased_tasks import TaskEraser
from headrace_ingest.handlers.erasures import Eraser
from headrace_ingest.handlers.publish import REQUEST_BYTES_MAX, PublishDoor
from headrace_ingest.handlers.quality import QualityWatch
from headrace_ingest.handlers.retention import Keeper
from headrace_ingest.handlers.sink import Pace, RecordSink
from headrace_ingest.handlers.text_search import TextKeeper
from headrace_ingest.settings import IngestSettings
from headrace_kit.admin_http import AdminServer
from headrace_kit.attempt_log import FileAttemptLog
from headrace_kit.bulk import KafkaBulkPublisher
from headrace_kit.clock import SystemClock
from headrace_kit.consume import ConsumeLoop
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.follow import TableFollower
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.json_strict import decode
from headrace_kit.kafka import KafkaPublisher, Record
from headrace_kit.lifecycle import run_service
from headrace_kit.objects import delta_storage_options, object_store, self_test
from headrace_kit.outbox import OutboxRelay
from headrace_kit.sql import connect
from headrace_kit.sql_clock import database_clock
from headrace_kit.sql_schema import Database
from headrace_kit.topic_log import KafkaTopicLog

GRPC_SERVICES = (
    "headrace.ingest.v1.IngestService",
    "headrace.ingest.v1.DatasetService",
    "headrace.ingest.v1.DeadLetterService",
    "headrace.ingest.v1.LabelService",
)
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


def run(settings: IngestSettings) -> int:
    """Run until told to stop; the exit code."""
    bootstrap = settings.kafka_bootstrap
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    publisher = KafkaPublisher(bootstrap, client_id="ingest")
    records = KafkaBulkPublisher(bootstrap, client_id="ingest-records", linger_ms=LINGER_MS)
    contracts = AppliedContracts(
        lambda streams: loop.subscribe([topics.RAW.of(stream) for stream in streams]),
        pii_key=settings.pii_key.get_secret_value().encode() if settings.pii_key else None,
    )
    catalogue = KafkaTopicCatalogue(bootstrap)
    labels = AppliedLabels(lambda: queue.sampling.subscribe(_queued(labels)))
    erased = ErasedEntities()
    queue = _label_queue(settings, labels, publisher, erased)
    options = delta_storage_options(settings.objects, settings.s3)
    archive = DeltaArchive(settings.objects, options)
    sink = RecordSink(
        contracts=contracts,
        catalogue=catalogue,
        archive=archive,
        records=records,
        dead_letters=publisher,
        attempt_log=FileAttemptLog(settings.data_dir),
        decode=decode,
        monotonic_s=time.monotonic,
        pace=Pace(
            commit_interval_s=settings.commit_interval_s, dedup_ids_max=settings.dedup_ids_max
        ),
        erased=erased,
        news=KafkaErasureNews(publisher),
        quality=QualityWatch(KafkaQualityLog(publisher), SystemClock()),
        tolerance=Tolerance(settings.dead_letters_share_max, settings.dead_letters_window_records),
    )
    loop = ConsumeLoop(
        bootstrap=bootstrap,
        group="ingest",
        handler=sink,
        dead_letters=publisher,
        service="ingest",
        batch_records_max=BATCH_RECORDS_MAX,
    )

    def take_definition(record: Record) -> None:
        contracts.take(record)
        labels.take(record)

    definitions = TableFollower(
        bootstrap=bootstrap,
        topic=topics.REGISTRY_DEFINITIONS.name,
        on_record=take_definition,
        service="ingest",
    )
    doorman = KafkaPublisher(
        bootstrap, client_id="ingest.publish", queue_records_max=DOOR_RECORDS_MAX
    )
    door = PublishDoor(contracts=contracts, publisher=doorman, ids=RecentIds())
    erasures = TableFollower(
        bootstrap=bootstrap,
        topic=topics.INGEST_ERASURES.name,
        on_record=lambda record: erased.take(to_entity(record)),
        service="ingest",
    )
    eraser = _eraser(settings, contracts, publisher, TaskEraser(labels, queue.tasks))
    engine = connect(settings.index_database, schema="ingest_index")
    index = SqlCatalogueIndex(engine)
    embedder = HashedEmbedder()
    text_keeper = TextKeeper(
        contracts, eraser.rows, embedder, SqlTextIndex(engine, embedder.dimensions)
    )
    catalogue_keeper = CatalogueKeeper(contracts, eraser.datasets, index)
    keeper = Keeper(contracts, eraser.datasets, eraser.rows, eraser.clock)
    server = GrpcServer(
        host=settings.grpc_host,
        port=settings.grpc_port,
        services=[
            (
                ingest_service_pb2_grpc.add_IngestServiceServicer_to_server,
                IngestApi(door, draining=lambda: server.draining()),
            ),
            (
                ingest_service_pb2_grpc.add_DatasetServiceServicer_to_server,
                DatasetApi(
                    contracts=contracts,
                    catalogue=catalogue,
                    archive=archive,
                    stopped=sink.stopped,
                    book=eraser.datasets,
                    rows=eraser.rows,
                    clock=eraser.clock,
                    eraser=eraser,
                    catalogue_index=index,
                    texts=text_keeper,
                ),
            ),
            (
                dead_letter_service_pb2_grpc.add_DeadLetterServiceServicer_to_server,
                DeadLetterApi(
                    log=KafkaTopicLog(bootstrap),
                    contracts=contracts,
                    publisher=publisher,
                    decode=decode,
                    erased=erased,
                ),
            ),
            (
                label_service_pb2_grpc.add_LabelServiceServicer_to_server,
                LabelApi(
                    labels=labels,
                    contracts=contracts,
                    records=DeltaRows(settings.objects, options),
                    tasks=queue.tasks,
                    publisher=publisher,
                    clock=SystemClock(),
                ),
            ),
        ],
        names=GRPC_SERVICES,
        workers=WORKERS,
        message_bytes_max=REQUEST_BYTES_MAX + MIB,
    )
    parts = (
        StoreCheck(settings),
        Database(queue.engine, SCHEMA),
        Database(engine, sql_tables.SCHEMA),
        publisher,
        records,
        doorman,
        queue.relay,
        queue.incidents,
        definitions,
        erasures,
        loop,
        queue.sampling,
        PeriodicLoop("erasures", eraser.go_on, interval_s=ERASURE_INTERVAL_S),
        PeriodicLoop("catalogue", catalogue_keeper.refresh, interval_s=CATALOGUE_INTERVAL_S),
        PeriodicLoop("texts", text_keeper.refresh, interval_s=TEXT_INTERVAL_S),
        PeriodicLoop("retention", keeper.keep, interval_s=KEEP_INTERVAL_S),
        server,
    )
    admin = AdminServer(settings.http_host, settings.http_port, ready=loop.ready)
    return run_service("ingest", parts, admin=admin, on_ready=server.set_ready)


def _eraser(
    settings: IngestSettings,
    contracts: AppliedContracts,
    publisher: KafkaPublisher,
    tasks: TaskEraser,
) -> Eraser:
    """What works on datasets, and takes entities out of them and of the archive."""
    objects = object_store(settings.objects, settings.s3)
    options = delta_storage_options(settings.objects, settings.s3)
    return Eraser(
        contracts=contracts,
        datasets=ObjectDatasetBook(objects),
        erasures=ObjectErasureBook(objects),
        rows=DuckDbRows(DeltaTables(settings.objects, options), settings.data_dir / "spill"),
        models=GrpcModelVersions(open_channel(settings.registry_address)),
        news=KafkaErasureNews(publisher),
        tasks=tasks,
        clock=SystemClock(),
    )


@dataclass(frozen=True, slots=True)
class LabelQueueParts:
    """What puts predictions to people and publishes their labels."""

    engine: Engine
    tasks: SqlTaskStore
    relay: OutboxRelay
    incidents: TableFollower
    sampling: ConsumeLoop


def _label_queue(
    settings: IngestSettings,
    labels: AppliedLabels,
    publisher: KafkaPublisher,
    erased: ErasedEntities,
) -> LabelQueueParts:
    bootstrap = settings.kafka_bootstrap
    engine = connect(settings.database, schema="ingest")
    relay = OutboxRelay(engine, publisher)
    tasks = SqlTaskStore(engine, clock=database_clock(engine), notify=relay.notify)
    incidents = OpenIncidents()
    news = TableFollower(
        bootstrap=bootstrap,
        topic=topics.MONITOR_INCIDENTS.name,
        on_record=incidents.take,
        service="ingest",
    )
    sampling = ConsumeLoop(
        bootstrap=bootstrap,
        group="ingest.labels",
        handler=PredictionSampler(labels=labels, incidents=incidents, tasks=tasks, erased=erased),
        dead_letters=publisher,
        service="ingest",
    )
    return LabelQueueParts(engine, tasks, relay, news, sampling)


def _queued(labels: AppliedLabels) -> set[str]:
    """The topics of the endpoints whose predictions people label."""
    queues = [label.queue for label in labels.all() if label.queue is not None]
    return {topics.INFERENCE_PREDICTIONS.of(queue.endpoint) for queue in queues}
