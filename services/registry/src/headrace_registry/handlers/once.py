# SPDX-License-Identifier: Apache-2.0
"""What every command has: one transaction, one answer for its request id, one row of the audit.

What is applied again and again as it is, as by a pipeline, has no row: a row tells of a change.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace_kit.clock import Clock
from headrace_registry.domain.alias import SetAlias
from headrace_registry.domain.change import Change
from headrace_registry.domain.definition import (
    AppliedDefinitions,
    ApplyDefinitions,
    RetractDefinition,
)
from headrace_registry.domain.name import check_id, check_text
from headrace_registry.domain.request import request_of
from headrace_registry.domain.rollout import Rollout, SetRollout
from headrace_registry.domain.signing import SignVersion
from headrace_registry.domain.version import (
    ApproveVersion,
    DescribeVersion,
    ModelVersion,
    RegisterVersion,
    RetractVersion,
)
from headrace_registry.ports import Answer, Answered, RegistryStore, RegistryTransaction

Command = (
    ApplyDefinitions
    | RetractDefinition
    | SetAlias
    | SetRollout
    | RegisterVersion
    | ApproveVersion
    | RetractVersion
    | DescribeVersion
    | SignVersion
)
ACTIONS: dict[type, str] = {
    ApplyDefinitions: "apply_definitions",
    RetractDefinition: "retract_definition",
    SetAlias: "set_alias",
    SetRollout: "set_rollout",
    RegisterVersion: "register_version",
    ApproveVersion: "approve_version",
    RetractVersion: "retract_version",
    DescribeVersion: "describe_version",
    SignVersion: "sign_version",
}


def once(
    command: Command,
    kind: type[Answer],
    store: RegistryStore,
    act: Callable[[RegistryTransaction], Answer],
    *,
    caller: str,
    clock: Clock,
) -> Answer:
    """Acts in one transaction with the answer that a repeat of the request is given again.

    Raises Invalid BAD_REQUEST for a bad request id or reason, Conflict REQUEST_REUSED, and what
    `act` raises.
    """
    check_id("request_id", command.request_id)
    check_text("reason", command.reason)
    request = request_of(command, command.request_id)
    with store.transaction() as transaction:
        answer = transaction.first_answer(request, kind)
        if answer is None:
            answer = act(transaction)
            transaction.remember(request, answer)
            if not isinstance(answer, AppliedDefinitions) or answer.changed:
                transaction.note(_change(command, answer, caller, clock.now_us()))
        return answer


def _change(command: Command, answer: Answered, caller: str, at_us: int) -> Change:
    model, subject = _told(command, answer)
    action = ACTIONS[type(command)]
    return Change(0, at_us, caller, action, model, subject, command.reason, command.request_id)


def _told(command: Command, answer: Answered) -> tuple[str, str]:
    """Model and subject of a change."""
    if isinstance(command, ApplyDefinitions):
        return "", f"application {command.application}"
    if isinstance(command, RetractDefinition):
        return "", f"{command.kind} {command.name}"
    if isinstance(command, SetAlias):
        return (
            command.model,
            f"models:/{command.model}@{command.alias} is version {command.version}",
        )
    if isinstance(command, SetRollout):
        assert isinstance(answer, Rollout)  # noqa: S101 (its answer)
        return answer.model, f"endpoint {command.endpoint}: {answer.change}"
    assert isinstance(answer, ModelVersion)  # noqa: S101 (of the other commands)
    return command.model, f"models:/{command.model}/{answer.version}"
