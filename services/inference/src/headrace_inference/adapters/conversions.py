# SPDX-License-Identifier: Apache-2.0
"""Protocol objects to domain objects and back, each way once.

OIP: raw contents are used for all inputs or for none, and an answer is raw when the request was,
or when it holds a type that has no other contents (FIELD (b), trap 5). Unknown parameters are
ignored; all five kinds are read (trap 4).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from headrace.errors import Busy, HeadraceError, Invalid, NotFound
from headrace.feature.v1 import feature_service_pb2 as feature_pb
from headrace.inference.v1 import inference_events_pb2 as events_pb
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.protobuf_wire import varint
from headrace.registry.v1 import registry_events_pb2 as registry_pb
from headrace_inference.adapters.request_parameters import check_parameters, entity_key
from headrace_inference.adapters.tensor_codec import (
    DATATYPES,
    Values,
    decode_raw,
    decode_typed,
    encode_raw,
    flattened,
    listed,
    raw_view,
    steps,
)
from headrace_inference.domain.claim import Claim
from headrace_inference.domain.logged_columns import Part
from headrace_inference.domain.model_tensors import tensor_inputs, tensor_outputs
from headrace_inference.domain.prediction import Failure, Prediction, row_id
from headrace_inference.domain.request import (
    AS_OF_US,
    ATTRIBUTIONS,
    Batch,
    Door,
    FeatureRows,
    InferRequest,
    Tensor,
    check_request_id,
)
from headrace_inference.domain.rollout import Arm, Rollout, ServedVersion
from headrace_inference.domain.serving import (
    NAME_SHOWN_MAX,
    EndpointState,
    Serving,
    TensorSpec,
)
from headrace_kit.grpc_client import MESSAGE_BYTES_MAX

# As many as the registry takes of a model.
INPUTS_MAX = 64
# Of a BYTES tensor, whose elements are objects of their own.
ELEMENTS_A_ROW_MAX = 64
PLATFORM = "onnxruntime_onnx"
# As it is told: one number has one name.
VERSION = re.compile(r"0|[1-9][0-9]{0,8}")
INT64_MAX = 2**63 - 1
# Of one value of a refusal on Kafka.
METADATA_CHARACTERS_MAX = 1_024
ARM = {Arm.CHAMPION: events_pb.ARM_CHAMPION, Arm.CANARY: events_pb.ARM_CANARY}
FIELD_BY_COLUMN_TYPE = {str: "strings", int: "int64s", float: "doubles"}
# float32 and int64: a feature's value and its event time in an answer.
ANSWERED_BYTES = 4 + 8
Shape = tuple[int, int]
# Shorter stretches on the average are gathered, longer ones named one by one.
STRETCH_ROWS_FEW = 8
INPUTS_NUMBER = events_pb.PredictionsMade.INPUTS_FIELD_NUMBER
OUTPUTS_NUMBER = events_pb.PredictionsMade.OUTPUTS_FIELD_NUMBER
EVENT_TIMES_NUMBER = events_pb.PredictionsMade.EVENT_TIMES_FIELD_NUMBER
SHADOW_NUMBER = events_pb.PredictionsMade.SHADOW_FIELD_NUMBER
SHADOW_OUTPUTS_NUMBER = events_pb.Shadow.OUTPUTS_FIELD_NUMBER
CONTENTS_NUMBER = events_pb.LoggedTensor.CONTENTS_FIELD_NUMBER
DOOR = {Door.ENTITY_KEYS: events_pb.DOOR_ENTITY_KEYS, Door.TENSORS: events_pb.DOOR_TENSORS}


def infer_request(request: Any, *, rows_max: int) -> InferRequest:
    """Raises Invalid TENSOR_*, BAD_REQUEST, BAD_ID, UNSUPPORTED, NotFound MODEL_UNKNOWN, Busy
    TOO_MANY_INPUTS.
    """
    if len(request.inputs) > INPUTS_MAX:
        raise Busy("TOO_MANY_INPUTS", inputs=len(request.inputs), inputs_max=INPUTS_MAX)
    check_parameters(request)
    check_request_id(request.id)
    return InferRequest(
        endpoint=request.model_name,
        version=_version(request.model_name, request.model_version),
        id=request.id or uuid.uuid4().hex,
        inputs=_inputs(request, rows_max=rows_max),
        outputs=tuple(output.name for output in request.outputs),
        as_of_us=_as_of_us(request.parameters),
        key=entity_key(request.parameters),
    )


def infer_response(
    prediction: Prediction, outputs: tuple[str, ...], *, raw: bool
) -> oip.ModelInferResponse:
    response = oip.ModelInferResponse(
        model_name=prediction.endpoint,
        model_version=str(prediction.served.version),
        id=prediction.request_id,
    )
    tensors = prediction.answer(outputs)
    raw = raw or any(DATATYPES[each.datatype].field is None for each in tensors)
    for answered in tensors:
        tensor = response.outputs.add(
            name=answered.name, datatype=answered.datatype, shape=answered.shape
        )
        if answered.name == ATTRIBUTIONS and prediction.served.features:
            names = ",".join(prediction.served.features)
            tensor.parameters["features"].string_param = names
        field, values = DATATYPES[answered.datatype].field, answered.values
        if raw:
            response.raw_output_contents.append(encode_raw(values))
        else:
            contents, flat = getattr(tensor.contents, str(field)), flattened(values)
            for step in steps(len(flat)):
                contents.extend(listed(flat[step]))
    return response


def model_metadata(endpoint: str, serving: Serving, version: int | None) -> Any:
    """The tensor door of one version, and the versions that are loaded."""
    loaded = serving.version(version)
    return oip.ModelMetadataResponse(
        name=endpoint,
        versions=sorted((str(one.served.version) for one in serving.loaded()), key=int),
        platform=PLATFORM,
        inputs=map(_tensor_metadata, tensor_inputs(loaded)),
        outputs=map(_tensor_metadata, tensor_outputs(loaded)),
    )


def _tensor_metadata(spec: TensorSpec) -> Any:
    metadata = oip.ModelMetadataResponse.TensorMetadata
    return metadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def repository_index(states: Mapping[str, EndpointState], *, ready_only: bool) -> Any:
    """One entry for each version, loaded or asked for; an endpoint without one has an empty one."""
    index = oip.RepositoryIndexResponse()
    for endpoint, state in sorted(states.items()):
        for version, health, reason in _index_entries(state):
            if health == "READY" or not ready_only:
                index.models.add(name=endpoint, version=version, state=health, reason=reason)
    return index


def model_version(name: str, version: str) -> int | None:
    """None when empty; NotFound MODEL_UNKNOWN when it cannot be the number of a version."""
    return _version(name, version)


def rollout(value: bytes) -> Rollout:
    """Raises Invalid DECODE_ERROR."""
    message = _decoded(registry_pb.Rollout, value)
    if not message.endpoint or not message.HasField("champion"):
        raise Invalid("DECODE_ERROR", message="Rollout")
    return Rollout(
        endpoint=message.endpoint,
        model=message.model,
        generation=message.generation,
        champion=_served(message.champion),
        canary=_served(message.canary) if message.HasField("canary") else None,
        canary_percent=message.canary_percent,
        stopped=message.stopped,
    )


def features_request(
    features: Sequence[str], batch: Batch, prediction_ids: Sequence[str]
) -> feature_pb.GetOnlineFeaturesRequest:
    values = batch.rows * len(features)
    request = feature_pb.GetOnlineFeaturesRequest(
        features=features,
        as_of_us=batch.as_of_us.tolist(),
        include_times=values * ANSWERED_BYTES <= MESSAGE_BYTES_MAX,
        staleness_max_ms=batch.staleness_max_ms,
        prediction_ids=prediction_ids,
    )
    for column in batch.columns:
        message = request.columns.add(name=column.name)
        field = FIELD_BY_COLUMN_TYPE[type(column.values[0])]
        getattr(message, field).values.extend(column.values)
    return request


def feature_rows(answer: feature_pb.GetOnlineFeaturesResponse, shape: Shape) -> FeatureRows:
    """`shape`: [rows, features]."""
    values, times = np.frombuffer(answer.values, "<f4"), None
    if answer.event_times_us:
        times = np.frombuffer(answer.event_times_us, "<i8").reshape(shape)
    return FeatureRows(values.reshape(shape), times)


def predictions_event(
    parts: Sequence[Part], *, writer: str, rows_answered: int
) -> events_pb.PredictionsMade:
    """All of a record but its tensors."""
    first = parts[0].prediction
    runs = [(part.prediction, *run) for part in parts for run in part.runs]
    return events_pb.PredictionsMade(
        endpoint=first.endpoint,
        model=first.model,
        version=first.served.version,
        digest=first.served.digest,
        arm=ARM[first.arm],
        door=DOOR[first.door],
        rollout_generation=first.rollout_generation,
        first_prediction_ids=[row_id(of.ids.bases[at], number) for of, at, number, _, _ in runs],
        run_rows=[rows for *_, rows in runs],
        as_of_us=[int(of.as_of_us[first]) for of, _, _, first, _ in runs],
        served_at_us=[of.served_at_us for of, *_ in runs],
        entity_keys=_entity_keys(parts),
        writer=writer,
        rows_answered=rows_answered,
    )


def predictions_record(
    event: events_pb.PredictionsMade, parts: Sequence[Part], *, inputs: bool
) -> bytes:
    """The event and the tensors of its rows, encoded: they are most of it, and copied once.

    Fields that stand one behind the other are one message (protobuf encoding).
    """
    encoded = [memoryview(event.SerializeToString())]
    if inputs:
        encoded += _logged_tensors(INPUTS_NUMBER, parts, [part.prediction.inputs for part in parts])
        times = [_named(part.prediction.event_times) for part in parts]
        encoded += _logged_tensors(EVENT_TIMES_NUMBER, parts, times)
    encoded += _logged_tensors(OUTPUTS_NUMBER, parts, [part.prediction.outputs for part in parts])
    shadows = [part.prediction.shadow for part in parts if part.prediction.shadow]
    if shadows:
        version = events_pb.Shadow(version=shadows[0].version).SerializeToString()
        outputs = _logged_tensors(SHADOW_OUTPUTS_NUMBER, parts, [each.outputs for each in shadows])
        encoded += _field(SHADOW_NUMBER, [memoryview(version), *outputs])
    return b"".join(encoded)


def claiming_event(event: events_pb.PredictionsMade, claim: Claim) -> events_pb.PredictionsMade:
    """The record of one request's answer that lies in the object store; its rows are one run."""
    return events_pb.PredictionsMade(
        endpoint=event.endpoint,
        model=event.model,
        version=event.version,
        digest=event.digest,
        arm=event.arm,
        door=event.door,
        rollout_generation=event.rollout_generation,
        first_prediction_ids=event.first_prediction_ids[:1],
        run_rows=[sum(event.run_rows)],
        as_of_us=event.as_of_us[:1],
        served_at_us=event.served_at_us[:1],
        request_partition=event.request_partition,
        request_offsets=event.request_offsets[:1],
        request_topic_id=event.request_topic_id,
        claim=events_pb.Claim(digest=claim.digest, size_bytes=claim.size_bytes),
    )


