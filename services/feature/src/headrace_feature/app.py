# SPDX-License-Identifier: Apache-2.0
"""The wiring: every topic that is read and written, every call that is served.

Follows `registry.definitions`, `ingest.erasures` and `ingest.erased-events`, folds
`ingest.records.<stream>` of every stream that a view reads, writes `feature.corrections`,
`feature.rows.<view>`, `feature.dead-letters` and the Delta tables `features/<view>`, serves
FeatureService, reads ingest's Delta tables `records/<stream>` for training sets and backfills and,
for how far they reach, the ends of `raw.<stream>`.
"""

from __future__ import annotations

import math
from functools import partial

from headrace import topics
from headrace.feature.v1 import feature_service_pb2_grpc as service
from headrace_feature.adapters.archive_backfill import ArchiveBackfill
from headrace_feature.adapters.backfill_job import Sources
from headrace_feature.adapters.correction_teller import CorrectionTeller
from headrace_feature.adapters.definition_follower import DefinitionFollower
from headrace_feature.adapters.delta_archive import DeltaArchive
from headrace_feature.adapters.delta_features import DeltaFeatureTables
from headrace_feature.adapters.duckdb_workbench import Workbench
from headrace_feature.adapters.ends_watch import EndsWatch
from headrace_feature.adapters.erased_events_reader import ErasedEventsReader, end_of, to_entity
from headrace_feature.adapters.erased_rows import ErasedRows, RowTopics
from headrace_feature.adapters.fold_followers import FoldFollowers
from headrace_feature.adapters.group_members import GroupMembers
from headrace_feature.adapters.grpc_api import FeatureApi, PeerApi
from headrace_feature.adapters.kafka_topics import KafkaRawTopics, record_begins, record_ends
from headrace_feature.adapters.record_folder import RecordFolder
from headrace_feature.adapters.routed_reader import GrpcPeers, RoutedReader
from headrace_feature.adapters.row_teller import RowTeller
from headrace_feature.adapters.run_copies import RunCopies
from headrace_feature.adapters.run_eraser import RunEraser
from headrace_feature.adapters.run_store import RunStore
from headrace_feature.adapters.served_notes import ServedNotes
from headrace_feature.adapters.snapshot_restorer import SnapshotRestorer
from headrace_feature.adapters.snapshot_writer import SnapshotWriter
from headrace_feature.adapters.state_snapshots import StateSnapshots
from headrace_feature.domain.freshness import DelayHistogram
from headrace_feature.domain.kept_answers import KeptAnswers
from headrace_feature.domain.known_until import KnownUntil
from headrace_feature.domain.served_rows import ServedRows
from headrace_feature.domain.served_sample import ServedSample
from headrace_feature.domain.views import DAY_US, Catalogue, Layout
from headrace_feature.handlers import OnlineState
from headrace_feature.readable import WarmUp
from headrace_feature.settings import Settings
from headrace_kit.admin_http import AdminServer
from headrace_kit.attempt_log import FileAttemptLog
from headrace_kit.clock import SystemClock
from headrace_kit.consume import ConsumeLoop
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.follow import TableFollower
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.hot_calls import HotMethod
from headrace_kit.kafka import KafkaPublisher, Partition
from headrace_kit.lifecycle import run_service
from headrace_kit.native_door import NativeDoor
from headrace_kit.objects import delta_storage_options, object_store
from headrace_kit.state_store import LmdbStateStore
from headrace_kit.telemetry import gauge
from headrace_kit.topic_log import KafkaTopicLog

SERVICE = "feature"
NAME = "headrace.feature.v1.FeatureService"
PEER_NAME = "headrace.feature.v1.ObservationService"


