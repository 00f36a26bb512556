# SPDX-License-Identifier: Apache-2.0
"""What the registry is told, from REGISTRY_* of the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from headrace_kit.objects import S3Settings
from headrace_kit.settings import ServiceSettings
from headrace_kit.sql import with_password, without_password


class Settings(ServiceSettings):
    """Frozen; see the table in the README."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="REGISTRY_")

    grpc_port: int = 7104
    http_port: int = 7204
    data_dir: Path = Path(".headrace/registry")
    database_uri: Annotated[str, AfterValidator(without_password)] = ""
    """`postgresql://USER@HOST:PORT/NAME` or `sqlite:///FILE`; empty: SQLite in data_dir."""
    database_password: SecretStr | None = None
    object_store_uri: str = ""
    """`file:///FOLDER` or `s3://BUCKET/PREFIX`; empty: a folder in data_dir."""
    s3_endpoint: str = ""
    s3_access_key: str = ""
    s3_secret_key: SecretStr = SecretStr("")
    artifact_bytes_max: int = Field(default=128 << 20, gt=0, le=1 << 30)

    @property
    def database(self) -> str:
        """The whole URI, password and all: for the driver only."""
        if not self.database_uri:
            return f"sqlite:///{self.data_dir.absolute() / 'registry.sqlite'}"
        return with_password(self.database_uri, self.database_password)

    @property
    def objects(self) -> str:
        return self.object_store_uri or (self.data_dir.absolute() / "objects").as_uri()

    @property
    def s3(self) -> S3Settings | None:
        if not self.s3_endpoint:
            return None
        return S3Settings(self.s3_endpoint, self.s3_access_key, self.s3_secret_key)
