# SPDX-License-Identifier: Apache-2.0
"""One function for each command, query and event of the registry.

All effects of one command or event are one transaction of the store; a repeat of either changes
nothing: a command is known by its request id, an event by its ce_id and, beneath, by what it names.
"""

from __future__ import annotations

from headrace.application import Endpoint, Recipe
from headrace.errors import Conflict, Invalid, NotFound
from headrace_kit.clock import Clock
from headrace_registry.domain import gate
from headrace_registry.domain.alias import CHAMPION, Alias, SetAlias
from headrace_registry.domain.artifact import (
    ArtifactMetadata,
    artifact_key,
    check_content,
    check_digest_of,
)
from headrace_registry.domain.definition import (
    AppliedDefinitions,
    ApplyDefinitions,
    Definition,
    endpoints_of,
    merge,
    recipes_of,
)
from headrace_registry.domain.name import check_alias, check_id, check_name
from headrace_registry.domain.page import ListVersions, VersionPage, page_of
from headrace_registry.domain.request import request_of
from headrace_registry.domain.rollout import (
    CanaryJudged,
    Rollout,
    judged_now,
    with_canary,
    with_champion,
    without_canary,
)
from headrace_registry.domain.version import ModelVersion, RunCompleted
from headrace_registry.ports import (
    ArtifactStore,
    RegistryReader,
    RegistryStore,
    RegistryTransaction,
)

RUNS, VERDICTS = "runs", "verdicts"
GENERATION_MAX = 1 << 62


def apply_definitions(
    command: ApplyDefinitions, *, store: RegistryStore, clock: Clock
) -> AppliedDefinitions:
    """Stores what changed; a new endpoint of a model with a champion serves it at once."""
    check_id("request_id", command.request_id)
    check_name("application", command.application)
    request = request_of(command, command.request_id)
    with store.transaction() as transaction:
        answer = transaction.first_answer(request, AppliedDefinitions)
        if answer is not None:
            return answer
        transaction.lock_definitions()
        stored = transaction.definitions()
        merged = merge(command.application, stored, command.definitions)
        new = [definition for definition in merged if definition not in stored]
        for definition in new:
            transaction.put_definition(definition)
        _open_endpoints(transaction, new, clock.now_us())
        answer = AppliedDefinitions(tuple(merged))
        transaction.remember(request, answer)
        return answer


def list_definitions(*, store: RegistryStore) -> list[Definition]:
    with store.reading() as reader:
        return reader.definitions()


def list_versions(query: ListVersions, *, store: RegistryStore) -> VersionPage:
    """Raises NotFound MODEL_UNKNOWN when no recipe trains the model and it has no version."""
    check_name("model", query.model)
    limit, below = query.limit, query.below
    with store.reading() as reader:
        found = reader.versions(query.model, below=below, limit=limit + 1)
        if not found and below is None:
            _check_model(reader, query.model)
    return page_of(query, found)


def list_aliases(model: str, *, store: RegistryStore) -> list[Alias]:
    """Raises NotFound MODEL_UNKNOWN as list_versions does."""
    check_name("model", model)
    with store.reading() as reader:
        found = list(reader.aliases(model).values())
        if not found:
            _check_model(reader, model)
        return found


def list_rollouts(*, store: RegistryStore) -> list[Rollout]:
    with store.reading() as reader:
        return list(reader.rollouts().values())


def set_alias(command: SetAlias, *, store: RegistryStore, clock: Clock) -> Alias:
    """Moves an alias by hand; endpoints follow the champion, and a running canary ends."""
    check_id("request_id", command.request_id)
    check_name("model", command.model)
    check_alias(command.alias)
    if not 0 <= command.generation_expected < GENERATION_MAX:
        raise Invalid("BAD_REQUEST", field="generation_expected", problem="is out of range")
    request = request_of(command, command.request_id)
    with store.transaction() as transaction:
        answer = transaction.first_answer(request, Alias)
        if answer is not None:
            return answer
        transaction.lock_model(command.model)
        version = transaction.version(command.model, command.version)
        answer = Alias(
            model=command.model,
            alias=command.alias,
            version=command.version,
            digest=version.digest,
            generation=command.generation_expected + 1,
            moved_at_us=clock.now_us(),
        )
        _move(transaction, answer, version, change=f"set to v{version.version} by request")
        transaction.remember(request, answer)
        return answer


