# SPDX-License-Identifier: Apache-2.0
"""How a version comes to be: from a run or from elsewhere, its gate, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from headrace.application import Recipe
from headrace.errors import Conflict, Invalid, NotFound
from headrace.model_definition import Model as DeclaredModel
from headrace_kit.clock import Clock
from headrace_registry.domain import gate
from headrace_registry.domain.acceptance import Acceptance
from headrace_registry.domain.change import Change
from headrace_registry.domain.definition import graph_of, model_names, model_of, recipes_of
from headrace_registry.domain.description import Description, check_metrics
from headrace_registry.domain.name import check_id, check_name
from headrace_registry.domain.version import (
    ApproveVersion,
    DescribeVersion,
    ModelVersion,
    RegisterVersion,
    RetractVersion,
    RunCompleted,
    gate_settled,
)
from headrace_registry.handlers.artifacts import acceptance_of
from headrace_registry.handlers.once import once
from headrace_registry.handlers.rollouts import roll_out
from headrace_registry.ports import (
    Acceptor,
    ArtifactStore,
    RegistryReader,
    RegistryStore,
    RegistryTransaction,
    Spool,
)

RUNS, TRAINER = "runs", "trainer"


def register_version(
    command: RegisterVersion,
    *,
    caller: str,
    store: RegistryStore,
    artifacts: ArtifactStore,
    acceptor: Acceptor,
    spool: Spool,
    clock: Clock,
) -> ModelVersion:
    """Makes an uploaded file the next version of a declared model, and rolls it out if it passed.

    Raises NotFound MODEL_UNKNOWN, Conflict ARTIFACT_NOT_UPLOADED, Invalid BAD_REQUEST for a model
    that a recipe or a graph trains, Busy METADATA_TOO_LARGE.
    """
    check_name("model", command.model)
    check_metrics(command.metrics)
    command.description.check()
    accepted = acceptance_of(command.digest, store, artifacts, acceptor, spool)

    def act(transaction: RegistryTransaction) -> ModelVersion:
        transaction.lock_model(command.model)
        rule = _declared(transaction, command.model).gate
        version = ModelVersion(
            version=transaction.next_version(command.model),
            run_id="",
            recipe="",
            incident_id="",
            trained=command.trained,
            gate=gate.evaluate_registered(rule, command.metrics, accepted),
            registered_at_us=clock.now_us(),
            signature=accepted.signature,
            description=command.description,
        )
        transaction.add_version(version)
        if version.gate.passed:
            roll_out(transaction, version, version.registered_at_us)
        return version

    return once(command, ModelVersion, store, act, caller=caller, clock=clock)


def approve_version(
    command: ApproveVersion, *, caller: str, store: RegistryStore, clock: Clock
) -> ModelVersion:
    """Opens the gate of a version that awaits approval, and rolls it out.

    Raises NotFound VERSION_UNKNOWN, Conflict GATE_SETTLED when its gate has passed or failed.
    """
    check_name("model", command.model)
    approver = command.approver or caller
    check_id("approver", approver)

    def act(transaction: RegistryTransaction) -> ModelVersion:
        transaction.lock_model(command.model)
        version = transaction.version(command.model, command.version)
        if version.gate.state is not gate.GateState.AWAITS_APPROVAL:
            raise gate_settled(version)
        approved = replace(version, gate=version.gate.approved(approver, command.reason))
        transaction.open_gate(approved)
        roll_out(transaction, approved, clock.now_us())
        return approved

    return once(command, ModelVersion, store, act, caller=caller, clock=clock)


def retract_version(
    command: RetractVersion, *, caller: str, store: RegistryStore, clock: Clock
) -> ModelVersion:
    """Shuts the gate of a version for good. All that is known of it stays: predictions may name it.

    Raises NotFound VERSION_UNKNOWN, Conflict VERSION_NEEDED while an alias or an endpoint points to
    it, GATE_SETTLED when it was taken back before.
    """
    check_name("model", command.model)

    def act(transaction: RegistryTransaction) -> ModelVersion:
        transaction.lock_model(command.model)
        version = transaction.version(command.model, command.version)
        if version.gate.state is gate.GateState.RETRACTED:
            raise gate_settled(version)
        pointers = ", ".join(_pointers(transaction, version))
        if pointers:
            named = {"model": command.model, "version": command.version}
            raise Conflict("VERSION_NEEDED", **named, needed_by=pointers)
        retracted = replace(version, gate=version.gate.retracted(caller, command.reason))
        transaction.retract_version(retracted)
        return retracted

    return once(command, ModelVersion, store, act, caller=caller, clock=clock)


def describe_version(
    command: DescribeVersion, *, caller: str, store: RegistryStore, clock: Clock
) -> ModelVersion:
    """Changes tags and card, all or none.

    Raises NotFound VERSION_UNKNOWN, Invalid BAD_REQUEST, Busy METADATA_TOO_LARGE.
    """
    check_name("model", command.model)

    def act(transaction: RegistryTransaction) -> ModelVersion:
        transaction.lock_model(command.model)
        version = transaction.version(command.model, command.version)
        said = version.description.changed(command.tags_set, command.tags_removed, command.card)
        described = replace(version, description=said)
        transaction.describe(described)
        return described

    return once(command, ModelVersion, store, act, caller=caller, clock=clock)


def register_trained(
    event: RunCompleted,
    *,
    store: RegistryStore,
    artifacts: ArtifactStore,
    acceptor: Acceptor,
    spool: Spool,
    clock: Clock,
) -> None:
    """Gives the run's model the next version, judges its gate, and rolls it out when it passed.

    Raises NotFound DEFINITION_UNKNOWN, Invalid FORMAT, Conflict ARTIFACT_NOT_UPLOADED, or
    RUN_CONFLICT when the run was registered with other content.
    """
    trained = event.trained
    check_id("run_id", event.run_id)
    if event.incident_id:
        check_id("incident_id", event.incident_id)
    check_name("model", trained.model)
    accepted = acceptance_of(trained.digest, store, artifacts, acceptor, spool)
    with store.transaction() as transaction:
        if not transaction.first_time(RUNS, event.ce_id):
            return
        transaction.lock_model(trained.model)
        known = transaction.version_of_run(event.run_id)
        if known is not None:
            if not known.made_by(event):
                raise Conflict("RUN_CONFLICT", run_id=event.run_id, version=known.version)
            return
        version = ModelVersion(
            version=transaction.next_version(trained.model),
            run_id=event.run_id,
            recipe=event.recipe,
            incident_id=event.incident_id,
            trained=trained,
            gate=_judged(transaction, event, accepted),
            registered_at_us=clock.now_us(),
            signature=accepted.signature,
            description=Description(),
        )
        transaction.add_version(version)
        subject = f"models:/{trained.model}/{version.version}"
        reason = f"run {event.run_id} completed"
        at_us = version.registered_at_us
        transaction.note(
            Change(
                0, at_us, TRAINER, "register_version", trained.model, subject, reason, event.ce_id
            )
        )
        if version.gate.passed:
            roll_out(transaction, version, version.registered_at_us)


def _pointers(reader: RegistryReader, version: ModelVersion) -> Iterator[str]:
    """Aliases and endpoints that point to the version."""
    for alias in reader.aliases(version.model).values():
        if alias.version == version.version:
            yield f"alias {alias.alias}"
    for rollout in reader.rollouts_of(version.model).values():
        if version.version in [each.version for each in (rollout.champion, rollout.canary) if each]:
            yield f"endpoint {rollout.endpoint}"


def _declared(reader: RegistryReader, name: str) -> DeclaredModel:
    definitions = reader.definitions()
    model = model_of(name, definitions)
    if model is not None:
        return model
    if name in model_names(definitions):
        raise Invalid("BAD_REQUEST", field="model", problem="a recipe or a graph trains it")
    raise NotFound("MODEL_UNKNOWN", model=name)


def _judged(reader: RegistryReader, event: RunCompleted, accepted: Acceptance) -> gate.Gate:
    """By the gate of the recipe; a graph has that of its recipe, or one that asks people."""
    trained, name = event.trained, event.recipe
    graph = graph_of(name, reader.definitions())
    if graph is not None and graph.recipe is None:
        return gate.evaluate_registered(graph.own_gate, trained.metrics, accepted)
    rule = _recipe(reader, name if graph is None else str(graph.recipe)).gate
    return gate.evaluate(rule, trained.metrics, trained.champion_version, accepted)


def _recipe(reader: RegistryReader, name: str) -> Recipe:
    for recipe in recipes_of(reader.definitions()):
        if recipe.name == name:
            return recipe
    raise NotFound("DEFINITION_UNKNOWN", kind="recipe", name=name)
