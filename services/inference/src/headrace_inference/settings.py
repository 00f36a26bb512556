# SPDX-License-Identifier: Apache-2.0
"""Settings from INFERENCE_*; what a user decides about an endpoint is in the application folder."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from headrace_kit.settings import ServiceSettings


class Settings(ServiceSettings):
    """What this process is told."""

    model_config = SettingsConfigDict(env_prefix="INFERENCE_", frozen=True, extra="forbid")

    grpc_port: int = 8001
    http_port: int = 7205
    data_dir: Path = Path(".headrace/inference")
    feature_address: str = "127.0.0.1:7102"
    registry_address: str = "127.0.0.1:7104"
    feature_rows: str = ""
    """Views, split by commas, whose rows are kept in memory and answered from there."""
    feature_rows_entities_max: int = Field(default=1_000_000, gt=0)
    """Entities of one view that are kept so, about 400 bytes each and its values."""
    grpc_workers: int = Field(default=16, gt=0, le=256)
    """Requests that are worked on at once; each waits for its features and its log records."""
    rows_max: int = Field(default=1_000, gt=0, le=100_000)
    """Rows of one request."""
    model_bytes_max: int = Field(default=512 * 1024**2, gt=0)
    """Bytes of one artifact."""
    model_cache_bytes_max: int = Field(default=2 * 1024**3, gt=0)
    """Bytes of the artifacts kept in `data_dir`; the least recently loaded goes first."""
    model_threads: int | None = Field(default=None, gt=0)
    """Threads of one model; by default the CPUs that this process may use."""
    stop_grace_s: float = Field(default=20.0, gt=0)
    """Seconds that the admitted requests get after SIGTERM."""

    @property
    def feature_row_views(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.feature_rows.split(",") if name.strip())
