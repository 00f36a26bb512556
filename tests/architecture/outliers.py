# SPDX-License-Identifier: Apache-2.0
"""Prints the longest functions and files: guidance for the next clean-up, not a limit."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHOWN = 15


def main() -> None:
    functions, files = [], []
    for folder in ("libs", "services", "examples"):
        for path in (ROOT / folder).rglob("src/**/*.py"):
            if "_pb2" in path.name:
                continue
            text = path.read_text(encoding="utf-8")
            files.append((text.count("\n"), str(path.relative_to(ROOT))))
            functions += [
                (node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.name}")
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
            ]
    for title, found in (("functions", functions), ("files", files)):
        lengths = sorted(length for length, _ in found)
        sys.stdout.write(f"{len(found)} {title}, median {lengths[len(lengths) // 2]} lines\n")
        for length, where in sorted(found, reverse=True)[:SHOWN]:
            sys.stdout.write(f"{length:6} {where}\n")


if __name__ == "__main__":
    main()
