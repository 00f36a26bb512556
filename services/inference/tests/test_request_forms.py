# SPDX-License-Identifier: Apache-2.0
"""A request that is cut says what a request that is parsed says."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace_inference.adapters import request_forms
from headrace_inference.adapters.request_forms import RequestForms

SIZES = st.lists(st.integers(1, 400), min_size=1, max_size=3)


def a_request(contents, *, id="", version="", outputs=(), name="delay", key=None, others=()):
    message = oip.ModelInferRequest(model_name=name, model_version=version, id=id)
    for number, content in enumerate(contents):
        message.inputs.add(name=f"x{number}", datatype="UINT8", shape=[len(content)])
    for output in outputs:
        message.outputs.add(name=output)
    if key is not None:
        message.parameters["entity_key"].string_param = key
    for parameter in others:
        message.parameters[parameter].string_param = parameter
    message.raw_input_contents.extend(contents)
    return message


def learned(forms, message):
    return forms.learn(message.SerializeToString(), message)


@settings(max_examples=200, deadline=None)
@given(SIZES, st.text(max_size=40), st.sampled_from(["", "7"]), st.binary(min_size=1, max_size=9))
def test_second_request_of_a_form_is_cut_as_it_would_be_parsed(sizes, id_, version, seed):
    forms = RequestForms()
    first = a_request([bytes(size) for size in sizes], version=version, outputs=["y"])
    learned(forms, first)
    contents = [(seed * size)[:size] for size in sizes]
    second = a_request(contents, id=id_, version=version, outputs=["y"])

    filled = forms.fill(second.SerializeToString())

    assert (id_, tuple(contents)) == (filled.id.decode(), filled.contents)
    assert first.inputs == filled.form.message.inputs
    assert (version, "y") == (
        filled.form.message.model_version,
        filled.form.message.outputs[0].name,
    )


def test_request_that_lacks_a_content_is_of_another_form():
    forms, whole = RequestForms(), a_request([bytes(64), bytes(64)])
    lacking = a_request([bytes(64), bytes(64)])
    del lacking.raw_input_contents[1]

    for message in (whole, lacking):
        learned(forms, message)
    for message in (whole, lacking):
        filled = forms.fill(message.SerializeToString())
        assert tuple(message.raw_input_contents) == filled.contents


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
def test_bytes_that_differ_in_anything_else_have_no_form_or_mean_the_same(noise, place, value):
    forms = RequestForms()
    named = a_request([bytes(8), bytes(130)], id="abc", outputs=["y"], key="UA-1")
    data = named.SerializeToString()
    forms.learn(data, named)
    for other in (noise, data[:place] + bytes([value]) + data[place + 1 :], data + noise):
        filled = forms.fill(other)
        if filled is None:
            continue
        whole = oip.ModelInferRequest()
        whole.CopyFrom(filled.form.message)
        whole.raw_input_contents.extend(filled.contents)
        try:
            whole.id = filled.id.decode()
            if filled.key:
                whole.parameters["entity_key"].string_param = filled.key.decode()
        except UnicodeDecodeError:
            continue  # who takes the request looks at the id and the key
        parsed = oip.ModelInferRequest.FromString(other)
        if parsed.parameters["entity_key"].string_param == "":
            del parsed.parameters["entity_key"]  # which says nothing
        assert parsed == whole


@settings(max_examples=200, deadline=None)
@given(SIZES, st.text(max_size=20), st.text(max_size=27), st.sets(st.text(max_size=5), max_size=3))
def test_entity_that_a_parameter_names_is_cut_out(sizes, id_, key, others):
    forms, contents = RequestForms(), [b"x" * size for size in sizes]
    learned(forms, a_request([bytes(size) for size in sizes], others=others, key="another"))

    filled = forms.fill(a_request(contents, id=id_, others=others, key=key).SerializeToString())

    # Several parameters may come in any order, and each order is a form of its own.
    if filled is None:
        assert others
        return
    found = filled.id.decode(), filled.key.decode(), filled.contents
    assert (id_, key, tuple(contents)) == found
    assert set(others) == set(filled.form.message.parameters)


def test_requests_with_and_without_an_entity_are_of_one_form():
    forms = RequestForms()
    first = learned(forms, a_request([bytes(4)], key="UA-1"))

    for key in (None, "", *(f"UA-{number}" for number in range(100))):
        filled = forms.fill(a_request([bytes(4)], id="r", key=key).SerializeToString())
        assert (first.form, (key or "").encode()) == (filled.form, filled.key)


def other_keys():
    """Bytes that name an entity in a way that is not cut."""
    message = a_request([bytes(4)])
    number = a_request([bytes(4)])
    number.parameters["entity_key"].int64_param = 1
    yield "a number", number.SerializeToString()
    yield "long", a_request([bytes(4)], key="k" * 112).SerializeToString()
    entry = bytes([0x22, 17]) + b"\x0a\x0aentity_key\x12\x03\x1a\x01b"
    begin = len(b"\x0a\x05delay")
    data = a_request([bytes(4)], key="a").SerializeToString()
    yield "twice", data[:begin] + entry + data[begin:]
    data = message.SerializeToString()
    yield "cut off", data[:begin] + entry[:1] + b"\x7f" + entry[2:] + data[begin:]
    twofold = b"\x0a\x0aentity_key\x12\x05\x08\x01\x1a\x01b"
    yield "of two kinds", data[:begin] + bytes([0x22, len(twofold)]) + twofold + data[begin:]


@pytest.mark.parametrize(("name", "data"), list(other_keys()))
def test_entity_that_is_named_otherwise_is_parsed(name, data):
    forms = RequestForms()
    learned(forms, a_request([bytes(4)]))
    try:
        message = oip.ModelInferRequest.FromString(data)
    except DecodeError:
        message = None

    assert forms.fill(data) is None
    if message is not None:
        assert forms.learn(data, message) is None
        assert forms.fill(data) is None


def test_entity_is_looked_for_no_further_than_a_form_may_reach():
    """A request of nothing but parameters would hold the door's one thread for seconds."""
    forms = RequestForms()
    learned(forms, a_request([bytes(8)], key="e1"))
    message = a_request([bytes(8)], others=[f"p{number}" for number in range(1_000)])
    message.parameters["entity_key"].string_param = "e1"
    begin = message.SerializeToString()
    many = a_request([]).SerializeToString() + b"\x22\x00" * 2_000_000

    read = []

    class Read(bytes):
        def __getitem__(self, place):
            if isinstance(place, int):
                read.append(place)
            return super().__getitem__(place)

    assert None is forms.fill(begin)
    assert None is forms.fill(Read(many))
    assert len(read) < 10_000


