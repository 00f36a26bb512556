# SPDX-License-Identifier: Apache-2.0
"""What a record must be before its value is looked at: bounded, keyed, of a contract we know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import add
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from headrace_ingest.domain.contract import Contract

RECORD_BYTES_MAX = 1 << 20
HEADERS_MAX = 1_000


Headers = Sequence[tuple[str, bytes | None]] | None


class RawBatch(Protocol):
    """Records as Kafka gave them, by columns; of a header given twice the last one counts."""

    @property
    def partitions(self) -> Sequence[int]: ...

    @property
    def offsets(self) -> Sequence[int]: ...

    def keys(self) -> Sequence[bytes | None]: ...

    def values(self) -> Sequence[bytes | None]: ...

    def headers(self) -> Sequence[Headers]: ...

    def timestamps_ms(self) -> Sequence[int]: ...

    @property
    def runs(self) -> Sequence[tuple[tuple[str, int], int, int]]: ...

    def where(self, wanted: Iterable[bool], /) -> Self: ...

    def __len__(self) -> int: ...


def envelope_reasons(records: RawBatch, contract: Contract) -> dict[int, str]:
    """Why records are refused unread, by index."""
    keys, values, headers = records.keys(), records.values(), records.headers()
    if all(keys) and all(values) and not any(headers):
        sizes = map(add, map(len, keys), map(len, values))  # type: ignore[arg-type]
        if max(sizes, default=0) <= RECORD_BYTES_MAX:
            return {}
    reasons = (
        _reason(key, value, given or (), contract)
        for key, value, given in zip(keys, values, headers, strict=True)
    )
    return {index: reason for index, reason in enumerate(reasons) if reason is not None}


def _reason(
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    contract: Contract,
) -> str | None:
    if reason := unread_reason(key, value, headers):
        return reason
    schema = dict(headers).get("ce_dataschema")
    return None if schema is None else schema_reason(schema.decode("utf-8", "replace"), contract)


def unread_reason(
    key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]
) -> str | None:
    """Why a record is refused whatever its contract; the same at every door."""
    size = len(key or b"") + len(value or b"")
    size += sum(len(name) + len(content or b"") for name, content in headers)
    if len(headers) > HEADERS_MAX or size > RECORD_BYTES_MAX:
        return "TOO_LARGE"
    if value is None:
        return "TOMBSTONE"
    if not value:
        return "EMPTY"
    return None if key else "KEY_MISSING"


def schema_reason(schema: str, contract: Contract) -> str | None:
    """A record of an older version is judged by the applied one, which had to stay compatible."""
    name, _, version = schema.rpartition("/")
    if name != contract.name or not _whole(version):
        return "SCHEMA_UNKNOWN"
    return None if 0 < _number(version) <= contract.version else "SCHEMA_INCOMPATIBLE"


def newer_versions(records: RawBatch, contract: Contract) -> set[int]:
    """The versions of the contract beyond this one that headers name: they may be on their way."""
    headers = records.headers()
    if not any(headers):
        return set()
    named = (dict(given).get("ce_dataschema") for given in headers if given)
    texts = {each.decode("utf-8", "replace").rpartition("/") for each in named if each}
    versions = {_number(text) for name, _, text in texts if name == contract.name and _whole(text)}
    return {version for version in versions if version > contract.version}


def _whole(text: str) -> bool:
    """One that is written in one way alone: 01 is the version of no contract."""
    return text.isascii() and text.isdigit() and (text == "0" or not text.startswith("0"))


def _number(digits: str) -> int:
    """Versions have few digits; Python refuses to convert thousands of them."""
    return int(digits) if len(digits) <= 9 else 0
