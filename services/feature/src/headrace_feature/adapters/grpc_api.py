# SPDX-License-Identifier: Apache-2.0
"""FeatureService: requests to handlers, answers to messages; errors are mapped by the kit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import grpc
import numpy as np
from numpy.typing import NDArray

from headrace.errors import Busy, Denied, HeadraceError, Invalid
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace.feature.v1 import feature_service_pb2_grpc as service
from headrace.tokens import PEER
from headrace_feature import handlers, offline_handlers
from headrace_feature.adapters.arrow_ipc import SentRows, historical_stream, training_stream
from headrace_feature.adapters.conversions import (
    to_historical_manifest,
    to_historical_query,
    to_materialize,
    to_materialized,
    to_observations_query,
    to_observations_response,
    to_online_response,
    to_query,
    to_skew_response,
    to_training_command,
    to_training_manifest,
    to_views_response,
)
from headrace_feature.adapters.duckdb_workbench import Workbench
from headrace_feature.adapters.query_reader import QueryReader
from headrace_feature.adapters.run_files import to_bytes
from headrace_feature.adapters.served_notes import ServedNotes
from headrace_feature.domain.freshness import DelayHistogram
from headrace_feature.domain.kept_answers import KeptAnswers
from headrace_feature.domain.online_query import GetOnlineFeatures, check_features
from headrace_feature.domain.served_sample import ServedSample
from headrace_feature.domain.views import Catalogue
from headrace_feature.handlers import (
    HeldObservations,
    OnlineState,
    answer_together,
    get_online_features,
)
from headrace_feature.materialize_handlers import materialize_view, view_source
from headrace_feature.offline_handlers import Asker
from headrace_feature.ports import Archive, FeatureTables, ObservationReader
from headrace_feature.skew_handlers import NOTHING_CHECKED, check_skew, skew_snapshots
from headrace_feature.view_handlers import ProgressOf, list_views
from headrace_kit.grpc_client import MESSAGE_BYTES_MAX
from headrace_kit.hot_calls import HotCall
from headrace_kit.telemetry import counter

# What is sorted into one answer, about 20,000 observations; more is sent as it lies, in pieces.
PIECE_BYTES_MAX = 2 << 20
SKEW_CHECKED = counter("feature", "skew_checked_rows_total", "Served rows computed again.")
SKEW_MISMATCHES = counter(
    "feature", "skew_mismatches_total", "Served values that the archive has otherwise.", "settled"
)


class FeatureApi(service.FeatureServiceServicer):
    """The calls; the archive is joined for one of them at a time, the memory is for one."""

    def __init__(
        self,
        *,
        online: OnlineState,
        archive: Archive,
        workbench: Workbench,
        sample: ServedSample,
        notes: ServedNotes,
        freshness: DelayHistogram,
        feature_tables: FeatureTables,
        progress_of: ProgressOf,
    ) -> None:
        self._online, self._archive, self._freshness = online, archive, freshness
        self._notes, self._feature_tables = notes, feature_tables
        self._workbench, self._offline = workbench, threading.Lock()
        self._sample, self._progress_of = sample, progress_of
        self._queries = QueryReader()

    def answer_reads(self, calls: Sequence[HotCall]) -> list[bytes | HeadraceError]:
        """GetOnlineFeatures, hot: what arrives together is answered together where it is alike."""
        now_us = self._online.clock.now_us()
        queries = [self._query(call, now_us) for call in calls]
        sampled = self._sampled(queries)
        self._note(queries)
        asked = [query for query in queries if not isinstance(query, HeadraceError)]
        answers = iter(answer_together(asked, self._online))
        replies = [q if isinstance(q, HeadraceError) else next(answers) for q in queries]
        for number in sampled:
            query, reply = queries[number], replies[number]
            if isinstance(query, GetOnlineFeatures) and not isinstance(reply, HeadraceError):
                offered_us = self._online.clock.now_us()
                self._sample.offer(query, reply.values, now_us=offered_us)
        return [r if isinstance(r, HeadraceError) else to_online_response(r) for r in replies]

    def _query(self, call: HotCall, now_us: int) -> GetOnlineFeatures | HeadraceError:
        """To name predictions is to note at all workers what is served: that is no mere read.

        A moment to come is refused to callers alone: a row of a view may be of one, where the
        clocks of who publishes are ahead.
        """
        try:
            query = self._queries.read(call.payload)
            query.check_size(MESSAGE_BYTES_MAX)
            query.check_moments(now_us)
            if query.prediction_ids:
                call.caller.require(PEER)
        except (Busy, Denied, Invalid) as err:
            return err
        return query

    def _sampled(self, queries: list[GetOnlineFeatures | HeadraceError]) -> list[int]:
        """Which of the queries are offered to the sample; these name their moments from here on."""
        due = [number for number, _ in enumerate(queries) if self._sample.due()]
        for number in due:
            query = queries[number]
            if isinstance(query, GetOnlineFeatures):
                queries[number] = query.named(self._online.clock.now_us())
        return due

    def _note(self, queries: list[GetOnlineFeatures | HeadraceError]) -> None:
        """Those that are for predictions are remembered, and name their moments from here on."""
        named = {
            number: query
            for number, query in enumerate(queries)
            if isinstance(query, GetOnlineFeatures) and query.prediction_ids
        }
        for number, query in self._notes.noted(named).items() if named else ():
            queries[number] = query

    def CheckSkew(
        self, request: wire.CheckSkewRequest, context: grpc.ServicerContext
    ) -> wire.CheckSkewResponse:
        # What is kept of answers must not vouch for itself.
        state = replace(self._online, kept=KeptAnswers())

        def read(query: GetOnlineFeatures) -> NDArray[np.float32]:
            return get_online_features(query, state).values

        seen, catalogue = self._sample.seen(), state.catalogue()
        forgotten = self._sample.forgotten
        snapshots = skew_snapshots(
            seen, catalogue=catalogue, archive=self._archive, gone=_gone(context)
        )
        with (
            self._alone(),
            self._workbench.opened() as bench,
            self._sample.taken(seen) as sample,
        ):
            skew = check_skew(
                sample, catalogue=catalogue, snapshots=snapshots, bench=bench, read=read
            )
        if forgotten != self._sample.forgotten:
            skew = NOTHING_CHECKED  # rows of an erased entity differ from the archive rightly
        SKEW_CHECKED.inc(skew.checked)
        for mismatch in skew.mismatches:
            SKEW_MISMATCHES.labels(str(mismatch.settled).lower()).inc()
        return to_skew_response(skew)

    def CreateTrainingSet(
        self, request: wire.CreateTrainingSetRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.CreateTrainingSetResponse]:
        command, catalogue = to_training_command(request), self._online.catalogue()
        snapshots = offline_handlers.training_snapshots(
            command, self._asker(context), catalogue=catalogue, archive=self._archive
        )
        with self._alone(), self._workbench.opened() as bench:
            made = offline_handlers.create_training_set(
                command, catalogue=catalogue, snapshots=snapshots, bench=bench
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
        check_features(query.features)
        catalogue = self._online.catalogue()
        with self._workbench.opened() as bench:
            sent = SentRows(request.arrow_ipc for request in requests)
            sent.check_beside(query.features)
            rows = bench.stored(sent.batches(self._online.clock), sent.schema)
            snapshots = offline_handlers.historical_snapshots(
                query, self._asker(context), catalogue=catalogue, archive=self._archive
            )
            with self._alone():
                made = offline_handlers.get_historical_features(
                    query, rows, catalogue=catalogue, snapshots=snapshots, bench=bench
                )
                stream = historical_stream(made.answered, made.features, rows.schema)
                for piece in stream:
                    yield wire.GetHistoricalFeaturesResponse(arrow_ipc=piece)
            manifest = to_historical_manifest(made, rows_digest=sent.digest, digest=stream.digest)
            yield wire.GetHistoricalFeaturesResponse(manifest=manifest)

    def MaterializeView(
        self, request: wire.MaterializeViewRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.MaterializeViewResponse]:
        command, catalogue = to_materialize(request), self._online.catalogue()
        source = view_source(
            command, self._asker(context), catalogue=catalogue, archive=self._archive
        )
        with self._alone(), self._workbench.opened() as bench:
            for made in materialize_view(
                command, source, catalogue=catalogue, bench=bench, tables=self._feature_tables
            ):
                yield to_materialized(made)

    def _asker(self, context: grpc.ServicerContext) -> Asker:
        return Asker(self._online.clock.now_us(), _gone(context))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """For the work alone: who waits for the archive has nothing of it."""
        if not self._offline.acquire(blocking=False):
            raise Busy("QUEUE_FULL", queue="offline work")
        try:
            yield
        finally:
            self._offline.release()

    def ListViews(
        self, request: wire.ListViewsRequest, context: grpc.ServicerContext
    ) -> wire.ListViewsResponse:
        states = list_views(
            catalogue=self._online.catalogue(),
            store=self._online.store,
            progress_of=self._progress_of,
        )
        return to_views_response(states)

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

    def __init__(
        self, *, catalogue: Callable[[], Catalogue], store: ObservationReader, notes: ServedNotes
    ) -> None:
        self._catalogue, self._store, self._notes = catalogue, store, notes

    def GetObservations(
        self, request: wire.GetObservationsRequest, context: grpc.ServicerContext
    ) -> wire.GetObservationsResponse:
        held = self._held(request)
        answer = to_observations_response(held)
        if held.extract.bytes > PIECE_BYTES_MAX:
            answer.bytes = held.extract.bytes
        else:
            answer.run = to_bytes(held.extract.whole())
        return answer

    def StreamObservations(
        self, request: wire.StreamObservationsRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.StreamObservationsResponse]:
        for piece in self._held(request.query).extract.pieces(PIECE_BYTES_MAX):
            yield wire.StreamObservationsResponse(run=to_bytes(piece))

    def _held(self, request: wire.GetObservationsRequest) -> HeldObservations:
        query = to_observations_query(request)
        return handlers.get_observations(query, catalogue=self._catalogue(), store=self._store)

    def NoteServed(
        self, request: wire.NoteServedRequest, context: grpc.ServicerContext
    ) -> wire.NoteServedResponse:
        self._notes.note_here(to_query(request.query))
        return wire.NoteServedResponse()


def _gone(context: grpc.ServicerContext) -> Callable[[], bool]:
    return lambda: not context.is_active()
