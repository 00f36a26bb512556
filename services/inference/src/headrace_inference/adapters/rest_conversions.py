# SPDX-License-Identifier: Apache-2.0
"""The protocol's JSON with binary tensors to its messages and back.

A request becomes one with raw contents, whichever way each tensor came, so the rest of the service
knows one form. `Inference-Header-Content-Length` says where the JSON ends and the tensors begin:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_binary_data.html
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from headrace.errors import Busy, Invalid
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace_inference.adapters.conversions import INPUTS_MAX
from headrace_inference.adapters.request_parameters import SHARED_MEMORY, refuse_shared_memory
from headrace_inference.adapters.tensor_codec import (
    DATATYPES,
    Values,
    decode_raw,
    encode_raw,
    flattened,
    listed,
    numbers,
    steps,
)
from headrace_inference.domain.serving import NAME_SHOWN_MAX
from headrace_kit import json_strict

BINARY_SIZE, BINARY, ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"
BINARY_ONLY = ("BF16",)
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
# Objects and values with a name: of 256 inputs some 1,300, of as many outputs as a model has.
FIELDS_MAX = 10_000
# Numbers, texts and lists: 16 MiB hold 8 million, which take seconds that nobody else is served in.
VALUES_MAX = 1_000_000
NUMBERS = (int, float, type(None))
JSON_NEEDED = "one object is needed, each key once, numbers finite and integers within int64"
KIND: Mapping[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}


class Asked(NamedTuple):
    """The request, and which outputs are wanted as binary tensors: these, or all the others."""

    request: oip.ModelInferRequest
    binary_by_output: Mapping[str, bool]
    binary: bool


class Body(NamedTuple):
    """`json_bytes` is None where the whole body is JSON."""

    data: bytes
    json_bytes: int | None


def json_object(body: bytes) -> dict[str, Any]:
    """An empty body is an empty object. Raises as `_decoded`."""
    return _decoded(body) if body else {}


def load_parameters(body: bytes) -> dict[str, Any]:
    """Raises as `json_object`, and Invalid BAD_REQUEST."""
    asked = json_object(body)
    if asked.get("parameters") is None:
        return {}
    parameters: dict[str, Any] = _take(asked, "parameters", dict)
    return parameters


def infer_request(name: str, version: str, body: bytes, json_bytes: str | None) -> Asked:
    """Raises Invalid BAD_REQUEST, DECODE_ERROR, TENSOR_DTYPE, TENSOR_SHAPE, TENSOR_SIZE,
    TENSOR_CONTENT, UNSUPPORTED, Busy TOO_MANY_INPUTS, MESSAGE_TOO_LARGE.
    """
    end = _json_end(body, json_bytes)
    head, tensors = body[:end], memoryview(body)[end:]
    asked = _decoded(head)
    inputs = _take(asked, "inputs", list, [])
    if len(inputs) > INPUTS_MAX:
        raise Busy("TOO_MANY_INPUTS", inputs=len(inputs), inputs_max=INPUTS_MAX)
    parameters = _take(asked, "parameters", dict, {})
    binary = _taken_out(parameters, ALL_BINARY, default=False)
    request = oip.ModelInferRequest(
        model_name=name, model_version=version, id=_take(asked, "id", str, "")
    )
    _set_parameters(request.parameters, parameters)
    for tensor in _objects(asked, "inputs"):
        tensors = _add_input(request, tensor, tensors)
    if len(tensors) > 0:
        raise Invalid("TENSOR_SIZE", bytes=len(tensors), problem="bytes that no input takes")
    binary_by_output = {}
    for output in _objects(asked, "outputs"):
        wanted = request.outputs.add(name=_take(output, "name", str))
        own = _take(output, "parameters", dict, {})
        binary_by_output[wanted.name] = _taken_out(own, BINARY, default=binary)
        _set_parameters(wanted.parameters, own)
    return Asked(request, binary_by_output, binary)


def infer_response(response: oip.ModelInferResponse, asked: Asked) -> Body:
    """Raises Invalid TENSOR_CONTENT for an output that JSON cannot hold."""
    tensors: list[bytes] = []
    outputs: list[bytes] = []
    told = as_json(response)
    del told["raw_output_contents"]
    for tensor, raw in zip(told.pop("outputs"), response.raw_output_contents, strict=True):
        del tensor["contents"]
        if asked.binary_by_output.get(tensor["name"], asked.binary):
            tensor["parameters"][BINARY_SIZE] = len(raw)
            tensors.append(raw)
            outputs.append(_encoded(tensor))
        else:
            if not tensor["parameters"]:
                del tensor["parameters"]  # Triton's C++ client looks for a binary size in them
            outputs.append(_with_list(tensor, "data", _data(tensor, raw)))
    head = _with_list(told, "outputs", outputs)
    return Body(b"".join([head, *tensors]), len(head) if tensors else None)


def as_json(message: Any) -> dict[str, Any]:
    """Every field by its name, numbers as numbers: protobuf's own JSON writes int64 as texts."""
    return {field.name: _field(field, getattr(message, field.name)) for field in _told(message)}


