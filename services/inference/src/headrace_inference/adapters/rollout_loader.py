# SPDX-License-Identifier: Apache-2.0
"""The thread that makes what is served follow what is wanted; no caller ever waits for it.

A rollout that cannot be loaded is noted with its reason and tried again, later and later up to the
kit's bound: the versions before it serve on, and a mended store needs no hand work here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import structlog

from headrace.errors import Busy, HeadraceError, Unavailable
from headrace_inference.domain.rollout import Rollout
from headrace_inference.domain.serving import ServingTable
from headrace_kit.backoff import Backoff
from headrace_kit.telemetry import counter, gauge

IDLE_S_MAX = 1.0

log = structlog.get_logger(__name__)
swaps = counter("inference", "swaps_total", "Rollouts that were loaded and put to work.")
failures = counter("inference", "load_failures_total", "Rollouts not loaded.", "reason")
generations = gauge("inference", "rollout_generation_count", "Generation served.", "endpoint")


@dataclass
class _Attempt:
    """The tries for one rollout; `decided` when another try would end the same way."""

    rollout: Rollout
    backoff: Backoff = field(default_factory=Backoff)
    decided: bool = False


class RolloutLoader:
    """Calls `serve` for each pending rollout; a Part."""

    def __init__(self, table: ServingTable, *, serve: Callable[[Rollout], None]) -> None:
        self._table = table
        self._serve = serve
        self._attempts: dict[str, _Attempt] = {}
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._settled = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rollout-loader")
        self._running: Future[None] | None = None

    def start(self) -> None:
        self._running = self._pool.submit(self._run)

    def stop(self, timeout_s: float) -> None:
        self._stopping.set()
        self._wake.set()
        if self._running is not None:
            wait([self._running], timeout_s)

    def failed(self) -> BaseException | None:
        done = self._running is not None and self._running.done()
        return self._running.exception() if self._running is not None and done else None

    def wake(self) -> None:
        """A rollout is wanted: look at once."""
        self._wake.set()

    def settled(self) -> bool:
        """True once every rollout wanted so far was loaded, or refused for a lasting reason."""
        return self._settled.is_set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            decided = [self._try(rollout) for rollout in self._table.pending()]
            if all(decided):
                self._settled.set()
            waits_s = [attempt.backoff.left_s() for attempt in self._attempts.values()]
            self._wake.wait(min([IDLE_S_MAX, *waits_s]))

    def _try(self, rollout: Rollout) -> bool:
        attempt = self._attempts.get(rollout.endpoint)
        if attempt is None or attempt.rollout != rollout:
            attempt = self._attempts[rollout.endpoint] = _Attempt(rollout)
        if attempt.backoff.left_s() > 0:
            return attempt.decided
        try:
            self._serve(rollout)
        except HeadraceError as err:
            self._note_failure(attempt, err)
            return attempt.decided
        del self._attempts[rollout.endpoint]
        swaps.inc()
        generations.labels(rollout.endpoint).set(rollout.generation)
        log.info("rollout_served", endpoint=rollout.endpoint, generation=rollout.generation)
        return True

    def _note_failure(self, attempt: _Attempt, err: HeadraceError) -> None:
        rollout = attempt.rollout
        wait_s = attempt.backoff.failed(err.retry_delay_s)
        attempt.decided = not isinstance(err, Busy | Unavailable)
        self._table.refuse(rollout, err.reason)
        failures.labels(err.reason).inc()
        log.error(
            "rollout_not_served",
            endpoint=rollout.endpoint,
            generation=rollout.generation,
            error=str(err),
            next_try_s=wait_s,
        )
