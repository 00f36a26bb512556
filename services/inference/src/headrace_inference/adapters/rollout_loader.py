# SPDX-License-Identifier: Apache-2.0
"""The threads that make what is served follow what is wanted; no caller ever waits for them.

A rollout that cannot be loaded is noted with its reason and tried again, later and later up to the
kit's bound: the versions before it serve on, and a mended store needs no hand work here. What is
too large is given up soon: it waits for another rollout, or for other settings.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from headrace.errors import Busy, HeadraceError, Unavailable
from headrace_inference.domain.rollout import Rollout
from headrace_inference.domain.serving import ServingTable
from headrace_kit.backoff import Backoff
from headrace_kit.telemetry import counter, gauge

IDLE_S_MAX = 1.0
# A replica without another beside it answers by what it has, while the registry is away.
START_S_MAX, LOOK_INTERVAL_S = 10.0, 0.05
# Endpoints whose models are loaded side by side: a slow one holds up no others.
LOADS_MAX = 4
# The same settings refuse the same bytes. More than one try, as what is measured of a model may
# hold what others took meanwhile.
LASTING, LASTING_TRIES_MAX = ("ARTIFACT_TOO_LARGE", "MODEL_TOO_LARGE"), 3

log = structlog.get_logger(__name__)
swaps = counter("inference", "swaps_total", "Rollouts that were loaded and put to work.")
failures = counter("inference", "load_failures_total", "Rollouts not loaded.", "reason")
generations = gauge("inference", "rollout_generation_count", "Generation served.", "endpoint")


@dataclass
class _Attempt:
    """The tries for one rollout; `decided` when another try would end the same way, `given_up` when
    there is none.
    """

    rollout: Rollout
    backoff: Backoff = field(default_factory=Backoff)
    decided: bool = False
    given_up: bool = False


class _Load(NamedTuple):
    rollout: Rollout
    done: Future[None]


class RolloutLoader:
    """Calls `serve` for each pending rollout, for several endpoints side by side; a Part."""

    def __init__(self, table: ServingTable, *, serve: Callable[[Rollout], None]) -> None:
        self._table = table
        self._serve = serve
        self._attempts: dict[str, _Attempt] = {}
        # By endpoint; with the loop, the threads of the pool.
        self._loads: dict[str, _Load] = {}
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._settled = threading.Event()
        self._pool = ThreadPoolExecutor(1 + LOADS_MAX, thread_name_prefix="rollout-loader")
        self._running: Future[None] | None = None

    def start(self, timeout_s: float = START_S_MAX) -> None:
        """Returns when what is wanted now is served or refused, or the time is up: who listens
        before that draws calls that another replica could answer.
        """
        self._running = self._pool.submit(self._run)
        until_s = time.monotonic() + timeout_s
        while not self._settled.wait(LOOK_INTERVAL_S):
            if time.monotonic() >= until_s or self._running.done():
                return

    def stop(self, timeout_s: float) -> None:
        self._stopping.set()
        self._wake.set()
        loads = [load.done for load in self._loads.copy().values()]
        if self._running is not None:
            wait([self._running, *loads], timeout_s)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def failed(self) -> BaseException | None:
        done = self._running is not None and self._running.done()
        return self._running.exception() if self._running is not None and done else None

    def wake(self) -> None:
        """A rollout is wanted, or a load is over: look at once."""
        self._wake.set()

    def settled(self) -> bool:
        """True once every rollout wanted so far was loaded, or refused for a lasting reason."""
        return self._settled.is_set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            for load in [each for each in self._loads.values() if each.done.done()]:
                del self._loads[load.rollout.endpoint]
                self._note_end(load)
            decided = [self._look(rollout) for rollout in self._table.pending()]
            if all(decided):
                self._settled.set()
            waits_s = [attempt.backoff.left_s() for attempt in self._attempts.values()]
            self._wake.wait(min([IDLE_S_MAX, *(wait_s for wait_s in waits_s if wait_s > 0.0)]))

    def _look(self, rollout: Rollout) -> bool:
        """Begins a load when it is time and there is a place; whether it is decided already."""
        attempt = self._attempts.get(rollout.endpoint)
        if attempt is None or attempt.rollout != rollout:
            attempt = self._attempts[rollout.endpoint] = _Attempt(rollout)
        if not attempt.given_up and not attempt.backoff.left_s() and self._has_place(rollout):
            load = _Load(rollout, self._pool.submit(self._serve, rollout))
            self._loads[rollout.endpoint] = load
            load.done.add_done_callback(lambda _: self.wake())
        return attempt.decided

    def _has_place(self, rollout: Rollout) -> bool:
        """Two rollouts of one endpoint go by turns, and so do two of one file, which the second
        has from the first.
        """
        loading = {digest for load in self._loads.values() for digest in load.rollout.digests()}
        return (
            len(self._loads) < LOADS_MAX
            and rollout.endpoint not in self._loads
            and loading.isdisjoint(rollout.digests())
        )

    def _note_end(self, load: _Load) -> None:
        rollout = load.rollout
        attempt = self._attempts[rollout.endpoint]
        try:
            load.done.result()
        except HeadraceError as err:
            if attempt.rollout == rollout:
                self._note_failure(attempt, err)
            return
        if attempt.rollout == rollout:
            del self._attempts[rollout.endpoint]
        swaps.inc()
        generations.labels(rollout.endpoint).set(rollout.generation)
        log.info("rollout_served", endpoint=rollout.endpoint, generation=rollout.generation)

    def _note_failure(self, attempt: _Attempt, err: HeadraceError) -> None:
        rollout = attempt.rollout
        wait_s = attempt.backoff.failed(err.retry_delay_s)
        lasting = err.reason in LASTING
        attempt.decided = lasting or not isinstance(err, Busy | Unavailable)
        attempt.given_up = lasting and attempt.backoff.tries >= LASTING_TRIES_MAX
        self._table.refuse(rollout, err.reason)
        failures.labels(err.reason).inc()
        log.error(
            "rollout_not_served",
            endpoint=rollout.endpoint,
            generation=rollout.generation,
            error=str(err),
            next_try_s=None if attempt.given_up else wait_s,
        )
