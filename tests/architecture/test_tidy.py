# SPDX-License-Identifier: Apache-2.0
"""Bans, each with its replacement. Old cases would stand in tidy_baseline.toml; there are none."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("libs", "services", "examples")
    for path in (ROOT / folder).rglob("src/**/*.py")
    if "_pb2" not in path.name
)
TESTS = sorted(
    path
    for folder in ("libs", "services", "examples", "tests", "e2e")
    for path in (ROOT / folder).rglob("*.py")
    if "tests" in path.parts or folder == "e2e"
)
# The boundaries that may catch everything, the clock, and who reads the environment.
CATCH_ALL = {
    "libs/kit/src/headrace_kit/call_pool.py",
    "libs/kit/src/headrace_kit/grpc_server.py",
    "libs/kit/src/headrace_kit/hot_calls.py",
    "libs/kit/src/headrace_kit/http_server.py",
    "libs/kit/src/headrace_kit/part_thread.py",
    # The runtime's exceptions share no base, and a user's model brings them about.
    "services/inference/src/headrace_inference/adapters/onnx_runtime.py",
}
# The commands say themselves that a moment is still to come.
CLOCK = {
    "libs/kit/src/headrace_kit/clock.py",
    "libs/headrace/src/headrace/cli/moments.py",
}
VAGUE = {"utils.py", "common.py", "base.py", "manager.py", "helpers.py", "misc.py"}
PICKLE_CLASS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def attributes(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def strings(path: Path) -> Iterator[str]:
    module = tree(path)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and id(node) not in docstrings:
            yield text


each_source = pytest.mark.parametrize("path", SOURCES, ids=name)
each_test = pytest.mark.parametrize("path", TESTS, ids=name)


@each_source
def test_tables_are_shown_whole(path: Path) -> None:
    """`show_table`: rich cuts cells to the width of a screen, and of a pipe."""
    if "cli" in path.parts and path.name != "output.py":
        printed = re.findall(r"out\.print\((\w*table\w*)\)", path.read_text(encoding="utf-8"))
        assert [] == printed


@each_source
def test_environment_is_read_in_settings_only(path: Path) -> None:
    if path.name == "settings.py":
        return
    read = {"os.environ", "os.getenv", "os.environb"} & set(attributes(path))

    assert not read, "take the value as an argument; settings.py alone reads the environment"


@each_source
def test_wall_clock_is_read_by_the_clock_only(path: Path) -> None:
    if name(path) in CLOCK:
        return
    read = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today"}

    assert not read & set(attributes(path)), "take a Clock; time.monotonic is free"


@each_source
def test_topics_are_named_by_their_contract(path: Path) -> None:
    if path.name == "topics.py":
        return
    named = [
        text for text in strings(path) if re.fullmatch(r"[a-z0-9-]+\.[a-z0-9.\-]+\.v\d+", text)
    ]

    assert not named, "use headrace.topics"


@each_source
def test_tables_are_scanned_by_files_that_arrow_reads_itself(path: Path) -> None:
    """An error of a file system in Python, met in a scan, stops the process for good."""
    if path.name == "delta_scans.py":
        return
    scans = (".to_pyarrow_dataset", ".to_pyarrow_table")
    asked = [each for each in attributes(path) if each.endswith(scans)]

    assert not asked, "use headrace_kit.delta_scans.arrow_dataset"


@each_source
def test_catch_alls_stand_at_the_boundaries_only(path: Path) -> None:
    if name(path) in CATCH_ALL:
        return
    caught = [
        node.lineno
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
    ]

    assert not caught, "catch what you expect; the boundaries catch the rest"


@each_source
def test_nothing_is_pickled_or_evaluated(path: Path) -> None:
    assert not PICKLE_CLASS & {module.partition(".")[0] for module in imports(path)}
    assert not {"torch.load", "yaml.load", "np.load"} & set(attributes(path)), "use safe formats"


@each_source
def test_module_opens_with_licence_and_reason(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    if path.name != "__init__.py":
        assert ast.get_docstring(tree(path)), "say in 1 to 6 lines what it guarantees and why"


def test_no_module_has_a_vague_name() -> None:
    assert [] == [name(path) for path in SOURCES if path.name in VAGUE], "name the thing"


def test_every_module_is_imported() -> None:
    fixtures = [ROOT / "conftest.py"]
    for folder in ("libs", "services", "examples", "tests", "e2e"):
        fixtures += (ROOT / folder).rglob("conftest.py")
    used = {module for path in [*SOURCES, *TESTS, *fixtures] for module in imports(path)}
    used |= {
        f"{node.module}.{alias.name}"
        for path in [*SOURCES, *TESTS]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    texts = "".join(path.read_text(encoding="utf-8") for path in ROOT.rglob("pyproject.toml"))
    texts += "".join(path.read_text(encoding="utf-8") for path in [*SOURCES, ROOT / "conftest.py"])
    unused = []
    for path in SOURCES:
        module = ".".join(
            path.relative_to(next(p for p in path.parents if p.name == "src")).with_suffix("").parts
        )
        # Alembic finds the revisions of a folder by itself.
        found = "migrations" in path.parts
        if found or path.name in ("__init__.py", "__main__.py") or module in used:
            continue
        # Named in an entry point or started as a process.
        if f'"{module}' not in texts and module.replace("headrace.", "", 1) not in used:
            unused.append(module)

    assert [] == unused, "delete what nobody imports"


@each_test
def test_tests_never_sleep(path: Path) -> None:
    assert "time.sleep" not in set(attributes(path)), "poll with a deadline"


@each_source
def test_unfinished_work_names_its_issue(path: Path) -> None:
    marks = re.findall(r"(?:TODO|FIXME|XXX)(?!\(#\d+\))", path.read_text(encoding="utf-8"))

    assert not marks, "write TODO(#issue)"
