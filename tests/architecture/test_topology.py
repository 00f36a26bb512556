# SPDX-License-Identifier: Apache-2.0
"""What the code names equals what the contracts say, and each entry point stays small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("ingest", "feature", "trainer", "registry", "inference", "monitor")
CONTRACTS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((ROOT / "contracts/topics").glob("*.yaml"))
}


def constant(stem: str) -> str:
    return stem.upper().replace(".", "_").replace("-", "_")


def named_by(service: str) -> set[str]:
    """The topic constants that a service's source names."""
    return {
        node.attr
        for path in (ROOT / f"services/{service}/src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "topics"
        and node.attr.isupper()
    }


@pytest.mark.parametrize("service", SERVICES)
def test_service_names_the_topics_that_the_contracts_give_it(service: str) -> None:
    # Dead letters are written by the kit, which knows no service.
    expected = {
        constant(stem)
        for stem, contract in CONTRACTS.items()
        if service in contract["publishers"] + contract["consumers"]
        and not stem.endswith(".dead-letters")
    }

    # Feature asks where raw topics end, to know what the archive must hold; it reads no record.
    metadata_only = {"feature": {"RAW"}}.get(service, set())

    assert expected == named_by(service) - {"INGEST_DEAD_LETTERS"} - metadata_only


@pytest.mark.parametrize("service", SERVICES)
def test_main_is_small(service: str) -> None:
    main = ROOT / f"services/{service}/src/headrace_{service}/__main__.py"

    assert len(main.read_text().splitlines()) <= 30
