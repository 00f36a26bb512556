# SPDX-License-Identifier: Apache-2.0
"""What ingest is told by its environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from headrace_kit.objects import S3Settings
from headrace_kit.settings import ServiceSettings


class IngestSettings(ServiceSettings):
    """Settings from INGEST_*."""

    model_config = SettingsConfigDict(env_prefix="INGEST_", frozen=True, extra="forbid")

    grpc_port: int = Field(7101, description="Port of IngestService and DatasetService.")
    http_port: int = Field(7201, description="Port of health and metrics.")
    data_dir: Path = Field(
        Path(".headrace/ingest"), description="Where it is noted what is being judged right now."
    )
    object_store_uri: str = Field(
        description="Where the archive lies: file:///folder or s3://bucket/prefix."
    )
    s3_endpoint: str | None = Field(None, description="URI of the S3 server; needed for s3://.")
    s3_access_key: str | None = Field(None, description="Access key of the S3 server.")
    s3_secret_key: SecretStr | None = Field(None, description="Secret key of the S3 server.")
    commit_interval_s: float = Field(
        0.5, gt=0, le=60, description="Rest between two commits of a stream's archive."
    )
    dedup_ids_max: int = Field(
        250_000, gt=0, description="Event ids that are remembered by raw partition."
    )
    dead_letters_share_max: float = Field(
        0.2, gt=0, le=1, description="Share of dead letters beyond which a stream is stopped."
    )
    dead_letters_window_records: int = Field(
        1_000, ge=10, le=1_000_000, description="Records of a stream that the share is taken of."
    )

    @model_validator(mode="after")
    def _s3_is_whole(self) -> IngestSettings:
        given = (self.s3_endpoint, self.s3_access_key, self.s3_secret_key)
        if self.object_store_uri.startswith("s3://") and None in given:
            raise ValueError("an s3:// store needs S3_ENDPOINT, S3_ACCESS_KEY and S3_SECRET_KEY")
        return self

    @property
    def s3(self) -> S3Settings | None:
        """How to reach the S3 server; None when there is none."""
        if self.s3_endpoint is None or self.s3_access_key is None or self.s3_secret_key is None:
            return None
        return S3Settings(self.s3_endpoint, self.s3_access_key, self.s3_secret_key)
