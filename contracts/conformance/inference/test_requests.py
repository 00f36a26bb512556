# SPDX-License-Identifier: Apache-2.0
"""One request and its answer: ids, versions, outputs, and what a server must refuse, and how.

A mistake of the caller is INVALID_ARGUMENT or NOT_FOUND, never INTERNAL or UNKNOWN; a limit is
RESOURCE_EXHAUSTED. Of our own service the reason is looked at too (FAULTS 8.2).
"""

from __future__ import annotations

import re
import struct
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from contracts.conformance.inference.asking import (
    DATATYPES,
    RAW,
    outcome,
    raw_request,
    reason,
    refused,
    simple_request,
    slow_request,
)
from contracts.conformance.inference.conftest import CALL_TIMEOUT_S
from contracts.conformance.inference.models import SIMPLE, SLOW, echo_name
from hypothesis import given
from hypothesis import strategies as st

from headrace.oip import grpc_predict_v2_pb2 as oip

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
EXHAUSTED, UNIMPLEMENTED = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED
CALLERS = (grpc.StatusCode.OK, INVALID, NOT_FOUND, EXHAUSTED)
INFER = "/inference.GRPCInferenceService/ModelInfer"
ECHO = echo_name("FP32")


@pytest.fixture(autouse=True)
def simple(held) -> str:
    return held(SIMPLE)


def ask(call, request, timeout_s: float = CALL_TIMEOUT_S):
    return call("ModelInfer", request, timeout_s)


def test_answer_names_model_version_and_the_id_of_its_request(call):
    answer = ask(call, simple_request(id="über/42"))

    assert (SIMPLE, "über/42") == (answer.model_name, answer.id)
    assert (
        answer.model_version
        in call("ModelMetadata", oip.ModelMetadataRequest(name=SIMPLE)).versions
    )


def test_version_that_is_named_answers(call):
    (version, *_) = call("ModelMetadata", oip.ModelMetadataRequest(name=SIMPLE)).versions

    assert version == ask(call, simple_request(model_version=version)).model_version


def test_sum_and_difference_are_right_for_every_row(call):
    answer = ask(call, simple_request(rows=3))

    first = np.arange(48, dtype="<i4")
    names = [output.name for output in answer.outputs]
    raw = dict(zip(names, answer.raw_output_contents, strict=True))
    assert (first + 1).tobytes() == raw["OUTPUT0"]
    assert (first - 1).tobytes() == raw["OUTPUT1"]
    assert {(3, 16)} == {tuple(output.shape) for output in answer.outputs}


@pytest.mark.parametrize("names", [["OUTPUT1"], ["OUTPUT1", "OUTPUT0"]])
def test_only_the_outputs_that_are_asked_for_come_in_that_order(call, names):
    request = simple_request()
    for name in names:
        request.outputs.add(name=name)

    answer = ask(call, request)
    assert names == [output.name for output in answer.outputs]
    assert len(names) == len(answer.raw_output_contents)


def test_order_of_the_inputs_is_free(call):
    request = simple_request()
    turned = raw_request(
        SIMPLE,
        ("INPUT1", "INT32", (1, 16), request.raw_input_contents[1]),
        ("INPUT0", "INT32", (1, 16), request.raw_input_contents[0]),
    )

    def by_name(answer):
        names = [output.name for output in answer.outputs]
        return dict(zip(names, answer.raw_output_contents, strict=True))

    assert by_name(ask(call, request)) == by_name(ask(call, turned))


def test_parameters_that_are_unknown_are_ignored_in_all_five_kinds(call):
    request = simple_request()
    request.parameters["a"].bool_param = True
    request.parameters["b"].int64_param = -1
    request.parameters["c"].string_param = "x"
    request.parameters["d"].double_param = 0.5
    request.parameters["e"].uint64_param = 2**64 - 1
    request.inputs[0].parameters["f"].bool_param = True
    request.parameters["entity_key"].string_param = "UA-1"  # known to ours

    assert 2 == len(ask(call, request).outputs)


