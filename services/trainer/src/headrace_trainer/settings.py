# SPDX-License-Identifier: Apache-2.0
"""The trainer's settings, from TRAINER_* alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from headrace_kit.settings import ServiceSettings, Token
from headrace_kit.sql import checked_database_uri, with_password


class TrainerSettings(ServiceSettings):
    """Frozen; an unknown TRAINER_* variable is an error."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_", frozen=True, extra="forbid")

    grpc_port: int = 7103
    http_port: int = 7203
    data_dir: Path = Path(".headrace/trainer")
    database_uri: Annotated[str, AfterValidator(checked_database_uri)] = ""
    """`postgresql://USER@HOST:PORT/NAME` or `sqlite:///FILE`; empty: SQLite in data_dir."""
    database_password: SecretStr | None = None
    feature_address: str = "127.0.0.1:7102"
    registry_address: str = "127.0.0.1:7104"
    token: Token = SecretStr("")
    """What it shows the services that it calls, where they have a tokens file."""
    run_duration_s_max: float = Field(default=1_800.0, gt=0)
    """A training process that takes longer is ended and its run fails."""

    @property
    def database(self) -> str:
        """The whole URI, password and all: for the driver only."""
        if not self.database_uri:
            return f"sqlite:///{self.data_dir.absolute() / 'trainer.db'}"
        return with_password(self.database_uri, self.database_password)
