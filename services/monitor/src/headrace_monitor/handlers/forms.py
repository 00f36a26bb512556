# SPDX-License-Identifier: Apache-2.0
"""The JSON forms of what the state keeps one of: small, readable, seldom."""

from __future__ import annotations

from pydantic import TypeAdapter

from headrace_monitor.domain.incident import GateState, Incident, Rollout, RunFailed
from headrace_monitor.domain.progress import Progress, Window
from headrace_monitor.domain.verdict import Verdict
from headrace_monitor.domain.version import KnownVersion

FAILED_RUN = TypeAdapter(RunFailed)
GATE = TypeAdapter(GateState)
INCIDENT = TypeAdapter(Incident)
PROGRESS = TypeAdapter(Progress)
ROLLOUT = TypeAdapter(Rollout)
VERDICT: TypeAdapter[Verdict] = TypeAdapter(Verdict)
VERSION = TypeAdapter(KnownVersion)
WINDOW = TypeAdapter(Window)
