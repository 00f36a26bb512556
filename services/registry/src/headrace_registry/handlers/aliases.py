# SPDX-License-Identifier: Apache-2.0
"""Moves of an alias, after which endpoints follow the champion."""

from __future__ import annotations

from headrace.errors import Invalid
from headrace_kit.clock import Clock
from headrace_registry.domain.alias import CHAMPION, Alias, SetAlias
from headrace_registry.domain.definition import endpoints_of
from headrace_registry.domain.name import check_alias, check_name
from headrace_registry.domain.rollout import CanaryJudged, with_champion
from headrace_registry.domain.version import ModelVersion
from headrace_registry.handlers.once import once
from headrace_registry.ports import RegistryStore, RegistryTransaction

GENERATION_MAX = 1 << 62


def set_alias(command: SetAlias, *, caller: str, store: RegistryStore, clock: Clock) -> Alias:
    """Moves an alias by hand; endpoints follow the champion, and a running canary ends."""
    check_name("model", command.model)
    check_alias(command.alias)
    if not 0 <= command.generation_expected < GENERATION_MAX:
        raise Invalid("BAD_REQUEST", field="generation_expected", problem="is out of range")

    def act(transaction: RegistryTransaction) -> Alias:
        transaction.lock_model(command.model)
        version = transaction.version(command.model, command.version)
        moved = Alias(
            model=command.model,
            alias=command.alias,
            version=command.version,
            digest=version.digest,
            generation=command.generation_expected + 1,
            moved_at_us=clock.now_us(),
        )
        move(transaction, moved, version, change=f"set to v{version.version} by request")
        return moved

    return once(command, Alias, store, act, caller=caller, clock=clock)


def move(
    transaction: RegistryTransaction, moved: Alias, version: ModelVersion, *, change: str
) -> None:
    transaction.swap(moved)
    if moved.alias != CHAMPION:
        return
    rollouts = transaction.rollouts_of(moved.model)
    endpoints = list(rollouts)
    if moved.generation == 1:  # later ones have a rollout since they were applied
        endpoints = [each.name for each in endpoints_of(moved.model, transaction.definitions())]
    for name in endpoints:
        after = with_champion(
            rollouts.get(name), name, version, change=change, now_us=moved.moved_at_us
        )
        transaction.put_rollout(after)


def promote(transaction: RegistryTransaction, event: CanaryJudged, now_us: int) -> None:
    version = transaction.version(event.model, event.canary_version)
    generation = transaction.aliases(event.model)[CHAMPION].generation + 1
    moved = Alias(event.model, CHAMPION, version.version, version.digest, generation, now_us)
    move(transaction, moved, version, change=f"promoted v{version.version}: {event.evidence}")
