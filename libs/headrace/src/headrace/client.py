# SPDX-License-Identifier: Apache-2.0
"""The client of a running Headrace: apply, publish, predict, train, look at models and incidents.

It speaks the public contracts only (Kafka topics and gRPC), so whatever it does any program in any
language can do.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import grpc

from headrace import admin, topics
from headrace.application import (
    Application,
    Definition,
    Endpoint,
    Stream,
    definition_json,
    parse_definition_json,
)
from headrace.corrections import newest_corrections
from headrace.datasets import Datasets
from headrace.dead_letters import DeadLetters
from headrace.errors import Invalid, NotFound, Unavailable, error_by_reason
from headrace.feature.v1 import feature_service_pb2, feature_service_pb2_grpc
from headrace.feature.v1.feature_events_pb2 import FeaturesCorrected
from headrace.feature_tables import materialized
from headrace.feature_view import RequestView, StreamView, View
from headrace.historical import HistoricalFeatures, ask, query_of
from headrace.ingest.v1 import ingest_service_pb2, ingest_service_pb2_grpc
from headrace.kafka_requests import KafkaRequests
from headrace.labels import Labels
from headrace.lineage import Lineage
from headrace.model_reference import REFERENCE, parse_reference, version_of
from headrace.models import Models
from headrace.monitor.v1 import monitor_events_pb2, monitor_service_pb2, monitor_service_pb2_grpc
from headrace.newest_messages import newest_messages
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from headrace.online_features import OnlineFeatures, named_features, read_online
from headrace.predictions import (
    ATTRIBUTIONS,
    PREDICTION_ID,
    SCORE,
    Prediction,
    infer_request,
    predictions_of,
)
from headrace.publishing import Item, counted, publish_items
from headrace.raw_producer import RawProducer, encoder, key_text, raw_producer, raw_row
from headrace.registry.v1 import (
    registry_events_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
)
from headrace.registry_state import TOPICS, RegistryState, Told, answered_state, told_state
from headrace.rollouts import Rollouts
from headrace.rpc import call, open_channel, pages
from headrace.trainer.v1 import trainer_service_pb2, trainer_service_pb2_grpc

if TYPE_CHECKING:
    import pyarrow as pa

POLL_INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the services answer; the defaults are those of `headrace up`."""

    kafka: str = "127.0.0.1:9092"
    ingest: str = "127.0.0.1:7101"
    feature: str = "127.0.0.1:7102"
    trainer: str = "127.0.0.1:7103"
    registry: str = "127.0.0.1:7104"
    inference: str = "127.0.0.1:8001"
    monitor: str = "127.0.0.1:7106"


EVERY_MESSAGE = 2**62


