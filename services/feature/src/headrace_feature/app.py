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
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from headrace import topics
from headrace.feature.v1 import feature_service_pb2_grpc as service
from headrace.tokens import PEER
from headrace_feature.adapters.archive_backfill import ArchiveBackfill
from headrace_feature.adapters.backfill_job import Sources
from headrace_feature.adapters.correction_teller import CorrectionTeller
from headrace_feature.adapters.definition_follower import DefinitionFollower
from headrace_feature.adapters.delta_archive import DeltaArchive
from headrace_feature.adapters.delta_features import DeltaFeatureTables
from headrace_feature.adapters.duckdb_workbench import Workbench
from headrace_feature.adapters.ends_watch import EndsWatch
from headrace_feature.adapters.erased_events_reader import ErasedEventsReader, end_of
from headrace_feature.adapters.erased_rows import ErasedRows, RowTopics, ToldErasures
from headrace_feature.adapters.fold_followers import FoldFollowers
from headrace_feature.adapters.group_members import GroupMembers
from headrace_feature.adapters.grpc_api import FeatureApi, PeerApi
from headrace_feature.adapters.kafka_topics import (
    KafkaRawTopics,
    erasure_log_id,
    record_begins,
    record_ends,
    record_topic_id,
)
from headrace_feature.adapters.observation_budget import ObservationBudget
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
from headrace_feature.handlers import OBSERVATIONS_BYTES_MAX, OnlineState
from headrace_feature.ports import ObservationReader
from headrace_feature.readable import WarmUp
from headrace_feature.settings import Settings
from headrace_kit.admin_http import AdminServer
from headrace_kit.attempt_log import FileAttemptLog
from headrace_kit.auth import Guard
from headrace_kit.clock import SystemClock
from headrace_kit.consume import ConsumeLoop
from headrace_kit.erased_entities import Entity, ErasedEntities
from headrace_kit.follow import TableFollower
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.hot_calls import Answerer, HotMethod, at_most, at_once
from headrace_kit.kafka import KafkaPublisher, Partition
from headrace_kit.lifecycle import Part, run_service
from headrace_kit.native_door import NativeDoor
from headrace_kit.objects import delta_storage_options, object_store
from headrace_kit.state_store import LmdbStateStore
from headrace_kit.telemetry import gauge
from headrace_kit.topic_log import KafkaTopicLog

SERVICE = "feature"
NAME = "headrace.feature.v1.FeatureService"
PEER_NAME = "headrace.feature.v1.ObservationService"
# What the workers ask each other. They show their token to whoever is in the consumer group, so it
# opens this and nothing else.
ACTIONS = {
    f"/{PEER_NAME}/{method}": PEER
    for method in ("GetObservations", "StreamObservations", "NoteServed")
}
# A read holds a worker of the grpcio door while it waits for what the others hold: what they ask of
# this one meanwhile has the rest of them.
READS_MAX = 32
WORKERS = READS_MAX + 32


