# SPDX-License-Identifier: Apache-2.0
"""What ingest is told by its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from headrace_kit.settings import ObjectStoreSettings, Token
from headrace_kit.sql import checked_database_uri, with_password

PII_KEY_CHARACTERS_MIN = 32


def _long_enough(key: SecretStr | None) -> SecretStr | None:
    if key is not None and len(key.get_secret_value()) < PII_KEY_CHARACTERS_MIN:
        count = len(key.get_secret_value())
        raise ValueError(f"has {count} characters, at least {PII_KEY_CHARACTERS_MIN} are needed")
    return key


class IngestSettings(ObjectStoreSettings):
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
    registry_address: str = Field(
        "127.0.0.1:7104", description="Where the registry tells which versions read what."
    )
    token: Token = Field(
        SecretStr(""), description="What it shows the registry, where that has a tokens file."
    )
    database_uri: Annotated[str, AfterValidator(checked_database_uri)] = Field(
        "", description="postgresql://USER@HOST:PORT/NAME or sqlite:///FILE; empty: in data_dir."
    )
    database_password: SecretStr | None = Field(None, description="Of the database's user.")
    commit_interval_s: float = Field(
        0.5, gt=0, le=60, description="Rest between two commits of a stream's archive."
    )
    dedup_ids_max: int = Field(
        250_000, gt=0, description="Event ids of the rows stored last, remembered by raw partition."
    )
    dead_letters_share_max: float = Field(
        0.2, gt=0, le=1, description="Share of dead letters beyond which a stream is stopped."
    )
    dead_letters_window_records: int = Field(
        1_000, ge=10, le=1_000_000, description="Records of a stream that the share is taken of."
    )
    pii_key: Annotated[SecretStr | None, AfterValidator(_long_enough)] = Field(
        None,
        description="Key of the hash of personal data; a stream that needs it is stopped without.",
    )

    @property
    def pii_key_bytes(self) -> bytes | None:
        return self.pii_key.get_secret_value().encode() if self.pii_key else None

    @property
    def database(self) -> str:
        """The whole URI, password and all: for the driver only."""
        if not self.database_uri:
            return f"sqlite:///{self.data_dir.absolute() / 'ingest.db'}"
        return with_password(self.database_uri, self.database_password)

    @property
    def index_database(self) -> str:
        """Where the catalogue is searched: it may be lost, so SQLite is a file of its own."""
        if not self.database_uri.startswith("postgresql"):
            return f"sqlite:///{self.data_dir.absolute() / 'index.db'}"
        return self.database