def test_priority_and_timeout_as_the_clients_send_them_are_taken(call):
    request = simple_request()
    request.parameters["priority"].uint64_param = 1
    request.parameters["timeout"].int64_param = 5_000_000

    assert 2 == len(ask(call, request).outputs)


def with_model(**fields):
    request = simple_request()
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def changed(change):
    request = simple_request()
    change(request)
    return request


def drop_input(request):
    del request.inputs[1]
    del request.raw_input_contents[1]


def add_input(request):
    request.inputs.add(name="INPUT2", datatype="INT32", shape=[1, 16])
    request.raw_input_contents.append(bytes(64))


def double_input(request):
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(bytes(64))


def rename_input(request):
    request.inputs[0].name = "INPUT9"


def set_datatype(datatype):
    def change(request):
        request.inputs[0].datatype = datatype

    return change


def set_shape(*shape):
    def change(request):
        request.inputs[0].shape[:] = shape

    return change


def set_raw(raw):
    def change(request):
        request.raw_input_contents[0] = raw

    return change


def mix(request):
    request.inputs[0].contents.int_contents.extend([0] * 16)


def drop_raw(request):
    del request.raw_input_contents[1]


def add_raw(request):
    request.raw_input_contents.append(b"")


def ask_for(*names):
    def change(request):
        for name in names:
            request.outputs.add(name=name)

    return change


def typed(count=16, field="int_contents", also=None):
    request = oip.ModelInferRequest(model_name=SIMPLE)
    for name in ("INPUT0", "INPUT1"):
        tensor = request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        getattr(tensor.contents, field).extend([0] * count)
        if also:
            getattr(tensor.contents, also).extend([0])
    return request


def crowd():
    tensors = [(f"INPUT{number}", "INT32", (1, 16), bytes(64)) for number in range(65)]
    return raw_request(SIMPLE, *tensors)


