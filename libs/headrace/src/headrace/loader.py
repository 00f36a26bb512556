# SPDX-License-Identifier: Apache-2.0
"""Reads an application folder: every YAML file below it is one definition.

The folder's name is the application's name. Errors name the file, so that a person can mend it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from headrace.application import Application, Definition, build_application, parse_definition
from headrace.errors import Invalid

FILE_BYTES_MAX = 1 << 20


class _EachKeyOnce(yaml.SafeLoader):
    """YAML forbids a key twice in a mapping (1.2, section 3.2.1.1); PyYAML takes the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT002
        seen: set[object] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # no key that may be: it is refused below
            name = key.value
            if name in seen and key.tag != "tag:yaml.org,2002:merge":
                problem = f"{name} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _read(text: str) -> object:
    loader = _EachKeyOnce(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def load_application(folder: Path) -> Application:
    """Raises Invalid BAD_DEFINITION, with the file, for anything that is not an application."""
    if not folder.is_dir():
        problem = "is no folder" if folder.exists() else "is not there"
        raise Invalid("BAD_DEFINITION", folder=folder, problem=problem)
    files = sorted(folder.rglob("*.yaml"))
    if not files:
        raise Invalid("BAD_DEFINITION", folder=folder, problem="holds no YAML definition")
    return build_application(folder.resolve().name, [_load(file) for file in files])


def _load(file: Path) -> Definition:
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise Invalid("BAD_DEFINITION", problem="is larger than 1 MiB")
        return parse_definition(_read(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as err:
        raise Invalid("BAD_DEFINITION", file=file, problem=_problem(err)) from err
    except Invalid as err:
        raise Invalid(err.reason, file=file, **err.metadata) from err


def _problem(err: Exception) -> str:
    """Why a file cannot be read; of YAML also where, as an editor counts lines."""
    if isinstance(err, yaml.MarkedYAMLError):
        told = ": ".join(filter(None, (err.context, err.problem)))
        mark = err.problem_mark
        return f"{told}, line {mark.line + 1} column {mark.column + 1}" if mark else told
    if isinstance(err, OSError):
        return err.strerror or "cannot be read"
    if isinstance(err, RecursionError):
        return "is nested too deep"
    if isinstance(err, UnicodeDecodeError):
        return "is not UTF-8"
    return "holds a character, date or number that YAML does not take"
