# SPDX-License-Identifier: Apache-2.0
"""What stands beside the champion of an endpoint: by hand, by verdict, by a new version."""

from __future__ import annotations

from headrace.errors import Conflict, Invalid, NotFound
from headrace_kit.clock import Clock
from headrace_registry.domain.alias import CHAMPION, Alias
from headrace_registry.domain.change import Change
from headrace_registry.domain.definition import endpoints_of
from headrace_registry.domain.name import check_name
from headrace_registry.domain.rollout import (
    CanaryJudged,
    Rollout,
    SetRollout,
    as_set,
    check_callers,
    judged_now,
    served,
    what_callers_meet,
    what_stands_there,
    with_canary,
    without_canary,
)
from headrace_registry.domain.version import ModelVersion
from headrace_registry.handlers.aliases import move, promote
from headrace_registry.handlers.once import once
from headrace_registry.ports import RegistryReader, RegistryStore, RegistryTransaction

VERDICTS, MONITOR, REGISTRY = "verdicts", "monitor", "registry"


def set_rollout(command: SetRollout, *, caller: str, store: RegistryStore, clock: Clock) -> Rollout:
    """Sets by hand what stands beside the champion, or stops the endpoint.

    Raises NotFound MODEL_UNKNOWN for an endpoint that serves nothing yet, VERSION_UNKNOWN, Conflict
    GATE_NOT_PASSED, TENSORS_DIFFER or ROLLOUT_MOVED, Invalid BAD_REQUEST.
    """
    command.check()

    def act(transaction: RegistryTransaction) -> Rollout:
        before = transaction.rollouts().get(command.endpoint)
        if before is None:
            raise NotFound("MODEL_UNKNOWN", endpoint=command.endpoint)
        transaction.lock_model(before.model)
        after = as_set(
            before, command, _canary(transaction, before, command), now_us=clock.now_us()
        )
        transaction.put_rollout(after)
        return after

    return once(command, Rollout, store, act, caller=caller, clock=clock)


def judge_canary(event: CanaryJudged, *, store: RegistryStore, clock: Clock) -> None:
    """Promotes the canary or rolls it back, unless the verdict is about another generation.

    One whose tensors callers of the champion do not send is never promoted by a verdict.
    """
    check_name("model", event.model)
    with store.transaction() as transaction:
        if not transaction.first_time(VERDICTS, event.ce_id):
            return
        transaction.lock_model(event.model)
        rollout = transaction.rollouts().get(event.endpoint)
        if rollout is None or not judged_now(rollout, event):
            return
        now_us, subject = clock.now_us(), f"models:/{event.model}/{event.canary_version}"
        canary = served(transaction.version(event.model, event.canary_version))
        changed = what_callers_meet(rollout.champion, canary) if event.promote else ""
        promoted = event.promote and not changed
        action, why = "promote" if promoted else "roll_back", changed or event.evidence
        transaction.note(Change(0, now_us, MONITOR, action, event.model, subject, why, event.ce_id))
        if promoted:
            promote(transaction, event, now_us)
        else:
            change = f"rolled back v{event.canary_version}: {why}"
            transaction.put_rollout(without_canary(rollout, change=change, now_us=now_us))


def roll_out(transaction: RegistryTransaction, version: ModelVersion, now_us: int) -> None:
    """The first version that passes serves at once; a later one must win as a canary.

    Where an endpoint has no rule for canaries, it waits there for a hand to move the champion. So
    does one that takes other tensors than the champion, or finds another that somebody set by hand:
    the audit tells which.
    """
    if CHAMPION not in transaction.aliases(version.model):
        moved = Alias(version.model, CHAMPION, version.version, version.digest, 1, now_us)
        move(transaction, moved, version, change="first version")
        return
    rollouts = transaction.rollouts_of(version.model)
    for endpoint in endpoints_of(version.model, transaction.definitions()):
        before = rollouts[endpoint.name]
        if endpoint.rollout is None:
            continue
        why_not = what_stands_there(before) or what_callers_meet(before.champion, served(version))
        if why_not:
            _note_no_canary(transaction, endpoint.name, version, why_not, now_us)
            continue
        percent = endpoint.rollout.canary_percent
        transaction.put_rollout(with_canary(before, version, percent, now_us=now_us))


def _note_no_canary(
    transaction: RegistryTransaction, endpoint: str, version: ModelVersion, why: str, now_us: int
) -> None:
    subject = f"endpoint {endpoint}: models:/{version.model}/{version.version}"
    change = Change(0, now_us, REGISTRY, "start_no_canary", version.model, subject, why, "")
    transaction.note(change)


def _canary(reader: RegistryReader, before: Rollout, command: SetRollout) -> ModelVersion | None:
    if not command.canary_version:
        return None
    if command.canary_version == before.champion.version:
        raise Invalid("BAD_REQUEST", field="canary_version", problem="is the champion")
    version = reader.version(before.model, command.canary_version)
    if not version.gate.passed:
        raise Conflict("GATE_NOT_PASSED", model=before.model, version=version.version)
    check_callers(before, command, version)
    return version
