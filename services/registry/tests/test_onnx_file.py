# SPDX-License-Identifier: Apache-2.0
"""ONNX files built byte by byte; `tests/integration` has those of the onnx package."""

from __future__ import annotations

import random

import pytest

from headrace.errors import Invalid
from headrace.protobuf_wire import bytes_field, number_field
from headrace_registry.domain.onnx_file import check_onnx
from headrace_registry.testing import an_onnx_file

EXTERNAL = number_field(14, 1)
LOCATION = bytes_field(13, bytes_field(1, b"location") + bytes_field(2, b"../weights"))


def in_initializer(tensor: bytes) -> bytes:
    return bytes_field(5, tensor)


def in_attribute(attribute: bytes) -> bytes:
    return bytes_field(1, bytes_field(5, attribute))


HIDING_PLACES = {
    "initializer": lambda tensor: an_onnx_file(graph=in_initializer(tensor)),
    "sparse": lambda tensor: an_onnx_file(graph=bytes_field(15, bytes_field(1, tensor))),
    "sparse indices": lambda tensor: an_onnx_file(graph=bytes_field(15, bytes_field(2, tensor))),
    "attribute": lambda tensor: an_onnx_file(graph=in_attribute(bytes_field(5, tensor))),
    "attribute list": lambda tensor: an_onnx_file(graph=in_attribute(bytes_field(10, tensor))),
    "attribute sparse": lambda tensor: an_onnx_file(
        graph=in_attribute(bytes_field(22, bytes_field(1, tensor)))
    ),
    "subgraph": lambda tensor: an_onnx_file(
        graph=in_attribute(bytes_field(6, in_initializer(tensor)))
    ),
    "subgraphs": lambda tensor: an_onnx_file(
        graph=in_attribute(bytes_field(11, in_initializer(tensor)))
    ),
    "function": lambda tensor: an_onnx_file(
        more=bytes_field(25, bytes_field(7, bytes_field(5, bytes_field(5, tensor))))
    ),
    "function default": lambda tensor: an_onnx_file(
        more=bytes_field(25, bytes_field(11, bytes_field(5, tensor)))
    ),
    "training": lambda tensor: an_onnx_file(
        more=bytes_field(20, bytes_field(1, in_initializer(tensor)))
    ),
    "second graph": lambda tensor: an_onnx_file(more=bytes_field(7, in_initializer(tensor))),
}


def test_small_model_is_taken() -> None:
    check_onnx(an_onnx_file(graph=in_initializer(bytes_field(9, b"weights"))))


@pytest.mark.parametrize("tensor", [EXTERNAL, LOCATION, number_field(14, (1 << 32) + 1)])
@pytest.mark.parametrize("place", HIDING_PLACES)
def test_external_data_is_found_wherever_a_tensor_can_be(place: str, tensor: bytes) -> None:
    with pytest.raises(Invalid, match="EXTERNAL_DATA"):
        check_onnx(HIDING_PLACES[place](tensor))


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_weights_inside_the_file_are_taken_in_the_same_places(place: str) -> None:
    check_onnx(HIDING_PLACES[place](number_field(14, 0) + bytes_field(9, b"weights")))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, world",
        b"\x00" * 100,
        number_field(1, 8),
        an_onnx_file()[:-1],
        bytes_field(7, b"") + bytes_field(8, b""),
        an_onnx_file(more=b"\x0b"),
        an_onnx_file(more=b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        an_onnx_file(more=b"\xff" * 11),
    ],
    ids=["empty", "text", "zeros", "no graph", "cut", "no ir", "group", "size", "long varint"],
)
def test_what_is_no_onnx_model_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="FORMAT"):
        check_onnx(data)


def test_deep_nesting_is_refused() -> None:
    graph = b""
    for _ in range(200):
        graph = in_attribute(bytes_field(6, graph))

    with pytest.raises(Invalid, match="nested too deep"):
        check_onnx(an_onnx_file(graph=graph))


def test_too_many_fields_are_refused() -> None:
    with pytest.raises(Invalid, match="too many fields"):
        check_onnx(an_onnx_file(graph=bytes_field(5, number_field(2, 1) * 1_000_001)))


def test_damaged_files_are_refused_or_taken_and_never_crash() -> None:
    """Every cut, and 2,000 random damages."""
    whole = an_onnx_file(graph=in_initializer(bytes_field(9, b"w" * 40)) + in_attribute(EXTERNAL))
    dice = random.Random(7)
    damaged = [whole[:end] for end in range(len(whole))]
    for _ in range(2_000):
        changed = bytearray(whole)
        for _ in range(dice.randint(1, 8)):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        damaged.append(bytes(changed))

    outcomes = {_outcome(each) for each in damaged}
    assert {"taken", "FORMAT"} <= outcomes <= {"taken", "FORMAT", "EXTERNAL_DATA"}


def _outcome(data: bytes) -> str:
    try:
        check_onnx(data)
    except Invalid as err:
        return err.reason
    return "taken"
