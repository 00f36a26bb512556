# SPDX-License-Identifier: Apache-2.0
"""Inference installs and starts without torch, pandas and their like; the runtime comes late."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement

HEAVY = {"torch", "pandas", "pyarrow", "polars", "evidently", "onnx", "scikit-learn", "sklearn"}


def closure(distribution, extras=frozenset(), seen=None):
    """Names of all distributions that installing this one brings."""
    seen = set() if seen is None else seen
    for line in requires_of(distribution):
        requirement = Requirement(line)
        asked = [{"extra": extra} for extra in (*extras, "")]
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        wanted = requirement.marker is None or any(map(requirement.marker.evaluate, asked))
        if wanted and (name, *sorted(requirement.extras)) not in seen:
            seen.add((name, *sorted(requirement.extras)))
            closure(name, frozenset(requirement.extras), seen)
    return {entry[0] for entry in seen}


def requires_of(distribution):
    try:
        return requires(distribution) or []
    except PackageNotFoundError:  # for another system or Python
        return []


def test_declared_dependencies_bring_nothing_heavy():
    found = closure("headrace-inference")

    assert {"headrace", "headrace-kit", "onnxruntime", "grpcio", "confluent-kafka"} <= found
    assert set() == HEAVY & found


def test_starting_the_service_imports_nothing_heavy():
    program = "import sys, headrace_inference.app; print(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout

    packages = {module.partition(".")[0] for module in printed.split()}
    assert "numpy" in packages
    assert set() == (HEAVY | {"onnxruntime"}) & packages
