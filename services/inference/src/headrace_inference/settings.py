# SPDX-License-Identifier: Apache-2.0
"""Settings from INFERENCE_*; what a user decides about an endpoint is in the application folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from headrace_inference.adapters.cpu_quota import cpus_allowed
from headrace_inference.adapters.onnx_providers import providers
from headrace_inference.adapters.process_memory import memory_allowed_bytes
from headrace_inference.adapters.run_memory import RUN_MEMORY_BYTES_MAX, RUN_MEMORY_SHARE
from headrace_kit.loopback import on_loopback
from headrace_kit.settings import PORT_MAX, ObjectStoreSettings, Token

# It comes and goes in one message of gRPC (16 MiB), beside its endpoint.
CLAIM_BYTES_MAX = 15 * 1024**2

NAME = "inference"
PROCESSES_MAX = 64


class Settings(ObjectStoreSettings):
    """What this process is told."""

    model_config = SettingsConfigDict(env_prefix="INFERENCE_", frozen=True, extra="forbid")

    grpc_port: int = 8001
    http_port: int = 7205
    rest_port: int | None = Field(default=None, ge=0, le=PORT_MAX)
    """The protocol over HTTP, at `grpc_host`; not served without a port."""
    processes: int = Field(default=1, ge=0, le=PROCESSES_MAX)
    """Workers that share the ports, of a core each; 0: one for each CPU of the service."""
    data_dir: Path = Path(".headrace/inference")
    feature_address: str = "127.0.0.1:7102"
    registry_address: str = "127.0.0.1:7104"
    token: Token = SecretStr("")
    """What it shows the services that it calls, where they have a tokens file."""
    feature_rows: str = ""
    """Views, split by commas, whose rows are kept in memory and answered from there."""
    feature_rows_entities_max: int = Field(default=1_000_000, gt=0)
    """Entities of one view that are kept so, about 400 bytes each and its values."""
    grpc_door: Literal["auto", "native", "grpcio"] = "auto"
    """`native` answers more calls at once and has no TLS; `auto` takes it on the loopback alone."""
    grpc_workers: int = Field(default=32, gt=0, le=256)
    """Requests without a form that are worked on at once: typed contents, text, explanations; of
    those an endpoint has an eighth."""
    rows_max: int = Field(default=1_000, gt=0, le=100_000)
    """Rows of one request."""
    model_bytes_max: int = Field(default=512 * 1024**2, gt=0)
    """Bytes of one artifact."""
    model_cache_bytes_max: int = Field(default=2 * 1024**3, gt=0)
    """Bytes of the artifacts kept in `data_dir`; the least recently loaded goes first."""
    model_memory_bytes_max: int | None = Field(default=None, gt=0)
    """Bytes that the models in memory may take, as measured when they are loaded, in equal shares
    for the processes; by default half of the memory that the service may use."""
    model_threads: int | None = Field(default=None, gt=0)
    """Threads of one model; by default the CPUs that the service may use, one where processes are
    several."""
    model_providers: str = "cpu"
    """What runs the models, by preference, split by commas: `tensorrt`, `cuda`, `cpu`."""
    model_device_memory_bytes_max: int | None = Field(default=None, gt=0)
    """Bytes of the device that CUDA's arena for one model may take; as many as there are by
    default."""
    object_store_uri: str = ""
    """`file:///FOLDER` or `s3://BUCKET/PREFIX`, one for all replicas; empty: one in data_dir."""
    claim_bytes_max: int = Field(default=CLAIM_BYTES_MAX, gt=0, le=CLAIM_BYTES_MAX)
    """Bytes of one request or answer over Kafka that fits no record."""
    claims_bytes_max: int = Field(default=2 * 1024**3, gt=0)
    """Bytes of all those in the object store, of which callers may fill half."""
    claims_memory_bytes_max: int = Field(default=64 * 1024**2, gt=0)
    """Bytes of such requests that are read at once, or of one that is larger."""
    stop_grace_s: float = Field(default=20.0, gt=0)
    """Seconds that the admitted requests get after SIGTERM."""

    @field_validator("model_providers")
    @classmethod
    def _has_providers(cls, names: str) -> str:
        providers(names)
        return names

    @model_validator(mode="after")
    def _bounds_what_is_there(self) -> Settings:
        if self.model_device_memory_bytes_max and "cuda" not in self.model_providers:
            raise ValueError("model_device_memory_bytes_max bounds cuda, which no model runs on")
        return self

    @model_validator(mode="after")
    def _names_shared_ports(self) -> Settings:
        if self.process_count > 1 and 0 in (self.grpc_port, self.rest_port):
            raise ValueError("processes share a port that has a number: 0 is any free one")
        return self

    @property
    def process_count(self) -> int:
        return self.processes or min(cpus_allowed(), PROCESSES_MAX)

    @property
    def model_memory_share_bytes(self) -> int:
        """Of each process."""
        return (self.model_memory_bytes_max or memory_allowed_bytes() // 2) // self.process_count

    @property
    def run_memory_bytes_max(self) -> int:
        """Of one run: no request, be it of the most rows, takes the machine's memory."""
        share_bytes = memory_allowed_bytes() // (RUN_MEMORY_SHARE * self.process_count)
        return min(RUN_MEMORY_BYTES_MAX, share_bytes)

    @property
    def threads_by_model(self) -> int:
        return self.model_threads or (cpus_allowed() if self.process_count == 1 else 1)

    @property
    def native_door(self) -> bool:
        """Whether the native door listens."""
        return self.grpc_door == "native" or (
            self.grpc_door == "auto" and on_loopback(self.grpc_host)
        )

    @property
    def feature_row_views(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.feature_rows.split(",") if name.strip())

    @property
    def objects(self) -> str:
        return self.object_store_uri or (self.data_dir.absolute() / "objects").as_uri()
