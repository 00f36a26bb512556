# SPDX-License-Identifier: Apache-2.0
"""Requests that differ in their id and their raw contents alone, read once for all of them.

A client asks the same thing again and again: but for the id near the front and the raw contents at
the end the bytes of its requests are equal. Bytes that are equal mean the same, so the first such
request is parsed and checked, and of the others only the two places that differ are cut out. What
is not of that shape (typed contents, another order of fields) is parsed as ever, and so is what
hardly ever comes in the same lengths again, as several texts do.

A parameter that names the rows' entity is cut out first: what is left is a request that names none,
and of the same form, however many entities there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.protobuf_wire import SHORT, varint
from headrace_inference.domain.request import ENTITY_KEY

FORMS_MAX = 2_000
FORMS_OF_ONE_MAX = 500
# Where the forms of one model do not pay, so many requests later they are learned anew.
TURNED_AWAY_MAX = 10 * FORMS_OF_ONE_MAX
FORM_BYTES_MAX = 4_096
SIZES_MAX = 8
# Tag of a field with a length (protobuf encoding): number << 3 | 2.
NAME_TAG, VERSION_TAG, ID_TAG, PARAMETER_TAG, RAW_TAG = 0x0A, 0x12, 0x1A, 0x22, 0x3A
# Of a parameter, behind its tag and length: its name, and the tag of what it is set to.
KEY_HEAD = bytes([0x0A, len(ENTITY_KEY)]) + ENTITY_KEY.encode() + b"\x12"
# InferParameter.string_param.
TEXT_TAG = 0x1A
NO_FRONT = 0, 0


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """What such requests share: `message` has their id and raw contents left out."""

    message: Any
    # Of each raw content where it begins and ends, counted from the end of the message.
    places: tuple[tuple[int, int], ...]
    # Between two contents stand a tag and a length.
    gaps: tuple[tuple[int, int, bytes], ...]


class Filled(NamedTuple):
    """One request of a form."""

    form: Form
    id: bytes
    contents: tuple[bytes, ...]
    # The entity of its rows, where a parameter names it.
    key: bytes = b""


class _Named(NamedTuple):
    """A request without the parameter that names the entity of its rows."""

    data: bytes
    key: bytes


@dataclass(slots=True)
class _Known:
    """Forms of one name and version."""

    # By what is shared and how long the rest is: one content fewer leaves the same shared bytes.
    forms: dict[tuple[bytes, int], Form] = field(default_factory=dict)
    # By the length of what follows the id, how long what differs is.
    sizes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    hits: int = 0
    turned_away: int = 0

    def has_room(self) -> bool:
        """Forms that are found again give way to new ones; those that are not stay for a while,
        for others would be no better."""
        if len(self.forms) < FORMS_OF_ONE_MAX:
            return True
        self.turned_away += 1
        if self.hits < len(self.forms) and self.turned_away < TURNED_AWAY_MAX:
            return False
        self.forms, self.sizes, self.hits, self.turned_away = {}, {}, 0, 0
        return True


@dataclass(slots=True)
class RequestForms:
    """The forms that were seen of late, found by the bytes they share."""

    _known: dict[bytes, _Known] = field(default_factory=dict)

    def fill(self, data: bytes, key: bytes | None = None) -> Filled | None:
        """The request, when its form is known; `key` was cut out of it."""
        end, rest = _front(data)
        known = self._known.get(data[:end])
        if known is None:
            return None
        for size in known.sizes.get(len(data) - rest, ()):
            form = known.forms.get((data[rest:-size], size))
            if form is not None and (not form.gaps or _between(form, data)):
                known.hits += 1
                contents = tuple([data[a : b or None] for a, b in form.places])
                return Filled(form, data[end + 2 : rest], contents, key or b"")
        # Last, so that it costs those nothing that name none.
        named = _named(data) if key is None else None
        return self.fill(named.data, named.key) if named else None

    def learn(self, data: bytes, message: Any) -> Filled | None:
        """The request, which is not of a known form, as one of its own; None when it has none, or
        when it would hardly be met again."""
        if ENTITY_KEY not in message.parameters:
            return self._learn(data, message)
        if (named := _named(data)) is None:
            return None
        filled = self._learn(named.data, message)
        return filled and filled._replace(key=named.key)

    def _learn(self, data: bytes, message: Any) -> Filled | None:
        (end, rest), contents = _front(data), list(message.raw_input_contents)
        if not end or not contents or not all(contents):
            return None
        tail = b"".join(_tagged(each) for each in contents)
        first = len(_tagged(contents[0])) - len(contents[0])
        size = len(tail) - first
        begin, shared = data[:end], data[rest:-size]
        if not data.endswith(tail) or len(begin) + len(shared) > FORM_BYTES_MAX:
            return None
        known = self._known.get(begin) or _Known()
        if not known.has_room():
            return None
        form = _form(begin + data[rest : len(data) - len(tail)], contents)
        if form is None:
            return None
        known.forms[shared, size] = form
        length = len(data) - rest
        others = [each for each in known.sizes.get(length, ()) if each != size]
        known.sizes[length] = (size, *others[: SIZES_MAX - 1])
        self._keep(begin, known)
        return Filled(form, data[end + 2 : rest], tuple(contents))

    def _keep(self, begin: bytes, known: _Known) -> None:
        """The name that was learned first gives way where all together are too many."""
        self._known[begin] = known
        while sum(len(each.forms) for each in list(self._known.values())) > FORMS_MAX:
            self._known.pop(next(iter(self._known)), None)


def _between(form: Form, data: bytes) -> bool:
    """Whether what stands between the contents is of the form."""
    return all(data[a:b] == gap for a, b, gap in form.gaps)


def _front(data: bytes) -> tuple[int, int]:
    """Where the fields before the id end, and where those behind it begin; nowhere, which is 0,
    where the name is not first, or a length takes more than a byte."""
    try:
        if data[0] != NAME_TAG or data[1] >= SHORT:
            return NO_FRONT
        end = 2 + data[1]
        if data[end] == VERSION_TAG:
            if data[end + 1] >= SHORT:
                return NO_FRONT
            end += 2 + data[end + 1]
        if data[end] != ID_TAG:
            return end, end
        return NO_FRONT if data[end + 1] >= SHORT else (end, end + 2 + data[end + 1])
    except IndexError:
        return NO_FRONT


def _named(data: bytes) -> _Named | None:
    """None where no parameter behind the id names an entity, or a length takes more than a byte;
    nor is it looked for beyond what a form may be of.
    """
    _, begin = _front(data)
    if not begin:
        return None
    try:
        until = begin + FORM_BYTES_MAX
        while begin < until and data[begin] == PARAMETER_TAG and data[begin + 1] < SHORT:
            head = begin + 2
            value, end = head + len(KEY_HEAD), head + data[begin + 1]
            if data.startswith(KEY_HEAD, head):
                # Two lengths and a tag, and nothing behind the text.
                if (data[value], data[value + 1]) != (end - value - 1, TEXT_TAG):
                    return None
                key = data[value + 3 : end]
                return (
                    _Named(data[:begin] + data[end:], key) if data[value + 2] == len(key) else None
                )
            begin = end
    except IndexError:
        return None
    return None


def _form(shared: bytes, contents: list[bytes]) -> Form | None:
    """None unless what is shared has neither id, entity nor contents: the last would count."""
    try:
        message = oip.ModelInferRequest.FromString(shared)
    except DecodeError:
        return None
    if message.id or message.raw_input_contents or ENTITY_KEY in message.parameters:
        return None
    places, gaps, end = [], [], 0
    for content in reversed(contents):
        begin = end + len(content)
        tag = _tagged(content)[: -len(content)]
        places.append((-begin, -end))
        gaps.append((-begin - len(tag), -begin, tag))
        end = begin + len(tag)
    # The tag of the first content stands in what is shared.
    return Form(message, tuple(reversed(places)), tuple(gaps[:-1]))


def _tagged(content: bytes) -> bytes:
    return bytes([RAW_TAG]) + varint(len(content)) + content
