# SPDX-License-Identifier: Apache-2.0
"""LeaseKeeper by a thread: a join or an upload may take many times longer than a lease."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from headrace.errors import Busy, Unavailable
from headrace_kit.part_thread import PartThread
from headrace_trainer.domain.run import LEASE_S, Lease, LeaseLost
from headrace_trainer.ports import Progress, RunStore

RENEW_INTERVAL_S = LEASE_S / 5
STOP_TIMEOUT_S = 10.0

log = structlog.get_logger(__name__)


class ThreadLeaseKeeper:
    """Renews in a thread of each lease, which ends with the block that holds it."""

    def __init__(self, runs: RunStore, *, interval_s: float = RENEW_INTERVAL_S) -> None:
        self._runs, self._interval_s = runs, interval_s

    @contextmanager
    def hold(self, lease: Lease, *, lost: Callable[[], None]) -> Iterator[Progress]:
        held = _HeldLease(lease, self._runs, lost, self._interval_s)
        held.start()
        try:
            yield held.report
        finally:
            held.stop()


class _HeldLease:
    def __init__(
        self, lease: Lease, runs: RunStore, tell_lost: Callable[[], None], interval_s: float
    ) -> None:
        self._lease, self._runs, self._interval_s = lease, runs, interval_s
        self._tell_lost = tell_lost
        self._text = ""
        self._lost = False
        self._renewing = threading.Lock()  # an older text must not overwrite a newer one
        self._stopping = threading.Event()
        self._thread = PartThread(f"lease-{lease.run_id}", self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(STOP_TIMEOUT_S)

    def report(self, text: str) -> None:
        """Raises LeaseLost, and what ended the thread."""
        if text != self._text:
            self._renew(text)
        if self._thread.failure is not None:
            raise self._thread.failure
        if self._lost:
            raise LeaseLost(self._lease.run_id)

    def _run(self) -> None:
        while not self._lost and not self._stopping.wait(self._interval_s):
            self._renew()

    def _renew(self, text: str | None = None) -> None:
        with self._renewing:
            self._text = self._text if text is None else text
            try:
                if not self._lost and not self._runs.renew(self._lease, self._text):
                    self._lost = True
                    self._tell_lost()
            except (Busy, Unavailable) as err:
                # Whoever claims it meanwhile has it; else the next renewal keeps it.
                log.warning("lease_not_renewed", run_id=self._lease.run_id, error=str(err))
