# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from headrace_kit.failpoints import FailpointRaised, arm, failpoint
from headrace_kit.settings import ServiceSettings, load_settings


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="PROBE_", frozen=True, extra="forbid")

    grpc_port: int = 7101
    http_port: int = 7201
    data_dir: Path = Path("data")
    s3_secret_key: SecretStr = SecretStr("hidden")


def refused(capsys, argv=()):
    with pytest.raises(SystemExit) as ended:
        load_settings(Settings, argv)
    assert 78 == ended.value.code
    return capsys.readouterr().err


def test_settings_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("PROBE_KAFKA_BOOTSTRAP", "kafka:9092")
    monkeypatch.setenv("PROBE_GRPC_PORT", "0")

    settings = load_settings(Settings, [])

    assert ("kafka:9092", 0) == (settings.kafka_bootstrap, settings.grpc_port)


def test_unknown_setting_is_refused_by_name(monkeypatch, capsys):
    monkeypatch.setenv("PROBE_KAFKA_BOOTSTRAPS", "kafka:9092")
    monkeypatch.setenv("PROBER_OTHER", "of another program")

    assert "PROBE_KAFKA_BOOTSTRAPS" in refused(capsys)


def test_wrong_value_is_refused_by_name(monkeypatch, capsys):
    monkeypatch.setenv("PROBE_GRPC_PORT", "many")

    assert "PROBE_GRPC_PORT" in refused(capsys)


def test_host_beyond_loopback_needs_insecure(monkeypatch, capsys):
    monkeypatch.setenv("PROBE_GRPC_HOST", "0.0.0.0")  # noqa: S104 - the refused case
    assert "insecure=true" in refused(capsys)

    monkeypatch.setenv("PROBE_INSECURE", "true")
    assert load_settings(Settings, []).insecure


def test_unknown_argument_is_refused(capsys):
    assert "--verbose" in refused(capsys, ["--verbose"])


def test_check_config_writes_the_settings_without_secrets(capsys):
    with pytest.raises(SystemExit) as ended:
        load_settings(Settings, ["--check-config"])

    assert 0 == ended.value.code
    written = json.loads(capsys.readouterr().out)
    assert (7101, "**********") == (written["grpc_port"], written["s3_secret_key"])


def test_failpoints_are_armed_from_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("HEADRACE_FAIL", "probe.here:1:raise")
    load_settings(Settings, [])
    with pytest.raises(FailpointRaised):
        failpoint("probe.here")
    arm(None)

    monkeypatch.setenv("HEADRACE_FAIL", "nonsense")
    assert "HEADRACE_FAIL" in refused(capsys)
