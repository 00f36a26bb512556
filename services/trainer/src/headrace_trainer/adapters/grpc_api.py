# SPDX-License-Identifier: Apache-2.0
"""TrainerService over gRPC: convert, call, convert."""

from __future__ import annotations

from typing import Any

import grpc

from headrace.trainer.v1 import trainer_service_pb2 as service
from headrace.trainer.v1 import trainer_service_pb2_grpc as service_grpc
from headrace_kit.clock import Clock
from headrace_kit.grpc_server import remaining_s
from headrace_trainer import handlers
from headrace_trainer.adapters.conversions import request_from_rpc, run_to_proto
from headrace_trainer.ports import RecipeBook, RunStore

# What was applied just before the call is here within milliseconds; a caller who names nothing
# keeps a thread for so long.
RECIPE_WAIT_S_MAX = 1.0


class GrpcTrainerService(service_grpc.TrainerServiceServicer):
    """The servicer; errors become statuses in the kit."""

    def __init__(self, *, runs: RunStore, recipes: RecipeBook, clock: Clock) -> None:
        self._runs, self._recipes, self._clock = runs, recipes, clock

    def SubmitRun(
        self, request: service.SubmitRunRequest, context: grpc.ServicerContext
    ) -> service.SubmitRunResponse:
        run = handlers.submit_run(
            request_from_rpc(request),
            now_us=self._clock.now_us(),
            runs=self._runs,
            recipes=self._recipes,
            recipe_wait_s=remaining_s(context, cap_s=2 * RECIPE_WAIT_S_MAX) / 2,
        )
        return service.SubmitRunResponse(run_id=run.run_id)

    def GetRun(self, request: service.GetRunRequest, _: Any) -> service.GetRunResponse:
        run = handlers.get_run(request.run_id, runs=self._runs)
        return service.GetRunResponse(run=run_to_proto(run))

    def CancelRun(self, request: service.CancelRunRequest, _: Any) -> service.CancelRunResponse:
        run = handlers.cancel_run(request.run_id, runs=self._runs)
        return service.CancelRunResponse(run=run_to_proto(run))

    def ListRuns(self, _: service.ListRunsRequest, __: Any) -> service.ListRunsResponse:
        runs = handlers.list_runs(runs=self._runs)
        return service.ListRunsResponse(runs=[run_to_proto(run) for run in runs])
