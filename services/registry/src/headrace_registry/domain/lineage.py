# SPDX-License-Identifier: Apache-2.0
"""Lineage: what a version came of, and from there back to every version that came of it.

A version is the one place where all edges meet: the prediction log names it, and it names its run,
data, code and file. So the graph is kept as the sources of each version, found by either end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from headrace.errors import Invalid
from headrace_registry.domain.gate import GateState
from headrace_registry.domain.version import ModelVersion

VERSION = "version"
# As the trainer's manifest names them.
DELTA_VERSION, RAW_OFFSETS = "delta_version:", "raw_offsets:"
OFFSETS = re.compile(r"(\d{1,9}):(\d{1,18})-(\d{1,18})")
COMPONENT, GRAPH = "component:", "graph"
MANIFEST_KINDS = {
    "training_set": "training-set",
    "definitions": "definitions",
    GRAPH: "definitions",
    "code": "code",
}
KINDS = (
    "artifact", "run", "recipe", "graph", "component", "incident", "training-set", "stream", "view",
    "definitions", "code",
)  # fmt: skip
NAME_LENGTH_MAX = 200
# As git has it: so much of a digest, or of an id that begins so, says which one is meant.
ABBREVIATED = re.compile("[0-9a-f]{8,63}")
CANDIDATES_MAX = 1_000


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """Of a stream, `at` is the version of its archive, of a component its digest; else empty."""

    kind: str
    name: str
    at: str = ""


@dataclass(frozen=True, slots=True, order=True)
class ReadOffsets:
    """Of a partition of the stream's raw topic, the first and the last record that was read."""

    stream: str
    partition: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class VersionLineage:
    """A version between what it came of and what uses it now."""

    model: str
    version: int
    registered_at_us: int
    gate_state: GateState
    sources: tuple[Source, ...]
    aliases: tuple[str, ...]
    endpoints: tuple[str, ...]
    read_offsets: tuple[ReadOffsets, ...] = ()


def check_source(kind: str, name: str) -> None:
    """Raises Invalid BAD_REQUEST."""
    if kind and kind not in KINDS:
        problem = f"is none of {VERSION}, {', '.join(KINDS)}"
        raise Invalid("BAD_REQUEST", field="kind", problem=problem)
    if not (0 < len(name) <= NAME_LENGTH_MAX and name.isprintable()):
        problem = f"is 1 to {NAME_LENGTH_MAX} printable characters"
        raise Invalid("BAD_REQUEST", field="name", problem=problem)


def sources_of(version: ModelVersion) -> tuple[Source, ...]:
    """Sorted, each once."""
    made_by = "graph" if GRAPH in version.trained.manifest else "recipe"
    named = {
        "artifact": version.digest,
        "run": version.run_id,
        made_by: version.recipe,
        "incident": version.incident_id,
    }
    found = {Source(kind, name) for kind, name in named.items() if name}
    found |= {Source("view", feature.partition(":")[0]) for feature in version.trained.features}
    for key, value in version.trained.manifest.items():
        if key in MANIFEST_KINDS:
            found.add(Source(MANIFEST_KINDS[key], value))
        elif key.startswith(DELTA_VERSION):
            found.add(Source("stream", key.removeprefix(DELTA_VERSION), value))
        elif key.startswith(COMPONENT):
            found.add(Source("component", key.removeprefix(COMPONENT), value))
    return tuple(sorted(found))


def offsets_of(version: ModelVersion) -> tuple[ReadOffsets, ...]:
    """By stream and partition; what its run did not tell is absent."""
    return tuple(
        sorted(
            ReadOffsets(key.removeprefix(RAW_OFFSETS), *map(int, found))
            for key, value in version.trained.manifest.items()
            if key.startswith(RAW_OFFSETS)
            for found in OFFSETS.findall(value)
        )
    )
