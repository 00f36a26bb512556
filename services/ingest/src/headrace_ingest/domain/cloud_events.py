# SPDX-License-Identifier: Apache-2.0
"""CloudEvents in structured mode: the record is in the envelope's `data`, its id beside it.

CloudEvents 1.0.2, JSON event format and Kafka protocol binding: the header `content-type` says so.
In binary mode the value is the record itself and the attributes are `ce_*` headers.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.data_contract import Stream
from headrace.errors import Invalid
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.decoding import Decode
from headrace_ingest.domain.envelope import Headers, RawBatch, schema_reason

CONTENT_TYPE, STRUCTURED = "content-type", b"application/cloudevents+json"


@dataclass(slots=True)
class Events:
    """Of the records in structured mode, by index: the value and the id inside, or why refused."""

    values: dict[int, bytes] = field(default_factory=dict)
    ids: dict[int, str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)


def structured_events(
    records: RawBatch, refused: Mapping[int, str], contract: Contract, decode: Decode
) -> Events:
    """The events among the records that are not refused already."""
    events = Events()
    headers = records.headers()
    if not any(headers):
        return events
    values = records.values()
    for index, given in enumerate(headers):
        if index not in refused and _structured(given):
            try:
                event = decode(values[index] or b"")
                events.ids[index] = _id(event, contract)
                events.values[index] = _data(event, contract.sent)
            except Invalid as err:
                events.refused[index] = err.reason
    return events


def _structured(headers: Headers) -> bool:
    named = [content for name, content in headers or () if name.lower() == CONTENT_TYPE]
    return bool(named) and (named[-1] or b"").lower().startswith(STRUCTURED)


def _id(event: Mapping[str, Any], contract: Contract) -> str:
    """Raises Invalid DECODE_ERROR for what is no event, else as a `ce_dataschema` header."""
    if event.get("specversion") != "1.0" or not isinstance(event.get("id"), str):
        raise Invalid("DECODE_ERROR")
    schema = event.get("dataschema")
    if schema is not None and (reason := schema_reason(str(schema), contract)):
        raise Invalid(reason)
    return str(event["id"])


def _data(event: Mapping[str, Any], stream: Stream) -> bytes:
    """The record; `time` stands for an event time that it does not say itself.

    Raises Invalid BAD_TIMESTAMP for a `time` that is no text, BAD_TYPE for data that is no object,
    DECODE_ERROR for none, or for both kinds of it (JSON event format, section 3.1).
    """
    data = event.get("data")
    if data is not None and event.get("data_base64") is not None:
        raise Invalid("DECODE_ERROR")
    if isinstance(data, dict):
        if "time" in event and stream.event_time in stream.columns:
            data = {stream.event_time: _time(event["time"])} | data
        return json.dumps(data, separators=(",", ":")).encode()
    if data is not None:
        raise Invalid("BAD_TYPE")
    try:
        return base64.b64decode(str(event.get("data_base64", "?")), validate=True)
    except (binascii.Error, ValueError) as err:
        raise Invalid("DECODE_ERROR") from err


def _time(time: Any) -> str | None:
    """A number would be read as one of a record's own, in microseconds."""
    if time is not None and not isinstance(time, str):
        raise Invalid("BAD_TIMESTAMP")
    return time
