# SPDX-License-Identifier: Apache-2.0
"""Parameters that mean something here: as Triton's clients send them, and nonsense."""

import pytest

from headrace.errors import Invalid
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace_inference.adapters.request_parameters import (
    PRIORITY_DEFAULT,
    check_parameters,
    entity_key,
    priority,
    timeout_s,
)


def a_request(name="", **value):
    message = oip.ModelInferRequest(model_name="delay")
    for kind, one in value.items():
        setattr(message.parameters[name], kind, one)
    return message


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
def test_parameters_are_taken_of_either_kind_of_integers(kind):
    urgent, hasty = a_request("priority", **{kind: 1}), a_request("timeout", **{kind: 1_500_000})
    for request in (urgent, hasty):
        check_parameters(request)

    assert (1, None) == (priority(urgent.parameters), timeout_s(urgent.parameters))
    assert (PRIORITY_DEFAULT, 1.5) == (priority(hasty.parameters), timeout_s(hasty.parameters))


def test_zero_is_none_in_particular():
    request = a_request("priority", uint64_param=0)
    request.parameters["timeout"].int64_param = 0
    check_parameters(request)

    assert (PRIORITY_DEFAULT, None) == (priority(request.parameters), timeout_s(request.parameters))


@pytest.mark.parametrize("name", ["priority", "timeout"])
@pytest.mark.parametrize(
    "value",
    [
        {"int64_param": -1},
        {"uint64_param": 2**63},
        {"string_param": "1"},
        {"double_param": 1.0},
        {"bool_param": True},
    ],
    ids=str,
)
def test_nonsense_is_refused_by_its_name(name, value):
    request = a_request(name, **value)

    with pytest.raises(Invalid) as refused:
        check_parameters(request)
    assert ("BAD_REQUEST", name) == (refused.value.reason, refused.value.metadata["field"])


def test_entity_is_taken_as_a_text():
    request = a_request("entity_key", string_param="UA-1 ü")
    check_parameters(request)

    assert ("UA-1 ü", "") == (entity_key(request.parameters), entity_key(a_request().parameters))


@pytest.mark.parametrize("value", [{"int64_param": 1}, {"bool_param": True}, {}], ids=str)
def test_entity_that_is_no_text_is_refused_by_its_name(value):
    request = a_request("entity_key", **value)
    request.parameters["entity_key"].SetInParent()

    with pytest.raises(Invalid) as refused:
        check_parameters(request)
    assert ("BAD_REQUEST", "entity_key") == (
        refused.value.reason,
        refused.value.metadata["field"],
    )


@pytest.mark.parametrize("key", ["k" * 129, "a\0b", "line\nbreak", "\u202egpj"], ids=ascii)
def test_entity_is_checked_as_other_keys_are(key):
    with pytest.raises(Invalid) as refused:
        check_parameters(a_request("entity_key", string_param=key))
    assert "BAD_ID" == refused.value.reason


@pytest.mark.parametrize("tensors", ["inputs", "outputs"])
def test_tensor_in_shared_memory_is_unsupported(tensors):
    request = a_request()
    tensor = getattr(request, tensors).add(name="x")
    tensor.parameters["shared_memory_region"].string_param = "region"

    with pytest.raises(Invalid, match="shared memory") as refused:
        check_parameters(request)
    assert ("UNSUPPORTED", "x") == (refused.value.reason, refused.value.metadata["tensor"])


def test_what_is_unknown_is_ignored():
    check_parameters(a_request("sequence_id", string_param="a"))
