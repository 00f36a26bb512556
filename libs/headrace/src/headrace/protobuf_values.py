# SPDX-License-Identifier: Apache-2.0
"""The Protobuf message that a contract with `format: protobuf` describes, for those who publish.

Each sent column is an optional field of its `field` number: string, int64 (timestamps too), double
or bool, of a proto3 message named `Record` in a package named after the stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from headrace.data_contract import Stream

_Field = descriptor_pb2.FieldDescriptorProto
WIRE_TYPES = {
    "string": ("string", _Field.TYPE_STRING),
    "int64": ("int64", _Field.TYPE_INT64),
    "timestamp": ("int64", _Field.TYPE_INT64),
    "float64": ("double", _Field.TYPE_DOUBLE),
    "bool": ("bool", _Field.TYPE_BOOL),
}
_WORDS = {
    _Field.TYPE_STRING: "text",
    _Field.TYPE_INT64: "whole number of 64 bits",
    _Field.TYPE_DOUBLE: "number",
    _Field.TYPE_BOOL: "true or false",
}


def proto_text(stream: Stream) -> str:
    """The `.proto` file of the stream's records."""
    fields = [
        f"  optional {WIRE_TYPES[column.type][0]} {name} = {column.field};"
        for name, column in sorted(stream.columns.items(), key=lambda each: each[1].field or 0)
        if column.field is not None
    ]
    head = ['syntax = "proto3";', "", f"package {_package(stream)};", "", "message Record {"]
    return "\n".join([*head, *fields, "}", ""])


def message_class(stream: Stream) -> type[Message]:
    """The class of the stream's records."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{stream.name}.proto", package=_package(stream), syntax="proto3"
    )
    message = file.message_type.add(name="Record")
    for name, column in stream.columns.items():
        if column.field is not None:
            index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{name}")
            message.field.add(
                name=name,
                number=column.field,
                type=WIRE_TYPES[column.type][1],
                label=_Field.LABEL_OPTIONAL,
                proto3_optional=True,
                oneof_index=index,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName(f"{_package(stream)}.Record")
    return message_factory.GetMessageClass(found)


def encoded(record: Mapping[str, Any], of: type[Message]) -> bytes:
    """The record as a message: columns that it does not have are left out.

    Raises ValueError, which names the column, for a value that is not of its column's type.
    """
    message = of()
    for name, field in of.DESCRIPTOR.fields_by_name.items():
        if (value := record.get(name)) is None:
            continue
        try:
            setattr(message, name, value)
        except (TypeError, ValueError) as err:
            raise ValueError(f"{name} is no {_WORDS[field.type]}") from err
    return message.SerializeToString()


def _package(stream: Stream) -> str:
    """The stream's name as a package: a part may not begin with a digit."""
    parts = re.split(r"[.]+", stream.name.replace("-", "_"))
    return ".".join(part if part[:1].isalpha() else f"_{part}" for part in parts)