def run(settings: Settings) -> int:
    """Serves until it is told to stop; returns the exit code."""
    bootstrap = settings.kafka_bootstrap
    state = LmdbStateStore(settings.data_dir / "state", map_bytes_max=settings.state_bytes_max)
    store = RunStore(state, settings.data_dir / "runs", folder_bytes_max=settings.state_bytes_max)
    freshness, kept, known = DelayHistogram(), KeptAnswers(), KnownUntil()
    clock, sample, erased = SystemClock(), ServedSample(), ErasedEntities()
    publisher = KafkaPublisher(bootstrap, client_id=SERVICE)

    def read_streams(catalogue: Catalogue) -> None:
        streams = {layout.stream for layout in catalogue.layouts().values()}
        loop.subscribe([topics.INGEST_RECORDS.of(stream) for stream in streams])
        loop.reposition()
        members.look_again()

    definitions = DefinitionFollower(read_streams)
    members = GroupMembers(
        bootstrap,
        SERVICE,
        streams=lambda: {each.stream for each in definitions.catalogue().layouts().values()},
    )
    snapshots = StateSnapshots(object_store(settings.objects, settings.s3), clock)
    copies = RunCopies(store)
    ends = partial(record_ends, bootstrap)
    restorer = SnapshotRestorer(
        store=store,
        copies=copies,
        snapshots=snapshots,
        ends=ends,
        begins=partial(record_begins, bootstrap),
    )
    writer = SnapshotWriter(
        catalogue=definitions.catalogue,
        store=store,
        copies=copies,
        snapshots=snapshots,
        interval_s=settings.snapshot_interval_s,
    )
    online_here = OnlineState(definitions.catalogue, store, kept, known, clock)
    rows = RowTeller(state=state, online=online_here, publisher=publisher, erased=erased)
    served = ServedRows(rows_max=settings.served_rows_max, begun_us=clock.now_us())
    teller = CorrectionTeller(state=state, observations=store, served=served, publisher=publisher)

    def forget_answers(layout: Layout) -> None:
        kept.begin_anew(layout, store.next_by_partition(layout))
        sample.forget()

    delta_options = delta_storage_options(settings.objects, settings.s3)
    feature_tables = DeltaFeatureTables(settings.objects, delta_options, clock, erased)
    topic_log = KafkaTopicLog(bootstrap)
    erased_rows = ErasedRows(
        log=topic_log,
        partition=Partition(topics.INGEST_ERASURES.name, 0),
        end=partial(end_of, bootstrap, topics.INGEST_ERASURES.name),
        erased=erased,
        tables=feature_tables,
        topics=RowTopics(
            catalogue=definitions.catalogue, log=topic_log, teller=rows, publisher=publisher
        ),
    )

    def events_are_out() -> None:
        teller.forget(erased)
        erased_rows.events_are_out()

    eraser = RunEraser(
        catalogue=definitions.catalogue,
        store=store,
        changed=forget_answers,
        over=events_are_out,
    )
    erased_events = ErasedEventsReader(
        log=topic_log,
        partition=Partition(topics.INGEST_ERASED_EVENTS.name, 0),
        end=partial(end_of, bootstrap, topics.INGEST_ERASED_EVENTS.name),
        erased=erased,
        eraser=eraser,
        store=store,
    )
    erasures = TableFollower(
        bootstrap=bootstrap,
        topic=topics.INGEST_ERASURES.name,
        on_record=lambda record: erased.take(to_entity(record)),
        service=SERVICE,
    )
    raw_topics = KafkaRawTopics(bootstrap)
    archive = DeltaArchive(settings.objects, delta_options, raw_topic=raw_topics, clock=clock)
    keep_us = settings.keep_days * DAY_US
    backfill = ArchiveBackfill(
        store=store,
        snapshots=restorer,
        sources=Sources(
            archive=archive,
            ends=ends,
            raw_topic=raw_topics,
            catalogue=definitions.catalogue,
            erased=erased,
            folder=settings.data_dir / "backfill",
            bytes_max=settings.state_bytes_max,
            keep_us=keep_us,
        ),
    )
    folder = RecordFolder(
        catalogue=definitions.catalogue,
        store=store,
        tend=eraser.tend,
        erased=erased,
        restorer=backfill,
        kept=kept,
        clock=clock,
        keep_us=keep_us,
        freshness=freshness,
        follower=FoldFollowers(teller, rows),
        attempt_log=FileAttemptLog(settings.data_dir),
    )
    loop = ConsumeLoop(
        bootstrap=bootstrap,
        group=SERVICE,
        handler=folder,
        dead_letters=publisher,
        service=SERVICE,
        client_id=f"{SERVICE}@{settings.address}",
    )
    watch = EndsWatch(
        catalogue=definitions.catalogue,
        owned=members.partitions,
        ends=ends,
        known=known,
        clock=clock,
    )
    peers = GrpcPeers()
    reader = RoutedReader(store, members, peers)
    notes = ServedNotes(
        catalogue=definitions.catalogue,
        served=served,
        store=store,
        owners=members,
        peers=peers,
        clock=clock,
    )
    api = FeatureApi(
        online=OnlineState(definitions.catalogue, reader, kept, known, clock),
        archive=archive,
        sample=sample,
        workbench=Workbench(
            settings.data_dir / "offline",
            disk_bytes_max=settings.offline_disk_bytes_max,
            observations_max=settings.offline_observations_max,
        ),
        notes=notes,
        freshness=freshness,
        feature_tables=feature_tables,
        progress_of=backfill.progress_of,
    )
    peer_api = PeerApi(catalogue=definitions.catalogue, store=store, notes=notes)
    hot = [HotMethod(f"/{NAME}/GetOnlineFeatures", api.answer_reads)]
    server = GrpcServer(
        host=settings.grpc_host,
        port=settings.grpc_port,
        services=[
            (service.add_FeatureServiceServicer_to_server, api),
            (service.add_ObservationServiceServicer_to_server, peer_api),
        ],
        names=[NAME, PEER_NAME],
        hot=hot,
        door=(
            NativeDoor(SERVICE, hot, folder=settings.data_dir / "door")
            if settings.native_door
            else None
        ),
    )
    follower = TableFollower(
        bootstrap=bootstrap,
        topic=topics.REGISTRY_DEFINITIONS.name,
        on_record=definitions.on_record,
        service=SERVICE,
    )
    _expose(freshness, writer, served)
    warm = WarmUp(definitions.catalogue, store)
    admin = AdminServer(
        settings.http_host, settings.http_port, ready=lambda: loop.ready() and warm()
    )
    try:
        code = run_service(
            SERVICE,
            # Erased events are read from an end that is asked for before the erased entities are.
            [
                publisher,
                follower,
                erased_events,
                erasures,
                members,
                restorer,
                backfill,
                writer,
                loop,
                erased_rows,
                watch,
                server,
            ],
            admin=admin,
            on_ready=server.set_ready,
        )
        teller.idle()  # the door was closed, and the loop after it
        return code
    finally:
        state.close()


def _expose(freshness: DelayHistogram, writer: SnapshotWriter, served: ServedRows) -> None:
    """Metrics are asked for when they are scraped: nothing is counted twice."""
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        metric = gauge(SERVICE, f"freshness_{name}_seconds", "From published to readable.")
        metric.set_function(partial(_seconds, freshness, share))
    age = gauge(SERVICE, "snapshot_age_seconds", "Since all state was in the object store.")
    age.set_function(writer.age_s)
    rows = gauge(SERVICE, "served_rows", "Rows that are remembered for corrections.")
    rows.set_function(served.__len__)


def _seconds(freshness: DelayHistogram, share: float) -> float:
    return (freshness.quantile_ms(share) or math.nan) / 1_000
