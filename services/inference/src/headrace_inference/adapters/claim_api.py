# SPDX-License-Identifier: Apache-2.0
"""ClaimService: callers store requests that fit no record, and get answers that fit none.

Who may predict with an endpoint may store and get what is claimed of it, and nothing else.
"""

from __future__ import annotations

from typing import Any

import grpc

from headrace.inference.v1 import inference_events_pb2 as events_pb
from headrace.inference.v1 import inference_service_pb2 as pb
from headrace.inference.v1 import inference_service_pb2_grpc as pb_grpc
from headrace.tokens import PREDICT
from headrace_inference.adapters.long_calls import LongCalls
from headrace_inference.adapters.object_claims import ObjectClaims
from headrace_inference.domain.claim import Claim
from headrace_inference.domain.serving import ServingTable
from headrace_kit.auth import calling

SERVICE_NAME = "headrace.inference.v1.ClaimService"
ACTIONS = {f"/{SERVICE_NAME}/{name}": PREDICT for name in ("StoreClaim", "GetClaim")}


class ClaimApi(pb_grpc.ClaimServiceServicer):
    """Servicer; `calls_max` at once, for each holds what it moves in memory."""

    def __init__(self, table: ServingTable, claims: ObjectClaims, *, calls_max: int) -> None:
        self._table, self._claims = table, claims
        self._calls = LongCalls(calls_max)

    def StoreClaim(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._admit(request.endpoint)
        with self._calls.place():
            claim = self._claims.store(request.endpoint, request.contents)
        return pb.StoreClaimResponse(
            claim=events_pb.Claim(digest=claim.digest, size_bytes=claim.size_bytes)
        )

    def GetClaim(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._admit(request.endpoint)
        claim = Claim.parsed(request.claim.digest, str(request.claim.size_bytes))
        with self._calls.place():
            return pb.GetClaimResponse(contents=self._claims.read(request.endpoint, claim))

    def _admit(self, endpoint: str) -> None:
        """Raises Denied ACTION_FORBIDDEN, NotFound MODEL_UNKNOWN."""
        calling().require(PREDICT, endpoint)
        self._table.state(endpoint)