def nonfinite_event(failure: Failure) -> events_pb.PredictionsMade:
    """A request that a version said NaN or infinity to."""
    return events_pb.PredictionsMade(
        endpoint=failure.endpoint,
        model=failure.model,
        version=failure.served.version,
        digest=failure.served.digest,
        arm=ARM[failure.arm],
        rollout_generation=failure.rollout_generation,
        nonfinite=[
            events_pb.NonfiniteRequest(
                prediction_id=failure.prediction_id,
                as_of_us=failure.as_of_us,
                shadow=failure.shadow,
            )
        ],
    )


def refused_event(endpoint: str, refused: Sequence[events_pb.RefusedRequest]) -> Any:
    """Requests over Kafka that are answered by a reason."""
    return events_pb.PredictionsMade(endpoint=endpoint, refused=refused)


def refused_request(request_id: str, offset: int, error: HeadraceError) -> events_pb.RefusedRequest:
    """What an error tells may be as long as a record: of that as much as fits one."""
    return events_pb.RefusedRequest(
        request_id=request_id,
        request_offset=offset,
        reason=error.reason,
        metadata={name: value[:METADATA_CHARACTERS_MAX] for name, value in error.metadata.items()},
    )


def answered_offsets(value: bytes, partition: int, topic_id: str) -> list[int]:
    """The offsets of that partition's requests that a record of the predictions answers.

    None of another topic's, which had the same name; an older version did not say which it is.
    Raises Invalid DECODE_ERROR.
    """
    event = _decoded(events_pb.PredictionsMade, value)
    if not event.HasField("request_partition") or event.request_partition != partition:
        return []
    if event.request_topic_id not in ("", topic_id):
        return []
    return [*event.request_offsets, *(each.request_offset for each in event.refused)]


