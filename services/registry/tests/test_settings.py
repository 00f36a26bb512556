# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from headrace_kit.settings import load_settings
from headrace_registry.settings import Settings


def test_defaults_are_sqlite_and_a_folder_in_the_data_dir(tmp_path) -> None:
    settings = Settings(data_dir=tmp_path)

    assert f"sqlite:///{tmp_path}/registry.sqlite" == settings.database
    assert f"file://{tmp_path}/objects" == settings.objects
    assert settings.s3 is None


def test_empty_text_of_compose_is_no_setting(monkeypatch) -> None:
    for name in ("REST_PORT", "TRUSTED_SIGNERS_FILE"):
        monkeypatch.setenv(f"REGISTRY_{name}", "")
    settings = Settings()

    assert (None, None) == (settings.rest_port, settings.trusted_signers_file)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no public key and no certificate"),
        (b"hello", "no public key and no certificate"),
        (b"-----BEGIN PUBLIC KEY-----\nhello\n-----END PUBLIC KEY-----\n", "PEM"),
        (None, "No such file"),
    ],
)
def test_file_that_names_no_signers_ends_the_start_as_a_setting(
    monkeypatch, capsys, tmp_path, content, problem
) -> None:
    file = tmp_path / "signers.pem"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("REGISTRY_TRUSTED_SIGNERS_FILE", str(file))

    with pytest.raises(SystemExit) as ended:
        load_settings(Settings, [])

    assert 78 == ended.value.code
    told = capsys.readouterr().err
    assert told.startswith(f"BAD_SETTING: REGISTRY_TRUSTED_SIGNERS_FILE: {file}: ")
    assert problem in told


@pytest.mark.parametrize("port", ["-1", "65536", "mlflow"])
def test_port_that_is_none_is_refused(monkeypatch, port) -> None:
    monkeypatch.setenv("REGISTRY_REST_PORT", port)

    with pytest.raises(ValidationError, match="rest_port"):
        Settings()


def test_password_is_a_setting_of_its_own() -> None:
    settings = Settings(
        database_uri="postgresql://headrace@db:5432/registry",
        database_password=SecretStr("p@ss/word"),
    )

    assert "postgresql://headrace:p%40ss%2Fword@db:5432/registry" == settings.database
    assert "p@ss" not in repr(settings)


def test_password_in_the_uri_is_refused() -> None:
    with pytest.raises(ValidationError, match="DATABASE_PASSWORD"):
        Settings(database_uri="postgresql://headrace:secret@db/registry")


def test_uri_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="is not a database URI"):
        Settings(database_uri="nonsense")


def test_other_addresses_than_loopback_need_the_word_insecure() -> None:
    with pytest.raises(ValidationError, match="insecure"):
        Settings(grpc_host="192.0.2.1")


@pytest.mark.parametrize(
    "uri", ["mysql://db/name", "sqlite://", "sqlite:///:memory:", "postgresql://db:70000/name"]
)
def test_database_that_is_not_served_is_refused(uri) -> None:
    with pytest.raises(ValidationError, match="database_uri"):
        Settings(database_uri=uri)
