# SPDX-License-Identifier: Apache-2.0
"""The list of reasons is closed both ways: none is used that is not listed, none listed unused."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from headrace import errors
from headrace.cli.main import app
from headrace.reasons import REASONS

ROOT = Path(__file__).resolve().parents[2]
ERROR_CLASSES = {
    "HeadraceError",
    "Invalid",
    "Denied",
    "NotFound",
    "Conflict",
    "Corrupt",
    "Busy",
    "Unavailable",
}
CONTRACTS = sorted((ROOT / "contracts").rglob("*.yaml"))
SOURCES = [
    path
    for folder in ("libs", "services", "examples")
    for path in (ROOT / folder).rglob("src/**/*.py")
    if "_pb2" not in path.name and path.name != "reasons.py"
]


def strings_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def raised(path: Path) -> Iterator[tuple[str, str]]:
    """(class, reason) of each error that is built with a literal reason."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id in ERROR_CLASSES and node.args and isinstance(node.args[0], ast.Constant):
            yield node.func.id, node.args[0].value


def doubled(node: yaml.Node | None) -> list[str]:
    """Keys that a mapping holds twice, of which a loader keeps the last and says nothing."""
    if isinstance(node, yaml.MappingNode):
        keys = Counter(key.value for key, _ in node.value)
        inside = [each for _, value in node.value for each in doubled(value)]
        return [key for key, times in keys.items() if times > 1] + inside
    values = node.value if isinstance(node, yaml.SequenceNode) else ()
    return [each for value in values for each in doubled(value)]


@pytest.mark.parametrize("path", CONTRACTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_key_of_a_contract_stands_twice(path: Path) -> None:
    assert [] == doubled(yaml.compose(path.read_text(), yaml.SafeLoader))


def test_key_that_stands_twice_is_found_in_any_depth() -> None:
    text = "reasons: {A: {kind: x}, B: [{c: 1, c: 2}], A: {}}"

    assert ["A", "c"] == doubled(yaml.compose(text, yaml.SafeLoader))


def test_every_listed_reason_is_used() -> None:
    used = {text for path in SOURCES for text in strings_of(path)}

    assert set(REASONS) <= used


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_errors_carry_listed_reasons_of_their_branch(path: Path) -> None:
    class_by_kind = {"Bug": "HeadraceError"}

    for name, reason in raised(path):
        assert reason in REASONS
        kind = REASONS[reason].kind
        assert name == class_by_kind.get(kind, kind)


each_next = pytest.mark.parametrize("text", [(each.next) for each in REASONS.values()])


@each_next
def test_page_that_a_next_step_names_exists(text: str) -> None:
    assert ("runbook" in text) <= ("docs/runbooks/" in text), "name the page"
    assert all((ROOT / page).is_file() for page in re.findall(r"docs/\S+?\.md", text))


@each_next
def test_command_that_a_next_step_names_exists(text: str) -> None:
    assert set(re.findall(r"\bheadrace ([a-z-]+)", text)) <= {*typer.main.get_command(app).commands}


@each_next
def test_call_or_setting_that_a_next_step_names_exists(text: str) -> None:
    protos = "".join(path.read_text() for path in (ROOT / "protos").rglob("*.proto"))
    settings = "".join(path.read_text() for path in (ROOT / "services").glob("*/README.md"))

    assert all(f"rpc {call}(" in protos for call in re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", text))
    assert all(f"`{name}`" in settings for name in re.findall(r"\b[A-Z]+_[A-Z_]+\b", text))


def test_an_unknown_reason_cannot_be_told() -> None:
    with pytest.raises(KeyError):
        str(errors.Invalid("NO_SUCH_REASON"))
