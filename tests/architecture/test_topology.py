# SPDX-License-Identifier: Apache-2.0
"""What the code reads and publishes equals the contracts, and each entry point stays small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from headrace_feature.adapters.kafka_topics import ARCHIVING_GROUP
from headrace_ingest.app import GROUP

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("ingest", "feature", "trainer", "registry", "inference", "monitor")
CONTRACTS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((ROOT / "contracts/topics").glob("*.yaml"))
}


def constant(stem: str) -> str:
    return stem.upper().replace(".", "_").replace("-", "_")


def given(service: str, role: str) -> set[str]:
    """The topics of which the contracts make the service a publisher or a consumer."""
    # Dead letters are written by the kit, which knows no service.
    return {
        constant(stem)
        for stem, contract in CONTRACTS.items()
        if service in contract[role] and not stem.endswith(".dead-letters")
    }


def topics_in(tree: ast.AST) -> set[str]:
    """The topic constants that this code names."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "topics"
        and node.attr.isupper()
    }


def makes_messages(function: ast.AST) -> bool:
    """One by one, or by handing key and value to a BulkPublisher."""
    called = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    named = {each.id for each in called if isinstance(each, ast.Name)}
    asked = {each.attr for each in called if isinstance(each, ast.Attribute)}
    return bool(named & {"Message", "_message"}) or "queue" in asked


def modules(service: str) -> dict[str, ast.Module]:
    """The service's modules by name, without what it ships for tests."""
    source = ROOT / f"services/{service}/src"
    paths = (path for path in source.rglob("*.py") if path.name != "testing.py")
    return {
        str(path.relative_to(source / f"headrace_{service}")): ast.parse(path.read_text("utf-8"))
        for path in paths
    }


@pytest.mark.parametrize("service", SERVICES)
def test_wiring_lists_the_topics_that_the_contracts_let_the_service_read(service: str) -> None:
    assert given(service, "consumers") == topics_in(modules(service)["app.py"])


@pytest.mark.parametrize("service", SERVICES)
def test_messages_are_made_for_the_topics_that_the_contracts_let_the_service_publish(
    service: str,
) -> None:
    functions = [
        node
        for module in modules(service).values()
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef) and makes_messages(node)
    ]

    assert given(service, "publishers") == set().union(*map(topics_in, functions))


@pytest.mark.parametrize("service", SERVICES)
def test_no_topic_is_named_that_the_contracts_do_not_give_the_service(service: str) -> None:
    # Feature asks where raw topics end, to know what the archive must hold; it reads no record.
    metadata_only = {"feature": {"RAW"}}.get(service, set())
    named = set().union(*map(topics_in, modules(service).values()))

    assert named <= given(service, "consumers") | given(service, "publishers") | metadata_only


def test_group_that_feature_asks_about_is_the_one_that_ingest_reads_with() -> None:
    """Of another group Kafka would say that no stream ever had an archive."""
    assert GROUP == ARCHIVING_GROUP == CONTRACTS["raw"]["owner"]


@pytest.mark.parametrize("service", SERVICES)
def test_main_is_small(service: str) -> None:
    main = ROOT / f"services/{service}/src/headrace_{service}/__main__.py"

    assert len(main.read_text().splitlines()) <= 30
