# SPDX-License-Identifier: Apache-2.0
"""FeatureService: requests to handlers, answers to messages; errors are mapped by the kit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import grpc

from headrace.errors import Busy, HeadraceError, Invalid
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace.feature.v1 import feature_service_pb2_grpc as service
from headrace_feature import handlers, offline_handlers
from headrace_feature.adapters.arrow_ipc import SentRows, historical_stream, training_stream
from headrace_feature.adapters.conversions import (
    to_historical_manifest,
    to_historical_query,
    to_observations_query,
    to_online_response,
    to_query,
    to_training_command,
    to_training_manifest,
)
from headrace_feature.adapters.duckdb_workbench import Workbench
from headrace_feature.adapters.run_files import to_bytes
from headrace_feature.domain.freshness import DelayHistogram
from headrace_feature.domain.online_query import GetOnlineFeatures
from headrace_feature.domain.views import Catalogue
from headrace_feature.handlers import OnlineState, answer_together
from headrace_feature.ports import Archive, ObservationReader


class FeatureApi(service.FeatureServiceServicer):
    """The calls; the archive is joined for one of them at a time, the memory is for one."""

    def __init__(
        self,
        *,
        online: OnlineState,
        archive: Archive,
        workbench: Workbench,
        freshness: DelayHistogram,
    ) -> None:
        self._online, self._archive, self._freshness = online, archive, freshness
        self._workbench, self._offline = workbench, threading.Lock()

    def answer_reads(self, payloads: Sequence[bytes]) -> list[bytes | HeadraceError]:
        """GetOnlineFeatures, hot: what arrives together is answered together where it is alike."""
        queries = [_query(payload) for payload in payloads]
        asked = [query for query in queries if not isinstance(query, HeadraceError)]
        answers = iter(answer_together(asked, self._online))
        replies = (q if isinstance(q, HeadraceError) else next(answers) for q in queries)
        return [r if isinstance(r, HeadraceError) else to_online_response(r) for r in replies]

    def CreateTrainingSet(
        self, request: wire.CreateTrainingSetRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.CreateTrainingSetResponse]:
        command = to_training_command(request)
        with self._alone(), self._workbench.opened() as bench:
            made = offline_handlers.create_training_set(
                command, catalogue=self._online.catalogue(), archive=self._archive, bench=bench
            )
            stream = training_stream(made.answered, len(made.features))
            for piece in stream:
                yield wire.CreateTrainingSetResponse(arrow_ipc=piece)
            manifest = to_training_manifest(made, stream.digest)
            yield wire.CreateTrainingSetResponse(manifest=manifest)

    def GetHistoricalFeatures(
        self,
        requests: Iterator[wire.GetHistoricalFeaturesRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[wire.GetHistoricalFeaturesResponse]:
        query = to_historical_query(next(requests, wire.GetHistoricalFeaturesRequest()).query)
        with self._workbench.opened() as bench:
            sent = SentRows(request.arrow_ipc for request in requests)
            rows = bench.stored(sent.batches(), sent.schema)
            with self._alone():
                made = offline_handlers.get_historical_features(
                    query,
                    rows,
                    catalogue=self._online.catalogue(),
                    archive=self._archive,
                    bench=bench,
                )
                stream = historical_stream(made.answered, made.features, rows.schema)
                for piece in stream:
                    yield wire.GetHistoricalFeaturesResponse(arrow_ipc=piece)
            manifest = to_historical_manifest(made, rows_digest=sent.digest, digest=stream.digest)
            yield wire.GetHistoricalFeaturesResponse(manifest=manifest)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._offline.acquire(blocking=False):
            raise Busy("QUEUE_FULL", queue="training sets")
        try:
            yield
        finally:
            self._offline.release()

    def GetFreshness(
        self, request: wire.GetFreshnessRequest, context: grpc.ServicerContext
    ) -> wire.GetFreshnessResponse:
        return wire.GetFreshnessResponse(
            records=self._freshness.total(),
            p50_ms=self._freshness.quantile_ms(0.5),
            p99_ms=self._freshness.quantile_ms(0.99),
        )


class PeerApi(service.ObservationServiceServicer):
    """What the other workers ask; it reads what is here and asks nobody."""

    def __init__(self, *, catalogue: Callable[[], Catalogue], store: ObservationReader) -> None:
        self._catalogue, self._store = catalogue, store

    def GetObservations(
        self, request: wire.GetObservationsRequest, context: grpc.ServicerContext
    ) -> wire.GetObservationsResponse:
        query = to_observations_query(request)
        run = handlers.get_observations(query, catalogue=self._catalogue(), store=self._store)
        return wire.GetObservationsResponse(run=to_bytes(run))


def _query(payload: bytes) -> GetOnlineFeatures | HeadraceError:
    try:
        return to_query(payload)
    except Invalid as err:
        return err
