# SPDX-License-Identifier: Apache-2.0
"""The wiring: settings -> adapters -> handlers. Subscribes `trainer.requests` and follows
`registry.definitions` and `registry.model-versions`; serves TrainerService; publishes
`trainer.runs` by outbox."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from headrace import topics
from headrace.trainer.v1 import trainer_service_pb2_grpc as service_grpc
from headrace_kit.admin_http import AdminServer
from headrace_kit.auth import Guard
from headrace_kit.clock import SystemClock
from headrace_kit.consume import ConsumeLoop
from headrace_kit.follow import TableFollower
from headrace_kit.grpc_client import open_channel
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.kafka import KafkaPublisher
from headrace_kit.lifecycle import Part
from headrace_kit.outbox import OutboxRelay
from headrace_kit.sql import connect
from headrace_kit.sql_clock import database_clock
from headrace_kit.sql_migrations import MigratedDatabase
from headrace_trainer import handlers
from headrace_trainer.adapters.definition_book import DefinitionBook
from headrace_trainer.adapters.feature_client import GrpcTrainingSetClient
from headrace_trainer.adapters.grpc_api import GrpcTrainerService
from headrace_trainer.adapters.lease_keeper import ThreadLeaseKeeper
from headrace_trainer.adapters.registry_client import GrpcModelRegistryClient
from headrace_trainer.adapters.request_consumer import RequestConsumer
from headrace_trainer.adapters.run_worker import RunWorker
from headrace_trainer.adapters.sql_run_store import MIGRATIONS, SqlRunStore
from headrace_trainer.adapters.training_process import ChildTrainingProcess
from headrace_trainer.adapters.version_book import RegistryVersionBook
from headrace_trainer.settings import TrainerSettings

NAME = "trainer"
SERVICE_NAMES = ("headrace.trainer.v1.TrainerService",)
SUBSCRIPTIONS = (topics.TRAINER_REQUESTS,)
FOLLOWED_DEFINITIONS = topics.REGISTRY_DEFINITIONS
FOLLOWED_VERSIONS = topics.REGISTRY_MODEL_VERSIONS


def build(settings: TrainerSettings) -> tuple[Sequence[Part], AdminServer, GrpcServer]:
    """The parts in the order of their start; the caller runs them."""
    clock = SystemClock()
    publisher = KafkaPublisher(settings.kafka_bootstrap, client_id=NAME)
    engine = connect(settings.database, schema=NAME)
    database = MigratedDatabase(engine, MIGRATIONS)
    relay = OutboxRelay(engine, publisher)
    runs = SqlRunStore(engine, clock=database_clock(engine), notify=relay.notify)
    book = DefinitionBook()
    versions = RegistryVersionBook()
    followers = [
        TableFollower(
            bootstrap=settings.kafka_bootstrap, topic=topic.name, on_record=follow, service=NAME
        )
        for topic, follow in (
            (FOLLOWED_DEFINITIONS, book.follow),
            (FOLLOWED_VERSIONS, versions.follow),
        )
    ]
    loop = ConsumeLoop(
        bootstrap=settings.kafka_bootstrap,
        group=NAME,
        handler=RequestConsumer(runs=runs, recipes=book, clock=clock),
        dead_letters=publisher,
        service=NAME,
    )
    loop.subscribe([topic.name for topic in SUBSCRIPTIONS])
    work_dir = settings.data_dir / "runs"
    token = settings.token.get_secret_value()
    carry_next = partial(
        handlers.carry_next_run,
        runs=runs,
        leases=ThreadLeaseKeeper(runs),
        recipes=book,
        training_sets=GrpcTrainingSetClient(open_channel(settings.feature_address, token=token)),
        models=GrpcModelRegistryClient(open_channel(settings.registry_address, token=token)),
        process=ChildTrainingProcess(duration_s_max=settings.run_duration_s_max),
        work_dir=work_dir,
    )

    def follow_aliases() -> None:
        now_us = clock.now_us()
        handlers.follow_aliases(now_us=now_us, runs=runs, recipes=book, versions=versions)

    server = GrpcServer(
        host=settings.grpc_host,
        port=settings.grpc_port,
        services=[
            (
                service_grpc.add_TrainerServiceServicer_to_server,
                GrpcTrainerService(runs=runs, recipes=book, clock=clock),
            )
        ],
        names=SERVICE_NAMES,
        guard=Guard(NAME, settings.tokens_file),
    )
    admin = AdminServer(settings.http_host, settings.http_port, ready=loop.ready)
    worker = RunWorker(carry_next, follow_aliases, work_dir=work_dir)
    parts: list[Part] = [database, publisher, relay, *followers, loop, worker, server]
    return parts, admin, server
