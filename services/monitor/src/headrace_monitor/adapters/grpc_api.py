# SPDX-License-Identifier: Apache-2.0
"""headrace.monitor.v1.MonitorService: find the monitor, ask the handler, convert."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import grpc

from headrace.monitor.v1 import monitor_service_pb2 as pb
from headrace.monitor.v1 import monitor_service_pb2_grpc as pb_grpc
from headrace_monitor.adapters import conversions
from headrace_monitor.domain.watch import Watch
from headrace_monitor.handlers import queries
from headrace_monitor.handlers.quality_report import QualityReport
from headrace_monitor.ports import StateStore


class MonitorApi(pb_grpc.MonitorServiceServicer):
    """Each call raises NotFound DEFINITION_UNKNOWN for a monitor that is not applied."""

    def __init__(
        self,
        *,
        store: StateStore,
        watches: Callable[[], Mapping[str, Watch]],
        quality: QualityReport,
    ) -> None:
        self._store, self._watches, self._quality = store, watches, quality

    def GetLoop(
        self, request: pb.GetLoopRequest, context: grpc.ServicerContext
    ) -> pb.GetLoopResponse:
        watch = queries.find_watch(self._watches(), request.monitor)
        return conversions.loop_response(queries.get_loop(watch, store=self._store))

    def GetQuality(
        self, request: pb.GetQualityRequest, context: grpc.ServicerContext
    ) -> pb.GetQualityResponse:
        watch = queries.find_watch(self._watches(), request.monitor)
        progress = queries.get_progress(watch, store=self._store)
        return conversions.quality_response(self._quality.by_month(watch), progress)

    def ListIncidents(
        self, request: pb.ListIncidentsRequest, context: grpc.ServicerContext
    ) -> pb.ListIncidentsResponse:
        watch = queries.find_watch(self._watches(), request.monitor)
        return conversions.incidents_response(queries.list_incidents(watch, store=self._store))
