# SPDX-License-Identifier: Apache-2.0
"""Signatures are read from the file, and only what the protocol can carry is taken."""

from __future__ import annotations

import pytest

from headrace.errors import Invalid
from headrace.protobuf_wire import bytes_field, number_field
from headrace_registry.domain.signature import (
    DATATYPE_BY_ELEMENT,
    Signature,
    TensorSignature,
    read_signature,
)
from headrace_registry.testing import a_value, an_onnx_file


def test_names_types_and_open_dimensions_are_read() -> None:
    data = an_onnx_file(
        inputs=[a_value("pixels", 2, ("rows", 3, None)), a_value("texts", 8, (None,))],
        outputs=[a_value("label", 7, ())],
    )

    pixels = TensorSignature("pixels", "UINT8", (-1, 3, -1))
    texts, label = TensorSignature("texts", "BYTES", (-1,)), TensorSignature("label", "INT64", ())
    assert Signature((pixels, texts), (label,)) == read_signature(data)


@pytest.mark.parametrize(("element", "datatype"), DATATYPE_BY_ELEMENT.items())
def test_every_datatype_of_the_protocol_is_known(element: int, datatype: str) -> None:
    data = an_onnx_file(inputs=[a_value("x", element, (2,))])

    assert (TensorSignature("x", datatype, (2,)),) == read_signature(data).inputs


@pytest.mark.parametrize("weight", ["dense", "sparse"])
def test_weights_among_the_inputs_are_asked_of_nobody(weight: str) -> None:
    named = bytes_field(8, b"w")
    graph = bytes_field(5, named) if weight == "dense" else bytes_field(15, bytes_field(1, named))
    data = an_onnx_file(graph=graph, inputs=[a_value("x", 1, (2,)), a_value("w", 1, (2,))])

    assert ["x"] == [each.name for each in read_signature(data).inputs]


NO_TENSOR = bytes_field(1, b"maps") + bytes_field(2, bytes_field(4, b""))


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ([], "there are 0"),
        ([a_value(f"x{n}", 1, (1,)) for n in range(65)], "there are 65"),
        ([a_value("x", 1, (1,)), a_value("x", 1, (1,))], "twice"),
        ([a_value("", 1, (1,))], "name is empty"),
        ([a_value("x" * 257, 1, (1,))], "too long"),
        ([a_value("a\x00b", 1, (1,))], "not printable"),
        ([bytes_field(1, b"\xff\xfe") + a_value("", 1, (1,))[2:]], "name is empty"),
        ([bytes_field(1, b"x")], "no type"),
        ([NO_TENSOR], "is no tensor"),
        ([a_value("x", 14, (1,))], "element type 14"),
        ([a_value("x", 0, (1,))], "element type 0"),
        ([a_value("x", 1, None)], "has no shape"),
        ([a_value("x", 1, (2**62,))], "too large"),
        ([a_value("x", 1, (2**64 - 1,))], "negative"),
        ([a_value("x", 1, (1,) * 33)], "too many dimensions"),
        ([a_value("x", 1, ("rows",)).replace(b"rows", b"ro\xf7s")], "name of a size"),
        ([b"\x0a\x7fx"], "past the end"),
    ],
)
def test_what_no_caller_could_send_is_refused(inputs: list[bytes], problem: str) -> None:
    with pytest.raises(Invalid, match=problem) as caught:
        read_signature(an_onnx_file(inputs=inputs))

    assert "FORMAT" == caught.value.reason


def test_model_without_an_output_is_refused() -> None:
    with pytest.raises(Invalid, match="output"):
        read_signature(an_onnx_file(outputs=[]))


@pytest.mark.parametrize("name", ["prediction_id", "attributions.x", "attributions."])
def test_output_of_a_name_that_the_service_answers_by_itself_is_refused(name: str) -> None:
    data = an_onnx_file(inputs=[a_value("x", 1, (1,))], outputs=[a_value(name, 8, (None,))])

    with pytest.raises(Invalid, match="choose another name"):
        read_signature(data)


def test_last_of_value_and_name_says_how_large_a_dimension_is() -> None:
    twice = bytes_field(1, number_field(1, 7) + bytes_field(2, b"rows"))
    tensor = number_field(1, 1) + bytes_field(2, twice)
    value = bytes_field(1, b"x") + bytes_field(2, bytes_field(1, tensor))

    assert (-1,) == read_signature(an_onnx_file(inputs=[value])).inputs[0].shape
