# SPDX-License-Identifier: Apache-2.0
"""A request that is cut says what a request that is parsed says."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace_inference.adapters import request_forms
from headrace_inference.adapters.request_forms import RequestForms

SIZES = st.lists(st.integers(1, 400), min_size=1, max_size=3)


def a_request(contents, *, id="", version="", outputs=(), name="delay"):
    message = oip.ModelInferRequest(model_name=name, model_version=version, id=id)
    for number, content in enumerate(contents):
        message.inputs.add(name=f"x{number}", datatype="UINT8", shape=[len(content)])
    for output in outputs:
        message.outputs.add(name=output)
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
    data = a_request([bytes(8), bytes(130)], id="abc", outputs=["y"]).SerializeToString()
    forms.learn(data, oip.ModelInferRequest.FromString(data))
    for other in (noise, data[:place] + bytes([value]) + data[place + 1 :], data + noise):
        filled = forms.fill(other)
        if filled is None:
            continue
        whole = oip.ModelInferRequest()
        whole.CopyFrom(filled.form.message)
        whole.raw_input_contents.extend(filled.contents)
        try:
            whole.id = filled.id.decode()
        except UnicodeDecodeError:
            continue  # who takes the request looks at the id
        assert oip.ModelInferRequest.FromString(other) == whole


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