def _entity_keys(parts: Sequence[Part]) -> list[str]:
    """Of each row; none when no caller named an entity."""
    if not any(part.prediction.entity_keys for part in parts):
        return []
    keys: list[str] = []
    for part in parts:
        own = part.prediction.entity_keys
        keys += part.of_rows(own or [""] * len(part.row_bytes))
    return keys


def _named(tensor: Tensor | None) -> Mapping[str, Tensor]:
    return {} if tensor is None else {tensor.name: tensor}


def _logged_tensors(
    number: int, parts: Sequence[Part], groups: Sequence[Mapping[str, Tensor]]
) -> list[memoryview]:
    encoded: list[memoryview] = []
    rows = sum([part.rows for part in parts])
    by_part = [_contents(part, group.values()) for part, group in zip(parts, groups, strict=True)]
    for tensor, *contents in zip(groups[0].values(), *by_part, strict=True):
        # A model without rows has its own sizes: its answer is all of a record.
        whole = len(parts) == 1 and parts[0].whole
        shape = tensor.shape if whole else (rows, *tensor.shape[1:])
        head = events_pb.LoggedTensor(name=tensor.name, datatype=tensor.datatype, shape=shape)
        own = _field(CONTENTS_NUMBER, list(chain.from_iterable(contents)))
        encoded += _field(number, [memoryview(head.SerializeToString()), *own])
    return encoded