def set_log_settings(request: oip.LogSettingsRequest, settings: Mapping[str, Any]) -> None:
    """Raises Invalid BAD_REQUEST."""
    kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    for name, value in settings.items():
        if type(value) not in kinds or (type(value) is int and not 0 <= value < 2**32):
            raise Invalid("BAD_REQUEST", field=name[:NAME_SHOWN_MAX])
        setattr(request.settings[name], kinds[type(value)], value)


def set_trace_settings(request: oip.TraceSettingRequest, settings: Mapping[str, Any]) -> None:
    """Raises Invalid BAD_REQUEST."""
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) for one in values):
            raise Invalid("BAD_REQUEST", field=name[:NAME_SHOWN_MAX])
        request.settings[name].value.extend(values)


def setting_values(response: Any) -> dict[str, Any]:
    """Of LogSettings the one value that is set, of TraceSetting the list."""
    told = {}
    for name, value in sorted(response.settings.items()):
        ((_, one),) = value.ListFields() or (((None, None)),)
        told[name] = one if isinstance(one, bool | int | str) else list(one or ())
    return told


def _decoded(body: bytes) -> dict[str, Any]:
    """What is wrong in the words of a request: it has no columns, and no contract.

    Raises Invalid DECODE_ERROR, BAD_REQUEST, Busy TOO_MANY_INPUTS, MESSAGE_TOO_LARGE.
    """
    _refuse_crowd(body)
    try:
        return json_strict.decode(body, numbers_key="data")
    except Invalid as err:
        if err.reason != "BAD_TYPE":
            raise
        problem = f"{JSON_NEEDED}; found: {err.metadata['found']}"
        raise Invalid("BAD_REQUEST", field="body", problem=problem) from err


def _refuse_crowd(body: bytes) -> None:
    """Counted before anything is decoded, which takes a second for each million."""
    if _fields(body) <= FIELDS_MAX and _values(body) <= VALUES_MAX:
        return
    if json_strict.without_escapes(body).count(b'"') > 2 * (VALUES_MAX + FIELDS_MAX):
        raise Busy("MESSAGE_TOO_LARGE", values_max=VALUES_MAX)
    outside = json_strict.outside_strings(body)
    if _fields(outside) > FIELDS_MAX:
        raise Busy("TOO_MANY_INPUTS", fields_max=FIELDS_MAX)
    if _values(outside) > VALUES_MAX:
        raise Busy("MESSAGE_TOO_LARGE", values_max=VALUES_MAX)


def _fields(json_text: bytes) -> int:
    return json_text.count(b"{") + json_text.count(b":")


def _values(json_text: bytes) -> int:
    """Of a list, by what stands before each, and before the first."""
    return json_text.count(b",") + json_text.count(b"[")


def _json_end(body: bytes, json_bytes: str | None) -> int:
    if json_bytes is None:
        return len(body)
    if not (json_bytes.isascii() and json_bytes.isdecimal() and len(json_bytes) <= 10):
        raise Invalid("BAD_REQUEST", field="Inference-Header-Content-Length")
    if int(json_bytes) > len(body):
        raise Invalid("BAD_REQUEST", field="Inference-Header-Content-Length", bytes=len(body))
    return int(json_bytes)


def _add_input(
    request: oip.ModelInferRequest, tensor: dict[str, Any], tensors: memoryview
) -> memoryview:
    """Returns what is left of the binary tensors."""
    added = request.inputs.add(
        name=_take(tensor, "name", str), datatype=_take(tensor, "datatype", str)
    )
    shape = _take(tensor, "shape", list)
    if not all(type(size) is int for size in shape):
        raise Invalid("TENSOR_SHAPE", input=added.name[:NAME_SHOWN_MAX])
    added.shape.extend(shape)
    parameters = _take(tensor, "parameters", dict, {})
    if SHARED_MEMORY in parameters:
        refuse_shared_memory(added.name)
    size = parameters.pop(BINARY_SIZE, None)
    _set_parameters(added.parameters, parameters)
    if size is None:
        request.raw_input_contents.append(_raw(added, _take(tensor, "data", list)))
        return tensors
    if type(size) is not int or not 0 <= size <= len(tensors) or "data" in tensor:
        raise Invalid("TENSOR_SIZE", input=added.name[:NAME_SHOWN_MAX], bytes=len(tensors))
    request.raw_input_contents.append(bytes(tensors[:size]))
    return tensors[size:]


