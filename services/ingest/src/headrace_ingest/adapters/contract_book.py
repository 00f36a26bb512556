# SPDX-License-Identifier: Apache-2.0
"""ContractBook filled from `registry.definitions`, live: an applied stream is read at once."""

from __future__ import annotations

from collections.abc import Callable, Collection

from google.protobuf.message import DecodeError

from headrace.application import Stream, parse_definition_json
from headrace.errors import Invalid, NotFound
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace_ingest.domain.contract import Contract
from headrace_kit.kafka import Record


class AppliedContracts:
    """The newest contract of each stream; `on_change` is told all streams when one is new."""

    def __init__(self, on_change: Callable[[Collection[str]], None] = lambda streams: None) -> None:
        self._contracts: dict[str, Contract] = {}
        self._on_change = on_change

    def take(self, record: Record) -> None:
        """Take a record of the topic; raises Invalid for one that cannot be read.

        A tombstone changes nothing: what users still publish is still accounted for.
        """
        if record.value is None:
            return
        try:
            message = Definition.FromString(record.value)
        except DecodeError as err:
            raise Invalid("DECODE_ERROR", topic=record.topic, offset=record.offset) from err
        if message.kind != "stream":
            return
        definition = parse_definition_json(message.spec_json)
        if not isinstance(definition, Stream):
            raise Invalid("BAD_DEFINITION", name=message.name, problem="its kinds differ")
        self.put(Contract(definition, message.version))

    def put(self, contract: Contract) -> None:
        """From now on this is the stream's contract."""
        new = contract.name not in self._contracts
        # Replaced, never changed: readers in other threads see the one or the other.
        self._contracts = {**self._contracts, contract.name: contract}
        if new:
            self._on_change(self.names())

    def get(self, stream: str) -> Contract:
        try:
            return self._contracts[stream]
        except KeyError as err:
            raise NotFound("STREAM_UNKNOWN", stream=stream) from err

    def names(self) -> list[str]:
        return sorted(self._contracts)
