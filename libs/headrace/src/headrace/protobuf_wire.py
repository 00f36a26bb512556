# SPDX-License-Identifier: Apache-2.0
"""The protobuf wire format (protobuf.dev/programming-guides/encoding), without a schema.

Of what is read nothing is decoded, copied or allocated by a size that the bytes claim.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from headrace.errors import Invalid

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# A number below this is one byte.
SHORT = 0x80
ONE_BYTE = [bytes([number]) for number in range(SHORT)]


class Field(NamedTuple):
    """One field of a message: a number for a varint, a view of the bytes, None for fixed sizes."""

    number: int
    varint: int | None
    content: memoryview | None


def fields(content: memoryview) -> Iterator[Field]:
    at = 0
    while at < len(content):
        tag, at = _number(content, at)
        number, wire_type = tag >> 3, tag & 7
        if number == 0 or tag >= 1 << 32:
            raise malformed("a field has no number")
        if wire_type == VARINT:
            value, at = _number(content, at)
            yield Field(number, value, None)
        elif wire_type == BYTES:
            size, start = _number(content, at)
            at = _within(content, start + size)
            yield Field(number, None, content[start:at])
        elif wire_type in (FIXED32, FIXED64):
            at = _within(content, at + (4 if wire_type == FIXED32 else 8))
            yield Field(number, None, None)
        else:
            raise malformed("a field has a wire type that ONNX does not use")


def _number(content: memoryview, at: int) -> tuple[int, int]:
    """The number and where it ends; at most 10 bytes."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise malformed("a number is cut or too long")


def _within(content: memoryview, end: int) -> int:
    if end > len(content):
        raise malformed("a field reaches past the end")
    return end


def varint(number: int) -> bytes:
    """Base 128, the least significant group first."""
    if number < SHORT:
        return ONE_BYTE[number]
    groups = bytearray()
    while number >= SHORT:
        groups.append(number & 0x7F | SHORT)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def number_field(number: int, value: int) -> bytes:
    return varint(number << 3 | VARINT) + varint(value)


def bytes_field(number: int, content: bytes) -> bytes:
    """Also of a message."""
    return varint(number << 3 | BYTES) + varint(len(content)) + content


def malformed(problem: str) -> Invalid:
    return Invalid("FORMAT", format="onnx", problem=problem)
