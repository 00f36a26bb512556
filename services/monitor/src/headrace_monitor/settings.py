# SPDX-License-Identifier: Apache-2.0
"""What the monitor is told, from MONITOR_* of the environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from headrace_kit.settings import ServiceSettings


class Settings(ServiceSettings):
    """Frozen; see the table in the README."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="MONITOR_")

    grpc_port: int = 7106
    http_port: int = 7206
    data_dir: Path = Path(".headrace/monitor")
    state_bytes_max: int = Field(default=8 << 30, gt=0)
    """Cap of the state on disk; the file grows as it is needed."""