@pytest.mark.parametrize(
    ("request_", "code", "why"),
    [
        (with_model(model_name="no-such-model"), NOT_FOUND, "MODEL_UNKNOWN"),
        (with_model(model_name=""), NOT_FOUND, "MODEL_UNKNOWN"),
        (with_model(model_name="../../etc/passwd"), NOT_FOUND, "MODEL_UNKNOWN"),
        (with_model(model_version="999"), NOT_FOUND, "MODEL_UNKNOWN"),
        (changed(drop_input), INVALID, "TENSOR_NAME"),
        (changed(add_input), INVALID, "TENSOR_NAME"),
        (changed(double_input), INVALID, "TENSOR_NAME"),
        (changed(rename_input), INVALID, "TENSOR_NAME"),
        (changed(ask_for("OUTPUT9")), INVALID, "TENSOR_NAME"),
        (changed(ask_for("OUTPUT0", "OUTPUT0")), INVALID, "TENSOR_NAME"),
        (changed(set_datatype("FP32")), INVALID, "TENSOR_DTYPE"),
        (changed(set_datatype("")), INVALID, "TENSOR_DTYPE"),
        (changed(set_datatype("INT128")), INVALID, "TENSOR_DTYPE"),
        (changed(set_shape(16, 1)), INVALID, "TENSOR_SHAPE"),
        (changed(set_shape(16)), INVALID, "TENSOR_SHAPE"),
        (changed(set_shape(1, 1, 16)), INVALID, "TENSOR_SHAPE"),
        (changed(set_shape(-1, 16)), INVALID, "TENSOR_SHAPE"),
        (changed(set_shape(-1, -16)), INVALID, "TENSOR_SHAPE"),
        (changed(set_shape(*[1] * 100, 16)), INVALID, "TENSOR_SHAPE"),
        (changed(set_shape(2, 16)), INVALID, "TENSOR_SIZE"),
        (changed(set_shape(0, 16)), INVALID, "TENSOR_SIZE"),
        (changed(set_shape(2**31, 2**31)), INVALID, "TENSOR_SIZE"),
        (changed(set_shape(2**32, 2**32)), INVALID, "TENSOR_SIZE"),
        (changed(set_shape(2**62, 16)), INVALID, "TENSOR_SIZE"),
        (changed(set_raw(bytes(63))), INVALID, "TENSOR_SIZE"),
        (changed(set_raw(bytes(65))), INVALID, "TENSOR_SIZE"),
        (changed(set_raw(b"")), INVALID, "TENSOR_SIZE"),
        (typed(count=15), INVALID, "TENSOR_SIZE"),
        (typed(count=17), INVALID, "TENSOR_SIZE"),
        (changed(mix), INVALID, "TENSOR_CONTENT"),
        (changed(drop_raw), INVALID, "TENSOR_CONTENT"),
        (changed(add_raw), INVALID, "TENSOR_CONTENT"),
        (typed(field="int64_contents"), INVALID, "TENSOR_CONTENT"),
        (typed(also="fp32_contents"), INVALID, "TENSOR_CONTENT"),
        (crowd(), EXHAUSTED, "TOO_MANY_INPUTS"),
    ],
)
def test_mistake_is_told_as_the_callers(call, ours, request_, code, why):
    error = refused(lambda: ask(call, request_))

    if ours:
        assert why == reason(error)
        assert code == error.code()
    assert error.code() in (INVALID, NOT_FOUND, EXHAUSTED), error.details()


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("priority", {"int64_param": -1}),
        ("priority", {"string_param": "high"}),
        ("timeout", {"int64_param": -1}),
        ("timeout", {"uint64_param": 2**64 - 1}),
        ("timeout", {"double_param": 1.5}),
        ("entity_key", {"int64_param": 1}),
    ],
)
def test_nonsense_in_a_parameter_is_refused_by_its_name(call, ours, parameter, value):
    if not ours:
        pytest.skip("the protocol leaves open what such parameters mean")
    request = simple_request()
    for kind, one in value.items():
        setattr(request.parameters[parameter], kind, one)

    error = refused(lambda: ask(call, request))
    assert (INVALID, "BAD_REQUEST") == (error.code(), reason(error))
    assert parameter in error.details()


def test_version_has_one_name(call, ours):
    if not ours:
        pytest.skip("the protocol leaves open how versions are written")

    error = refused(lambda: ask(call, simple_request(model_version="01")))
    assert (NOT_FOUND, "MODEL_UNKNOWN") == (error.code(), reason(error))


@pytest.mark.parametrize("tensors", ["inputs", "outputs"])
def test_shared_memory_that_nobody_registered_is_refused(call, ours, tensors):
    request = simple_request()
    if tensors == "outputs":
        request.outputs.add(name="OUTPUT0")
    else:
        del request.raw_input_contents[:]
    for tensor in getattr(request, tensors):
        tensor.parameters["shared_memory_region"].string_param = "none"
        tensor.parameters["shared_memory_byte_size"].int64_param = 64

    if not ours:
        assert outcome(lambda: ask(call, request)) in (*CALLERS, UNIMPLEMENTED)
        return
    error = refused(lambda: ask(call, request))
    assert (UNIMPLEMENTED, "UNSUPPORTED") == (error.code(), reason(error))


def test_classes_are_told_or_refused(call, ours):
    """Of Triton's extension `classification`; never what was not asked for."""
    request = simple_request()
    request.outputs.add(name="OUTPUT0").parameters["classification"].int64_param = 1

    if not ours:
        assert outcome(lambda: ask(call, request)) in (grpc.StatusCode.OK, *CALLERS, UNIMPLEMENTED)
        return
    error = refused(lambda: ask(call, request))
    assert (UNIMPLEMENTED, "UNSUPPORTED") == (error.code(), reason(error))


