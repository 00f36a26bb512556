# SPDX-License-Identifier: Apache-2.0
"""Compose, images and READMEs agree with the settings; e2e/test_helm.py holds the chart to them."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.reasons import REASONS
from headrace_kit.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("ingest", "feature", "trainer", "registry", "inference", "monitor")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
# OpenTelemetry's own, and so of no service.
OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"
SECRET = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|TOKEN$")
each_service = pytest.mark.parametrize("service", SERVICES)


def variables(service: str) -> set[str]:
    """The environment variables that a service takes."""
    module = import_module(f"headrace_{service}.settings")
    (settings,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, ServiceSettings)
        and each.__module__ == module.__name__
    )
    prefix = settings.model_config["env_prefix"]
    return {f"{prefix}{field}".upper() for field in settings.model_fields}


def text(service: str, file: str) -> str:
    return (ROOT / f"services/{service}/{file}").read_text(encoding="utf-8")


@each_service
def test_compose_sets_what_the_service_takes(service: str) -> None:
    assert {OTLP} == set(COMPOSE[service]["environment"]) - variables(service)


@each_service
def test_readme_names_every_setting_and_no_other(service: str) -> None:
    named = set(re.findall(rf"`({service.upper()}_[A-Z0-9_]+)`", text(service, "README.md")))

    assert variables(service) == named


@each_service
def test_setting_that_a_page_names_exists(service: str) -> None:
    pages = (page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").rglob("*.md")))
    pattern = rf"\b{service.upper()}_[A-Z0-9_]*[A-Z0-9]\b"
    named = {name for page in pages for name in re.findall(pattern, page)}

    assert set() == named - variables(service) - REASONS.keys()


@each_service
def test_image_is_built_of_its_own_lock_and_source(service: str) -> None:
    dockerfile = text(service, "Dockerfile")
    copied = set(re.findall(r"^COPY ((?!--from).+) \S+$", dockerfile, flags=re.MULTILINE))
    locks = f"requirements/{service}.lock requirements/bootstrap.lock"

    assert {locks, "libs", f"services/{service}"} == copied
    assert f"--require-hashes -r requirements/{service}.lock" in dockerfile
    assert f"--no-deps --no-sources \\\n    ./libs/headrace ./libs/kit ./services/{service}\n" in (
        dockerfile
    )
    assert "\nUSER 10001\n" in dockerfile
    assert dockerfile.endswith(f'CMD ["python", "-m", "headrace_{service}"]\n')


@pytest.mark.parametrize("name", ["topics", *SERVICES])
def test_container_can_do_no_more_than_it_must(name: str) -> None:
    container: dict[str, Any] = COMPOSE[name]

    assert container["read_only"] is True
    assert ["ALL"] == container["cap_drop"]
    assert ["no-new-privileges:true"] == container["security_opt"]
    assert "10001:10001" == container["user"]
    assert "HEADRACE_FAIL" not in container.get("environment", {})


@pytest.mark.parametrize("name", list(COMPOSE))
def test_ports_are_published_on_loopback_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in COMPOSE[name].get("ports", ()))


@pytest.mark.parametrize("name", list(COMPOSE))
def test_secret_has_no_default(name: str) -> None:
    secrets = {
        key: value
        for key, value in COMPOSE[name].get("environment", {}).items()
        if SECRET.search(key)
    }

    assert all(re.fullmatch(r"\$\{\w+:\?[^}]+\}", value) for value in secrets.values())


@each_service
def test_service_of_compose_knows_who_calls(service: str) -> None:
    told = COMPOSE[service]["environment"][f"{service.upper()}_TOKENS_FILE"]

    assert "${TOKENS_PATH:-/run/headrace/tokens.json}" == told
    assert "./deploy/tokens:/run/headrace:ro" in COMPOSE[service]["volumes"]


@pytest.mark.parametrize("name", list(COMPOSE))
def test_image_has_a_version_or_is_built_here(name: str) -> None:
    assert "build" in COMPOSE[name] or re.search(r":v?\w*\d[\w.]*$", COMPOSE[name]["image"])


def test_example_names_each_secret_of_compose() -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    example = (ROOT / "deploy/compose.env.example").read_text()

    assert asked == set(re.findall(r"^(\w+)=$", example, flags=re.MULTILINE))
