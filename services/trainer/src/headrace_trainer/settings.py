# SPDX-License-Identifier: Apache-2.0
"""The trainer's settings, from TRAINER_* alone."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from headrace_kit.settings import ServiceSettings


class TrainerSettings(ServiceSettings):
    """Frozen; an unknown TRAINER_* variable is an error."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_", frozen=True, extra="forbid")

    grpc_port: int = 7103
    http_port: int = 7203
    data_dir: Path = Path(".headrace/data/trainer")
    database_uri: SecretStr | None = None
    """sqlite:///FILE or postgresql://...; the default is a SQLite file in data_dir."""
    feature_address: str = "127.0.0.1:7102"
    registry_address: str = "127.0.0.1:7104"
    run_duration_s_max: float = 1_800.0
    """A training process that takes longer is ended and its run fails."""