def test_input_that_is_no_number_is_not_the_models_fault(call, held, ours):
    raw = np.array([np.nan, 1.0], dtype="<f4").tobytes()
    request = raw_request(held(ECHO), ("INPUT", "FP32", (1, 2), raw))
    if not ours:
        assert outcome(lambda: ask(call, request)) in CALLERS
        return

    error = refused(lambda: ask(call, request))
    assert (INVALID, "TENSOR_NONFINITE") == (error.code(), reason(error))
    assert "INPUT" in error.details()


def test_unknown_output_is_told_with_those_that_are_known(call, ours):
    error = refused(lambda: ask(call, changed(ask_for("OUTPUT9"))))

    told = set(re.findall(r"OUTPUT\d", error.details()))
    assert not ours or {"OUTPUT9", "OUTPUT0", "OUTPUT1"} == told


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (struct.pack("<I", 1) + b"a" + struct.pack("<I", 9) + b"b", "TENSOR_CONTENT"),
        (struct.pack("<I", 2**32 - 1) + b"a" * 9, "TENSOR_CONTENT"),
        (struct.pack("<I", 1) + b"a", "TENSOR_SIZE"),
        (RAW["BYTES"] + b"\0", "TENSOR_SIZE"),
        (b"", "TENSOR_SIZE"),
        ((struct.pack("<I", 1) + b"\xff") * 2, "TENSOR_CONTENT"),
    ],
    ids=["length past the end", "length 4 GiB", "one missing", "one byte more", "nothing", "UTF-8"],
)
def test_bytes_tensor_that_lies_is_told_as_the_callers(call, held, ours, raw, why):
    if not ours and raw.endswith(b"\xff"):
        pytest.skip("the protocol leaves open whether BYTES are text")
    request = raw_request(held(echo_name("BYTES")), ("INPUT", "BYTES", (1, 2), raw))

    error = refused(lambda: ask(call, request))
    assert INVALID == error.code()
    assert not ours or why == reason(error)


def test_overflowing_value_is_told_as_the_callers(call, held, ours):
    request = oip.ModelInferRequest(model_name=held(echo_name("INT8")))
    tensor = request.inputs.add(name="INPUT", datatype="INT8", shape=[1, 2])
    tensor.contents.int_contents.extend([128, 0])

    error = refused(lambda: ask(call, request))
    assert INVALID == error.code()
    assert not ours or "TENSOR_CONTENT" == reason(error)


def test_too_many_rows_are_told_as_a_limit(call, ours):
    rows = call("ModelConfig", oip.ModelConfigRequest(name=SIMPLE)).config.max_batch_size + 1
    error = refused(lambda: ask(call, simple_request(rows=rows)))

    if ours:
        assert (EXHAUSTED, "BATCH_TOO_LARGE") == (error.code(), reason(error))
    assert error.code() in (EXHAUSTED, INVALID)


