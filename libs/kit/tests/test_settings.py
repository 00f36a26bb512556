# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from headrace.tokens import issue_token
from headrace_kit import tracing
from headrace_kit.failpoints import FailpointRaised, arm, failpoint
from headrace_kit.settings import ObjectStoreSettings, ServiceSettings, Token, load_settings


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="PROBE_", frozen=True, extra="forbid")

    grpc_port: int = 7101
    http_port: int = 7201
    data_dir: Path = Path("data")
    s3_secret_key: SecretStr = SecretStr("hidden")


class StoringSettings(ObjectStoreSettings):
    """Of a service that keeps objects."""

    model_config = SettingsConfigDict(env_prefix="PROBE_", frozen=True, extra="forbid")

    grpc_port: int = 7101
    http_port: int = 7201
    data_dir: Path = Path("data")


def refused(capsys, argv=(), cls=Settings):
    with pytest.raises(SystemExit) as ended:
        load_settings(cls, argv)
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROBE_LOG_LEVEL", "FOO"),
        ("PROBE_GRPC_PORT", "65536"),
        ("PROBE_GRPC_PORT", "-1"),
        ("PROBE_HTTP_PORT", "99999"),
    ],
)
def test_value_that_would_fail_later_is_refused_by_check_config(monkeypatch, capsys, name, value):
    monkeypatch.setenv(name, value)

    assert name in refused(capsys, ["--check-config"])


def test_log_level_may_be_written_small(monkeypatch):
    monkeypatch.setenv("PROBE_LOG_LEVEL", "debug")

    assert "DEBUG" == load_settings(Settings, []).log_level


S3 = {
    "PROBE_OBJECT_STORE_URI": "s3://bucket/prefix",
    "PROBE_S3_ENDPOINT": "http://127.0.0.1:7070",
    "PROBE_S3_ACCESS_KEY": "key",
    "PROBE_S3_SECRET_KEY": "secret",
}


def test_object_store_in_s3_is_told_whole(monkeypatch):
    for name, value in S3.items():
        monkeypatch.setenv(name, value)

    settings = load_settings(StoringSettings, [])
    assert ("s3://bucket/prefix", "key") == (settings.objects, settings.s3.access_key)
    assert "us-east-1" == settings.s3.region


def test_region_of_the_object_store_is_told(monkeypatch):
    for name, value in {**S3, "PROBE_S3_REGION": "eu-central-1"}.items():
        monkeypatch.setenv(name, value)

    assert "eu-central-1" == load_settings(StoringSettings, []).s3.region


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PROBE_OBJECT_STORE_URI", "foo", "OBJECT_STORE_URI"),
        ("PROBE_OBJECT_STORE_URI", "", "OBJECT_STORE_URI"),
        ("PROBE_OBJECT_STORE_URI", "s3://", "OBJECT_STORE_URI"),
        ("PROBE_OBJECT_STORE_URI", "file://host/folder", "OBJECT_STORE_URI"),
        ("PROBE_S3_ENDPOINT", "", "S3_ENDPOINT"),
        ("PROBE_S3_ENDPOINT", "127.0.0.1:7070", "S3_ENDPOINT"),
        ("PROBE_S3_ACCESS_KEY", "", "S3_ACCESS_KEY"),
        ("PROBE_S3_SECRET_KEY", "", "S3_SECRET_KEY"),
        ("PROBE_S3_REGION", "", "S3_REGION"),
    ],
)
def test_object_store_that_cannot_be_reached_is_refused(monkeypatch, capsys, name, value, told):
    for each, right in {**S3, name: value}.items():
        monkeypatch.setenv(each, right)

    (line,) = refused(capsys, ["--check-config"], StoringSettings).splitlines()
    assert told in line


def test_token_is_taken_without_the_line_end_of_its_file(monkeypatch, capsys):
    class Calling(Settings):
        token: Token = SecretStr("")

    monkeypatch.setenv("PROBE_TOKEN", "abc\n")
    assert "abc" == load_settings(Calling, []).token.get_secret_value()

    monkeypatch.setenv("PROBE_TOKEN", "a\u00fcc")
    with pytest.raises(SystemExit):
        load_settings(Calling, [])
    told = capsys.readouterr().err
    assert "PROBE_TOKEN: is no token" in told
    assert "\u00fc" not in told


def test_empty_tokens_file_is_none(monkeypatch):
    monkeypatch.setenv("PROBE_TOKENS_FILE", "")

    assert load_settings(Settings, []).tokens_file is None


def test_host_beyond_loopback_needs_insecure_and_tokens(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PROBE_GRPC_HOST", "0.0.0.0")  # noqa: S104 - the refused case
    assert "insecure=true" in refused(capsys)

    monkeypatch.setenv("PROBE_INSECURE", "true")
    assert "tokens_file" in refused(capsys)

    tokens = tmp_path / "tokens.json"
    monkeypatch.setenv("PROBE_TOKENS_FILE", str(tokens))
    told = refused(capsys)
    assert f"tokens_file {tokens}" in told
    assert "No such file" in told

    issue_token(tokens, "shop", ["read"])
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


OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture
def started(monkeypatch):
    """For which services traces were started, and with how long a queue."""
    found = {}
    monkeypatch.setattr(
        tracing, "start", lambda name, *, queue_spans_max: found.update({name: queue_spans_max})
    )
    return found


def test_traces_are_off_until_their_collector_is_named(monkeypatch, started):
    monkeypatch.setenv(OTLP, "")
    load_settings(Settings, [])
    assert {} == started

    monkeypatch.setenv(OTLP, "http://127.0.0.1:4318")
    load_settings(Settings, [])
    assert {"probe": 2048} == started


def test_settings_of_traces_are_refused_that_cannot_be_kept(monkeypatch, capsys, started):
    monkeypatch.setenv(OTLP, "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "many")
    assert "many" in refused(capsys)

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert "OTEL_EXPORTER_OTLP_PROTOCOL: grpc is not spoken" in refused(capsys)
    assert {} == started
