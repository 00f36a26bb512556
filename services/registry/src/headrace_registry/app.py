# SPDX-License-Identifier: Apache-2.0
"""The wiring: settings to adapters to handlers. Every subscription and RPC of the registry is here.

Parts start in this order and end in the reverse: calls first, then events, then what they wrote
goes out, and the database and Kafka are left last.
"""

from __future__ import annotations

from headrace import topics
from headrace.registry.v1 import registry_service_pb2_grpc as pb_grpc
from headrace_kit.admin_http import AdminServer
from headrace_kit.auth import Guard
from headrace_kit.clock import SystemClock
from headrace_kit.consume import ConsumeLoop
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.http_server import HttpServer
from headrace_kit.kafka import KafkaPublisher
from headrace_kit.lifecycle import Part, run_service
from headrace_kit.objects import ObjectStore, object_store, self_test
from headrace_kit.outbox import Outbox, OutboxRelay
from headrace_kit.sql import connect
from headrace_kit.sql_migrations import MigratedDatabase
from headrace_registry.adapters import sql_tables
from headrace_registry.adapters.child_acceptor import ChildAcceptor
from headrace_registry.adapters.disk_spool import DiskSpool
from headrace_registry.adapters.event_consumer import EventConsumer
from headrace_registry.adapters.grpc_api import WORKERS, ArtifactApi, RegistryApi
from headrace_registry.adapters.mlflow_api import MlflowApi
from headrace_registry.adapters.openssf_verifier import OpenSsfVerifier
from headrace_registry.adapters.sql_store import SqlRegistryStore
from headrace_registry.adapters.upload_sweep import UploadSweep
from headrace_registry.settings import Settings

SERVICE = "registry"
SPOOL = "spool"
# Over HTTP all is asked by the path: a body says what is refused anyway.
BODY_BYTES_MAX = 64 * 1024
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
    acceptor, spool = ChildAcceptor(), DiskSpool(settings.data_dir / SPOOL)
    consumer = EventConsumer(
        runs=runs,
        verdicts=verdicts,
        store=store,
        artifacts=artifacts,
        acceptor=acceptor,
        spool=spool,
        clock=clock,
    )
    loop = ConsumeLoop(
        bootstrap=settings.kafka_bootstrap,
        group=SERVICE,
        handler=consumer,
        dead_letters=publisher,
        service=SERVICE,
    )
    loop.subscribe([runs, verdicts])
    artifact_api = ArtifactApi(
        store=store,
        artifacts=artifacts,
        acceptor=acceptor,
        spool=spool,
        clock=clock,
        bytes_max=settings.artifact_bytes_max,
    )
    guard = Guard(SERVICE, settings.tokens_file)
    server = GrpcServer(
        host=settings.grpc_host,
        port=settings.grpc_port,
        services=[
            (
                pb_grpc.add_RegistryServiceServicer_to_server,
                RegistryApi(
                    store=store,
                    artifacts=artifacts,
                    acceptor=acceptor,
                    spool=spool,
                    verifier=OpenSsfVerifier(settings.trusted_signers_file, clock),
                    clock=clock,
                ),
            ),
            (pb_grpc.add_ArtifactServiceServicer_to_server, artifact_api),
        ],
        names=SERVICES,
        guard=guard,
        workers=WORKERS,
    )
    admin = AdminServer(settings.http_host, settings.http_port, ready=loop.ready)
    database = MigratedDatabase(engine, sql_tables.MIGRATIONS)
    sweep = UploadSweep(artifacts, clock)
    parts: list[Part] = [publisher, database, Artifacts(artifacts), relay, sweep, loop, server]
    mlflow = MlflowApi(store=store, artifacts=artifacts, spool=spool, guard=guard)
    parts += _rest_parts(settings, mlflow)
    return run_service(SERVICE, parts, admin=admin, on_ready=server.set_ready)


def _rest_parts(settings: Settings, mlflow: MlflowApi) -> list[Part]:
    """None, where no port is given."""
    if settings.rest_port is None:
        return []
    host, port = settings.grpc_host, settings.rest_port
    return [HttpServer(host, port, mlflow.admit, body_bytes_max=BODY_BYTES_MAX)]
