# SPDX-License-Identifier: Apache-2.0
"""Settings that are read once, checked whole, and frozen; a wrong one ends the process with 78.

An unknown variable with the service's prefix is a spelling mistake and is refused by name: a
setting that is silently not applied costs more than one that is refused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.errors import HeadraceError
from headrace.tokens import read_tokens
from headrace_kit import tracing
from headrace_kit.failpoints import arm
from headrace_kit.loopback import on_loopback
from headrace_kit.objects import S3_REGION, S3Settings, check_object_store

EXIT_BAD_SETTING = 78  # EX_CONFIG of sysexits.h
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
PORT_MAX = 65_535
# OpenTelemetry's own: https://opentelemetry.io/docs/specs/otel/protocol/exporter/
OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
OTLP_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
OTLP_PROTOCOL = "http/protobuf"
QUEUE_SPANS_MAX = "OTEL_BSP_MAX_QUEUE_SIZE"
QUEUE_SPANS_MAX_DEFAULT = "2048"


def _checked_token(token: SecretStr) -> SecretStr:
    """Without the line end that files have; what is no token would fail at the first call."""
    text = token.get_secret_value().strip()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("is no token")
    return SecretStr(text)


Token = Annotated[SecretStr, AfterValidator(_checked_token)]
"""What a service shows the services that it calls."""


def none_when_empty(given: object) -> object:
    """Compose says an empty text where nothing is set."""
    return None if given == "" else given


class ServiceSettings(BaseSettings):
    """What every service is told. A service sets `model_config` with its own `env_prefix`."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    kafka_bootstrap: str = "127.0.0.1:9092"
    grpc_host: str = "127.0.0.1"
    grpc_port: int
    http_host: str = "127.0.0.1"
    http_port: int
    data_dir: Path
    log_level: str = "INFO"
    tokens_file: Annotated[Path | None, BeforeValidator(none_when_empty)] = None
    """Who may call, as `headrace tokens` writes it: needed for a gRPC host that is not loopback;
    without it everybody on this machine may."""
    insecure: bool = False
    """Serve without TLS to other machines: needed for a host that is not loopback."""

    @field_validator("grpc_port", "http_port")
    @classmethod
    def _is_a_port(cls, port: int) -> int:
        if not 0 <= port <= PORT_MAX:
            raise ValueError(f"is no port: 1 to {PORT_MAX}, or 0 for any free one")
        return port

    @field_validator("log_level")
    @classmethod
    def _is_a_level(cls, level: str) -> str:
        if level.upper() not in LOG_LEVELS:
            raise ValueError(f"is none of {', '.join(LOG_LEVELS)}")
        return level.upper()

    @model_validator(mode="after")
    def _stay_on_loopback(self) -> ServiceSettings:
        for name in ("grpc_host", "http_host"):
            if not self.insecure and not on_loopback(getattr(self, name)):
                raise ValueError(f"{name} is not loopback and there is no TLS: set insecure=true")
        return self

    @model_validator(mode="after")
    def _know_who_calls(self) -> ServiceSettings:
        if self.tokens_file is None:
            if not on_loopback(self.grpc_host):
                raise ValueError("grpc_host is not loopback: set tokens_file, see headrace tokens")
            return self
        try:
            read_tokens(self.tokens_file)
        except HeadraceError as err:
            problem = err.metadata["problem"]
            raise ValueError(f"tokens_file {self.tokens_file}: {problem}") from err
        return self


class ObjectStoreSettings(ServiceSettings):
    """What a service is told that keeps objects; one with a store by default gives the URI one."""

    object_store_uri: str
    """`file:///FOLDER` or `s3://BUCKET/PREFIX`."""
    s3_endpoint: str = ""
    """`http://HOST:PORT` or `https://HOST`; all three are needed for `s3://`."""
    s3_access_key: str = ""
    s3_secret_key: SecretStr = SecretStr("")
    s3_region: Annotated[str, Field(min_length=1)] = S3_REGION
    """What requests are signed for."""

    @property
    def objects(self) -> str:
        """The URI of the store that is used."""
        return self.object_store_uri

    @property
    def s3(self) -> S3Settings | None:
        """How to reach the S3 server; None unless it is told whole."""
        if not (self.s3_endpoint and self.s3_access_key and self.s3_secret_key.get_secret_value()):
            return None
        return S3Settings(self.s3_endpoint, self.s3_access_key, self.s3_secret_key, self.s3_region)

    @model_validator(mode="after")
    def _name_a_store(self) -> ObjectStoreSettings:
        check_object_store(self.objects, self.s3)
        return self


Settings = TypeVar("Settings", bound=ServiceSettings)


def load_settings(cls: type[Settings], argv: Sequence[str]) -> Settings:
    """The settings from the environment; `--check-config` in argv writes them out and ends.

    Ends the process with exit code 78 and one line per mistake when something is wrong. Arms the
    failpoints of HEADRACE_FAIL, and starts the traces where OTEL_EXPORTER_OTLP_ENDPOINT is set.
    """
    prefix = str(cls.model_config["env_prefix"])
    if unknown_arguments := [each for each in argv if each != "--check-config"]:
        _refuse(
            [f"unknown argument {each}; there is only --check-config" for each in unknown_arguments]
        )
    known = {f"{prefix}{name}".upper() for name in cls.model_fields}
    unknown = sorted(
        name for name in os.environ if name.upper().startswith(prefix) and name.upper() not in known
    )
    if unknown:
        _refuse([f"unknown setting {name}; see the README's table of settings" for name in unknown])
    try:
        settings = cls()
        arm(os.environ.get("HEADRACE_FAIL"))
    except ValidationError as err:
        _refuse([_sentence(prefix, error) for error in err.errors(include_url=False)])
    except HeadraceError as err:
        _refuse([str(err)])
    if argv:
        sys.stdout.write(settings.model_dump_json(indent=2) + "\n")
        raise SystemExit(0)
    _start_tracing(prefix.rstrip("_").lower())
    return settings


def _start_tracing(service: str) -> None:
    if not any(map(os.environ.get, OTLP_ENDPOINTS)):
        return
    for name in OTLP_PROTOCOLS:
        if (given := os.environ.get(name) or OTLP_PROTOCOL) != OTLP_PROTOCOL:
            _refuse([f"{name}: {given} is not spoken, only {OTLP_PROTOCOL}"])
    if not (spans := os.environ.get(QUEUE_SPANS_MAX) or QUEUE_SPANS_MAX_DEFAULT).isdecimal():
        _refuse([f"{QUEUE_SPANS_MAX}: {spans} is no whole number"])
    try:
        tracing.start(service, queue_spans_max=int(spans))
    except ValueError as err:
        _refuse([f"OTEL_*: {err}"])


def _sentence(prefix: str, error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    problem = error["msg"].removeprefix("Value error, ")
    return f"{prefix}{where.upper()}: {problem}" if where else str(problem)


def _refuse(sentences: Sequence[str]) -> NoReturn:
    for sentence in sentences:
        sys.stderr.write(f"BAD_SETTING: {sentence}\n")
    raise SystemExit(EXIT_BAD_SETTING)
