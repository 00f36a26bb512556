# SPDX-License-Identifier: Apache-2.0
"""Parameters of a request that mean something here, in Triton's words; all others are ignored.

`timeout` is in microseconds, 0 for none; `priority` is 1 for the most urgent, 0 for none in
particular. A tensor in shared memory has its contents where we cannot read them. `entity_key` is
ours: the entity of the rows that name none themselves.
"""

from __future__ import annotations

from typing import Any

from headrace.errors import Invalid
from headrace_inference.domain.request import ENTITY_KEY, check_entity_key
from headrace_inference.domain.serving import NAME_SHOWN_MAX
from headrace_kit.hot_calls import HotCall

TIMEOUT, PRIORITY = "timeout", "priority"
SHARED_MEMORY, CLASSIFICATION = "shared_memory_region", "classification"
# Calls that name no priority stand behind those of the first, before those of later ones.
PRIORITY_DEFAULT = 2
WHOLE_MAX = 2**63 - 1
WHOLE = "an integer from 0 to 2^63 - 1 is needed"


def check_parameters(request: Any) -> None:
    """Raises Invalid BAD_REQUEST for a timeout, priority or key that is none, BAD_ID for a key that
    may not be one, UNSUPPORTED for a tensor in shared memory and for an output by its classes.
    """
    for name in (TIMEOUT, PRIORITY):
        if name in request.parameters and _whole(request.parameters, name) is None:
            raise Invalid("BAD_REQUEST", field=name, problem=WHOLE)
    check_entity_key(entity_key(request.parameters))
    for tensor in (*request.inputs, *request.outputs):
        if SHARED_MEMORY in tensor.parameters:
            refuse_shared_memory(tensor.name)
    for output in request.outputs:
        if CLASSIFICATION in output.parameters:
            problem = "no classes are told: take the numbers"
            raise Invalid("UNSUPPORTED", tensor=output.name[:NAME_SHOWN_MAX], problem=problem)


def refuse_shared_memory(name: str) -> None:
    """Raises Invalid UNSUPPORTED."""
    problem = "no shared memory is served: send raw contents"
    raise Invalid("UNSUPPORTED", tensor=name[:NAME_SHOWN_MAX], problem=problem)


def timeout_s(parameters: Any) -> float | None:
    """What the request says itself that it may take; None also where that is nonsense, which
    `check_parameters` refuses.
    """
    timeout_us = _whole(parameters, TIMEOUT)
    return timeout_us / 1e6 if timeout_us else None


def answer_by_s(call: HotCall, limit_s: float | None) -> float:
    """By time.monotonic, when the caller's deadline and the request's own time are over."""
    return call.deadline_s if limit_s is None else min(call.deadline_s, call.arrived_s + limit_s)


def priority(parameters: Any) -> int:
    """The lowest number goes first."""
    return _whole(parameters, PRIORITY) or PRIORITY_DEFAULT


def entity_key(parameters: Any) -> str:
    """Empty where none is named; raises Invalid BAD_REQUEST for what is no text."""
    if ENTITY_KEY not in parameters:
        return ""
    parameter = parameters[ENTITY_KEY]
    if parameter.WhichOneof("parameter_choice") != "string_param":
        raise Invalid("BAD_REQUEST", field=ENTITY_KEY, problem="a string parameter is needed")
    return str(parameter.string_param)


def _whole(parameters: Any, name: str) -> int | None:
    """A parameter of any integer kind; None when it is none, or out of range."""
    if name not in parameters:
        return None
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        return None
    value = int(getattr(parameters[name], kind))
    return value if 0 <= value <= WHOLE_MAX else None