def register_version(
    event: RunCompleted, *, store: RegistryStore, artifacts: ArtifactStore, clock: Clock
) -> None:
    """Gives the run's model the next version, judges its gate, and rolls it out when it passed.

    Raises NotFound ARTIFACT_UNKNOWN or DEFINITION_UNKNOWN, Conflict RUN_CONFLICT when the run was
    registered with other content.
    """
    trained = event.trained
    check_id("run_id", event.run_id)
    if event.incident_id:
        check_id("incident_id", event.incident_id)
    check_name("model", trained.model)
    if not artifacts.exists(artifact_key(trained.digest)):
        raise NotFound("ARTIFACT_UNKNOWN", digest=trained.digest, run_id=event.run_id)
    with store.transaction() as transaction:
        if not transaction.first_time(RUNS, event.ce_id):
            return
        transaction.lock_model(trained.model)
        known = transaction.version_of_run(event.run_id)
        if known is not None:
            if not known.made_by(event):
                raise Conflict("RUN_CONFLICT", run_id=event.run_id, version=known.version)
            return
        rule = _recipe(transaction, event.recipe).gate
        version = ModelVersion(
            version=transaction.next_version(trained.model),
            run_id=event.run_id,
            recipe=event.recipe,
            incident_id=event.incident_id,
            trained=trained,
            gate=gate.evaluate(rule, trained.metrics, trained.champion_version),
            registered_at_us=clock.now_us(),
        )
        transaction.add_version(version)
        if version.gate.passed:
            _roll_out(transaction, version)


def judge_canary(event: CanaryJudged, *, store: RegistryStore, clock: Clock) -> None:
    """Promotes the canary or rolls it back, unless the verdict is about another generation."""
    check_name("model", event.model)
    with store.transaction() as transaction:
        if not transaction.first_time(VERDICTS, event.ce_id):
            return
        transaction.lock_model(event.model)
        rollout = transaction.rollouts().get(event.endpoint)
        if rollout is None or not judged_now(rollout, event):
            return
        if event.promote:
            _promote(transaction, event, clock.now_us())
        else:
            change = f"rolled back v{event.canary_version}: {event.evidence}"
            transaction.put_rollout(without_canary(rollout, change=change, now_us=clock.now_us()))


def upload_artifact(metadata: ArtifactMetadata, data: bytes, *, artifacts: ArtifactStore) -> str:
    """Stores the bytes under their digest and returns it; a repeat finds them there already.

    `metadata` was checked before the bytes were read. Raises Corrupt DIGEST_MISMATCH, Invalid
    PICKLE, FORMAT or EXTERNAL_DATA, and then nothing is stored.
    """
    check_digest_of(data, metadata.digest)
    check_content(data)
    artifacts.put_if_absent(artifact_key(metadata.digest), data)
    return metadata.digest


def download_artifact(digest: str, *, artifacts: ArtifactStore) -> bytes:
    """Raises NotFound ARTIFACT_UNKNOWN, Corrupt DIGEST_MISMATCH for bytes that were changed."""
    data = artifacts.get(artifact_key(digest))
    check_digest_of(data, digest)
    return data


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


def _roll_out(transaction: RegistryTransaction, version: ModelVersion) -> None:
    """The first version that passes serves at once; a later one must win as a canary."""
    now_us = version.registered_at_us
    if CHAMPION not in transaction.aliases(version.model):
        moved = Alias(version.model, CHAMPION, version.version, version.digest, 1, now_us)
        _move(transaction, moved, version, change="first version")
        return
    rollouts = transaction.rollouts()
    for endpoint in endpoints_of(version.model, transaction.definitions()):
        percent = endpoint.rollout.canary_percent
        canary = with_canary(rollouts[endpoint.name], version, percent, now_us=now_us)
        transaction.put_rollout(canary)


def _promote(transaction: RegistryTransaction, event: CanaryJudged, now_us: int) -> None:
    version = transaction.version(event.model, event.canary_version)
    generation = transaction.aliases(event.model)[CHAMPION].generation + 1
    moved = Alias(event.model, CHAMPION, version.version, version.digest, generation, now_us)
    _move(transaction, moved, version, change=f"promoted v{version.version}: {event.evidence}")


def _move(
    transaction: RegistryTransaction, moved: Alias, version: ModelVersion, *, change: str
) -> None:
    transaction.swap(moved)
    if moved.alias != CHAMPION:
        return
    rollouts = transaction.rollouts()
    for endpoint in endpoints_of(moved.model, transaction.definitions()):
        before = rollouts.get(endpoint.name)
        after = with_champion(
            before, endpoint.name, version, change=change, now_us=moved.moved_at_us
        )
        transaction.put_rollout(after)


def _recipe(reader: RegistryReader, name: str) -> Recipe:
    for recipe in recipes_of(reader.definitions()):
        if recipe.name == name:
            return recipe
    raise NotFound("DEFINITION_UNKNOWN", kind="recipe", name=name)


def _check_model(reader: RegistryReader, model: str) -> None:
    if all(recipe.model != model for recipe in recipes_of(reader.definitions())):
        raise NotFound("MODEL_UNKNOWN", model=model)
