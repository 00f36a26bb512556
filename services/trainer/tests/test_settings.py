# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from headrace_trainer.settings import TrainerSettings


def test_default_is_sqlite_in_the_data_dir(tmp_path) -> None:
    assert f"sqlite:///{tmp_path}/trainer.db" == TrainerSettings(data_dir=tmp_path).database


def test_password_is_a_setting_of_its_own() -> None:
    settings = TrainerSettings(
        database_uri="postgresql://headrace@db:5432/headrace",
        database_password=SecretStr("p@ss/word"),
    )

    assert "postgresql://headrace:p%40ss%2Fword@db:5432/headrace" == settings.database
    assert "p@ss" not in repr(settings)


def test_password_in_the_uri_is_refused() -> None:
    with pytest.raises(ValidationError, match="DATABASE_PASSWORD"):
        TrainerSettings(database_uri="postgresql://headrace:secret@db/headrace")


@pytest.mark.parametrize(
    "uri", ["mysql://db/name", "sqlite://", "sqlite:///:memory:", "postgresql://db:70000/name"]
)
def test_database_that_is_not_served_is_refused(uri) -> None:
    with pytest.raises(ValidationError, match="database_uri"):
        TrainerSettings(database_uri=uri)
