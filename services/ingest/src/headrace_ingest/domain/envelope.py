# SPDX-License-Identifier: Apache-2.0
"""What a record must be before its value is looked at: bounded, keyed, of a contract we know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from headrace_ingest.domain.contract import Contract

RECORD_BYTES_MAX = 1 << 20
HEADERS_MAX = 1_000


class RawRecord(Protocol):
    """A record as Kafka gave it."""

    @property
    def partition(self) -> int: ...

    @property
    def offset(self) -> int: ...

    @property
    def key(self) -> bytes | None: ...

    @property
    def value(self) -> bytes | None: ...

    @property
    def headers(self) -> Mapping[str, bytes]: ...

    @property
    def timestamp_ms(self) -> int: ...


def envelope_reason(record: RawRecord, contract: Contract) -> str | None:
    """Why the record is refused unread, or None."""
    if len(record.headers) > HEADERS_MAX or _size(record) > RECORD_BYTES_MAX:
        return "TOO_LARGE"
    if record.value is None:
        return "TOMBSTONE"
    if not record.value:
        return "EMPTY"
    if not record.key:
        return "KEY_MISSING"
    schema = record.headers.get("ce_dataschema")
    return None if schema is None else _schema_reason(schema, contract)


def _size(record: RawRecord) -> int:
    headers = sum(len(name) + len(value) for name, value in record.headers.items())
    return len(record.value or b"") + len(record.key or b"") + headers


def _schema_reason(schema: bytes, contract: Contract) -> str | None:
    """A record of an older version is judged by the applied one, which had to stay compatible."""
    name, _, version = schema.decode("utf-8", "replace").rpartition("/")
    if name != contract.name or not (version.isascii() and version.isdigit()):
        return "SCHEMA_UNKNOWN"
    return None if 0 < _number(version) <= contract.version else "SCHEMA_INCOMPATIBLE"


def _number(digits: str) -> int:
    """Versions have few digits; Python refuses to convert thousands of them."""
    return int(digits) if len(digits) <= 9 else 0
