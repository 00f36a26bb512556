# SPDX-License-Identifier: Apache-2.0
"""The rows of `feature.rows.<view>` in memory: features without asking the feature service.

A row is the service's own answer for a span of moments; outside of it, and of an entity that is
not here, the service must be asked. What is here is as old as the topic's newest record.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from headrace.errors import Invalid
from headrace.feature.v1.feature_events_pb2 import FeatureRowChanged


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """`values`: float32, little endian, one for each of `features`, as of [from, until)."""

    features: tuple[str, ...]
    values: bytes
    from_us: int
    until_us: int
    partition: int
    next_offset: int
    definition_digest: str
    topic_id: str


class FeatureRowTable:
    """The rows of one view, at most `entities_max`; one thread takes records, any thread finds."""

    def __init__(self, *, entities_max: int) -> None:
        self._entities_max = entities_max
        self._rows: dict[str, FeatureRow] = {}
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.left_out = 0
        """Records of entities for which there was no room."""

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """A record of the topic, in its order; an older row that comes again changes nothing.

        Raises Invalid DECODE_ERROR.
        """
        try:
            entity = (key or b"").decode()
            message = FeatureRowChanged.FromString(value or b"")
        except (DecodeError, UnicodeDecodeError) as err:
            raise Invalid("DECODE_ERROR", message="FeatureRowChanged") from err
        if value is None:
            self._rows.pop(entity, None)
            return
        held = self._rows.get(entity)
        if held is None and len(self._rows) >= self._entities_max:
            self.left_out += 1
        elif held is None or not _older(message, held):
            self._rows[entity] = self._row(message)

    def find(self, entity: str, as_of_us: int) -> FeatureRow | None:
        """The row that is the entity's answer as of the moment, if it is here."""
        row = self._rows.get(entity)
        return row if row is not None and row.from_us <= as_of_us < row.until_us else None

    def _row(self, message: FeatureRowChanged) -> FeatureRow:
        names = tuple(message.features)
        return FeatureRow(
            features=self._names.setdefault(names, names),  # one tuple for all rows alike
            values=message.values,
            from_us=message.from_us,
            until_us=message.until_us,
            partition=message.partition,
            next_offset=message.next_offset,
            definition_digest=message.definition_digest,
            topic_id=message.topic_id,
        )


def _older(message: FeatureRowChanged, held: FeatureRow) -> bool:
    """By offsets of one partition; those of a topic that was made again are no later for that."""
    place = message.topic_id, message.partition
    return place == (held.topic_id, held.partition) and message.next_offset < held.next_offset
