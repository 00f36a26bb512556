# SPDX-License-Identifier: Apache-2.0
"""Goes on with erasures that are not settled: after a crash, and while records may still come."""

from __future__ import annotations

import threading

import structlog

from headrace.errors import Busy, Conflict, Unavailable
from headrace_ingest.handlers.erasures import Eraser
from headrace_kit.part_thread import PartThread

PASS_INTERVAL_S = 30.0
PASS_S_MAX = 240.0  # less than a loop may take for a round

log = structlog.get_logger(__name__)


class ErasureLoop:
    """A Part; what fails is tried again in the next round."""

    def __init__(self, eraser: Eraser) -> None:
        self._eraser = eraser
        self._stopping = threading.Event()
        self._thread = PartThread("erasures", self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        self._stopping.set()
        self._thread.join(timeout_s)

    def failed(self) -> BaseException | None:
        return self._thread.failure

    def tick_age_s(self) -> float:
        return self._thread.tick_age_s()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._thread.tick()
            try:
                self._eraser.go_on(timeout_s=PASS_S_MAX)
            except (Busy, Conflict, Unavailable) as err:
                log.warning("erasure_waits", error=str(err))
            self._stopping.wait(PASS_INTERVAL_S)