def run(settings: Settings) -> int:
    """Serves until it is told to stop; returns the exit code."""

    def read_streams(catalogue: Catalogue) -> None:
        streams = {layout.stream for layout in catalogue.layouts().values()}
        loop.subscribe([topics.INGEST_RECORDS.of(stream) for stream in streams])
        loop.reposition()
        group.members.look_again()

    definitions = DefinitionFollower(read_streams)
    held = Held.of(settings, definitions.catalogue)
    offline, group = _offline(settings, held), _group(settings, held)
    tellers = _tellers(settings, held)
    erasure = _erasure(settings, held, offline, tellers)
    history = _history(settings, held, offline, place_anew=lambda: loop.reposition())
    loop = _fold(settings, held, tellers, erasure, history)
    server = _doors(settings, held, offline, tellers, group, history)
    _expose(held.freshness, history.writer, tellers.served)
    follow = partial(TableFollower, bootstrap=settings.kafka_bootstrap, service=SERVICE)
    warm = WarmUp(held.catalogue, held.store, waits_for_archive=history.backfill.waits_for_archive)
    admin = AdminServer(
        settings.http_host,
        settings.http_port,
        ready=lambda: loop.ready() and tellers.rows.ready() and warm(),
    )
    parts: list[Part] = [
        held.publisher,
        follow(topic=topics.REGISTRY_DEFINITIONS.name, on_record=definitions.on_record),
        # Erased events are read from an end that is asked for before the erased entities are.
        erasure.events,
        erasure.entities,
        group.members,
        history.restorer,
        history.backfill,
        history.writer,
        loop,
        erasure.rows,
        _ends_watch(settings, held, loop),
        server,
    ]
    try:
        code = run_service(SERVICE, parts, admin=admin, on_ready=server.set_ready)
        tellers.corrections.idle()  # the door was closed, and the loop after it
        return code
    finally:
        held.state.close()


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds: observations, what is known of them, and who was erased."""

    catalogue: Callable[[], Catalogue]
    state: LmdbStateStore
    store: RunStore
    kept: KeptAnswers
    known: KnownUntil
    sample: ServedSample
    freshness: DelayHistogram
    erased: ErasedEntities
    publisher: KafkaPublisher
    clock: SystemClock

    @classmethod
    def of(cls, settings: Settings, catalogue: Callable[[], Catalogue]) -> Held:
        bytes_max = settings.state_bytes_max
        state = LmdbStateStore(settings.data_dir / "state", map_bytes_max=bytes_max)
        return cls(
            catalogue=catalogue,
            state=state,
            store=RunStore(state, settings.data_dir / "runs", folder_bytes_max=bytes_max),
            kept=KeptAnswers(),
            known=KnownUntil(),
            sample=ServedSample(),
            freshness=DelayHistogram(),
            erased=ErasedEntities(),
            publisher=KafkaPublisher(settings.kafka_bootstrap, client_id=SERVICE),
            clock=SystemClock(),
        )

    def online(self, reader: ObservationReader) -> OnlineState:
        return OnlineState(self.catalogue, reader, self.kept, self.known, self.clock)

    def forget_answers(self, layout: Layout) -> None:
        """Its observations are others now."""
        self.kept.begin_anew(layout, self.store.next_by_partition(layout))
        self.sample.forget()


@dataclass(frozen=True, slots=True)
class Offline:
    """The archive of records, and the feature tables."""

    archive: DeltaArchive
    raw_topics: KafkaRawTopics
    tables: DeltaFeatureTables


def _offline(settings: Settings, held: Held) -> Offline:
    uri, options = settings.objects, delta_storage_options(settings.objects, settings.s3)
    raw_topics = KafkaRawTopics(settings.kafka_bootstrap)
    return Offline(
        DeltaArchive(
            uri,
            options,
            raw_topic=raw_topics,
            was_archived=raw_topics.was_archived,
            clock=held.clock,
        ),
        raw_topics,
        DeltaFeatureTables(
            uri,
            options,
            held.clock,
            held.erased,
            log_id=partial(erasure_log_id, settings.kafka_bootstrap),
        ),
    )


@dataclass(frozen=True, slots=True)
class Tellers:
    """What others are told of the fold: rows, and which rows that were served are touched."""

    rows: RowTeller
    served: ServedRows
    corrections: CorrectionTeller


def _tellers(settings: Settings, held: Held) -> Tellers:
    served = ServedRows(rows_max=settings.served_rows_max, begun_us=held.clock.now_us())
    return Tellers(
        RowTeller(
            state=held.state,
            online=held.online(held.store),
            publisher=held.publisher,
            erased=held.erased,
            topic_id=held.store.topic_id,
        ),
        served,
        CorrectionTeller(
            state=held.state, observations=held.store, served=served, publisher=held.publisher
        ),
    )


@dataclass(frozen=True, slots=True)
class Group:
    """Who else is there, and what they answer."""

    members: GroupMembers
    peers: GrpcPeers


def _group(settings: Settings, held: Held) -> Group:
    members = GroupMembers(
        settings.kafka_bootstrap,
        SERVICE,
        streams=lambda: {each.stream for each in held.catalogue().layouts().values()},
    )
    budget = ObservationBudget(OBSERVATIONS_BYTES_MAX)
    return Group(members, GrpcPeers(settings.token.get_secret_value(), budget))


@dataclass(frozen=True, slots=True)
class Erasure:
    """Takes erased entities and their events out of all that is held, and was told."""

    entities: TableFollower
    events: ErasedEventsReader
    eraser: RunEraser
    rows: ErasedRows


def _erasure(settings: Settings, held: Held, offline: Offline, tellers: Tellers) -> Erasure:
    bootstrap = settings.kafka_bootstrap
    log, told = KafkaTopicLog(bootstrap), ToldErasures(held.erased, lambda: follower.topic_id)
    follower = TableFollower(
        bootstrap=bootstrap,
        topic=topics.INGEST_ERASURES.name,
        on_record=told.take,
        service=SERVICE,
    )
    rows = ErasedRows(
        told=told,
        tables=offline.tables,
        topics=RowTopics(
            catalogue=held.catalogue, log=log, teller=tellers.rows, publisher=held.publisher
        ),
        clock=held.clock,
    )

    def events_are_out(entities: Collection[Entity]) -> None:
        tellers.corrections.forget(held.erased)
        rows.events_are_out(entities)

    eraser = RunEraser(
        catalogue=held.catalogue,
        store=held.store,
        changed=held.forget_answers,
        over=events_are_out,
    )
    events = ErasedEventsReader(
        log=log,
        partition=Partition(topics.INGEST_ERASED_EVENTS.name, 0),
        end=partial(end_of, bootstrap, topics.INGEST_ERASED_EVENTS.name),
        erased=held.erased,
        eraser=eraser,
        store=held.store,
    )
    return Erasure(follower, events, eraser, rows)


@dataclass(frozen=True, slots=True)
class History:
    """Where state goes, and where it comes from: snapshots, then the archive."""

    writer: SnapshotWriter
    restorer: SnapshotRestorer
    backfill: ArchiveBackfill


def _history(
    settings: Settings, held: Held, offline: Offline, *, place_anew: Callable[[], None]
) -> History:
    bootstrap, copies = settings.kafka_bootstrap, RunCopies(held.store)
    snapshots = StateSnapshots(object_store(settings.objects, settings.s3), held.clock)
    ends = partial(record_ends, bootstrap)
    writer = SnapshotWriter(
        catalogue=held.catalogue,
        store=held.store,
        copies=copies,
        snapshots=snapshots,
        interval_s=settings.snapshot_interval_s,
    )
    restorer = SnapshotRestorer(
        store=held.store,
        copies=copies,
        snapshots=snapshots,
        ends=ends,
        begins=partial(record_begins, bootstrap),
        place_anew=place_anew,
    )
    sources = Sources(
        archive=offline.archive,
        ends=ends,
        raw_topic=offline.raw_topics,
        catalogue=held.catalogue,
        erased=held.erased,
        folder=settings.data_dir / "backfill",
        bytes_max=settings.state_bytes_max,
        keep_us=settings.keep_days * DAY_US,
    )
    backfill = ArchiveBackfill(
        store=held.store, snapshots=restorer, sources=sources, place_anew=place_anew
    )
    return History(writer, restorer, backfill)


def _fold(
    settings: Settings, held: Held, tellers: Tellers, erasure: Erasure, history: History
) -> ConsumeLoop:
    def made_again(layout: Layout) -> None:
        """Its other partitions are to be placed anew, too."""
        held.forget_answers(layout)
        loop.reposition()

    folder = RecordFolder(
        catalogue=held.catalogue,
        store=held.store,
        tend=erasure.eraser.tend,
        erased=held.erased,
        restorer=history.backfill,
        topic_id=partial(record_topic_id, settings.kafka_bootstrap),
        made_again=made_again,
        kept=held.kept,
        clock=held.clock,
        keep_us=settings.keep_days * DAY_US,
        freshness=held.freshness,
        follower=FoldFollowers(tellers.corrections, tellers.rows),
        attempt_log=FileAttemptLog(settings.data_dir),
    )
    loop = ConsumeLoop(
        bootstrap=settings.kafka_bootstrap,
        group=SERVICE,
        handler=folder,
        dead_letters=held.publisher,
        service=SERVICE,
        client_id=f"{SERVICE}@{settings.address}",
    )
    return loop


def _ends_watch(settings: Settings, held: Held, loop: ConsumeLoop) -> EndsWatch:
    return EndsWatch(
        catalogue=held.catalogue,
        ends=partial(record_ends, settings.kafka_bootstrap),
        topic_id=partial(record_topic_id, settings.kafka_bootstrap),
        held_of=held.store.topic_id,
        made_again=loop.reposition,
        known=held.known,
        clock=held.clock,
    )


def hot_reads(answerer: Answerer) -> HotMethod:
    take = at_most(READS_MAX, at_once(answerer), queue="online reads")
    return HotMethod(f"/{NAME}/GetOnlineFeatures", take)


def _doors(
    settings: Settings,
    held: Held,
    offline: Offline,
    tellers: Tellers,
    group: Group,
    history: History,
) -> GrpcServer:
    notes = ServedNotes(
        catalogue=held.catalogue,
        served=tellers.served,
        store=held.store,
        owners=group.members,
        peers=group.peers,
        clock=held.clock,
    )
    api = FeatureApi(
        online=held.online(RoutedReader(held.store, group.members, group.peers)),
        archive=offline.archive,
        sample=held.sample,
        workbench=Workbench(
            settings.data_dir / "offline",
            disk_bytes_max=settings.offline_disk_bytes_max,
            observations_max=settings.offline_observations_max,
        ),
        notes=notes,
        freshness=held.freshness,
        feature_tables=offline.tables,
        progress_of=history.backfill.progress_of,
    )
    peer_api = PeerApi(catalogue=held.catalogue, store=held.store, notes=notes)
    hot = [hot_reads(api.answer_reads)]
    return GrpcServer(
        host=settings.grpc_host,
        port=settings.grpc_port,
        services=[
            (service.add_FeatureServiceServicer_to_server, api),
            (service.add_ObservationServiceServicer_to_server, peer_api),
        ],
        names=[NAME, PEER_NAME],
        guard=Guard(SERVICE, settings.tokens_file, actions=ACTIONS),
        workers=WORKERS,
        hot=hot,
        door=(
            NativeDoor(SERVICE, hot, folder=settings.data_dir / "door")
            if settings.native_door
            else None
        ),
    )


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
