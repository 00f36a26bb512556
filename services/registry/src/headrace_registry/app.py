# SPDX-License-Identifier: Apache-2.0
"""The wiring: settings to adapters to handlers. Every subscription and RPC of the registry is here.

Parts start in this order and end in the reverse: calls first, then events, then what they wrote
goes out, and the database and Kafka are left last.
"""

from __future__ import annotations

from headrace import topics
from headrace.registry.v1 import registry_service_pb2_grpc as pb_grpc
from headrace_kit.admin_http import AdminServer
from headrace_kit.clock import SystemClock
from headrace_kit.consume import ConsumeLoop
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.kafka import KafkaPublisher
from headrace_kit.lifecycle import Part, run_service
from headrace_kit.objects import ObjectStore, object_store, self_test
from headrace_kit.outbox import Outbox, OutboxRelay
from headrace_kit.sql import connect
from headrace_kit.sql_schema import Database
from headrace_registry.adapters import sql_tables
from headrace_registry.adapters.event_consumer import EventConsumer
from headrace_registry.adapters.grpc_api import ArtifactApi, RegistryApi
from headrace_registry.adapters.sql_store import SqlRegistryStore
from headrace_registry.settings import Settings

SERVICE = "registry"
SERVICES = ("headrace.registry.v1.RegistryService", "headrace.registry.v1.ArtifactService")


class Artifacts:
    """The object store can be trusted; a Part."""

    def __init__(self, artifacts: ObjectStore) -> None:
        self._artifacts = artifacts

    def start(self) -> None:
        self_test(self._artifacts)

    def stop(self, timeout_s: float) -> None:
        """Nothing is held."""

    def failed(self) -> BaseException | None:
        return None


def run(settings: Settings) -> int:
    """Serves until told to stop; returns the exit code."""
    clock = SystemClock()
    engine = connect(settings.database, schema=SERVICE)
    artifacts = object_store(settings.objects, settings.s3)
    publisher = KafkaPublisher(settings.kafka_bootstrap, client_id=SERVICE)
    relay = OutboxRelay(engine, publisher)
    store = SqlRegistryStore(engine, Outbox(), committed=relay.notify)
    runs, verdicts = topics.TRAINER_RUNS.name, topics.MONITOR_VERDICTS.name
    consumer = EventConsumer(
        runs=runs, verdicts=verdicts, store=store, artifacts=artifacts, clock=clock
    )
    loop = ConsumeLoop(
        bootstrap=settings.kafka_bootstrap,
        group=SERVICE,
        handler=consumer,
        dead_letters=publisher,
        service=SERVICE,
    )
    loop.subscribe([runs, verdicts])
    artifact_api = ArtifactApi(artifacts=artifacts, bytes_max=settings.artifact_bytes_max)
    server = GrpcServer(
        host=settings.grpc_host,
        port=settings.grpc_port,
        services=[
            (
                pb_grpc.add_RegistryServiceServicer_to_server,
                RegistryApi(store=store, clock=clock),
            ),
            (pb_grpc.add_ArtifactServiceServicer_to_server, artifact_api),
        ],
        names=SERVICES,
    )
    admin = AdminServer(settings.http_host, settings.http_port, ready=loop.ready)
    database = Database(engine, sql_tables.SCHEMA)
    parts: list[Part] = [publisher, database, Artifacts(artifacts), relay, loop, server]
    return run_service(SERVICE, parts, admin=admin, on_ready=server.set_ready)
