# SPDX-License-Identifier: Apache-2.0
"""The worker: a thread that carries one run after another, as long as there are any."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from headrace.errors import Busy, Unavailable
from headrace_kit.part_thread import PartThread

POLL_INTERVAL_S = 0.2

log = structlog.get_logger(__name__)


class RunWorker:
    """A Part. `carry_next` carries one run, in `work_dir`, and says whether there was one.

    `follow_aliases` is called before it, for the runs that nobody asked for.
    """

    def __init__(
        self,
        carry_next: Callable[[], bool],
        follow_aliases: Callable[[], None],
        *,
        work_dir: Path,
    ) -> None:
        self._carry_next, self._follow_aliases = carry_next, follow_aliases
        self._work_dir = work_dir
        self._stopping = threading.Event()
        self._thread = PartThread("run-worker", self._run)

    def start(self) -> None:
        """Begins with an empty folder: a killed process could not take its files away."""
        shutil.rmtree(self._work_dir, ignore_errors=True)
        self._work_dir.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """A run in work is left to whoever claims it next, once its lease ran out."""
        self._stopping.set()

    def failed(self) -> BaseException | None:
        return self._thread.failure

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._step()

    def _step(self) -> None:
        wait_s = POLL_INTERVAL_S
        try:
            self._follow_aliases()
            if self._carry_next():
                return
        except (Busy, Unavailable) as err:
            log.warning("run_worker_waits", error=str(err))
            wait_s = err.retry_delay_s or POLL_INTERVAL_S
        self._stopping.wait(wait_s)
