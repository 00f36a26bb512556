# SPDX-License-Identifier: Apache-2.0
"""How requests of a form are answered: checked once, for as long as the serving table stays."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any
from weakref import WeakValueDictionary

from headrace.errors import HeadraceError, Invalid
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace_inference.adapters import conversions
from headrace_inference.adapters.entity_plan import EntityPlan
from headrace_inference.adapters.request_forms import Form
from headrace_inference.adapters.request_parameters import check_parameters, priority, timeout_s
from headrace_inference.adapters.run_memory import SMALL
from headrace_inference.adapters.shared_runs import Kind, Plan, ReplyForm
from headrace_inference.adapters.tensor_codec import DATATYPES, element_count, row_bytes
from headrace_inference.domain.explanation import wanted_attributions
from headrace_inference.domain.model_tensors import read_tensors, wanted_outputs
from headrace_inference.domain.request import (
    AS_OF_US,
    FEATURES,
    OUTPUTS,
    PREDICTION_ID,
    SCORE,
    Tensor,
    check_inputs,
    check_outputs,
)
from headrace_inference.domain.rollout import Arm, Rollout
from headrace_inference.domain.serving import (
    ANY_SIZE,
    Choice,
    LoadedVersion,
    Serving,
    ServingTable,
    TensorSpec,
)

PLANS_MAX = 1_000
TEXT = "BYTES"


@dataclass(slots=True, eq=False)
class _Made:
    """What was made since the table served so, or later."""

    states: Mapping[str, Any]
    plans: dict[Form, Plan | EntityPlan | None] = field(default_factory=dict)
    # Of a kind each, for as long as a plan or a request is of it.
    kinds: MutableMapping[object, Kind] = field(default_factory=WeakValueDictionary)


class Plans:
    """The plans of the forms that were asked of late.

    Several threads ask: the gRPC door's, HTTP's, Kafka's. Who makes a plan takes hold of where
    it is kept before it looks at the table: what it made of a table that was replaced is kept
    nowhere else.
    """

    def __init__(self, table: ServingTable, *, rows_max: int) -> None:
        self._table, self._rows_max = table, rows_max
        self._now = _Made(table.states())

    def renew(self) -> None:
        """Forgets all when anything is served otherwise than before: no replaced version stays."""
        states = self._table.states()
        if states is not self._now.states:
            self._now = _Made(states)

    def of(self, form: Form) -> Plan | EntityPlan | None:
        """None for what cannot share a run."""
        made = self._now
        try:
            return made.plans[form]
        except KeyError:
            plan = self._plan(form, made.kinds)
        if len(made.plans) >= PLANS_MAX:
            made.plans.clear()
        made.plans[form] = plan
        return plan

    def _plan(self, form: Form, kinds: MutableMapping[object, Kind]) -> Plan | EntityPlan | None:
        """None also for a mistake: the servicer, which is asked then, has the words for it."""
        try:
            return self._checked(form, kinds)
        except HeadraceError:
            return None

    def _checked(self, form: Form, made: MutableMapping[object, Kind]) -> Plan | EntityPlan | None:
        message = form.message
        check_parameters(message)
        tensors = _tensors(form)
        if tensors is None or AS_OF_US in message.parameters:
            return None
        definition, serving = self._table.ready(message.model_name)
        version = conversions.model_version(message.model_name, message.model_version)
        named = serving.version(version)
        wanted = tuple(output.name for output in message.outputs)
        if wanted_attributions(wanted, named):
            return None
        if named.served.features and FEATURES not in tensors:
            check_outputs(wanted, OUTPUTS)
            if AS_OF_US in tensors:
                return None
            return EntityPlan(
                endpoint=definition,
                serving=serving,
                version=version,
                inputs=tuple(tensors.values()),
                rows=check_inputs(tensors, definition, rows_max=self._rows_max),
                outputs=wanted,
                priority=priority(message.parameters),
                timeout_s=timeout_s(message.parameters),
            )
        if any(tensor.datatype == TEXT for tensor in tensors.values()):
            return None
        if named.served.features:
            rows = _features_rows(tensors, wanted, named, rows_max=self._rows_max)
            outputs: tuple[str, ...] = (SCORE,)
            names = wanted or (SCORE, PREDICTION_ID)
        else:
            rows = read_tensors(tensors, named.model, rows_max=self._rows_max)
            outputs = tuple(wanted_outputs(wanted, named.model))
            names = wanted or outputs
        types = {spec.name: spec.datatype for spec in named.model.outputs}
        if any(types[name] == TEXT for name in outputs):
            return None
        kinds, rollout = _routed(serving, version, tensors, outputs, made, rows_max=self._rows_max)
        order = [message_input.name for message_input in message.inputs]
        return Plan(
            kind_by_arm=kinds,
            rollout=rollout,
            endpoint=message.model_name,
            rows=rows,
            priority=priority(message.parameters),
            timeout_s=timeout_s(message.parameters),
            order=tuple(order.index(spec.name) for spec in kinds[Arm.CHAMPION].inputs),
            reply=ReplyForm(names, rows),
        )


def _routed(
    serving: Serving,
    version: int | None,
    tensors: Mapping[str, Tensor],
    outputs: tuple[str, ...],
    made: MutableMapping[object, Kind],
    *,
    rows_max: int,
) -> tuple[dict[Arm, Kind], Rollout | None]:
    choice = serving.choose(version=version, sticky_key="", tensors=True)
    if version is not None or choice.shadow is None:
        kind = _kind(serving, choice, tensors, outputs, made, rows_max=rows_max)
        return {Arm.CHAMPION: kind, Arm.CANARY: kind}, None
    arms = (Arm.CHAMPION, serving.champion), (Arm.CANARY, serving.canary)
    kinds = {
        arm: _kind(serving, Choice(arm, loaded, other), tensors, outputs, made, rows_max=rows_max)
        for (arm, loaded), (_, other) in zip(arms, reversed(arms), strict=True)
        if loaded is not None
    }
    return kinds, serving.rollout


def _kind(
    serving: Serving,
    choice: Choice,
    tensors: Mapping[str, Tensor],
    outputs: tuple[str, ...],
    made: MutableMapping[object, Kind],
    *,
    rows_max: int,
) -> Kind:
    loaded = choice.answering
    by_features = bool(loaded.served.features)
    by_rows = by_features or loaded.model.rows_apart
    inputs = tuple(
        TensorSpec(
            spec.name,
            spec.datatype,
            (ANY_SIZE, *tensors[spec.name].shape[1:]) if by_rows else tensors[spec.name].shape,
        )
        # A plan has one order of them, and the other arm's model may have its own.
        for spec in sorted(loaded.model.inputs, key=attrgetter("name"))
    )
    # The named version with and without the other arm as its shadow, each with its own batches.
    shadow = choice.shadow.served.version if choice.shadow else 0
    key = serving.rollout.endpoint, loaded.served.version, shadow, inputs, outputs
    found = made.get(key)
    if found is None:
        fitting = choice.rows_at_once(sum(row_bytes(spec.datatype, spec.shape) for spec in inputs))
        head = oip.ModelInferResponse(
            model_name=serving.rollout.endpoint, model_version=str(loaded.served.version)
        )
        found = made[key] = Kind(
            serving=serving,
            choice=choice,
            model=loaded.model,
            inputs=inputs,
            outputs=outputs,
            by_features=by_features,
            by_rows=by_rows,
            shared=loaded.model.rows_apart,
            rows_max=min(rows_max, fitting),
            small_rows_max=int(SMALL * fitting),
            steady=all(
                ANY_SIZE not in spec.shape[loaded.model.rows_apart :]
                for spec in loaded.model.inputs
            ),
            head=head.SerializeToString(),
        )
    return found


def _tensors(form: Form) -> dict[str, Tensor] | None:
    """The inputs without their values, sizes of numbers checked; None for what is not all raw."""
    inputs = form.message.inputs
    if len(inputs) != len(form.places) or len(inputs) > conversions.INPUTS_MAX:
        return None
    tensors: dict[str, Tensor] = {}
    for tensor, (begin, end) in zip(inputs, form.places, strict=True):
        shape = tuple(tensor.shape)
        if tensor.name in tensors or tensor.HasField("contents"):
            return None
        elements = element_count(tensor.name, tensor.datatype, shape)
        itemsize = DATATYPES[tensor.datatype].array.itemsize
        if tensor.datatype != TEXT and elements * itemsize != end - begin:
            return None
        tensors[tensor.name] = Tensor(tensor.name, tensor.datatype, shape, [])
    return tensors


def _features_rows(
    tensors: Mapping[str, Tensor], wanted: Sequence[str], named: LoadedVersion, *, rows_max: int
) -> int:
    """Rows of a request by the vectors of features alone."""
    check_outputs(wanted, OUTPUTS)
    tensor = tensors.get(FEATURES)
    fits = (
        tensor is not None
        and len(tensors) == 1
        and tensor.datatype == "FP32"
        and len(tensor.shape) == 2
        and tensor.shape[1] == len(named.served.features)
        and 1 <= tensor.shape[0] <= rows_max
    )
    if tensor is None or not fits:
        raise Invalid("TENSOR_SHAPE", input=FEATURES)
    return tensor.shape[0]
