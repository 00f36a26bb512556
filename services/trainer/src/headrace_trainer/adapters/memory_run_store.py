# SPDX-License-Identifier: Apache-2.0
"""RunStore in memory, under the same laws as the SQL one; its events go to a list."""

from __future__ import annotations

import threading
from dataclasses import replace

from headrace.errors import Conflict, NotFound
from headrace_kit.clock import Clock
from headrace_trainer.domain.run import Lease, Run, RunState, TrainedModel, TrainingRequest

LEASE_S = 5


class MemoryRunStore:
    """`events` holds (run id, state) of each event that would have been published, in order."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._runs: dict[str, Run] = {}
        self._tokens: dict[str, int] = {}
        self._lease_until_us: dict[str, int] = {}
        self._lock = threading.Lock()
        self.events: list[tuple[str, RunState]] = []

    def add(self, request: TrainingRequest) -> Run:
        with self._lock:
            run = self._runs.setdefault(request.request_id, Run(request))
            if run.request != request:
                raise Conflict("REQUEST_REUSED", request_id=request.request_id)
            return run

    def get(self, run_id: str) -> Run:
        with self._lock:
            if run_id not in self._runs:
                raise NotFound("RUN_UNKNOWN", run_id=run_id)
            return self._runs[run_id]

    def newest(self, runs_max: int) -> list[Run]:
        with self._lock:
            return list(reversed(self._runs.values()))[:runs_max]

    def claim(self) -> tuple[Lease, Run] | None:
        with self._lock:
            for run_id, run in self._runs.items():
                if run.state is RunState.QUEUED or self._lease_ran_out(run):
                    token = self._tokens.get(run_id, 0) + 1
                    self._tokens[run_id] = token
                    claimed = replace(run, state=RunState.RUNNING, progress="")
                    self._store(claimed)
                    self.events.append((run_id, RunState.RUNNING))
                    return Lease(run_id, token), claimed
            return None

    def renew(self, lease: Lease, progress: str) -> bool:
        with self._lock:
            return self._held(lease) and self._store(
                replace(self._runs[lease.run_id], progress=progress)
            )

    def complete(self, lease: Lease, trained: TrainedModel) -> bool:
        with self._lock:
            return self._held(lease) and self._end(
                replace(
                    self._runs[lease.run_id],
                    state=RunState.COMPLETED,
                    progress="completed",
                    trained=trained,
                )
            )

    def fail(self, lease: Lease, reason: str) -> bool:
        with self._lock:
            return self._held(lease) and self._end(
                replace(
                    self._runs[lease.run_id],
                    state=RunState.FAILED,
                    progress="failed",
                    reason=reason,
                )
            )

    def _lease_ran_out(self, run: Run) -> bool:
        until_us = self._lease_until_us.get(run.run_id, 0)
        return run.state is RunState.RUNNING and until_us < self._clock.now_us()

    def _held(self, lease: Lease) -> bool:
        running = self._runs[lease.run_id].state is RunState.RUNNING
        return running and self._tokens.get(lease.run_id) == lease.token

    def _store(self, run: Run) -> bool:
        self._runs[run.run_id] = run
        self._lease_until_us[run.run_id] = self._clock.now_us() + LEASE_S * 1_000_000
        return True

    def _end(self, run: Run) -> bool:
        self.events.append((run.run_id, run.state))
        return self._store(run)
