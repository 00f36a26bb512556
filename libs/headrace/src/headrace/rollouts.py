# SPDX-License-Identifier: Apache-2.0
"""Rollouts of a running Headrace: what each endpoint serves beside its champion, set by hand.

Each change is made to the rollout as it was seen: when another was faster, it is refused.
"""

from __future__ import annotations

import uuid
from typing import Any

import grpc

from headrace.errors import NotFound
from headrace.model_reference import version_of
from headrace.models import number_of
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.registry.v1 import registry_service_pb2_grpc
from headrace.registry.v1.registry_events_pb2 import Rollout
from headrace.rpc import call, pages

CALL_S = 2.0
RETRIES_MAX = 3


class Rollouts:
    """What `Client.rollouts` gives; safe to use from several threads.

    A version is a number, or `models:/NAME/7` or `NAME@ALIAS` of the endpoint's model.
    What changes raises NotFound MODEL_UNKNOWN for an endpoint that serves nothing yet, Conflict
    ROLLOUT_MOVED, and for a version NotFound VERSION_UNKNOWN or Conflict GATE_NOT_PASSED, or
    TENSORS_DIFFER where callers of the champion by its own tensors could not be answered by it.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)

    def _kept(self) -> list[Rollout]:
        request = pb.ListRolloutsRequest()
        listed = pages(
            self._registry.ListRollouts, request, timeout_s=CALL_S, retries_max=RETRIES_MAX
        )
        return [rollout for page in listed for rollout in page.rollouts]

    def list(self) -> list[Rollout]:
        """Of every endpoint that serves, by name.

        The registry keeps that of one that was taken back, for when it is applied again.
        """
        kept, request = self._kept(), pb.ListDefinitionsRequest()
        listed = pages(
            self._registry.ListDefinitions, request, timeout_s=CALL_S, retries_max=RETRIES_MAX
        )
        applied = {(each.kind, each.name) for page in listed for each in page.definitions}
        return [each for each in kept if ("endpoint", each.endpoint) in applied]

    def get(self, endpoint: str) -> Rollout:
        """Also of one that was taken back: it may be stopped before it is applied again."""
        for rollout in self._kept():
            if rollout.endpoint == endpoint:
                return rollout
        raise NotFound("MODEL_UNKNOWN", endpoint=endpoint)

    def shadow(self, endpoint: str, version: int | str, *, reason: str) -> Rollout:
        """The version is scored and logged with every request, and answers none."""
        return self._beside(endpoint, version, reason)

    def canary(self, endpoint: str, version: int | str, *, percent: int, reason: str) -> Rollout:
        """The version answers this share of the entities until a verdict ends that."""
        return self._beside(endpoint, version, reason, canary_percent=percent, judged=True)

    def split(self, endpoint: str, version: int | str, *, percent: int, reason: str) -> Rollout:
        """The version answers this share of the entities until somebody ends that (A/B)."""
        return self._beside(endpoint, version, reason, canary_percent=percent)

    def end(self, endpoint: str, *, reason: str) -> Rollout:
        """The champion answers alone again."""
        now = self.get(endpoint)
        return self._put(now, reason, stopped=now.stopped)

    def stop(self, endpoint: str, *, reason: str) -> Rollout:
        """The endpoint answers nobody (ENDPOINT_STOPPED) until it is started again."""
        return self._switch(endpoint, reason, stopped=True)

    def start(self, endpoint: str, *, reason: str) -> Rollout:
        """A stopped endpoint answers again."""
        return self._switch(endpoint, reason, stopped=False)

    def _switch(self, endpoint: str, reason: str, *, stopped: bool) -> Rollout:
        now = self.get(endpoint)
        return self._put(
            now,
            reason,
            canary_version=now.canary.version,
            canary_percent=now.canary_percent,
            judged=now.judged,
            stopped=stopped,
        )

    def _beside(self, endpoint: str, version: int | str, reason: str, **wanted: Any) -> Rollout:
        now = self.get(endpoint)
        number = number_of(self._registry, version_of(now.model, version))
        return self._put(now, reason, canary_version=number, stopped=now.stopped, **wanted)

    def _put(self, now: Rollout, reason: str, **wanted: Any) -> Rollout:
        request = pb.SetRolloutRequest(
            request_id=str(uuid.uuid4()),
            endpoint=now.endpoint,
            generation_expected=now.generation,
            reason=reason,
            **wanted,
        )
        answer = call(self._registry.SetRollout, request, timeout_s=CALL_S, retries_max=RETRIES_MAX)
        return answer.rollout
