# SPDX-License-Identifier: Apache-2.0
"""What the feature service is told, from FEATURE_* of the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from headrace_kit.loopback import on_loopback
from headrace_kit.settings import ObjectStoreSettings, Token


class Settings(ObjectStoreSettings):
    """Frozen; see the table in the README."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="FEATURE_")

    grpc_port: int = 7102
    grpc_door: Literal["auto", "native", "grpcio"] = "auto"
    """Who listens; `auto`: native on a loopback address, grpcio on others."""
    http_port: int = 7202
    peer_address: str = ""
    """HOST:PORT where the other workers reach this one's gRPC; empty: its host and port."""
    token: Token = SecretStr("")
    """What it shows the other workers, where they have a tokens file: its caller may `peer`."""
    data_dir: Path = Path(".headrace/feature")
    state_bytes_max: int = Field(default=16 << 30, gt=0)
    """Cap of small runs, of large ones, and of those of a view that is being filled, on disk; the
    files grow as it is needed."""
    keep_days: int = Field(default=45, gt=0, le=3_650)
    """How far behind the newest known record a read may ask."""
    served_rows_max: int = Field(default=262_144, gt=0)
    """Rows of views that are remembered for corrections, about 400 bytes each; the oldest go."""
    offline_observations_max: int = Field(default=2_500_000, gt=0)
    """Observations in memory at a time, about 400 bytes each; views beyond it go in shares."""
    offline_disk_bytes_max: int = Field(default=32 << 30, gt=0)
    """Cap of the rows, answers and spilled joins of all requests together; a join may spill into
    half of what is left."""
    object_store_uri: str = ""
    """`file:///FOLDER` or `s3://BUCKET/PREFIX`, where ingest archives and snapshots of the state
    are kept; empty: .headrace/objects."""
    snapshot_interval_s: float = Field(default=60.0, gt=0)
    """How often the state is copied there, if it changed."""

    @property
    def native_door(self) -> bool:
        """Whether the native door listens."""
        return self.grpc_door == "native" or (
            self.grpc_door == "auto" and on_loopback(self.grpc_host)
        )

    @property
    def address(self) -> str:
        return self.peer_address or f"{self.grpc_host}:{self.grpc_port}"

    @property
    def objects(self) -> str:
        return self.object_store_uri or Path(".headrace/objects").absolute().as_uri()
