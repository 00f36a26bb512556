# SPDX-License-Identifier: Apache-2.0
"""The wiring: settings to adapters to handlers. Every subscription and RPC of the monitor is here.

Follows `registry.definitions`; folds `inference.predictions.*`, `ingest.records.*`, `trainer.runs`,
`registry.model-versions` and `registry.rollouts`; writes `monitor.verdicts`, `monitor.incidents`
and `trainer.requests`; serves MonitorService and the live page.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from headrace import topics
from headrace.monitor.v1 import monitor_service_pb2_grpc as pb_grpc
from headrace_kit.admin_http import AdminServer
from headrace_kit.auth import Guard
from headrace_kit.clock import SystemClock
from headrace_kit.consume import ConsumeLoop
from headrace_kit.follow import TableFollower
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.kafka import KafkaPublisher
from headrace_kit.lifecycle import Part, run_service
from headrace_kit.state_store import LmdbStateStore
from headrace_monitor.adapters.definitions import Definitions
from headrace_monitor.adapters.event_loop import EventLoop
from headrace_monitor.adapters.grpc_api import MonitorApi
from headrace_monitor.adapters.kafka_end_offsets import KafkaEndOffsets
from headrace_monitor.adapters.live_page import LivePage
from headrace_monitor.domain.watch import Watch
from headrace_monitor.handlers.quality_report import QualityReport
from headrace_monitor.settings import Settings

NAME = "monitor"
# Read whatever is watched: who trained, registered and serves.
FACT_TOPICS = (
    topics.TRAINER_RUNS.name,
    topics.REGISTRY_MODEL_VERSIONS.name,
    topics.REGISTRY_ROLLOUTS.name,
)


def topics_of(watches: Iterable[Watch]) -> set[str]:
    """Everything that is read to watch these."""
    wanted = set(FACT_TOPICS)
    for watch in watches:
        wanted.update(topics.INGEST_RECORDS.of(stream) for stream in watch.streams)
        wanted.update(topics.INFERENCE_PREDICTIONS.of(name) for name in watch.endpoints)
    return wanted


def run(settings: Settings) -> int:
    """Serves until told to stop; returns the exit code."""
    bootstrap = settings.kafka_bootstrap
    store = LmdbStateStore(settings.data_dir / "state", map_bytes_max=settings.state_bytes_max)
    publisher = KafkaPublisher(bootstrap, client_id=NAME)

    def subscribe(watches: Mapping[str, Watch]) -> None:
        loop.subscribe(topics_of(watches.values()))

    definitions = Definitions(on_change=subscribe)
    handler = EventLoop(
        fact_topics=FACT_TOPICS,
        store=store,
        publisher=publisher,
        watches=definitions.watches,
        end_offsets=KafkaEndOffsets(bootstrap),
        clock=SystemClock(),
        monotonic_s=time.monotonic,
    )
    loop = ConsumeLoop(
        bootstrap=bootstrap,
        group=NAME,
        handler=handler,
        dead_letters=publisher,
        service=NAME,
    )
    loop.subscribe(topics_of([]))
    follower = TableFollower(
        bootstrap=bootstrap,
        topic=topics.REGISTRY_DEFINITIONS.name,
        on_record=definitions.take,
        service=NAME,
    )
    quality = QualityReport(store=store)
    server = GrpcServer(
        host=settings.grpc_host,
        port=settings.grpc_port,
        services=[
            (
                pb_grpc.add_MonitorServiceServicer_to_server,
                MonitorApi(store=store, watches=definitions.watches, quality=quality),
            )
        ],
        names=["headrace.monitor.v1.MonitorService"],
        guard=Guard(NAME, settings.tokens_file),
    )
    page = LivePage(store=store, watches=definitions.watches, quality=quality)
    admin = AdminServer(
        settings.http_host,
        settings.http_port,
        ready=loop.ready,
        routes=page.routes(),
    )
    parts: list[Part] = [publisher, follower, loop, server]
    try:
        return run_service(NAME, parts, admin=admin, on_ready=server.set_ready)
    finally:
        store.close()
