# SPDX-License-Identifier: Apache-2.0
"""Bytes and typed contents of the 14 OIP data types to and from arrays, without a copy where raw.

Sizes are compared in Python integers, which do not overflow, before anything is allocated. Raw
contents are row-major, little-endian, unpadded; a BYTES element is a 4-byte length and its bytes.
What is an object of Python for each value is made and read in steps: in one go a million hold the
interpreter's lock for tenths of a second, in which nobody else is answered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.errors import Busy, Invalid

RANK_MAX = 8
ELEMENTS_MAX = 2**40
LENGTH_BYTES = 4
# Values that are gone through without a look whether others wait: a millisecond of them.
STEP = 2_000


class Datatype(NamedTuple):
    """The array type of the raw bytes, and the field of InferTensorContents (None: only raw)."""

    array: np.dtype[Any]
    field: str | None


DATATYPES = {
    "BOOL": Datatype(np.dtype("?"), "bool_contents"),
    "UINT8": Datatype(np.dtype("u1"), "uint_contents"),
    "UINT16": Datatype(np.dtype("<u2"), "uint_contents"),
    "UINT32": Datatype(np.dtype("<u4"), "uint_contents"),
    "UINT64": Datatype(np.dtype("<u8"), "uint64_contents"),
    "INT8": Datatype(np.dtype("i1"), "int_contents"),
    "INT16": Datatype(np.dtype("<i2"), "int_contents"),
    "INT32": Datatype(np.dtype("<i4"), "int_contents"),
    "INT64": Datatype(np.dtype("<i8"), "int64_contents"),
    "FP16": Datatype(np.dtype("<f2"), None),
    "BF16": Datatype(np.dtype("<u2"), None),  # its bits
    "FP32": Datatype(np.dtype("<f4"), "fp32_contents"),
    "FP64": Datatype(np.dtype("<f8"), "fp64_contents"),
    "BYTES": Datatype(np.dtype("O"), "bytes_contents"),
}

Values = NDArray[Any] | list[bytes]


def row_bytes(datatype: str, shape: Sequence[int]) -> int:
    """Of one of the rows that the first size counts; a size that is open (-1) counts as 1."""
    return abs(math.prod(shape[1:])) * DATATYPES[datatype].array.itemsize


def element_count(name: str, datatype: str, shape: Sequence[int]) -> int:
    """Elements that the shape promises. Raises Invalid TENSOR_DTYPE, TENSOR_SHAPE, TENSOR_SIZE."""
    if datatype not in DATATYPES:
        raise Invalid("TENSOR_DTYPE", input=name, datatype=datatype[:16])
    if len(shape) > RANK_MAX or any(size < 0 for size in shape):
        raise Invalid("TENSOR_SHAPE", input=name, shape=list(shape[:RANK_MAX]))
    # No array of numpy has such sizes, not even an empty one.
    if math.prod(size or 1 for size in shape) > ELEMENTS_MAX:
        raise Invalid("TENSOR_SIZE", input=name, shape=list(shape))
    return math.prod(shape)


def decode_raw(
    name: str, datatype: str, shape: Sequence[int], raw: bytes, *, elements_max: int
) -> Values:
    """Values of `shape`; a BYTES tensor of at most `elements_max` elements as a flat list.

    Raises Invalid TENSOR_DTYPE, TENSOR_SHAPE, TENSOR_SIZE, TENSOR_CONTENT, Busy BATCH_TOO_LARGE.
    """
    count = element_count(name, datatype, shape)
    if datatype == "BYTES":
        if count > elements_max and count * LENGTH_BYTES <= len(raw):
            raise Busy("BATCH_TOO_LARGE", input=name, rows=count, rows_max=elements_max)
        return decode_elements(name, count, raw)
    array = DATATYPES[datatype].array
    if count * array.itemsize != len(raw):
        raise Invalid(
            "TENSOR_SIZE", input=name, bytes=len(raw), bytes_expected=count * array.itemsize
        )
    if datatype == "BOOL" and len(raw.strip(b"\0\1")) > 0:
        raise Invalid("TENSOR_CONTENT", input=name, problem="a BOOL byte is 0 or 1")
    return np.frombuffer(raw, dtype=array).reshape(shape)


def decode_typed(
    name: str,
    datatype: str,
    shape: Sequence[int],
    field: str | None,
    values: Sequence[Any],
    *,
    elements_max: int,
) -> Values:
    """As `decode_raw`, from the values of the one field of InferTensorContents that is filled."""
    count = element_count(name, datatype, shape)
    expected = DATATYPES[datatype].field
    if expected is None:
        raise Invalid("TENSOR_CONTENT", input=name, problem=f"{datatype} comes as raw contents")
    if field is not None and field != expected:
        raise Invalid("TENSOR_CONTENT", input=name, problem=f"{datatype} belongs in {expected}")
    if count != len(values):
        raise Invalid("TENSOR_SIZE", input=name, elements=len(values), elements_expected=count)
    if datatype == "BYTES":
        if count > elements_max:
            raise Busy("BATCH_TOO_LARGE", input=name, rows=count, rows_max=elements_max)
        return list(values)
    return numbers(name, datatype, values).reshape(shape)


def numbers(name: str, datatype: str, values: Sequence[Any]) -> NDArray[Any]:
    """Raises Invalid TENSOR_CONTENT for one that the type has no room for."""
    array = DATATYPES[datatype].array
    try:
        parts = [np.array(values[step], dtype=array) for step in steps(len(values))]
    except OverflowError as err:
        raise Invalid("TENSOR_CONTENT", input=name, problem=f"outside {datatype}") from err
    return np.concatenate(parts) if parts else np.empty(0, dtype=array)


def steps(count: int) -> Iterator[slice]:
    """The places of so many values: others have their turn between two.

    In a step nothing gives the lock back by itself, as numpy does for more than 500 elements: who
    waits for the lock would begin to wait anew each time, and in the end wait for all steps.
    """
    return (slice(begin, begin + STEP) for begin in range(0, count, STEP))


def flattened(values: Values) -> Values:
    """In the order of their contents."""
    return values if isinstance(values, list) else values.ravel()


def listed(values: Values) -> list[Any]:
    """As objects of Python."""
    return values if isinstance(values, list) else values.tolist()


def encode_raw(values: Values) -> bytes:
    """The inverse of `decode_raw`."""
    return raw_view(values).tobytes()


def raw_view(values: Values) -> memoryview:
    """As `encode_raw`, of an array where it lies, if it can be."""
    if isinstance(values, list):
        elements = (len(v).to_bytes(LENGTH_BYTES, "little") + v for v in values)
        return memoryview(b"".join(elements))
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).data


def decode_elements(name: str, count: int, raw: bytes) -> list[bytes]:
    """So many elements of a BYTES tensor. Raises Invalid TENSOR_SIZE, TENSOR_CONTENT."""
    if count * LENGTH_BYTES > len(raw):
        raise Invalid("TENSOR_SIZE", input=name, bytes=len(raw), elements=count)
    elements: list[bytes] = []
    position = 0
    while position < len(raw) and len(elements) < count:
        begin = position + LENGTH_BYTES
        position = begin + int.from_bytes(raw[position:begin], "little")
        if begin > len(raw) or position > len(raw):
            raise Invalid("TENSOR_CONTENT", input=name, problem="a length is past the end")
        elements.append(raw[begin:position])
    if position != len(raw) or len(elements) != count:
        raise Invalid("TENSOR_SIZE", input=name, bytes=len(raw), elements_expected=count)
    return elements
