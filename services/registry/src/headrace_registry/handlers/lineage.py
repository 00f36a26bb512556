# SPDX-License-Identifier: Apache-2.0
"""Lineage in both ways: of a version its sources and users, of a source the versions."""

from __future__ import annotations

from headrace.errors import Invalid
from headrace_registry.domain.lineage import (
    ABBREVIATED,
    CANDIDATES_MAX,
    VERSION,
    VersionLineage,
    check_source,
    offsets_of,
    sources_of,
)
from headrace_registry.domain.page import GetLineage, ListByName
from headrace_registry.domain.rollout import Rollout
from headrace_registry.domain.version import ModelVersion
from headrace_registry.handlers.queries import resolve_model
from headrace_registry.ports import RegistryReader, RegistryStore


def get_lineage(query: GetLineage, *, store: RegistryStore) -> tuple[list[VersionLineage], str]:
    """One page and the token of the next; nothing for a source that no version came of.

    The first 8 or more digits of a digest name it. Raises Invalid BAD_REQUEST, AMBIGUOUS for digits
    with which several names begin; for a version Invalid BAD_NAME, NotFound VERSION_UNKNOWN or
    ALIAS_UNKNOWN.
    """
    if query.kind == VERSION:
        version, _ = resolve_model(query.name, store=store)
        with store.reading() as reader:
            return _page(reader, query.list, [(version.model, version.version)])
    check_source(query.kind, query.name)
    with store.reading() as reader:
        name = _whole(reader, query.kind, query.name)
        return _page(reader, query.list, reader.versions_from(query.kind, name))


def _page(
    reader: RegistryReader, asked: ListByName, versions: list[tuple[str, int]]
) -> tuple[list[VersionLineage], str]:
    page, token = asked.cut(versions, _key)
    return [_lineage(reader, reader.version(*each)) for each in page], token


def _whole(reader: RegistryReader, kind: str, name: str) -> str:
    """The one name that begins so, unless there is one that is so."""
    if not ABBREVIATED.fullmatch(name) or reader.versions_from(kind, name):
        return name
    found = reader.source_names(kind, name, limit=CANDIDATES_MAX)
    if len(found) > 1:
        raise Invalid("AMBIGUOUS", name=name, candidates=len(found))
    return found[0] if found else name


def _key(of_version: tuple[str, int]) -> str:
    model, version = of_version
    return f"{model}/{version:010d}"


def _lineage(reader: RegistryReader, version: ModelVersion) -> VersionLineage:
    aliases = reader.aliases(version.model).items()
    rollouts = reader.rollouts_of(version.model).items()
    return VersionLineage(
        model=version.model,
        version=version.version,
        registered_at_us=version.registered_at_us,
        gate_state=version.gate.state,
        sources=sources_of(version),
        aliases=tuple(name for name, alias in aliases if alias.version == version.version),
        endpoints=tuple(name for name, rollout in rollouts if version.version in _serves(rollout)),
        read_offsets=offsets_of(version),
    )


def _serves(rollout: Rollout) -> list[int]:
    beside = [] if rollout.canary is None else [rollout.canary.version]
    return [rollout.champion.version, *beside]
