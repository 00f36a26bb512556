# SPDX-License-Identifier: Apache-2.0
"""Forgets, now and then, what came of uploads that nobody went on with; any replica may."""

from __future__ import annotations

import structlog

from headrace_kit.clock import Clock
from headrace_kit.part_thread import LookingPart
from headrace_registry.handlers.uploads import sweep_uploads
from headrace_registry.ports import ArtifactStore

INTERVAL_S = 600.0

log = structlog.get_logger(__name__)


class UploadSweep(LookingPart):
    """A Part."""

    def __init__(
        self, artifacts: ArtifactStore, clock: Clock, *, interval_s: float = INTERVAL_S
    ) -> None:
        super().__init__("upload-sweep", interval_s=interval_s, waits="upload_sweep_waits")
        self._artifacts, self._clock = artifacts, clock

    def look(self) -> None:
        swept = sweep_uploads(artifacts=self._artifacts, clock=self._clock)
        if swept:
            log.info("uploads_swept", parts=swept)
