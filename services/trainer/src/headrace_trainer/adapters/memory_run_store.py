# SPDX-License-Identifier: Apache-2.0
"""RunStore in memory, under the same laws as the SQL one; its events go to a list."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

from headrace.errors import Conflict, NotFound
from headrace_kit.clock import Clock
from headrace_kit.topic_positions import MemoryPositions
from headrace_trainer.domain.run import (
    LEASE_S,
    RUN_CANCELLED,
    Lease,
    Run,
    RunState,
    TrainedModel,
    TrainingRequest,
    queued_run,
)


class MemoryRunStore:
    """`events` holds (run id, state) of each event that would have been published, in order."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._runs: dict[str, Run] = {}
        self._tokens: dict[str, int] = {}
        self._lease_until_us: dict[str, int] = {}
        self._next_try_us: dict[str, int] = {}
        self._positions = MemoryPositions()
        self._lock = threading.Lock()
        self.events: list[tuple[str, RunState]] = []

    def add(self, request: TrainingRequest) -> Run:
        with self._lock:
            now_us = self._clock.now_us()
            run = self._runs.setdefault(request.request_id, queued_run(request, now_us))
            self._next_try_us.setdefault(run.run_id, now_us)
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

    def newest_of(self, recipe: str, *, prefix: str) -> Run | None:
        runs = (run for run in self.newest(len(self._runs)) if run.run_id.startswith(prefix))
        return next((run for run in runs if run.request.recipe == recipe), None)

    def claim(self) -> tuple[Lease, Run] | None:
        with self._lock:
            due = [run_id for run_id, run in self._runs.items() if self._due(run)]
            if not due:
                return None
            run_id = min(due, key=self._next_try_us.__getitem__)
            token = self._tokens.get(run_id, 0) + 1
            self._tokens[run_id] = token
            self._next_try_us[run_id] = self._clock.now_us()
            claimed = replace(self._runs[run_id], state=RunState.RUNNING, progress="")
            self._store(claimed)
            self.events.append((run_id, RunState.RUNNING))
            return Lease(run_id, token), claimed

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

    def fail(self, lease: Lease, reason: str, detail: str) -> bool:
        with self._lock:
            return self._held(lease) and self._end(
                replace(
                    self._runs[lease.run_id],
                    state=RunState.FAILED,
                    progress="failed",
                    reason=reason,
                    detail=detail,
                )
            )

    def postpone(self, lease: Lease, delay_s: int, progress: str) -> bool:
        with self._lock:
            if not self._held(lease):
                return False
            self._next_try_us[lease.run_id] = self._clock.now_us() + delay_s * 1_000_000
            run = self._runs[lease.run_id]
            return self._store(replace(run, state=RunState.QUEUED, progress=progress))

    def cancel(self, run_id: str) -> Run:
        run = self.get(run_id)
        with self._lock:
            run = self._runs[run_id]
            if run.state in (RunState.QUEUED, RunState.RUNNING):
                ended = replace(
                    run, state=RunState.FAILED, progress="cancelled", reason=RUN_CANCELLED
                )
                self._end(ended)
                return ended
        if not run.cancelled:
            raise Conflict("RUN_ENDED", run_id=run_id, state=run.state)
        return run

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        with self._lock:
            self._positions.follow_topics(topic_ids)

    def positions(self) -> Mapping[tuple[str, int], int]:
        with self._lock:
            return self._positions.get()

    def save_positions(self, next_offsets: Mapping[tuple[str, int], int]) -> None:
        with self._lock:
            self._positions.save(next_offsets)

    def _due(self, run: Run) -> bool:
        now_us = self._clock.now_us()
        if run.state is RunState.QUEUED:
            return self._next_try_us[run.run_id] <= now_us
        return run.state is RunState.RUNNING and self._lease_until_us[run.run_id] < now_us

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