def test_message_above_the_cap_is_told_as_a_limit_at_once(call, held, ours, listening):
    raw = bytes(40 * 1024**2)
    request = raw_request(held(ECHO), ("INPUT", "FP32", (len(raw) // 8, 2), raw))

    error = refused(lambda: ask(call, request))
    if ours:
        assert EXHAUSTED == error.code()
    if listening == "native":  # grpcio refuses it by itself, in its own words
        assert "MESSAGE_TOO_LARGE" == reason(error)
    assert error.code() in (EXHAUSTED, INVALID)
    assert 2 == len(ask(call, simple_request()).outputs)


@given(data=st.binary(max_size=200))
def test_bytes_that_are_no_message_are_the_callers_mistake(channel, data):
    send = channel.unary_unary(INFER)

    assert outcome(lambda: send(data, timeout=CALL_TIMEOUT_S)) in CALLERS


hostile = st.fixed_dictionaries(
    {
        "datatype": st.sampled_from([*DATATYPES, "", "FP8", "\0"]),
        "shape": st.lists(
            st.one_of(st.integers(-2, 4), st.sampled_from([2**31, 2**62, -(2**63), 2**63 - 1])),
            max_size=10,
        ),
        "raw": st.one_of(st.none(), st.binary(max_size=64), st.sampled_from(sorted(RAW.values()))),
        "more_raw": st.integers(0, 2),
        "typed": st.one_of(st.none(), st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9)),
        "name": st.sampled_from(["INPUT", "", "OUTPUT", "\U0001f6eb"]),
        "times": st.integers(0, 3),
        "output": st.one_of(st.none(), st.text(max_size=5)),
        "model": st.sampled_from([echo_name(datatype) for datatype in DATATYPES]),
        "version": st.sampled_from(["", "1", "-1", "1e9", "9" * 50, "\u0661"]),
        "id": st.text(max_size=10),
    }
)


@given(asked=hostile)
def test_hostile_request_is_never_an_internal_error(call, asked):
    request = oip.ModelInferRequest(
        model_name=asked["model"], model_version=asked["version"], id=asked["id"]
    )
    for _ in range(asked["times"]):
        tensor = request.inputs.add(
            name=asked["name"], datatype=asked["datatype"], shape=asked["shape"]
        )
        if asked["typed"] is not None:
            tensor.contents.int_contents.extend(asked["typed"])
        if asked["raw"] is not None:
            request.raw_input_contents.append(asked["raw"])
    request.raw_input_contents.extend([b"x"] * asked["more_raw"])
    if asked["output"] is not None:
        request.outputs.add(name=asked["output"])

    assert outcome(lambda: ask(call, request)) in CALLERS


@given(cut=st.integers(0, 10_000), flips=st.lists(st.integers(0, 10_000), max_size=3))
def test_message_that_is_cut_or_flipped_is_never_an_internal_error(channel, cut, flips):
    data = bytearray(simple_request(id="a").SerializeToString())
    for flip in flips:
        data[flip % len(data)] ^= 1 << (flip % 8)
    del data[len(data) - cut % len(data) :]
    send = channel.unary_unary(INFER)

    assert outcome(lambda: send(bytes(data), timeout=CALL_TIMEOUT_S)) in CALLERS


def test_deadline_ends_the_call_and_the_server_goes_on(call, held):
    held(SLOW)
    error = refused(lambda: ask(call, slow_request(2_000), timeout_s=0.02))

    assert grpc.StatusCode.DEADLINE_EXCEEDED == error.code()
    assert 2 == len(ask(call, simple_request()).outputs)


def test_cancelled_call_ends_at_once_and_the_server_goes_on(stub, call, held):
    held(SLOW)
    begun = stub.ModelInfer.future(slow_request(1_000), timeout=CALL_TIMEOUT_S)
    begun.cancel()

    assert begun.cancelled()
    assert 2 == len(ask(call, simple_request()).outputs)


def test_callers_at_once_get_their_own_rows(call):
    def one(number: int) -> bool:
        values = np.full((number % 5 + 1, 16), number, dtype="<i4")
        tensors = [(name, "INT32", values.shape, values.tobytes()) for name in ("INPUT0", "INPUT1")]
        answer = ask(call, raw_request(SIMPLE, *tensors, id=str(number)))
        raw = answer.raw_output_contents[[o.name for o in answer.outputs].index("OUTPUT0")]
        return answer.id == str(number) and raw == (values * 2).tobytes()

    with ThreadPoolExecutor(16) as callers:
        assert all(callers.map(one, range(200)))


def test_slow_model_does_not_hold_up_another(call, stub, held):
    held(SLOW)
    begun = stub.ModelInfer.future(slow_request(2_000), timeout=CALL_TIMEOUT_S)

    assert 2 == len(ask(call, simple_request()).outputs)
    assert not begun.done()
    begun.cancel()