def _contents(part: Part, tensors: Iterable[Tensor]) -> list[list[memoryview]]:
    """Of each tensor the part's rows."""
    if part.whole:
        return [[raw_view(tensor.values)] for tensor in tensors]
    rows = len(part.row_bytes)
    chosen: list[Any]
    if len(part.stretches) > max(1, part.rows // STRETCH_ROWS_FEW):
        chosen = [np.array(part.of_rows(range(rows)))]
    else:
        chosen = [slice(first, end) for first, end in part.stretches]
    return [
        [raw_view(part.of_rows(tensor.values, len(tensor.values) // rows))]
        if isinstance(tensor.values, list)
        else [raw_view(tensor.values[each]) for each in chosen]
        for tensor in tensors
    ]


def _field(number: int, parts: Sequence[memoryview]) -> list[memoryview]:
    """With a length, of what stands in several places (protobuf encoding)."""
    tag = varint(number << 3 | 2)
    return [memoryview(tag + varint(sum([part.nbytes for part in parts]))), *parts]


def _decoded(message: Any, value: bytes) -> Any:
    try:
        return message.FromString(value)
    except DecodeError as err:
        raise Invalid("DECODE_ERROR", message=message.DESCRIPTOR.name) from err


def _version(name: str, version: str) -> int | None:
    if not version:
        return None
    if not VERSION.fullmatch(version):
        raise NotFound("MODEL_UNKNOWN", endpoint=name[:NAME_SHOWN_MAX], version=version[:16])
    return int(version)


def _inputs(request: Any, *, rows_max: int) -> dict[str, Tensor]:
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        problem = f"{len(raw)} raw contents for {len(request.inputs)} inputs"
        raise Invalid("TENSOR_CONTENT", problem=problem)
    elements_max = rows_max * ELEMENTS_A_ROW_MAX
    inputs: dict[str, Tensor] = {}
    for i, tensor in enumerate(request.inputs):
        name = tensor.name[:NAME_SHOWN_MAX]
        if tensor.name in inputs:
            raise Invalid("TENSOR_NAME", input=name, problem="given twice")
        if raw and tensor.HasField("contents"):
            raise Invalid("TENSOR_CONTENT", input=name, problem="raw and typed")
        shape = tuple(tensor.shape)
        if raw:
            values = decode_raw(name, tensor.datatype, shape, raw[i], elements_max=elements_max)
        else:
            values = _typed_values(name, tensor, shape, elements_max=elements_max)
        inputs[tensor.name] = Tensor(tensor.name, tensor.datatype, shape, values)
    return inputs


def _typed_values(name: str, tensor: Any, shape: tuple[int, ...], *, elements_max: int) -> Values:
    filled = tensor.contents.ListFields()
    if len(filled) > 1:
        raise Invalid("TENSOR_CONTENT", input=name, problem="more than one field of contents")
    field, values = (filled[0][0].name, filled[0][1]) if filled else (None, ())
    return decode_typed(name, tensor.datatype, shape, field, values, elements_max=elements_max)


def _as_of_us(parameters: Mapping[str, Any]) -> int | None:
    if AS_OF_US not in parameters:
        return None
    parameter = parameters[AS_OF_US]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise Invalid("BAD_REQUEST", field=AS_OF_US, problem="an int64 parameter is needed")
    return min(int(getattr(parameter, kind)), INT64_MAX)


def _served(message: registry_pb.ServedVersion) -> ServedVersion:
    return ServedVersion(message.version, message.digest, tuple(message.features))


def _index_entries(state: EndpointState) -> Iterator[tuple[str, str, str]]:
    serving, wanted = state.serving, state.wanted
    ready = {one.served.version for one in serving.loaded()} if serving else set()
    yield from ((str(version), "READY", "") for version in sorted(ready))
    if wanted is None:
        yield "", "UNAVAILABLE", "MODEL_NOT_READY"
    elif state.pending:
        asked = {v.version for v in (wanted.champion, wanted.canary) if v is not None}
        health = "UNAVAILABLE" if state.refused else "LOADING"
        for version in sorted(asked - ready):
            yield str(version), health, state.refused or ""
