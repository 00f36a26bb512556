# SPDX-License-Identifier: Apache-2.0
"""Settings say what is wrong, and the README lists them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace_ingest.settings import IngestSettings
from headrace_kit.settings import load_settings

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv("INGEST_OBJECT_STORE_URI", "file:///tmp/records")
    return monkeypatch


def test_folder_needs_no_more_than_its_uri(environment):
    settings = load_settings(IngestSettings, [])

    assert (7101, 7201, None) == (settings.grpc_port, settings.http_port, settings.s3)


def test_s3_without_a_key_is_refused(environment, capsys):
    environment.setenv("INGEST_OBJECT_STORE_URI", "s3://bucket/records")

    with pytest.raises(SystemExit, match="78"):
        load_settings(IngestSettings, [])
    assert "S3_ENDPOINT" in capsys.readouterr().err


def test_short_key_of_personal_data_is_refused_by_its_characters(environment, capsys):
    environment.setenv("INGEST_PII_KEY", "k" * 31)

    with pytest.raises(SystemExit, match="78"):
        load_settings(IngestSettings, [])
    told = capsys.readouterr().err
    assert "INGEST_PII_KEY: has 31 characters, at least 32 are needed" in told
    assert "k" * 31 not in told


def test_key_of_personal_data_with_enough_characters_is_taken(environment):
    environment.setenv("INGEST_PII_KEY", "k" * 32)

    assert b"k" * 32 == load_settings(IngestSettings, []).pii_key_bytes


def test_misspelt_setting_is_refused_by_name(environment, capsys):
    environment.setenv("INGEST_COMMIT_INTERVAL", "1")

    with pytest.raises(SystemExit, match="78"):
        load_settings(IngestSettings, [])
    assert "INGEST_COMMIT_INTERVAL" in capsys.readouterr().err


def test_secret_is_not_shown(environment, capsys):
    environment.setenv("INGEST_S3_SECRET_KEY", "hush")

    with pytest.raises(SystemExit, match="0"):
        load_settings(IngestSettings, ["--check-config"])
    assert "hush" not in capsys.readouterr().out


@pytest.mark.parametrize("name", IngestSettings.model_fields)
def test_readme_lists_the_setting(name):
    assert f"`INGEST_{name.upper()}`" in README.read_text(encoding="utf-8")
