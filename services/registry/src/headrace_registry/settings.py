# SPDX-License-Identifier: Apache-2.0
"""What the registry is told, from REGISTRY_* of the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from headrace.model_signing import read_trusted_signers
from headrace_kit.settings import PORT_MAX, ObjectStoreSettings, none_when_empty
from headrace_kit.sql import checked_database_uri, with_password

Port = Annotated[int, Field(ge=0, le=PORT_MAX)]


def _names_signers(file: Path | None) -> Path | None:
    """Read here too: what fails later than the settings is started again, and again."""
    if file is not None:
        try:
            read_trusted_signers(file.read_bytes())
        except (OSError, ValueError) as err:
            problem = err.strerror if isinstance(err, OSError) else err
            raise ValueError(f"{file}: {problem}") from err
    return file


class Settings(ObjectStoreSettings):
    """Frozen; see the table in the README."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="REGISTRY_")

    grpc_port: int = 7104
    http_port: int = 7204
    rest_port: Annotated[Port | None, BeforeValidator(none_when_empty)] = None
    """MLflow's registry over HTTP, to read, at `grpc_host`; not served without a port."""
    data_dir: Path = Path(".headrace/registry")
    database_uri: Annotated[str, AfterValidator(checked_database_uri)] = ""
    """`postgresql://USER@HOST:PORT/NAME` or `sqlite:///FILE`; empty: SQLite in data_dir."""
    database_password: SecretStr | None = None
    object_store_uri: str = ""
    """`file:///FOLDER` or `s3://BUCKET/PREFIX`; empty: a folder in data_dir."""
    trusted_signers_file: Annotated[
        Path | None, BeforeValidator(none_when_empty), AfterValidator(_names_signers)
    ] = None
    """Public keys and certificates (PEM) of those whose signatures count; looked at again."""
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
