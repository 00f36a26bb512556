# SPDX-License-Identifier: Apache-2.0
"""Applying an application's definitions, all or none, and taking one back."""

from __future__ import annotations

from functools import partial

from headrace.application import Definition as ParsedDefinition
from headrace.application import Endpoint
from headrace.errors import HeadraceError, NotFound
from headrace.graph_signature import RegisteredTensor, RegisteredTensors
from headrace.model_reference import ModelReference
from headrace_kit.clock import Clock
from headrace_registry.domain.alias import CHAMPION
from headrace_registry.domain.definition import (
    AppliedDefinitions,
    ApplyDefinitions,
    Definition,
    RetractDefinition,
    check_room,
    concerning,
    merge,
    parse_sent,
    retract,
)
from headrace_registry.domain.name import check_name
from headrace_registry.domain.rollout import with_champion
from headrace_registry.handlers.once import once
from headrace_registry.ports import RegistryReader, RegistryStore, RegistryTransaction


def apply_definitions(
    command: ApplyDefinitions, *, caller: str, store: RegistryStore, clock: Clock
) -> AppliedDefinitions:
    """Stores what changed; a new endpoint of a model with a champion serves it at once.

    Its graphs may take long to plan. So that is done before anybody has to wait for it, and under
    the lock again only where what it was done with has changed meanwhile.
    """
    application = command.application
    check_name("application", application)
    parsed = parse_sent(command.definitions)
    before, planned = _planned(application, parsed, store)

    def act(transaction: RegistryTransaction) -> AppliedDefinitions:
        transaction.lock_definitions()
        ever = transaction.ever_applied()
        stored = concerning(application, parsed, ever)
        merged = planned
        if stored != before:
            merged = merge(application, stored, parsed, partial(_tensors_of, transaction))
        if isinstance(merged, HeadraceError):
            raise merged
        check_room(ever, merged)
        new = [definition for definition in merged if definition not in stored]
        for definition in new:
            transaction.put_definition(definition)
        _open_endpoints(transaction, new, clock.now_us())
        return AppliedDefinitions(tuple(merged), changed=bool(new))

    return once(command, AppliedDefinitions, store, act, caller=caller, clock=clock)


def retract_definition(
    command: RetractDefinition, *, caller: str, store: RegistryStore, clock: Clock
) -> Definition:
    """Takes a definition back, unless others need it; what it made stays, and so does its rollout.

    Raises Invalid BAD_REQUEST or BAD_NAME, NotFound DEFINITION_UNKNOWN, Conflict DEFINITION_NEEDED.
    """
    command.check()

    def act(transaction: RegistryTransaction) -> Definition:
        transaction.lock_definitions()
        retracted = retract(command, transaction.ever_applied())
        transaction.retract_definition(retracted)
        return retracted.definition

    return once(command, Definition, store, act, caller=caller, clock=clock)


def _planned(
    application: str, parsed: list[ParsedDefinition], store: RegistryStore
) -> tuple[list[Definition], list[Definition] | HeadraceError]:
    """What concerns these definitions, and how they are to be stored beside it.

    Or why not, to be told later: a request that is repeated has its first answer.
    """

    def registered(reference: ModelReference) -> RegisteredTensors | None:
        with store.reading() as reader:  # each for itself: SQLite has one at a time
            return _tensors_of(reader, reference)

    with store.reading() as reader:
        stored = concerning(application, parsed, reader.ever_applied())
    try:
        return stored, merge(application, stored, parsed, registered)
    except HeadraceError as err:
        return stored, err


def _tensors_of(reader: RegistryReader, reference: ModelReference) -> RegisteredTensors | None:
    """Of the version that the reference names now, if it names one."""
    number = reference.version
    if reference.alias:
        alias = reader.aliases(reference.model).get(reference.alias)
        number = 0 if alias is None else alias.version
    try:
        version = reader.version(reference.model, number)
    except NotFound:
        return None
    inputs, outputs = (
        tuple(RegisteredTensor(each.name, each.datatype, each.shape) for each in side)
        for side in (version.signature.inputs, version.signature.outputs)
    )
    return RegisteredTensors(inputs, outputs, version.trained.features)


def _open_endpoints(transaction: RegistryTransaction, new: list[Definition], now_us: int) -> None:
    """Without this, an endpoint added beside others would serve nothing until the next move."""
    endpoints = [parsed for each in new if isinstance(parsed := each.parsed(), Endpoint)]
    for endpoint in sorted(endpoints, key=lambda each: each.model):
        transaction.lock_model(endpoint.model)
        champion = transaction.aliases(endpoint.model).get(CHAMPION)
        if champion is None or endpoint.name in transaction.rollouts():
            continue
        version = transaction.version(champion.model, champion.version)
        opened = with_champion(None, endpoint.name, version, change="endpoint added", now_us=now_us)
        transaction.put_rollout(opened)
