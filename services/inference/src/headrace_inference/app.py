# SPDX-License-Identifier: Apache-2.0
"""The wiring: every topic that is read and written, every service served and called.

Reads `registry.definitions`, `registry.rollouts` and, of chosen views, `feature.rows.<view>`,
writes `inference.predictions.<endpoint>` and `inference.dead-letters`, serves
inference.GRPCInferenceService, calls FeatureService and ArtifactService. Parts stop in reverse: the
door first, the publisher when its last caller is done.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from headrace import topics
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from headrace_inference import handlers
from headrace_inference.adapters.cpu_quota import cpus_allowed
from headrace_inference.adapters.disk_artifact_store import DiskArtifactStore
from headrace_inference.adapters.feature_rows_reader import FeatureRowsReader
from headrace_inference.adapters.grpc_api import SERVICE_NAME, InferenceApi, InferenceServer
from headrace_inference.adapters.grpc_clients import GrpcArtifactSource, GrpcFeatureReader
from headrace_inference.adapters.kafka_prediction_log import KafkaPredictionLog
from headrace_inference.adapters.onnx_runtime import OnnxModelRuntime
from headrace_inference.adapters.registry_reader import RegistryReader
from headrace_inference.adapters.rollout_loader import RolloutLoader
from headrace_inference.domain.serving import ServingTable
from headrace_inference.ports import FeatureReader
from headrace_inference.settings import Settings
from headrace_kit.admin_http import AdminServer
from headrace_kit.clock import SystemClock
from headrace_kit.follow import TableFollower
from headrace_kit.grpc_client import open_channel
from headrace_kit.kafka import KafkaPublisher
from headrace_kit.lifecycle import Part, run_service
from headrace_kit.telemetry import counter

NAME = "inference"
# A caller waits for its records: longer batches nothing more at 16 callers, and costs a lone one.
LINGER_MS = 0.5

shadow_failures = counter(NAME, "shadow_failure_total", "Shadow scores left out of the log.")


def run(settings: Settings) -> int:
    """Serves until it is told to stop; returns the exit code."""
    table = ServingTable()
    publisher = KafkaPublisher(settings.kafka_bootstrap, client_id=NAME, linger_ms=LINGER_MS)
    loader = _loader(settings, table)
    reader = RegistryReader(table, dead_letters=publisher, on_wanted=loader.wake)
    admin = AdminServer(
        settings.http_host,
        settings.http_port,
        ready=loader.settled,
    )
    features = FeatureRowsReader(
        settings.feature_row_views,
        entities_max=settings.feature_rows_entities_max,
        service=GrpcFeatureReader(open_channel(settings.feature_address)),
    )
    server = _server(settings, table, publisher, admin, features)
    follower = partial(TableFollower, bootstrap=settings.kafka_bootstrap, service=NAME)
    definitions, rollouts = topics.REGISTRY_DEFINITIONS.name, topics.REGISTRY_ROLLOUTS.name
    parts: list[Part] = [
        publisher,
        follower(topic=definitions, on_record=reader.take_definition),
        *_row_parts(follower, definitions, features),
        follower(topic=rollouts, on_record=reader.take_rollout),
        loader,
        server,
    ]
    return run_service(
        NAME,
        parts,
        admin=admin,
        on_ready=server.set_ready,
        stop_grace_s=settings.stop_grace_s,
    )


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


def _loader(settings: Settings, table: ServingTable) -> RolloutLoader:
    artifacts = DiskArtifactStore(
        GrpcArtifactSource(open_channel(settings.registry_address)),
        settings.data_dir / "models",
        cache_bytes_max=settings.model_cache_bytes_max,
        artifact_bytes_max=settings.model_bytes_max,
    )
    runtime = OnnxModelRuntime(threads=settings.model_threads or cpus_allowed())
    serve = partial(handlers.serve_rollout, table=table, artifacts=artifacts, runtime=runtime)
    return RolloutLoader(table, serve=serve)


def _server(
    settings: Settings,
    table: ServingTable,
    publisher: KafkaPublisher,
    admin: AdminServer,
    features: FeatureReader,
) -> InferenceServer:
    infer = partial(
        handlers.infer,
        table=table,
        features=features,
        log=KafkaPredictionLog(publisher),
        clock=SystemClock(),
        rows_max=settings.rows_max,
        on_shadow_failed=shadow_failures.inc,
    )
    api = InferenceApi(table, infer=infer, ready=admin.ready, rows_max=settings.rows_max)
    return InferenceServer(
        host=settings.grpc_host,
        port=settings.grpc_port,
        services=[(oip_grpc.add_GRPCInferenceServiceServicer_to_server, api)],
        names=[SERVICE_NAME],
        workers=settings.grpc_workers,
        reflection_pool=oip.DESCRIPTOR.pool,
    )
