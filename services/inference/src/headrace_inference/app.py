# SPDX-License-Identifier: Apache-2.0
"""The wiring: every topic that is read and written, every service served and called.

Reads `registry.definitions`, `registry.rollouts`, `inference.requests.<endpoint>` of what is served
and, of chosen views, `feature.rows.<view>`, writes `inference.predictions.<endpoint>` and
`inference.dead-letters`, serves inference.GRPCInferenceService, over HTTP too, calls FeatureService
and ArtifactService. Parts stop in reverse: the doors first, the publisher when its last caller is
done. One of several processes, a worker, keeps what is its own in a folder of its own, and shares
the ports and the folder of artifacts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import grpc

from headrace import topics
from headrace.inference.v1 import inference_service_pb2_grpc as claims_grpc
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from headrace_inference import handlers
from headrace_inference.adapters import claim_api, grpc_api
from headrace_inference.adapters.answer_look_ups import AnswerLookUps
from headrace_inference.adapters.answered_counts import AnsweredCounts
from headrace_inference.adapters.answered_metrics import tell_answered, tell_latencies
from headrace_inference.adapters.claim_api import ClaimApi
from headrace_inference.adapters.disk_artifact_store import DiskArtifactStore
from headrace_inference.adapters.entity_runs import EntityRuns
from headrace_inference.adapters.feature_rows_reader import FeatureRowsReader
from headrace_inference.adapters.grpc_api import SERVICE_NAME, InferenceServer
from headrace_inference.adapters.grpc_clients import GrpcArtifactSource, GrpcFeatureReader
from headrace_inference.adapters.hot_infer import HotInfer
from headrace_inference.adapters.kafka_failure_log import KafkaFailureLog
from headrace_inference.adapters.kafka_prediction_log import KafkaPredictionLog, RememberedCounts
from headrace_inference.adapters.kafka_requests import KafkaRequests
from headrace_inference.adapters.late_calls import LateCalls
from headrace_inference.adapters.long_calls import LongCalls
from headrace_inference.adapters.object_claims import ClaimSweep, ObjectClaims
from headrace_inference.adapters.onnx_providers import providers
from headrace_inference.adapters.onnx_runtime import OnnxModelRuntime
from headrace_inference.adapters.record_filler import RecordFiller
from headrace_inference.adapters.registry_reader import RegistryReader
from headrace_inference.adapters.request_counters import RequestCounters
from headrace_inference.adapters.resident_models import ResidentModels
from headrace_inference.adapters.rest_api import RestApi
from headrace_inference.adapters.resting_memory import RestingMemory
from headrace_inference.adapters.rollout_loader import RolloutLoader
from headrace_inference.adapters.triton_api import TritonApi
from headrace_inference.adapters.worker_statistics import (
    STATISTICS,
    OtherWorkers,
    statistics_page,
)
from headrace_inference.domain.prediction import Failure, Prediction
from headrace_inference.domain.serving import ServingTable
from headrace_inference.domain.statistics import Statistics
from headrace_inference.ports import FeatureReader, PredictionLog
from headrace_inference.settings import NAME, Settings
from headrace_kit.admin_http import AdminServer
from headrace_kit.attempt_log import FileAttemptLog
from headrace_kit.auth import Guard
from headrace_kit.clock import SystemClock
from headrace_kit.consume import ConsumeLoop
from headrace_kit.follow import TableFollower
from headrace_kit.grpc_client import MESSAGE_BYTES_MAX, open_channel
from headrace_kit.hot_calls import HotCall, HotMethod, Together
from headrace_kit.http_server import HttpServer
from headrace_kit.kafka import KafkaPublisher
from headrace_kit.lifecycle import Part, run_service
from headrace_kit.native_door import NativeDoor
from headrace_kit.objects import object_store
from headrace_kit.offsets import committed_offsets, partitions_by_topic
from headrace_kit.topic_log import KafkaTopicLog
from headrace_kit.worker_process import admin_socket, worker_folder

# The log gathers by itself.
LINGER_MS = 0.0
REQUESTS_GROUP = f"{NAME}.requests"
ACTIONS = {**grpc_api.ACTIONS, **claim_api.ACTIONS}
# Each holds a request or an answer in memory.
CLAIM_CALLS_MAX = 4
Handler = Callable[..., Prediction]
Take = Callable[[Sequence[HotCall]], None]


def run(settings: Settings, worker: int | None) -> int:
    """Serves until it is told to stop; returns the exit code. `worker` is its number, if any."""
    folder = settings.data_dir if worker is None else worker_folder(settings.data_dir, worker)
    table = ServingTable()
    publisher = KafkaPublisher(settings.kafka_bootstrap, client_id=NAME, linger_ms=LINGER_MS)
    log, failures = _log(settings, folder, publisher), KafkaFailureLog(publisher)
    models = _models(settings)
    serve = partial(handlers.serve_rollout, table=table, models=models)
    loader = RolloutLoader(table, serve=serve)
    reader = RegistryReader(table, dead_letters=publisher, on_wanted=loader.wake)
    statistics = Statistics()
    admin = AdminServer(
        settings.http_host,
        settings.http_port,
        ready=loader.settled,
        routes={} if worker is None else {STATISTICS: partial(statistics_page, statistics)},
        socket_path=None if worker is None else admin_socket(folder),
    )
    features = FeatureRowsReader(
        settings.feature_row_views,
        entities_max=settings.feature_rows_entities_max,
        service=GrpcFeatureReader(_channel(settings, settings.feature_address)),
    )
    tell_answered(statistics)
    tell_latencies(statistics)
    bound = partial(
        _bound,
        settings=settings,
        table=table,
        features=features,
        explaining=LongCalls(_long_calls_max(settings)).place,
        on_failed=failures.note,
    )
    others = _others(settings, worker)
    api = _api(settings, table, log, admin, bound, statistics, others, wake=loader.wake)
    hot = _hot(settings, table, log, features, bound, api, statistics, on_failed=failures.note)
    guard = Guard(NAME, settings.tokens_file, actions=ACTIONS)
    gathering = Together(NAME, hot.take)
    take = hot.take if settings.native_door else gathering.take
    shared = worker is not None
    claims = _claims(settings)
    claim_door = ClaimApi(table, claims, calls_max=CLAIM_CALLS_MAX)
    server = _server(settings, folder, api, claim_door, take, guard, shared=shared)
    follower = partial(TableFollower, bootstrap=settings.kafka_bootstrap, service=NAME)
    definitions, rollouts = topics.REGISTRY_DEFINITIONS.name, topics.REGISTRY_ROLLOUTS.name
    parts: list[Part] = [
        publisher,
        follower(topic=definitions, on_record=reader.take_definition),
        *_row_parts(follower, definitions, features),
        follower(topic=rollouts, on_record=reader.take_rollout),
        models,
        loader,
        log,
        failures,
        ClaimSweep(claims),
        RestingMemory(statistics),
        *_request_parts(settings, folder, table, hot, publisher, claims),
        gathering,
        server,
        *_rest_parts(settings, api, guard, gathering.take, shared=shared),
    ]
    return run_service(
        NAME,
        parts,
        admin=admin,
        on_ready=server.set_ready,
        stop_grace_s=settings.stop_grace_s,
    )


def _channel(settings: Settings, address: str) -> grpc.Channel:
    return open_channel(address, token=settings.token.get_secret_value())


def _log(settings: Settings, folder: Path, publisher: KafkaPublisher) -> KafkaPredictionLog:
    counts = AnsweredCounts(folder / "log")
    partitions = RememberedCounts(partial(_partition_counts, settings))
    return KafkaPredictionLog(publisher, partitions=partitions, counts=counts)


def _partition_counts(settings: Settings, wanted: Collection[str]) -> dict[str, int]:
    found = partitions_by_topic(settings.kafka_bootstrap, wanted)
    return {topic: len(numbers) for topic, numbers in found.items()}


def _row_parts(
    follower: Callable[..., TableFollower], definitions: str, features: FeatureRowsReader
) -> list[Part]:
    """None, where no view's rows are wanted."""
    takers = features.takers()
    parts: list[Part] = [
        follower(topic=topics.FEATURE_ROWS.of(view), on_record=take)
        for view, take in takers.items()
    ]
    if parts:
        parts.append(follower(topic=definitions, on_record=features.take_definition))
    return parts