def _raw(tensor: Any, data: list[Any]) -> bytes:
    """Nested or flat. Null is NaN in a tensor of floats."""
    name, datatype = tensor.name[:NAME_SHOWN_MAX], tensor.datatype
    if datatype not in DATATYPES or datatype in BINARY_ONLY:
        raise Invalid("TENSOR_DTYPE", input=name, datatype=datatype[:16], problem="not in JSON")
    flat = _flat(name, data)
    if not _types(flat) <= set(_kinds(datatype)):
        raise Invalid("TENSOR_CONTENT", input=name, problem=f"values that are not {datatype}")
    if datatype == "BYTES":
        return encode_raw([text.encode() for text in flat])
    with np.errstate(over="ignore"):
        array = numbers(name, datatype, flat)
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise Invalid("TENSOR_CONTENT", input=name, problem=f"outside {datatype}")
    return array.tobytes()


def _flat(name: str, data: list[Any]) -> list[Any]:
    while list in (kinds := _types(data)):
        if len(kinds) > 1:
            raise Invalid("TENSOR_CONTENT", input=name, problem="lists beside values")
        data = list(chain.from_iterable(data))
    return data


def _types(values: Sequence[Any]) -> set[type]:
    kinds = set[type]()
    for step in steps(len(values)):
        kinds.update(map(type, values[step]))
    return kinds


def _kinds(datatype: str) -> Sequence[type]:
    if datatype == "BYTES":
        return (str,)
    if datatype == "BOOL":
        return (bool,)
    return NUMBERS if datatype.startswith("FP") else (int,)


def _encoded(told: Any) -> bytes:
    return json.dumps(told, ensure_ascii=False, allow_nan=False).encode()


def _with_list(told: Mapping[str, Any], key: str, parts: Iterable[bytes]) -> bytes:
    """An object of JSON, and in it behind the others a list of what is encoded already."""
    return b'%s, "%s": [%s]}' % (_encoded(told)[:-1], key.encode(), b", ".join(parts))


def _data(tensor: Mapping[str, Any], raw: bytes) -> Iterator[bytes]:
    """The values encoded, in pieces: in one go a million hold the interpreter's lock for half a
    second."""
    name, datatype, shape = tensor["name"], tensor["datatype"], tensor["shape"]
    if datatype in BINARY_ONLY:
        raise Invalid("TENSOR_CONTENT", output=name, problem=f"{datatype}: ask for {BINARY}")
    values = flattened(decode_raw(name, datatype, shape, raw, elements_max=len(raw) + 1))
    texts = isinstance(values, list)
    tell = partial(_texts, name) if texts else list if _whole(name, values) else _numbers
    for step in steps(len(values)):
        yield _encoded(tell(listed(values[step])))[1:-1]


def _whole(name: str, values: Values) -> bool:
    """Whether all are numbers. Raises Invalid TENSOR_CONTENT for infinity, which JSON has no word
    for: null would say that it is none."""
    array = np.asarray(values)
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return True
    if np.isinf(array).any():
        raise Invalid("TENSOR_CONTENT", output=name, problem=f"infinity: ask for {BINARY}")
    return False


def _texts(name: str, elements: Sequence[bytes]) -> list[str]:
    try:
        return [element.decode() for element in elements]
    except UnicodeDecodeError as err:
        problem = f"no text: ask for {BINARY}"
        raise Invalid("TENSOR_CONTENT", output=name, problem=problem) from err


def _numbers(values: Sequence[float]) -> list[float | None]:
    """JSON has no NaN."""
    return [None if math.isnan(value) else value for value in values]


def _set_parameters(into: Any, parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        kind = {bool: "bool", int: "int64", float: "double", str: "string"}.get(type(value))
        if kind is None:
            raise Invalid("BAD_REQUEST", field=name[:NAME_SHOWN_MAX], problem="not one value")
        setattr(into[name], f"{kind}_param", value)


def _objects(of: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _take(of, key, list, [])
    if not all(isinstance(each, dict) for each in found):
        raise Invalid("BAD_REQUEST", field=key, problem="objects are needed")
    return found


def _taken_out(parameters: dict[str, Any], key: str, *, default: bool) -> bool:
    """What is meant for this door, and for nobody behind it."""
    found: bool = _take(parameters, key, bool, default)
    parameters.pop(key, None)
    return found


def _take(of: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    value = of.get(key, default)
    if type(value) is not kind:
        raise Invalid("BAD_REQUEST", field=key, problem=f"needed, as {KIND[kind]}")
    return value


def _told(message: Any) -> list[Any]:
    """All fields, but of a oneof the one that is set."""
    return [
        field
        for field in message.DESCRIPTOR.fields
        if field.containing_oneof is None or message.HasField(field.name)
    ]


def _field(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {
            key: _one(field.message_type.fields_by_name["value"], v) for key, v in value.items()
        }
    if field.is_repeated:
        return [_one(field, each) for each in value]
    return _one(field, value)


def _one(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    if field.message_type is None:
        return value
    if field.message_type.name == "InferParameter":
        return getattr(value, value.WhichOneof("parameter_choice") or "bool_param")
    return as_json(value)
