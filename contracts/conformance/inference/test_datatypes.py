# SPDX-License-Identifier: Apache-2.0
"""The 14 data types, raw and typed: an echo gives back the bytes and values that it got."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from contracts.conformance.inference.asking import (
    DATATYPES,
    FIELD,
    RAW,
    VALUES,
    raw_request,
    refused,
    same,
    typed_request,
)
from contracts.conformance.inference.models import CUBE, echo_name

from headrace.oip import grpc_predict_v2_pb2 as oip

TYPED = sorted(FIELD)
RAW_ONLY = sorted(set(DATATYPES) - set(FIELD))


@pytest.mark.parametrize("datatype", DATATYPES)
def test_raw_bytes_come_back_as_they_went(call, held, datatype):
    tensor = ("INPUT", datatype, (1, 2), RAW[datatype])
    answer = call("ModelInfer", raw_request(held(echo_name(datatype)), tensor))

    (output,) = answer.outputs
    assert ("OUTPUT", datatype, [1, 2]) == (output.name, output.datatype, list(output.shape))
    assert [RAW[datatype]] == list(answer.raw_output_contents)
    assert not output.HasField("contents")


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_values_come_back_as_they_went(call, held, datatype):
    answer = call(
        "ModelInfer", typed_request(held(echo_name(datatype)), datatype, VALUES[datatype])
    )

    (output,) = answer.outputs
    assert (datatype, [1, 2]) == (output.datatype, list(output.shape))
    got = values_of(answer, output)
    assert all(map(same, VALUES[datatype], got)), got
    assert 2 == len(got)


def values_of(answer, output) -> list[object]:
    """Triton answers raw always, which the protocol allows."""
    if answer.raw_output_contents:
        (raw,) = answer.raw_output_contents
        assert RAW[output.datatype] == raw
        return VALUES[output.datatype]
    values = list(getattr(output.contents, FIELD[output.datatype]))
    return [v.decode() for v in values] if output.datatype == "BYTES" else values


@pytest.mark.parametrize("datatype", RAW_ONLY)
def test_type_without_typed_contents_is_refused_typed(call, held, datatype):
    request = oip.ModelInferRequest(model_name=held(echo_name(datatype)))
    tensor = request.inputs.add(name="INPUT", datatype=datatype, shape=[1, 2])
    tensor.contents.fp32_contents.extend([1.0, 2.0])

    error = refused(lambda: call("ModelInfer", request))
    assert grpc.StatusCode.INVALID_ARGUMENT == error.code()


@pytest.mark.parametrize("datatype", DATATYPES)
def test_metadata_and_config_name_the_type(call, held, datatype):
    name = held(echo_name(datatype))
    (tensor,) = call("ModelMetadata", oip.ModelMetadataRequest(name=name)).inputs
    (configured,) = call("ModelConfig", oip.ModelConfigRequest(name=name)).config.input

    kind = "STRING" if datatype == "BYTES" else datatype
    assert (datatype, f"TYPE_{kind}") == (
        tensor.datatype,
        oip.DataType.Name(configured.data_type),
    )


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
@pytest.mark.parametrize("rows", [1, 3, 1_000])
def test_any_number_of_rows_comes_back_in_order(call, held, datatype, rows):
    if datatype == "FP32":
        raw = np.arange(rows * 2, dtype="<f4").tobytes()
    else:
        texts = [str(number).encode() for number in range(rows * 2)]
        raw = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    tensor = ("INPUT", datatype, (rows, 2), raw)

    answer = call("ModelInfer", raw_request(held(echo_name(datatype)), tensor))
    assert [raw] == list(answer.raw_output_contents)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 4), (1, 7, 1), (5, 1, 2)])
def test_every_open_size_may_differ_from_call_to_call(call, held, shape):
    values = np.arange(np.prod(shape), dtype="<f4")
    answer = call("ModelInfer", raw_request(held(CUBE), ("INPUT", "FP32", shape, values.tobytes())))

    assert list(shape) == list(answer.outputs[0].shape)
    assert (values * 2).tobytes() == answer.raw_output_contents[0]
