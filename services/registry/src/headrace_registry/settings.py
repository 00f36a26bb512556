# SPDX-License-Identifier: Apache-2.0
"""What the registry is told, from REGISTRY_* of the environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from headrace_kit.objects import S3Settings
from headrace_kit.settings import ServiceSettings


class Settings(ServiceSettings):
    """Frozen; see the table in the README."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="REGISTRY_")

    grpc_port: int = 7104
    http_port: int = 7204
    data_dir: Path = Path(".headrace/registry")
    database_uri: str = ""
    """`postgresql://USER@HOST:PORT/NAME` or `sqlite:///FILE`; empty: SQLite in data_dir."""
    database_password: SecretStr | None = None
    object_store_uri: str = ""
    """`file:///FOLDER` or `s3://BUCKET/PREFIX`; empty: a folder in data_dir."""
    s3_endpoint: str = ""
    s3_access_key: str = ""
    s3_secret_key: SecretStr = SecretStr("")
    artifact_bytes_max: int = Field(default=128 << 20, gt=0, le=1 << 30)

    @field_validator("database_uri")
    @classmethod
    def _no_password_in_the_uri(cls, value: str) -> str:
        """A URI ends in logs and process lists; the password has a setting of its own."""
        try:
            password = make_url(value).password if value else None
        except ArgumentError as err:
            raise ValueError("is not a database URI") from err
        if password:
            raise ValueError("holds a password: set REGISTRY_DATABASE_PASSWORD instead")
        return value

    @property
    def database(self) -> str:
        """The whole URI, password and all: for the driver only."""
        if not self.database_uri:
            return f"sqlite:///{self.data_dir.absolute() / 'registry.sqlite'}"
        url = make_url(self.database_uri)
        if self.database_password is not None:
            url = url.set(password=self.database_password.get_secret_value())
        return url.render_as_string(hide_password=False)

    @property
    def objects(self) -> str:
        return self.object_store_uri or (self.data_dir.absolute() / "objects").as_uri()

    @property
    def s3(self) -> S3Settings | None:
        if not self.s3_endpoint:
            return None
        return S3Settings(self.s3_endpoint, self.s3_access_key, self.s3_secret_key)
