# SPDX-License-Identifier: Apache-2.0
"""The 14 data types, raw and typed, and every size that does not fit."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from headrace.errors import Busy, Invalid
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace_inference.adapters.tensor_codec import (
    DATATYPES,
    STEP,
    decode_raw,
    decode_typed,
    encode_raw,
)

NUMERIC = sorted(set(DATATYPES) - {"BYTES"})
TYPED = sorted(set(DATATYPES) - {"BYTES", "FP16", "BF16"})


@st.composite
def numeric_tensors(draw, names=NUMERIC):
    name = draw(st.sampled_from(names))
    shape = draw(nps.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    return name, draw(nps.arrays(DATATYPES[name].array, shape))


@given(numeric_tensors())
def test_raw_contents_come_back_bit_for_bit(tensor):
    name, values = tensor

    decoded = decode_raw("x", name, values.shape, encode_raw(values), elements_max=1000)

    assert values.shape == decoded.shape
    assert values.tobytes() == decoded.tobytes()


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_bytes_elements_come_back(elements):
    raw = encode_raw(elements)

    assert elements == decode_raw("x", "BYTES", (len(elements),), raw, elements_max=20)


@given(numeric_tensors(TYPED))
def test_typed_contents_come_back(tensor):
    name, values = tensor
    contents = oip.InferTensorContents()
    getattr(contents, DATATYPES[name].field).extend(values.ravel().tolist())

    received = oip.InferTensorContents.FromString(contents.SerializeToString())
    filled = received.ListFields()
    field, elements = (filled[0][0].name, filled[0][1]) if filled else (None, ())
    decoded = decode_typed("x", name, values.shape, field, elements, elements_max=1000)

    np.testing.assert_array_equal(values, decoded)
    assert values.dtype == decoded.dtype


def test_there_are_the_fourteen_datatypes_of_the_protocol():
    assert DATATYPES.keys() == {
        *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
        *("FP16", "BF16", "FP32", "FP64", "BYTES"),
    }


def test_raw_values_are_not_copied():
    raw = np.arange(6, dtype="<f4").tobytes()

    decoded = decode_raw("x", "FP32", (2, 3), raw, elements_max=10)

    assert np.shares_memory(decoded, np.frombuffer(raw, dtype="<f4"))


@given(
    st.sampled_from(sorted(DATATYPES)),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=12),
    st.binary(max_size=64),
)
def test_any_bytes_with_any_shape_are_decoded_or_refused(datatype, shape, raw):
    refusal = None
    try:
        values = decode_raw("x", datatype, shape, raw, elements_max=16)
    except (Invalid, Busy) as err:
        refusal = err.reason

    if refusal is None:
        assert math.prod(shape) == np.size(values)
    else:
        assert refusal in {"TENSOR_SIZE", "TENSOR_SHAPE", "TENSOR_CONTENT", "BATCH_TOO_LARGE"}


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "reason"),
    [
        ("FP32", (2**31, 2**31), bytes(4), "TENSOR_SIZE"),
        ("FP64", (2**62, 4), b"", "TENSOR_SIZE"),
        ("FP32", (1, 3), bytes(11), "TENSOR_SIZE"),
        ("FP32", (1, 3), bytes(16), "TENSOR_SIZE"),
        ("FP32", (-1, 3), bytes(12), "TENSOR_SHAPE"),
        ("FP32", (0, 2**62), b"", "TENSOR_SIZE"),
        ("FP32", (2**40, 0, 2**40), b"", "TENSOR_SIZE"),
        ("FP32", (1,) * 9, bytes(4), "TENSOR_SHAPE"),
        ("BF16", (1,), bytes(3), "TENSOR_SIZE"),
        ("fp32", (1,), bytes(4), "TENSOR_DTYPE"),
        ("BOOL", (3,), b"\0\2\1", "TENSOR_CONTENT"),
        ("BYTES", (2**40,), bytes(8), "TENSOR_SIZE"),
        ("BYTES", (1,), b"\x05\0\0\0abc", "TENSOR_CONTENT"),
        ("BYTES", (1,), b"\xff\xff\xff\xffabc", "TENSOR_CONTENT"),
        ("BYTES", (2,), b"\x04\0\0\0abcd", "TENSOR_SIZE"),
        ("BYTES", (2,), b"\x03\0\0\0abcd", "TENSOR_CONTENT"),
        ("BYTES", (1,), b"\x01\0\0\0a\0", "TENSOR_SIZE"),
        ("BYTES", (1,), b"\0\0", "TENSOR_SIZE"),
    ],
)
def test_raw_contents_that_do_not_fit_are_refused(datatype, shape, raw, reason):
    with pytest.raises(Invalid, match=reason):
        decode_raw("x", datatype, shape, raw, elements_max=100)


def test_too_many_strings_are_refused_before_they_are_made():
    with pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        decode_raw("x", "BYTES", (1001,), bytes(4004), elements_max=1000)
    with pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        decode_typed("x", "BYTES", (3,), "bytes_contents", Handed([b"a"] * 3), elements_max=2)


class Handed(Sequence):
    """Values that are handed out some at a time; `steps` is how many each time."""

    def __init__(self, values):
        self._values, self.steps = values, []

    def __len__(self):
        return len(self._values)

    def __getitem__(self, places):
        self.steps.append(len(self._values[places]))
        return self._values[places]


@pytest.mark.parametrize(
    ("name", "field"), [("FP32", "fp32_contents"), ("INT64", "int64_contents")]
)
def test_many_typed_contents_are_read_in_steps_so_that_others_have_their_turn(name, field):
    values = Handed(list(range(2 * STEP + 1)))
    shape = (1, len(values))
    decoded = decode_typed("x", name, shape, field, values, elements_max=1)

    assert [STEP, STEP, 1] == values.steps
    np.testing.assert_array_equal(np.arange(2 * STEP + 1).reshape(shape), decoded)


@pytest.mark.parametrize(
    ("datatype", "field", "values", "reason"),
    [
        ("FP32", "fp64_contents", [1.0], "TENSOR_CONTENT"),
        ("FP16", "fp32_contents", [1.0], "TENSOR_CONTENT"),
        ("INT8", "int_contents", [128], "TENSOR_CONTENT"),
        ("UINT8", "uint_contents", [256], "TENSOR_CONTENT"),
        ("FP32", "fp32_contents", [1.0, 2.0], "TENSOR_SIZE"),
        ("FP32", None, [], "TENSOR_SIZE"),
    ],
)
def test_typed_contents_that_do_not_fit_are_refused(datatype, field, values, reason):
    with pytest.raises(Invalid, match=reason):
        decode_typed("x", datatype, (1,), field, values, elements_max=16)