@dataclass
class Client:
    """Opens connections when they are needed; safe to use from several threads."""

    addresses: Addresses = field(default_factory=Addresses)
    token: str = field(default="", repr=False)
    """Shown to every service; empty where they have no tokens file."""

    def apply(
        self, application: Application, *, reason: str = ""
    ) -> list[registry_events_pb2.Definition]:
        """Creates the application's topics and stores its definitions; answers them as stored."""
        admin.create_topics(self.addresses.kafka, admin.application_topics(application))
        request = registry_service_pb2.ApplyDefinitionsRequest(
            request_id=str(uuid.uuid4()),
            application=application.name,
            definitions=[_message(application.name, d) for d in application.definitions()],
            reason=reason,
        )
        answer = call(self._registry.ApplyDefinitions, request, timeout_s=10, retries_max=3)
        self.__dict__.pop("definitions", None)
        return list(answer.definitions)

    def applied(self) -> list[registry_events_pb2.Definition]:
        """The applied definitions as they are now, with their versions and their applications."""
        return self._listed(registry_service_pb2.ListDefinitionsRequest())

    def retracted(self) -> list[Definition]:
        """The definitions that were taken back and are not applied now, as they were last."""
        found = self._listed(registry_service_pb2.ListDefinitionsRequest(retracted=True))
        return [parse_definition_json(each.spec_json) for each in found]

    def _listed(self, request: Any) -> list[registry_events_pb2.Definition]:
        listed = pages(self._registry.ListDefinitions, request, timeout_s=2, retries_max=2)
        return [each for page in listed for each in page.definitions]

    def retract(self, kind: str, name: str, *, reason: str = "") -> registry_events_pb2.Definition:
        """Takes a definition back; answers it as it was last.

        Raises NotFound DEFINITION_UNKNOWN, Conflict DEFINITION_NEEDED with those that need it.
        """
        request = registry_service_pb2.RetractDefinitionRequest(
            request_id=str(uuid.uuid4()), kind=kind, name=name, reason=reason
        )
        answer = call(self._registry.RetractDefinition, request, timeout_s=5, retries_max=3)
        self.__dict__.pop("definitions", None)
        return answer.definition

    @cached_property
    def definitions(self) -> dict[tuple[str, str], Definition]:
        """The applied definitions by kind and name, as they were when first asked for."""
        found = self.applied()
        return {(each.kind, each.name): parse_definition_json(each.spec_json) for each in found}

    def publish(
        self,
        stream: str,
        records: Iterable[Mapping[str, Any]],
        *,
        door: Literal["kafka", "grpc"] = "kafka",
    ) -> int:
        """Appends records to the stream's raw topic and waits until all are durable.

        `grpc` is for programs that cannot reach Kafka: in batches through IngestService, some
        ahead, those without an answer again with the same ids. Raises Invalid BAD_REQUEST for a row
        that is no JSON object, before any is sent (grpc: once those before it are durable);
        TOO_LARGE as `publish_raw`; Unavailable TOPIC_MISSING, and DELIVERY_UNKNOWN when some may be
        missing: publish the same again. By grpc also the first refused row's error, once all others
        are durable. Each error tells how many records are durable, as `accepted`.
        """
        contract = self.definitions.get(("stream", stream))
        if not isinstance(contract, Stream):
            raise NotFound("STREAM_UNKNOWN", stream=stream)
        numbered = enumerate(records, start=1)
        if door == "grpc":
            return self._publish_items(contract, numbered)
        encode = encoder(contract)
        try:
            rows = [raw_row(number, record, contract.key, encode) for number, record in numbered]
        except Invalid as err:
            raise counted(err, 0) from err
        return self.publish_raw(stream, rows)

    def corrections(self, *, newest: int = 100) -> list[FeaturesCorrected]:
        """The newest at most, in the order in which they were told; raises Unavailable."""
        return newest_corrections(self.addresses.kafka, count=newest)

    def _publish_items(
        self, contract: Stream, numbered: Iterable[tuple[int, Mapping[str, Any]]]
    ) -> int:
        encode = encoder(contract)

        def items() -> Iterator[Item]:
            for number, record in numbered:
                key, value = raw_row(number, record, contract.key, encode)
                event_id = record.get(contract.id)
                yield Item(event_id if isinstance(event_id, str) else "", key, value)

        published = publish_items(self._ingest, contract.name, items())
        if published.refused:
            [(row, reason), *_] = published.refused
            refused = error_by_reason(reason, row=row, refused_rows=len(published.refused))
            raise counted(refused, published.accepted)
        return published.accepted

    def publish_raw(self, stream: str, rows: Iterable[tuple[bytes, bytes]]) -> int:
        """Appends (key, value) pairs as they are; ingest judges them.

        Raises Invalid TOO_LARGE with the number of a row that Kafka does not take, once the rows
        before it are delivered; those after it are not sent.
        """
        return self._raw.append(topics.RAW.of(stream), rows)

    def predict(
        self,
        endpoint: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        as_of_us: int | None = None,
        request_id: str | None = None,
        explain: bool = False,
        door: Literal["grpc", "kafka"] = "grpc",
        timeout_s: float = 5.0,
    ) -> list[Prediction]:
        """Predicts by entity keys: the server reads the features, as of now unless told.

        For an endpoint a version may be named (`models:/NAME/7`, `NAME@ALIAS`): the one endpoint of
        its model is asked for it, and answers if it serves that version.
        To explain costs a run of the model for each feature of each row, and goes over gRPC alone.
        By `kafka` the request waits in its topic for its turn and is answered though this program
        ends; to hear the answer later, see `requests`.
        """
        definition, version = self._endpoint(endpoint)
        request = infer_request(definition, rows, request_id or str(uuid.uuid4()))
        if version:
            request.model_version = version
        if as_of_us is not None:
            request.parameters["as_of_us"].int64_param = as_of_us
        for name in (SCORE, PREDICTION_ID, ATTRIBUTIONS) if explain else ():
            request.outputs.add(name=name)
        if door == "kafka":
            if explain:
                raise Invalid("BAD_REQUEST", field="explain", problem="is asked over gRPC alone")
            key = key_text(rows[0].get(definition.entity_key or "")) if rows else ""
            asked = self.requests.ask(request, key=key)
            return self.requests.answer(asked, timeout_s=timeout_s).predictions()
        answer = call(self._inference.ModelInfer, request, timeout_s=timeout_s, retries_max=2)
        return predictions_of(answer)

    def _endpoint(self, name: str) -> tuple[Endpoint, str]:
        """The endpoint, and the version that it is asked for; empty: as its rollout says."""
        found = self.definitions.get(("endpoint", name))
        if isinstance(found, Endpoint):
            return found, ""
        if not REFERENCE.fullmatch(name):
            raise NotFound("DEFINITION_UNKNOWN", endpoint=name)
        reference = parse_reference(name)
        endpoints = [each for each in self.definitions.values() if isinstance(each, Endpoint)]
        serving = [each for each in endpoints if each.model == reference.model]
        if not serving:
            problem = "no endpoint serves this model"
            raise NotFound("DEFINITION_UNKNOWN", model=reference.model, problem=problem)
        if len(serving) > 1:
            problem = f"name one of its endpoints: {', '.join(each.name for each in serving)}"
            raise Invalid("BAD_REQUEST", model=reference.model, problem=problem)
        return serving[0], str(self.models.number(reference))

    def train(self, recipe: str, *, known_until_us: int = 0, request_id: str | None = None) -> str:
        """Queues a training run and answers its id.

        Without a time it is made from all that has been published by now; with one, once each
        stream that it reads has passed it. Raises Invalid BAD_REQUEST for one still to come.
        """
        request = trainer_service_pb2.SubmitRunRequest(
            request_id=request_id or str(uuid.uuid4()),
            recipe=recipe,
            known_until_us=known_until_us,
        )
        run_id: str = call(self._trainer.SubmitRun, request, timeout_s=5, retries_max=2).run_id
        return run_id

    def run(self, run_id: str) -> trainer_service_pb2.Run:
        request = trainer_service_pb2.GetRunRequest(run_id=run_id)
        return call(self._trainer.GetRun, request, timeout_s=2, retries_max=3).run

    def runs(self) -> list[trainer_service_pb2.Run]:
        """The newest 100, newest first."""
        request = trainer_service_pb2.ListRunsRequest()
        return list(call(self._trainer.ListRuns, request, timeout_s=2, retries_max=3).runs)

    def cancel_run(self, run_id: str) -> trainer_service_pb2.Run:
        """Ends a run that waits or is carried. Raises NotFound RUN_UNKNOWN, Conflict RUN_ENDED."""
        request = trainer_service_pb2.CancelRunRequest(run_id=run_id)
        return call(self._trainer.CancelRun, request, timeout_s=5, retries_max=2).run

    def wait_run(
        self, run_id: str, *, timeout_s: float, said: Callable[[str], None] = lambda _: None
    ) -> trainer_service_pb2.Run:
        """Waits until the run has ended well, telling its progress.

        Raises the error of the run's reason when it failed, Unavailable SERVICE_UNAVAILABLE when it
        takes too long.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                run = self.run(run_id)
            except Unavailable:
                # The trainer is being restarted; its run goes on when it is back.
                time.sleep(POLL_INTERVAL_S)
                continue
            if run.state == trainer_service_pb2.RUN_STATE_COMPLETED:
                return run
            if run.state == trainer_service_pb2.RUN_STATE_FAILED:
                raise error_by_reason(run.reason, run_id=run_id, detail=run.detail)
            said(run.progress)
            time.sleep(POLL_INTERVAL_S)
        raise Unavailable("SERVICE_UNAVAILABLE", run_id=run_id, waited_s=timeout_s)

    def versions(self, model: str) -> list[registry_events_pb2.ModelVersion]:
        """Every version of the model, newest first."""
        request = registry_service_pb2.ListVersionsRequest(model=model)
        found = pages(self._registry.ListVersions, request, timeout_s=2, retries_max=3)
        return [version for page in found for version in page.versions]

    def aliases(self, model: str) -> list[registry_events_pb2.Alias]:
        request = registry_service_pb2.ListAliasesRequest(model=model)
        listed = pages(self._registry.ListAliases, request, timeout_s=2, retries_max=3)
        return [alias for page in listed for alias in page.aliases]

    def promote(
        self, model: str, version: int | str, *, alias: str = "champion", reason: str = ""
    ) -> int:
        """Moves the alias by compare-and-set and answers its new generation.

        The version is a number, or `models:/NAME/7` or `NAME@ALIAS` of the model.
        Raises Conflict GATE_NOT_PASSED without a passed gate, ALIAS_MOVED when another was faster.
        """
        number = self.models.number(version_of(model, version))
        seen = {a.alias: a.generation for a in self.aliases(model)}
        request = registry_service_pb2.SetAliasRequest(
            request_id=str(uuid.uuid4()),
            model=model,
            alias=alias,
            version=number,
            generation_expected=seen.get(alias, 0),
            reason=reason,
        )
        generation: int = call(self._registry.SetAlias, request, timeout_s=2).alias.generation
        return generation

    @cached_property
    def models(self) -> Models:
        """Versions of models: registered, described, approved, found."""
        return Models(self._open("registry"))

    def stream_counts(self) -> list[ingest_service_pb2.StreamCounts]:
        """What became of every published record, by stream."""
        request = ingest_service_pb2.ListStreamCountsRequest()
        return list(
            call(self._datasets.ListStreamCounts, request, timeout_s=10, retries_max=3).streams
        )

    def await_streams(
        self, version_by_stream: Mapping[str, int], *, timeout_s: float
    ) -> list[ingest_service_pb2.StreamCounts]:
        """What ingest says of these streams, once it has these versions of their contracts.

        Raises Unavailable SERVICE_UNAVAILABLE when that takes longer.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found = [each for each in self.stream_counts() if each.stream in version_by_stream]
            known = {each.stream: each.contract_version for each in found}
            if all(known.get(name, 0) >= each for name, each in version_by_stream.items()):
                return found
            if time.monotonic() > deadline:
                raise Unavailable("SERVICE_UNAVAILABLE", service="ingest", waited_s=timeout_s)
            time.sleep(POLL_INTERVAL_S)

    @cached_property
    def datasets(self) -> Datasets:
        """Rows that never change, by name, number and tag."""
        return Datasets(self._ingest)

    def freshness(self) -> feature_service_pb2.GetFreshnessResponse:
        request = feature_service_pb2.GetFreshnessRequest()
        return call(self._feature.GetFreshness, request, timeout_s=2, retries_max=3)

    @property
    def views(self) -> dict[str, View]:
        """The applied feature views by name, as `definitions` has them."""
        found = self.definitions.values()
        return {each.name: each for each in found if isinstance(each, StreamView | RequestView)}

    def get_online_features(
        self,
        rows: Sequence[Mapping[str, Any]],
        features: Sequence[str],
        *,
        as_of_us: int | None = None,
        staleness_max_ms: int = 0,
    ) -> OnlineFeatures:
        """Features of some entities, as of now unless told, each with its event time.

        `rows`: of each the entity keys and what request features ask, by column, the same columns
        in all. `features`: "<view>:<feature>", or a view's name for all of it. `staleness_max_ms`:
        refused with Conflict FEATURES_STALE when the answer would not hold all that was published
        up to so long ago; 0 takes what there is. Raises NotFound FEATURE_UNKNOWN or VIEW_UNKNOWN,
        Invalid BAD_REQUEST, Busy BATCH_TOO_LARGE, Unavailable RESTORING while a view is filled.
        """
        return read_online(
            self._feature,
            self._named(features),
            rows,
            as_of_us=as_of_us,
            staleness_max_ms=staleness_max_ms,
        )

    def _named(self, features: Sequence[str]) -> list[str]:
        """Full names need no definitions: whoever gives them needs no registry."""
        views = {} if all(":" in each for each in features) else self.views
        return named_features(features, views)

    def get_historical_features(
        self,
        rows: pa.Table | Iterable[pa.RecordBatch],
        features: Sequence[str],
        *,
        known_as_of_us: int | None = None,
        manifest: feature_service_pb2.HistoricalManifest | None = None,
    ) -> HistoricalFeatures:
        """Features for rows of one's own, each by what was known at its `as_of_us`.

        `rows`: `as_of_us` (int64, microseconds since the epoch), the entity keys and what request
        features ask. `features`: full names, or a view's for all of it. `known_as_of_us`: nothing
        that became known later counts. `manifest`: of an earlier answer, which is given again.
        Raises Invalid BAD_REQUEST for a row as of a moment still to come. Needs pyarrow.
        """
        return ask(self._feature, rows, query_of(self._named(features), known_as_of_us, manifest))

    def materialize_view(
        self, view: str, *, from_us: int = 0, until_us: int | None = None
    ) -> Iterator[feature_service_pb2.MaterializeViewResponse]:
        """Has the view's offline feature table written on, and tells how far it came.

        Up to `until_us`, or as far as the archive holds all that was known; a table of which there
        is nothing yet begins at `from_us`. Ask until the end: what was told is there.
        """
        return materialized(self._feature, view, from_us, until_us)

    def view_states(self) -> list[feature_service_pb2.ViewState]:
        """Whether each applied view can be answered, by name, and how far it is filled if not.

        Of several feature workers the one that is asked speaks for itself.
        """
        request = feature_service_pb2.ListViewsRequest()
        return list(call(self._feature.ListViews, request, timeout_s=2, retries_max=3).views)

    def check_skew(self) -> feature_service_pb2.CheckSkewResponse:
        """Has a sample of what was served since the last check computed again from the archive."""
        request = feature_service_pb2.CheckSkewRequest()
        return call(self._feature.CheckSkew, request, timeout_s=120)

    def loop(self, monitor: str) -> monitor_service_pb2.GetLoopResponse:
        request = monitor_service_pb2.GetLoopRequest(monitor=monitor)
        return call(self._monitor.GetLoop, request, timeout_s=2, retries_max=3)

    def quality(self, monitor: str) -> monitor_service_pb2.GetQualityResponse:
        request = monitor_service_pb2.GetQualityRequest(monitor=monitor)
        return call(self._monitor.GetQuality, request, timeout_s=5, retries_max=3)

    def incidents(self, monitor: str) -> list[monitor_events_pb2.Incident]:
        request = monitor_service_pb2.ListIncidentsRequest(monitor=monitor)
        return list(
            call(self._monitor.ListIncidents, request, timeout_s=2, retries_max=3).incidents
        )

    @cached_property
    def _raw(self) -> RawProducer:
        return RawProducer(raw_producer(self.addresses.kafka))

    @cached_property
    def dead_letters(self) -> DeadLetters:
        """What ingest set aside."""
        return DeadLetters(self._ingest)

    @cached_property
    def labels(self) -> Labels:
        """What is true of entities and predictions."""
        return Labels(self._ingest)

    def _open(self, service: str) -> grpc.Channel:
        address = getattr(self.addresses, service)
        return open_channel(address, service=service, token=self.token)

    @cached_property
    def lineage(self) -> Lineage:
        """What versions came of and what came of them."""
        return Lineage(self._open("registry"), self.addresses.kafka)

    def registry_states(self) -> tuple[RegistryState, RegistryState]:
        """What the registry answers, and what its topics tell: the same but for the last moment.

        Raises Unavailable TOPIC_MISSING or BROKER_UNAVAILABLE.
        """

        def ask(method: str, request: Any) -> Any:
            return call(getattr(self._registry, method), request, timeout_s=5, retries_max=3)

        records = (
            Told(
                topic,
                f"{topic} partition {message.partition()} offset {message.offset()}",
                message.key(),
                {name: value or b"" for name, value in message.headers() or ()},
                message.value(),
            )
            for topic in TOPICS
            for message in newest_messages(self.addresses.kafka, topic, count=EVERY_MESSAGE)
        )
        return answered_state(ask), told_state(records)

    @cached_property
    def requests(self) -> KafkaRequests:
        """Requests over Kafka, of tensors too, and their answers: now or later."""
        return KafkaRequests(self.addresses.kafka, self._open("inference"))

    @cached_property
    def rollouts(self) -> Rollouts:
        """What each endpoint serves beside its champion."""
        return Rollouts(self._open("registry"))

    @cached_property
    def _ingest(self) -> grpc.Channel:
        return self._open("ingest")

    @cached_property
    def _datasets(self) -> ingest_service_pb2_grpc.DatasetServiceStub:
        return ingest_service_pb2_grpc.DatasetServiceStub(self._ingest)

    @cached_property
    def _feature(self) -> feature_service_pb2_grpc.FeatureServiceStub:
        return feature_service_pb2_grpc.FeatureServiceStub(self._open("feature"))

    @cached_property
    def _registry(self) -> registry_service_pb2_grpc.RegistryServiceStub:
        return registry_service_pb2_grpc.RegistryServiceStub(self._open("registry"))

    @cached_property
    def _trainer(self) -> trainer_service_pb2_grpc.TrainerServiceStub:
        return trainer_service_pb2_grpc.TrainerServiceStub(self._open("trainer"))

    @cached_property
    def _monitor(self) -> monitor_service_pb2_grpc.MonitorServiceStub:
        return monitor_service_pb2_grpc.MonitorServiceStub(self._open("monitor"))

    @cached_property
    def _inference(self) -> oip_grpc.GRPCInferenceServiceStub:
        return oip_grpc.GRPCInferenceServiceStub(self._open("inference"))


def _message(application: str, definition: Definition) -> registry_events_pb2.Definition:
    return registry_events_pb2.Definition(
        kind=definition.kind,
        name=definition.name,
        application=application,
        spec_json=definition_json(definition),
    )
