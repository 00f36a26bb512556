# SPDX-License-Identifier: Apache-2.0
"""Checks a safetensors file to the letter of its format, without reading a weight.

Eight bytes say how long the header is (little-endian), the header is JSON, and each tensor lies
where it says: in order, without a gap, without an overlap, to the last byte. What else an entry
says is refused, as safetensors.schema.json does (github.com/huggingface/safetensors, docs).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import IO, Any

from headrace.errors import Invalid
from headrace_registry.domain.pickle_text import holds_pickle

LENGTH_BYTES = 8
HEADER_BYTES_MAX = 16 << 20
BITS_BY_DTYPE = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16,
    "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
METADATA = "__metadata__"
RANK_MAX = 64  # of torch and numpy


def check_safetensors(file: IO[bytes]) -> None:
    """Raises Invalid FORMAT, PICKLE for one in a text beside the weights."""
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    size = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if size_bytes < LENGTH_BYTES or not 2 <= size <= HEADER_BYTES_MAX:
        raise _refused(f"its header is shorter than 2 or longer than {HEADER_BYTES_MAX} bytes")
    body = size_bytes - LENGTH_BYTES - size
    if body < 0:
        raise _refused("its header reaches past the end")
    header = _header(file.read(size))
    _check_texts(header, header.get(METADATA, {}))
    tensors = {name: _tensor(name, each) for name, each in header.items() if name != METADATA}
    if not tensors:
        raise _refused("it holds no tensor")
    end = 0
    for name, (first, last) in sorted(tensors.items(), key=lambda each: each[1]):
        if first != end:
            raise _refused(f"{name[:64]} overlaps another or leaves a gap")
        end = last
    if end != body:
        raise _refused("its tensors end before or behind its bytes")


def begins_as_safetensors(file: IO[bytes]) -> bool:
    """By its first bytes and its size, which no ONNX file has so."""
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    begun = file.read(LENGTH_BYTES + 1)
    size = int.from_bytes(begun[:LENGTH_BYTES], "little")
    return begun[LENGTH_BYTES:] == b"{" and 2 <= size <= size_bytes - LENGTH_BYTES


def _header(text: bytes) -> Mapping[str, Any]:
    try:
        header = json.loads(text.decode(), object_pairs_hook=_once)
    except UnicodeDecodeError as err:
        raise _refused(f"byte {err.start} of its header is no UTF-8") from err
    except json.JSONDecodeError as err:
        raise _refused(f"its header is no JSON from character {err.pos} on") from err
    except ValueError as err:  # a number of too many digits
        raise _refused("its header holds a number that is too long") from err
    except RecursionError as err:
        raise _refused("its header is nested too deep") from err
    if not isinstance(header, dict):
        raise _refused("its header is no object")
    return header


def _check_texts(header: Mapping[str, Any], metadata: Any) -> None:
    """Names are texts too, and as long as somebody likes."""
    if not (
        isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())
    ):
        raise _refused(f"{METADATA} is something else than texts by name")
    for text in (*header, *metadata, *metadata.values()):
        if holds_pickle(text.encode(errors="surrogatepass")):
            raise Invalid("PICKLE", problem=f"a name, or a text in {METADATA}, is one")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _refused("a name is given twice in its header")
    return found


def _tensor(name: str, told: Any) -> tuple[int, int]:
    """Where it begins and ends, if its type and shape need so many bytes."""
    match told:
        case {"dtype": str(dtype)} if dtype not in BITS_BY_DTYPE:
            raise _refused(f"{name[:64]} has an unknown type: {dtype[:32]!a}")
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [first, last], **more}:
            if more:
                raise _refused(f"{name[:64]} says more than its type, shape and offsets")
            whole = all(type(each) is int and each >= 0 for each in (*shape, first, last))
            if not whole or len(shape) > RANK_MAX:
                problem = f"has sizes or offsets that are none, or more than {RANK_MAX} sizes"
                raise _refused(f"{name[:64]} {problem}")
            bits = BITS_BY_DTYPE[dtype] * math.prod(shape)
            if first <= last and bits == 8 * (last - first):
                return first, last
    raise _refused(f"{name[:64]} has another size than its type and shape need")


def _refused(problem: str) -> Invalid:
    return Invalid("FORMAT", format="safetensors", problem=problem)