def _models(settings: Settings) -> ResidentModels:
    artifacts = DiskArtifactStore(
        GrpcArtifactSource(_channel(settings, settings.registry_address)),
        settings.data_dir / "models",
        cache_bytes_max=settings.model_cache_bytes_max,
        artifact_bytes_max=settings.model_bytes_max,
    )
    return ResidentModels(
        artifacts,
        OnnxModelRuntime(
            threads=settings.threads_by_model,
            providers=providers(settings.model_providers),
            run_bytes_max=settings.run_memory_bytes_max,
            device_memory_bytes_max=settings.model_device_memory_bytes_max,
        ),
        memory_bytes_max=settings.model_memory_share_bytes,
        waiters_max=_long_calls_max(settings),
    )


def _long_calls_max(settings: Settings) -> int:
    """Workers that may be held by what takes long: the others are for ordinary calls."""
    return max(1, settings.grpc_workers // 2)


def _api(
    settings: Settings,
    table: ServingTable,
    log: PredictionLog,
    admin: AdminServer,
    bound: Callable[[Handler], Handler],
    statistics: Statistics,
    others: OtherWorkers,
    *,
    wake: Callable[[], None],
) -> TritonApi:
    return TritonApi(
        table,
        infer=partial(handlers.infer, predict=bound(handlers.predict), log=log),
        ready=admin.ready,
        rows_max=settings.rows_max,
        statistics=statistics,
        wake=wake,
        log_level=settings.log_level,
        long_calls_max=_long_calls_max(settings),
        others=others,
    )


def _others(settings: Settings, worker: int | None) -> OtherWorkers:
    numbers = () if worker is None else range(1, settings.process_count + 1)
    folders = [worker_folder(settings.data_dir, each) for each in numbers if each != worker]
    return OtherWorkers([admin_socket(folder) for folder in folders])


def _bound(
    handler: Handler,
    *,
    settings: Settings,
    table: ServingTable,
    features: FeatureReader,
    explaining: Callable[[], AbstractContextManager[None]],
    on_failed: Callable[[Failure], None],
) -> Handler:
    return partial(
        handler,
        table=table,
        features=features,
        clock=SystemClock(),
        rows_max=settings.rows_max,
        explaining=explaining,
        on_failed=on_failed,
    )


def _hot(
    settings: Settings,
    table: ServingTable,
    log: PredictionLog,
    features: FeatureReader,
    bound: Callable[[Handler], Handler],
    api: TritonApi,
    statistics: Statistics,
    *,
    on_failed: Callable[[Failure], None],
) -> HotInfer:
    counters, late = RequestCounters(statistics), LateCalls()
    entities = EntityRuns(
        table,
        predict=partial(
            handlers.predict_together,
            features=features,
            now_us=SystemClock().now_us,
            on_failed=on_failed,
        ),
        log=log,
        clock=SystemClock(),
        counters=counters,
        rows_max=settings.rows_max,
        late=late,
    )
    return HotInfer(
        table,
        log=log,
        clock=SystemClock(),
        servicer=api.answer,
        predict=bound(handlers.predict),
        entities=entities,
        counters=counters,
        rows_max=settings.rows_max,
        workers=settings.grpc_workers,
        late=late,
        on_failed=on_failed,
    )


def _claims(settings: Settings) -> ObjectClaims:
    return ObjectClaims(
        object_store(settings.objects, settings.s3),
        clock=SystemClock(),
        bytes_max=settings.claim_bytes_max,
        all_bytes_max=settings.claims_bytes_max,
    )


def _request_parts(
    settings: Settings,
    folder: Path,
    table: ServingTable,
    hot: HotInfer,
    publisher: KafkaPublisher,
    claims: ObjectClaims,
) -> list[Part]:
    """What is not served is not read: its requests wait in their topic."""

    def follow() -> None:
        loop.subscribe({topics.INFERENCE_REQUESTS.of(name) for name in table.answering()})

    partitions = RememberedCounts(partial(_partition_counts, settings))
    look_ups = AnswerLookUps(KafkaTopicLog(settings.kafka_bootstrap), partitions=partitions)
    # Kafka refuses a batch as a whole: an answer shares none with rows of the log.
    answers = KafkaPublisher(
        settings.kafka_bootstrap, client_id=f"{NAME}-answers", linger_ms=LINGER_MS
    )
    requests = KafkaRequests(
        RecordFiller(hot),
        publisher=answers,
        look_ups=look_ups,
        claims=claims,
        claims_memory_bytes_max=settings.claims_memory_bytes_max,
        committed=partial(committed_offsets, settings.kafka_bootstrap, REQUESTS_GROUP),
        partitions=partitions,
        missing=partitions.missing,
        clock=SystemClock(),
        follow=follow,
        attempt_log=FileAttemptLog(folder),
    )
    loop = ConsumeLoop(
        bootstrap=settings.kafka_bootstrap,
        group=REQUESTS_GROUP,
        handler=requests,
        dead_letters=publisher,
        service=NAME,
        # A replica that starts takes all its endpoints up at once, and those of one apply.
        more_to_come=table.loading,
    )
    return [answers, look_ups, loop]


def _server(
    settings: Settings,
    folder: Path,
    api: TritonApi,
    claims: ClaimApi,
    take: Take,
    guard: Guard,
    *,
    shared: bool,
) -> InferenceServer:
    methods = [HotMethod(f"/{SERVICE_NAME}/ModelInfer", take)]
    return InferenceServer(
        host=settings.grpc_host,
        port=settings.grpc_port,
        services=[
            (oip_grpc.add_GRPCInferenceServiceServicer_to_server, api),
            (claims_grpc.add_ClaimServiceServicer_to_server, claims),
        ],
        names=[SERVICE_NAME, claim_api.SERVICE_NAME],
        guard=guard,
        workers=settings.grpc_workers,
        reflection_pool=oip.DESCRIPTOR.pool,
        hot=methods,
        door=(
            NativeDoor(NAME, methods, folder=folder / "door", reuse_port=shared)
            if settings.native_door
            else None
        ),
        reuse_port=shared,
    )


def _rest_parts(
    settings: Settings, api: TritonApi, guard: Guard, take: Take, *, shared: bool
) -> list[Part]:
    """None, where no port is given."""
    if settings.rest_port is None:
        return []
    admit = RestApi(api, guard, take=take).admit
    address = settings.grpc_host, settings.rest_port
    return [HttpServer(*address, admit, body_bytes_max=MESSAGE_BYTES_MAX, reuse_port=shared)]
