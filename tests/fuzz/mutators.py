# SPDX-License-Identifier: Apache-2.0
"""What is done to files: to their bytes, to fields of protobuf messages, to values of JSON.

Each mutator gets the file, another one of the corpus, and chance, of which alone the outcome
depends. Those of fields and values keep the lengths around right, so that what is changed is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from random import Random
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from headrace.protobuf_wire import BYTES, FIXED32, FIXED64, VARINT, varint

Mutator = Callable[[bytes, bytes, Random], bytes]
Field = tuple[int, int, Any]
Change = Callable[[list[Field], int, bytes, Random], None]

# Where sizes, signs and types end.
NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 15, 16, 17, 64, 100, 127, 128, 255, 256, 1_000, 65_535, 65_536, 1 << 20),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 10**12, 1 << 53, (1 << 62), (1 << 63) - 1),
    *(1 << 63, (1 << 64) - 1, (1 << 64) - 2),
)
VALUES = (
    *(None, True, False, 0, -1, 1, 0.5, 1e400, -0.0, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30),
    *("", "a", "\x00", "\ud800", "NaN", "é" * 100, "x" * 5_000, [], {}, [[]], [None], {"": {}}),
)
SIZE_MAX = 64 << 10
DEPTH_MAX = 12
DEEPER = 0.75
FIXED_BYTES = {FIXED32: 4, FIXED64: 8}


def bits(data: bytes, other: bytes, chance: Random) -> bytes:
    turned = bytearray(data)
    for _ in range(chance.randint(1, 8) if data else 0):
        turned[chance.randrange(len(turned))] ^= 1 << chance.randrange(8)
    return bytes(turned)


def cut(data: bytes, other: bytes, chance: Random) -> bytes:
    """Its end, or a piece within."""
    first, last = _span(data, chance)
    return data[:first] + (data[last:] if chance.random() < 0.5 else b"")


def splice(data: bytes, other: bytes, chance: Random) -> bytes:
    return data[: _span(data, chance)[0]] + other[_span(other, chance)[0] :]


def repeated(data: bytes, other: bytes, chance: Random) -> bytes:
    first, last = _span(data, chance)
    piece = data[first : min(last, first + chance.choice((1, 2, 4, 64)))]
    return data[:first] + piece * chance.choice((2, 3, 100, 2_000)) + data[first:]


def length(data: bytes, other: bytes, chance: Random) -> bytes:
    """Other bytes where a length may stand, as a varint or in eight bytes."""
    at, number = _span(data, chance)[0], chance.choice(NUMBERS)
    if chance.random() < 0.5:
        return data[:at] + varint(number) + data[at + 1 :]
    return data[:at] + number.to_bytes(8, "little") + data[at + 8 :]


def _span(data: bytes, chance: Random) -> tuple[int, int]:
    first, last = sorted(chance.randint(0, len(data)) for _ in range(2))
    return first, last


def _doubled(fields: list[Field], at: int, other: bytes, chance: Random) -> None:
    fields.insert(chance.randint(0, len(fields)), fields[at])


def _dropped(fields: list[Field], at: int, other: bytes, chance: Random) -> None:
    del fields[at]


def _moved(fields: list[Field], at: int, other: bytes, chance: Random) -> None:
    fields.insert(chance.randrange(len(fields)), fields.pop(at))


def _numbered(fields: list[Field], at: int, other: bytes, chance: Random) -> None:
    """A well-known number: in its place, or in the place of bytes of it."""
    number, kind, content = fields[at]
    value = chance.choice(NUMBERS)
    if kind != BYTES:
        content = value & (1 << 8 * FIXED_BYTES.get(kind, 8)) - 1
    elif content:
        place, size = chance.randrange(len(content)), chance.choice((4, 8))
        piece = value.to_bytes(8, "little")[:size]
        content = content[:place] + piece + content[place + size :]
    fields[at] = number, kind, content


def _retagged(fields: list[Field], at: int, other: bytes, chance: Random) -> None:
    fields[at] = (chance.randint(1, 30), *fields[at][1:])


def _grafted(fields: list[Field], at: int, other: bytes, chance: Random) -> None:
    """A field of the other file, of the same number and kind where there is one."""
    found = _all_fields(other)
    alike = [each for each in found if each[:2] == fields[at][:2]] or found
    if alike:
        fields[at] = chance.choice(alike)


def _within(data: bytes, other: bytes, chance: Random, change: Change, depth: int = 0) -> bytes:
    """Changed in a field of the message, or of a message in it."""
    if not (found := fields_of(data)):
        return data
    weights = [8 + len(content) if kind == BYTES else 8 for _, kind, content in found]
    (at,) = chance.choices(range(len(found)), weights)
    number, kind, content = found[at]
    deeper = depth < DEPTH_MAX and kind == BYTES and chance.random() < DEEPER
    if deeper and fields_of(content):
        found[at] = number, kind, _within(content, other, chance, change, depth + 1)
    else:
        change(found, at, other, chance)
    return b"".join(map(_encoded, found))


def _of_fields(change: Change) -> Mutator:
    def mutate(data: bytes, other: bytes, chance: Random) -> bytes:
        return _within(data, other, chance, change)

    return mutate


def fields_of(data: bytes) -> list[Field] | None:
    """Number, kind and content of each; None of what is no message."""
    try:
        read = UnknownFieldSet(Empty.FromString(data))
    except DecodeError:
        return None
    found = [(each.field_number, each.wire_type, each.data) for each in read]
    return found if all(kind in (VARINT, BYTES, FIXED32, FIXED64) for _, kind, _ in found) else None


@lru_cache(maxsize=512)
def _all_fields(data: bytes) -> tuple[Field, ...]:
    return tuple(_walked(data))


def _walked(data: bytes, depth: int = 0) -> Iterator[Field]:
    for field in fields_of(data) or ():
        yield field
        if field[1] == BYTES and depth < DEPTH_MAX:
            yield from _walked(field[2], depth + 1)


def _encoded(field: Field) -> bytes:
    number, kind, content = field
    tag = varint(number << 3 | kind)
    if kind == BYTES:
        return tag + varint(len(content)) + content
    return tag + (content.to_bytes(FIXED_BYTES[kind], "little") if kind in FIXED_BYTES
                  else varint(content))  # fmt: skip


def value(data: bytes, other: bytes, chance: Random) -> bytes:
    """Another value in the JSON that a file holds; a length before it is kept right."""
    text = data.decode(errors="surrogateescape")
    begin = max(0, text.find("{"))
    try:
        told, end = json.JSONDecoder().raw_decode(text, begin)
    except (ValueError, RecursionError):
        return data
    if not isinstance(told, dict) or not (places := [*_places(told)]):
        return data
    of, key = chance.choice(places)
    _put(of, key, chance.choice(VALUES), chance)
    head, body, tail = (
        part.encode(errors="surrogateescape")
        for part in (text[:begin], json.dumps(told), text[end:])
    )
    return _told_length(head, len(body)) + body + tail


def _places(told: Any) -> Iterator[tuple[Any, Any]]:
    for key, each in [*(told.items() if isinstance(told, dict) else enumerate(told))]:
        yield told, key
        if isinstance(each, dict | list):
            yield from _places(each)


def _put(of: Any, key: Any, new: Any, chance: Random) -> None:
    match chance.randrange(4):
        case 0:
            of[key] = [of[key]] * chance.choice((1, 2, 300))
        case 1 if isinstance(of, dict):
            of[str(new)[:100]] = of.pop(key)
        case 2:
            del of[key]
        case _:
            of[key] = new


def _told_length(head: bytes, size: int) -> bytes:
    """As safetensors tells it in eight bytes, or a line of digits; what is neither stays."""
    if len(head) == 8:
        return size.to_bytes(8, "little")
    return b"%d\n" % size if head.endswith(b"\n") and head[:-1].isdigit() else head


ANY: tuple[Mutator, ...] = (bits, cut, splice, repeated, length)
CHANGES = (_doubled, _dropped, _moved, _numbered, _retagged, _grafted)
# Most files whose bytes are turned over are refused by the first look; fields reach further.
PROTOBUF: tuple[Mutator, ...] = (*ANY, *(_of_fields(each) for each in (*CHANGES, *CHANGES)))
JSON: tuple[Mutator, ...] = (*ANY, *[value] * 5)


def mutated(corpus: list[bytes], mutators: tuple[Mutator, ...], chance: Random) -> bytes:
    """A file of the corpus, changed one to four times."""
    data = chance.choice(corpus)
    for _ in range(chance.choice((1, 1, 2, 4))):
        data = chance.choice(mutators)(data, chance.choice(corpus), chance)
    return data[:SIZE_MAX]
