# SPDX-License-Identifier: Apache-2.0
"""docs/guarantees.md and docs/faults.md name all that they should; links in docs resolve."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUARANTEES = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
FOLDERS = ("contracts", "libs", "services", "examples", "tests", "e2e")
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "services").glob("*/README.md"),
    *(ROOT / "deploy").rglob("*.md"),
    *(ROOT / "contracts").rglob("*.md"),
]


def existing_tests() -> set[str]:
    return {
        name
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    }


def test_every_guarantee_has_a_row() -> None:
    rows = re.findall(r"^\| (P\d+) \|", GUARANTEES, flags=re.MULTILINE)

    assert [f"P{number}" for number in range(1, 15)] == rows


@pytest.mark.parametrize("page", ["guarantees", "faults"])
def test_named_tests_exist(page: str) -> None:
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")

    assert set() == set(re.findall(r"`(test_\w+)`", text)) - existing_tests()


@pytest.mark.parametrize("service", ["ingest", "feature", "registry", "inference"])
def test_every_kill_point_has_a_row(service: str) -> None:
    sources = (ROOT / f"services/{service}/src").rglob("*.py")
    points = {
        name
        for path in sources
        for name in re.findall(r'failpoint\("([\w.]+)"\)', path.read_text(encoding="utf-8"))
    }

    assert set() == points - named_on_the_page()


def named_on_the_page() -> set[str]:
    """`.short` begins as the name before it does."""
    named, begin = set(), ""
    for name in re.findall(r"`([a-z_]*(?:\.[a-z_]+)+)`", (ROOT / "docs/faults.md").read_text()):
        full = begin + name if name.startswith(".") else name
        begin = full.rpartition(".")[0]
        named.add(full)
    return named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)

    assert [] == [target for target in targets if not (page.parent / target).exists()]