def test_unknown_form_is_not_cut():
    forms = RequestForms()
    learned(forms, a_request([b"12345678"]))

    assert forms.fill(a_request([b"1234567"]).SerializeToString()) is None
    assert forms.fill(a_request([b"12345678"], name="other").SerializeToString()) is None
    assert forms.fill(a_request([b"12345678"], outputs=["z"]).SerializeToString()) is None


def test_request_that_says_its_id_twice_has_no_form():
    data = a_request([b"12345678"], id="one").SerializeToString()
    twice = data[: -len(b"\x3a\x0812345678")] + b"\x1a\x03two" + b"\x3a\x0812345678"

    assert "two" == oip.ModelInferRequest.FromString(twice).id
    assert RequestForms().learn(twice, oip.ModelInferRequest.FromString(twice)) is None


def test_typed_and_empty_contents_have_no_form():
    typed = oip.ModelInferRequest(model_name="delay")
    typed.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(1.0)

    assert learned(RequestForms(), typed) is None
    assert learned(RequestForms(), a_request([b""])) is None


def test_several_sizes_of_one_model_are_known_side_by_side():
    forms, sizes = RequestForms(), range(1, request_forms.SIZES_MAX + 1)
    for size in sizes:
        learned(forms, a_request([bytes(size)]))

    found = [forms.fill(a_request([b"x" * size]).SerializeToString()).contents for size in sizes]
    assert [(b"x" * size,) for size in sizes] == found


def test_forms_are_bounded(monkeypatch):
    monkeypatch.setattr(request_forms, "FORMS_MAX", 10)
    forms = RequestForms()
    for number in range(100):
        learned(forms, a_request([np.float32(number).tobytes()], name=f"model-{number}"))

    known = [
        forms.fill(a_request([bytes(4)], name=f"model-{number}").SerializeToString())
        for number in range(100)
    ]
    assert [False] * 90 + [True] * 10 == [filled is not None for filled in known]


def test_lengths_that_hardly_come_again_push_no_others_out(monkeypatch):
    monkeypatch.setattr(request_forms, "FORMS_OF_ONE_MAX", 10)
    monkeypatch.setattr(request_forms, "TURNED_AWAY_MAX", 100)
    forms, of_another = RequestForms(), a_request([bytes(4)], name="another")
    learned(forms, of_another)
    taken = [learned(forms, a_request([bytes(size)])) for size in range(1, 110)]

    assert [True] * 10 + [False] * 99 == [filled is not None for filled in taken]
    assert forms.fill(a_request([bytes(10)]).SerializeToString()) is not None
    assert forms.fill(of_another.SerializeToString()) is not None
    assert learned(forms, a_request([bytes(500)])) is not None  # in time it is tried again
    assert forms.fill(a_request([bytes(500)]).SerializeToString()) is not None


def test_forms_that_are_found_again_give_way_to_those_that_are_asked_now(monkeypatch):
    monkeypatch.setattr(request_forms, "FORMS_OF_ONE_MAX", 10)
    forms = RequestForms()
    for size in range(1, 11):
        learned(forms, a_request([bytes(size)]))
        forms.fill(a_request([bytes(size)]).SerializeToString())

    assert learned(forms, a_request([bytes(11)])) is not None
