# SPDX-License-Identifier: Apache-2.0
"""Triton's own clients: gRPC, gRPC in asyncio, HTTP, HTTP in asyncio."""

from __future__ import annotations

import asyncio
import queue

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from contracts.conformance.inference.conftest import CALL_TIMEOUT_S
from contracts.conformance.inference.models import SIMPLE, echo_name
from tritonclient.utils import InferenceServerException

FIRST = np.arange(16, dtype=np.int32).reshape(1, 16)
ARRAYS = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([[0, 255]], dtype=np.uint8),
    "UINT16": np.array([[0, 65_535]], dtype=np.uint16),
    "UINT32": np.array([[0, 2**32 - 1]], dtype=np.uint32),
    "UINT64": np.array([[0, 2**64 - 1]], dtype=np.uint64),
    "INT8": np.array([[-128, 127]], dtype=np.int8),
    "INT16": np.array([[-(2**15), 2**15 - 1]], dtype=np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1]], dtype=np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1]], dtype=np.int64),
    "FP16": np.array([[0.5, -2.0]], dtype=np.float16),
    "BF16": np.array([[1.0, -2.0]], dtype=ml_dtypes.bfloat16),
    "FP32": np.array([[0.1, -1.0]], dtype=np.float32),
    "FP64": np.array([[0.1, -1.0]], dtype=np.float64),
    "BYTES": np.array([[b"", "Zürich".encode()]], dtype=np.object_),
}


@pytest.fixture(autouse=True)
def simple(held) -> str:
    return held(SIMPLE)


def simple_inputs(library) -> list:
    inputs = []
    for name, values in (("INPUT0", FIRST), ("INPUT1", np.ones_like(FIRST))):
        inputs.append(library.InferInput(name, list(values.shape), "INT32"))
        inputs[-1].set_data_from_numpy(values)
    return inputs


def check_simple(result) -> None:
    np.testing.assert_array_equal(FIRST + 1, result.as_numpy("OUTPUT0"))
    np.testing.assert_array_equal(FIRST - 1, result.as_numpy("OUTPUT1"))


@pytest.mark.parametrize("datatype", sorted(ARRAYS))
@pytest.mark.parametrize("door", ["grpc", "http"])
def test_every_type_comes_back_by_tritons_client(request, held, door, datatype):
    client = request.getfixturevalue(f"{door}_client")
    library = triton if door == "grpc" else triton_http
    tensor = library.InferInput("INPUT", [1, 2], datatype)
    tensor.set_data_from_numpy(ARRAYS[datatype])

    result = client.infer(held(echo_name(datatype)), [tensor])
    np.testing.assert_array_equal(ARRAYS[datatype], result.as_numpy("OUTPUT"))


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_what_a_server_is_asked_before(request, door):
    client = request.getfixturevalue(f"{door}_client")
    typed = {} if door == "http" else {"as_json": True}

    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(SIMPLE)
    assert not client.is_model_ready("no-such-model")
    assert client.get_server_metadata(**typed)["name"]
    assert SIMPLE == client.get_model_metadata(SIMPLE, **typed)["name"]
    config = client.get_model_config(SIMPLE, **typed)
    assert SIMPLE == (config["config"] if door == "grpc" else config)["name"]
    assert client.get_inference_statistics(SIMPLE, **typed)["model_stats"]
    index = client.get_model_repository_index(**typed)
    listed = index["models"] if door == "grpc" else index
    assert SIMPLE in {model["name"] for model in listed}
    client.load_model(SIMPLE)
    assert client.get_log_settings(**typed)
    assert client.get_trace_settings(**typed)


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_error_of_the_server_reaches_the_caller(request, door):
    client = request.getfixturevalue(f"{door}_client")
    library = triton if door == "grpc" else triton_http

    with pytest.raises(InferenceServerException) as told:
        client.infer("no-such-model", simple_inputs(library))
    assert "Internal" not in str(told.value)
    with pytest.raises(InferenceServerException):
        client.infer(SIMPLE, simple_inputs(library)[:1])


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_http_json_and_binary_compressed_or_not(http_client, compression, binary):
    inputs = []
    for name, values in (("INPUT0", FIRST), ("INPUT1", np.ones_like(FIRST))):
        inputs.append(triton_http.InferInput(name, list(values.shape), "INT32"))
        inputs[-1].set_data_from_numpy(values, binary_data=binary)
    outputs = [
        triton_http.InferRequestedOutput(name, binary_data=binary)
        for name in ("OUTPUT0", "OUTPUT1")
    ]

    result = http_client.infer(
        SIMPLE,
        inputs,
        outputs=outputs,
        request_id="r-1",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    check_simple(result)
    assert "r-1" == result.get_response()["id"]


def test_callbacks_of_the_grpc_client(grpc_client):
    done: queue.Queue = queue.Queue()
    grpc_client.async_infer(
        SIMPLE, simple_inputs(triton), callback=lambda result, error: done.put((result, error))
    )

    result, error = done.get(timeout=CALL_TIMEOUT_S)
    assert error is None
    check_simple(result)


def test_stream_of_the_grpc_client(grpc_client):
    done: queue.Queue = queue.Queue()
    grpc_client.start_stream(callback=lambda result, error: done.put((result, error)))
    for number in range(5):
        model = SIMPLE if number != 2 else "no-such-model"
        grpc_client.async_stream_infer(model, simple_inputs(triton), request_id=str(number))
    answers = [done.get(timeout=CALL_TIMEOUT_S) for _ in range(5)]
    grpc_client.stop_stream()

    assert [2] == [number for number, (_, error) in enumerate(answers) if error is not None]
    for number in (0, 1, 3, 4):
        assert str(number) == answers[number][0].get_response().id
        check_simple(answers[number][0])


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_asyncio_clients(target, door):
    library = triton_aio if door == "grpc" else triton_http_aio
    if door == "http" and not target.rest:
        pytest.skip("no --rest-addr")

    async def ask():
        address = target.grpc if door == "grpc" else target.rest
        async with library.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            asked = [client.infer(SIMPLE, simple_inputs(library)) for _ in range(20)]
            return await asyncio.gather(*asked)

    for result in asyncio.run(ask()):
        check_simple(result)
