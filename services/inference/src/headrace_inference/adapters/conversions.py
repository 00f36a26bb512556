# SPDX-License-Identifier: Apache-2.0
"""Protocol objects to domain objects and back, each way once.

OIP: raw contents are used for all inputs or for none, and an answer is raw when the request was
(FIELD (b), trap 5). Unknown parameters are ignored; all five kinds are read (trap 4).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from headrace.errors import Busy, Invalid, NotFound
from headrace.feature.v1 import feature_service_pb2 as feature_pb
from headrace.inference.v1 import inference_events_pb2 as events_pb
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.registry.v1 import registry_events_pb2 as registry_pb
from headrace_inference.adapters.tensor_codec import (
    DATATYPES,
    Values,
    decode_raw,
    decode_typed,
    encode_raw,
)
from headrace_inference.domain.prediction import Prediction
from headrace_inference.domain.request import (
    AS_OF_US,
    FEATURES,
    OUTPUTS_DEFAULT,
    PREDICTION_ID,
    REQUEST_ID_CHARACTERS_MAX,
    SCORE,
    Batch,
    Door,
    InferRequest,
    Tensor,
)
from headrace_inference.domain.rollout import Arm, Rollout, ServedVersion
from headrace_inference.domain.serving import NAME_SHOWN_MAX, EndpointState, Serving

INPUTS_MAX = 64
PLATFORM = "onnxruntime_onnx"
DATATYPE_BY_OUTPUT = {SCORE: "FP32", FEATURES: "FP32", PREDICTION_ID: "BYTES"}
INT64_MAX = 2**63 - 1
ARM = {Arm.CHAMPION: events_pb.ARM_CHAMPION, Arm.CANARY: events_pb.ARM_CANARY}
FIELD_BY_COLUMN_TYPE = {str: "strings", int: "int64s", float: "doubles"}
DOOR = {Door.ENTITY_KEYS: events_pb.DOOR_ENTITY_KEYS, Door.TENSORS: events_pb.DOOR_TENSORS}


def infer_request(request: Any, *, rows_max: int) -> InferRequest:
    """Raises Invalid TENSOR_*, BAD_REQUEST, NotFound MODEL_UNKNOWN, Busy TOO_MANY_INPUTS."""
    if len(request.id) > REQUEST_ID_CHARACTERS_MAX:
        raise Invalid("BAD_REQUEST", field="id", characters_max=REQUEST_ID_CHARACTERS_MAX)
    return InferRequest(
        endpoint=request.model_name,
        version=_version(request.model_name, request.model_version),
        id=request.id or uuid.uuid4().hex,
        inputs=_inputs(request, rows_max=rows_max),
        outputs=tuple(output.name for output in request.outputs) or OUTPUTS_DEFAULT,
        as_of_us=_as_of_us(request.parameters),
    )


def infer_response(
    prediction: Prediction, outputs: tuple[str, ...], *, raw: bool
) -> oip.ModelInferResponse:
    response = oip.ModelInferResponse(
        model_name=prediction.endpoint,
        model_version=str(prediction.served.version),
        id=prediction.request_id,
    )
    for name in outputs:
        values = _output(prediction, name)
        shape = (len(values),) if isinstance(values, list) else values.shape
        tensor = response.outputs.add(name=name, datatype=DATATYPE_BY_OUTPUT[name], shape=shape)
        if raw:
            response.raw_output_contents.append(encode_raw(values))
        else:
            flat = values if isinstance(values, list) else values.ravel().tolist()
            field = DATATYPES[tensor.datatype].field
            getattr(tensor.contents, str(field)).extend(flat)
    return response


def model_metadata(endpoint: str, serving: Serving, version: int | None) -> Any:
    """The tensor door of one version, and the versions that are loaded."""
    width = len(serving.version(version).served.features)
    shape_by_name = {SCORE: [-1], FEATURES: [-1, width], PREDICTION_ID: [-1]}
    metadata = oip.ModelMetadataResponse.TensorMetadata
    return oip.ModelMetadataResponse(
        name=endpoint,
        versions=sorted((str(one.served.version) for one in serving.loaded()), key=int),
        platform=PLATFORM,
        inputs=[metadata(name=FEATURES, datatype="FP32", shape=[-1, width])],
        outputs=[
            metadata(name=name, datatype=DATATYPE_BY_OUTPUT[name], shape=shape)
            for name, shape in shape_by_name.items()
        ],
    )


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
    )


def features_request(
    features: Sequence[str], batch: Batch, prediction_ids: Sequence[str]
) -> feature_pb.GetOnlineFeaturesRequest:
    request = feature_pb.GetOnlineFeaturesRequest(
        features=features, as_of_us=batch.as_of_us.tolist(), prediction_ids=prediction_ids
    )
    for column in batch.columns:
        message = request.columns.add(name=column.name)
        field = FIELD_BY_COLUMN_TYPE[type(column.values[0])]
        getattr(message, field).values.extend(column.values)
    return request


def prediction_events(prediction: Prediction) -> Iterator[events_pb.PredictionMade]:
    """One for each row."""
    shadow = prediction.shadow
    shadow_scores = shadow.scores.tolist() if shadow is not None else None
    rows = zip(
        prediction.prediction_ids,
        prediction.entity_keys,
        prediction.as_of_us.tolist(),
        prediction.features.tolist(),
        prediction.scores.tolist(),
        strict=True,
    )
    for row, (prediction_id, entity_key, as_of_us, features, score) in enumerate(rows):
        event = events_pb.PredictionMade(
            prediction_id=prediction_id,
            endpoint=prediction.endpoint,
            model=prediction.model,
            version=prediction.served.version,
            digest=prediction.served.digest,
            entity_key=entity_key,
            as_of_us=as_of_us,
            features=features,
            score=score,
            arm=ARM[prediction.arm],
            door=DOOR[prediction.door],
            served_at_us=prediction.served_at_us,
            rollout_generation=prediction.rollout_generation,
        )
        if shadow is not None and shadow_scores is not None:
            event.shadow.version, event.shadow.score = shadow.version, shadow_scores[row]
        yield event


def _decoded(message: Any, value: bytes) -> Any:
    try:
        return message.FromString(value)
    except DecodeError as err:
        raise Invalid("DECODE_ERROR", message=message.DESCRIPTOR.name) from err


def _version(name: str, version: str) -> int | None:
    if not version:
        return None
    if not (version.isascii() and version.isdecimal() and len(version) <= 9):
        raise NotFound("MODEL_UNKNOWN", endpoint=name[:NAME_SHOWN_MAX], version=version[:16])
    return int(version)


def _inputs(request: Any, *, rows_max: int) -> dict[str, Tensor]:
    if len(request.inputs) > INPUTS_MAX:
        raise Busy("TOO_MANY_INPUTS", inputs=len(request.inputs), inputs_max=INPUTS_MAX)
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise Invalid("TENSOR_CONTENT", raw_contents=len(raw), inputs=len(request.inputs))
    inputs: dict[str, Tensor] = {}
    for i, tensor in enumerate(request.inputs):
        name = tensor.name[:NAME_SHOWN_MAX]
        if tensor.name in inputs:
            raise Invalid("TENSOR_NAME", input=name, problem="given twice")
        if raw and tensor.HasField("contents"):
            raise Invalid("TENSOR_CONTENT", input=name, problem="raw and typed")
        shape = tuple(tensor.shape)
        if raw:
            values = decode_raw(name, tensor.datatype, shape, raw[i], elements_max=rows_max)
        else:
            values = _typed_values(name, tensor, shape)
        inputs[tensor.name] = Tensor(tensor.name, tensor.datatype, shape, values)
    return inputs


def _typed_values(name: str, tensor: Any, shape: tuple[int, ...]) -> Values:
    filled = tensor.contents.ListFields()
    if len(filled) > 1:
        raise Invalid("TENSOR_CONTENT", input=name, problem="more than one field of contents")
    field, values = (filled[0][0].name, filled[0][1]) if filled else (None, ())
    return decode_typed(name, tensor.datatype, shape, field, values)


def _as_of_us(parameters: Mapping[str, Any]) -> int | None:
    if AS_OF_US not in parameters:
        return None
    parameter = parameters[AS_OF_US]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise Invalid("BAD_REQUEST", field=AS_OF_US, problem="an int64 parameter is needed")
    return min(int(getattr(parameter, kind)), INT64_MAX)


def _output(prediction: Prediction, name: str) -> Values:
    if name == PREDICTION_ID:
        return [prediction_id.encode() for prediction_id in prediction.prediction_ids]
    return np.asarray(prediction.scores if name == SCORE else prediction.features)


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
