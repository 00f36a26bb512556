# SPDX-License-Identifier: Apache-2.0
"""TrainerService over gRPC: convert, call, convert."""

from __future__ import annotations

from typing import Any

from headrace.trainer.v1 import trainer_service_pb2 as service
from headrace.trainer.v1 import trainer_service_pb2_grpc as service_grpc
from headrace_kit.clock import Clock
from headrace_trainer import handlers
from headrace_trainer.adapters.conversions import request_from_rpc, run_to_proto
from headrace_trainer.ports import RecipeBook, RunStore


class GrpcTrainerService(service_grpc.TrainerServiceServicer):
    """The servicer; errors become statuses in the kit."""

    def __init__(self, *, runs: RunStore, recipes: RecipeBook, clock: Clock) -> None:
        self._runs, self._recipes, self._clock = runs, recipes, clock

    def SubmitRun(self, request: service.SubmitRunRequest, _: Any) -> service.SubmitRunResponse:
        asked = request_from_rpc(request)
        run = handlers.submit_run(
            asked, now_us=self._clock.now_us(), runs=self._runs, recipes=self._recipes
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
