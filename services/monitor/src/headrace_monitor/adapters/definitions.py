# SPDX-License-Identifier: Apache-2.0
"""The applied definitions as far as they were read from `registry.definitions`.

The follower's thread writes, all others read: each change replaces the whole table of watches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from google.protobuf.message import DecodeError

from headrace.application import Definition, parse_definition_json
from headrace.errors import Invalid
from headrace.registry.v1 import registry_events_pb2 as pb
from headrace_kit.kafka import Record
from headrace_monitor.domain.watch import Watch, watches


class Definitions:
    """What is to be watched now."""

    def __init__(self, *, on_change: Callable[[Mapping[str, Watch]], None]) -> None:
        self._on_change = on_change
        self._definitions: dict[tuple[str, str], Definition] = {}
        self._watches: Mapping[str, Watch] = {}
        self._lock = threading.Lock()

    def take(self, record: Record) -> None:
        """A record of the topic; raises Invalid BAD_DEFINITION or DECODE_ERROR."""
        kind, _, name = (record.key or b"").decode().partition("/")
        with self._lock:
            if record.value is None:
                self._definitions.pop((kind, name), None)
            else:
                self._definitions[kind, name] = _definition(record)
            self._watches = watches(self._definitions)
        self._on_change(self._watches)

    def watches(self) -> Mapping[str, Watch]:
        """By monitor."""
        return self._watches


def _definition(record: Record) -> Definition:
    try:
        spec = pb.Definition.FromString(record.value or b"").spec_json
    except DecodeError as err:
        raise Invalid("DECODE_ERROR", topic=record.topic, offset=record.offset) from err
    return parse_definition_json(spec)
