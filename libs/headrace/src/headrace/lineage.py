# SPDX-License-Identifier: Apache-2.0
"""Lineage of a running Headrace, both ways: prediction, version, run, data, code; and back.

The registry knows what each version came of; the prediction log names the version of each answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from headrace import topics
from headrace.errors import TOPIC_MISSING, Invalid, NotFound, Unavailable
from headrace.inference.v1.inference_events_pb2 import PredictionsMade
from headrace.newest_messages import newest_messages
from headrace.prediction_log import made_here, row_ids
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.registry.v1 import registry_service_pb2_grpc
from headrace.rpc import pages

CALL_S = 2.0
RETRIES_MAX = 3
# Records of each partition, the newest: the log of days, read in a minute or two.
LOG_RECORDS_MAX = 1_000_000
Place = tuple[str, int, int]  # topic, partition, offset


@dataclass(frozen=True, slots=True)
class PredictionOrigin:
    """Where the log tells of a prediction, and the one version that made it."""

    prediction_id: str
    endpoint: str
    model: str
    version: int
    topic: str
    partition: int
    offset: int

    @property
    def reference(self) -> str:
        return f"models:/{self.model}/{self.version}"


class Lineage:
    """What `Client.lineage` gives; safe to use from several threads."""

    def __init__(self, channel: grpc.Channel, bootstrap: str) -> None:
        self._registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self._bootstrap = bootstrap

    def version(self, reference: str) -> pb.VersionLineage:
        """What a version came of and who uses it.

        Raises Invalid BAD_NAME, NotFound VERSION_UNKNOWN or ALIAS_UNKNOWN.
        """
        (found,) = self.versions_from(reference, kind="version")
        return found

    def versions_from(self, name: str, *, kind: str = "") -> Iterator[pb.VersionLineage]:
        """Every version that came of a stream, run, view, training set...: of any such name, or
        of the one kind. Raises Invalid BAD_REQUEST."""
        request = pb.GetLineageRequest(kind=kind, name=name)
        listed = pages(
            self._registry.GetLineage, request, timeout_s=CALL_S, retries_max=RETRIES_MAX
        )
        for page in listed:
            yield from page.versions

    def prediction(self, prediction_id: str, endpoint: str) -> PredictionOrigin:
        """Looks through the newest 1,000,000 records of each partition of the endpoint's log.

        Raises NotFound PREDICTION_UNKNOWN, DEFINITION_UNKNOWN, Unavailable BROKER_UNAVAILABLE.
        """
        for made, place in _logged(self._bootstrap, endpoint):
            if made_here(made, prediction_id):
                return PredictionOrigin(prediction_id, endpoint, made.model, made.version, *place)
        raise NotFound("PREDICTION_UNKNOWN", prediction_id=prediction_id, endpoint=endpoint)

    def predictions(self, reference: str, endpoint: str) -> Iterator[PredictionOrigin]:
        """Those that a version made, of as many records, partition by partition; not what it said
        as the shadow of another.

        Raises what `version` and `prediction` raise but PREDICTION_UNKNOWN.
        """
        asked = self.version(reference)
        for made, place in _logged(self._bootstrap, endpoint):
            if (made.model, made.version) == (asked.model, asked.version):
                for prediction_id in _ids(made):
                    named = (prediction_id, endpoint, made.model, made.version)
                    yield PredictionOrigin(*named, *place)


def _logged(bootstrap: str, endpoint: str) -> Iterator[tuple[PredictionsMade, Place]]:
    """The topic is made with the endpoint: without one there is none. What is no record is passed
    over: who writes the log is known by its own checks, not by this look.
    """
    topic = topics.INFERENCE_PREDICTIONS.of(endpoint)
    try:
        for message in newest_messages(bootstrap, topic, count=LOG_RECORDS_MAX):
            try:
                made = PredictionsMade.FromString(message.value() or b"")
            except DecodeError:
                continue
            yield made, (topic, message.partition(), message.offset())
    except Unavailable as err:
        if err.reason != TOPIC_MISSING:
            raise
        raise NotFound("DEFINITION_UNKNOWN", endpoint=endpoint) from err


def _ids(made: PredictionsMade) -> list[str]:
    try:
        return row_ids(made)
    except Invalid:
        return []
