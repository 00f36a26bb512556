# SPDX-License-Identifier: Apache-2.0
"""Builders with defaults for what a test does not care about."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from headrace.application import Stream, parse_definition
from headrace.errors import HeadraceError
from headrace.feature_view import StreamView
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.quality import StreamQuality
from headrace_ingest.domain.redrive_seal import KEY_BYTES, RedriveSeal
from headrace_ingest.handlers.quality import QualityWatch
from headrace_ingest.ports.definitions import Retracted
from headrace_kit.kafka import Record
from headrace_kit.testing import a_record

NOW_US = 1_357_000_000_000_000


class MemoryRetracted:
    """RetractedDefinitions; a test puts the answer into `answer`, or an error to raise."""

    def __init__(self) -> None:
        self.answer: Retracted | HeadraceError = Retracted()

    def look_up(self) -> Retracted:
        if isinstance(self.answer, HeadraceError):
            raise self.answer
        return self.answer


def a_stream_document(**changes: Any) -> dict[str, Any]:
    """A contract that uses every rule once."""
    return {
        "kind": "stream",
        "name": "flights.departed",
        "description": "Departures.",
        "owner": "tests",
        "key": "flight",
        "id": "event_id",
        "event_time": "departed_at",
        "known_time": "known_at",
        "lateness_allowed": "1h",
        "columns": {
            "event_id": {"type": "string", "required": True},
            "flight": {"type": "string", "required": True},
            "origin": {"type": "string", "trim": True, "one_of": ["EWR", "JFK"]},
            "delay": {"type": "float64", "min": -120, "max": 2880},
            "clock": {"type": "int64", "min": 0, "max": 2359, "map": {"2400": 0, "NA": None}},
            "diverted": {"type": "bool"},
            "landing_at": {"type": "timestamp"},
            "departed_at": {"type": "timestamp", "required": True},
            "known_at": {"type": "timestamp"},
        },
    } | changes


def a_contract(version: int = 1, **changes: Any) -> Contract:
    """Version 1 of it, with changes of the document."""
    stream = parse_definition(a_stream_document(**changes))
    assert isinstance(stream, Stream)  # noqa: S101 - for the type checker
    return Contract(stream, version)


def a_view(window: str = "1h", name: str = "delays") -> StreamView:
    """Of the contract's stream, by origin."""
    view = parse_definition(
        {
            "kind": "view",
            "name": name,
            "description": "Delays.",
            "stream": a_stream_document()["name"],
            "entity": ["origin"],
            "features": {"departures": {"aggregate": "count", "window": window}},
        }
    )
    assert isinstance(view, StreamView)  # noqa: S101 - for the type checker
    return view


def a_departure(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A good record's columns; a change to ... takes a column out."""
    document = {
        "event_id": f"departed:{number}",
        "flight": "UA1",
        "origin": "EWR",
        "delay": 2.5,
        "clock": 517,
        "diverted": False,
        "landing_at": NOW_US + 1,
        "departed_at": NOW_US,
        "known_at": NOW_US,
    } | changes
    return {name: value for name, value in document.items() if value is not ...}


def a_raw(number: int = 0, *, record: dict[str, Any] | None = None, **changes: Any) -> Record:
    """A departure as Kafka gives it; `changes` of its columns, `record` of its envelope."""
    value = json.dumps(a_departure(number, **changes)).encode()
    given: dict[str, Any] = {
        "value": value,
        "key": b"UA1",
        "offset": number,
        "timestamp_ms": NOW_US // 1000,
    }
    return a_record(**(given | (record or {})))


def never_read(stream: str) -> bool:
    """What Kafka says of a stream that had no archive: `was_read`."""
    return False


class DroppedTexts:
    """As much of a TextIndex as an erasure asks of one: it remembers of which streams it was
    dropped. `since_by_stream`: what it holds."""

    def __init__(self) -> None:
        self.dropped: list[str] = []
        self.since_by_stream: dict[str, int] = {}

    def since(self, stream: str) -> int:
        return self.since_by_stream.get(stream, -1)

    def drop(self, stream: str) -> None:
        self.since_by_stream.pop(stream, None)
        self.dropped.append(stream)

    def wipe(self) -> None:
        """There is no file."""


class NoTasks:
    """As much of a TaskStore as an erasure asks of one that never had a task."""

    def note_erased(self, entities: Collection[str], *, until_us: int) -> None:
        """Nothing comes that would be kept."""

    def erase_items(self, *, until_us: int) -> None:
        """Nothing is there to forget."""


@dataclass
class MemoryQualityLog:
    """QualityLog that keeps what is told."""

    told: list[StreamQuality] = field(default_factory=list)

    def tell(self, quality: StreamQuality) -> None:
        self.told.append(quality)


@dataclass
class SetClock:
    """Clock that stands where it is set."""

    us: int = NOW_US

    def now_us(self) -> int:
        return self.us


def a_quality_watch() -> QualityWatch:
    """One whose minute never ends."""
    return QualityWatch(MemoryQualityLog(), SetClock())


def a_seal(key: bytes = bytes(KEY_BYTES)) -> RedriveSeal:
    """That of ingest, unless another key is given."""
    return RedriveSeal(lambda: key)
