# SPDX-License-Identifier: Apache-2.0
"""How far topics were read, beside the effects in SQL: each position is of a topic by its id.

A topic that was deleted and made again counts from 0, so what is stored of another id is forgotten.
A replica that still knows the topic of before may save once more: its position counts for nothing.
A database that was put back to an older copy under a process at work lacks effects of records that
were handled: who saves a position beyond them is told, since nobody would read them again.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from sqlalchemy import Connection, Table, delete, select, update

from headrace_kit.sql import insert_into

NextOffsets = Mapping[tuple[str, int], int]  # by topic and partition

log = structlog.get_logger(__name__)


class SqlPositions:
    """On a table with `topic`, `partition`, `next_offset`, `topic_id`; for one consumer's thread.

    The empty id stands for a topic that nobody identified, or a version that stored none.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._topic_ids: dict[str, str] = {}
        self._saved: dict[tuple[str, int], int] = {}  # or tried to: a transaction may have failed

    def follow_topics(self, connection: Connection, topic_ids: Mapping[str, str]) -> None:
        """From now on all is about these; positions without an id are taken for theirs."""
        rows = self._table
        for topic, topic_id in sorted(topic_ids.items()):
            ours = rows.c.topic == topic
            unnamed = update(rows).where(ours & (rows.c.topic_id == ""))
            connection.execute(unnamed.values(topic_id=topic_id))
            of_another = delete(rows).where(ours & (rows.c.topic_id != topic_id))
            if connection.execute(of_another).rowcount:
                log.warning("topic_made_again", topic=topic, topic_id=topic_id)
        self._topic_ids |= topic_ids

    def get(self, connection: Connection) -> dict[tuple[str, int], int]:
        self._saved = self._stored(connection)
        return dict(self._saved)

    def save(self, connection: Connection, next_offsets: NextOffsets) -> None:
        """Never goes back in one topic: of two replicas that save, the further one is right.

        Raises RuntimeError where what is stored is behind what was saved before: a process that
        begins anew reads on from there.
        """
        rows, stored = self._table, self._stored(connection)
        for (topic, partition), next_offset in next_offsets.items():
            place, topic_id = (topic, partition), self._topic_ids.get(topic, "")
            # What was not stored, as its transaction failed, is tried again before what is beyond.
            if stored.get(place, next_offset) < self._saved.get(place, 0) < next_offset:
                raise RuntimeError(f"the database was put back: of {topic} it has less than it had")
            self._saved[place] = next_offset
            saved = {"next_offset": next_offset, "topic_id": topic_id}
            new = insert_into(connection, rows).values(topic=topic, partition=partition, **saved)
            connection.execute(
                new.on_conflict_do_update(
                    index_elements=["topic", "partition"],
                    set_=saved,
                    where=(rows.c.topic_id != topic_id) | (rows.c.next_offset < next_offset),
                )
            )

    def _stored(self, connection: Connection) -> dict[tuple[str, int], int]:
        return {
            (row.topic, row.partition): row.next_offset
            for row in connection.execute(select(self._table))
            if row.topic_id == self._topic_ids.get(row.topic, "")
        }


class MemoryPositions:
    """The same, for a store that ends with the process."""

    def __init__(self) -> None:
        self._topic_ids: dict[str, str] = {}
        self._saved: dict[tuple[str, int], tuple[str, int]] = {}

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        self._topic_ids |= topic_ids
        for (topic, partition), (topic_id, next_offset) in list(self._saved.items()):
            if not topic_id:
                self._saved[topic, partition] = self._topic_ids.get(topic, ""), next_offset

    def get(self) -> dict[tuple[str, int], int]:
        return {
            (topic, partition): next_offset
            for (topic, partition), (topic_id, next_offset) in self._saved.items()
            if topic_id == self._topic_ids.get(topic, "")
        }

    def save(self, next_offsets: NextOffsets) -> None:
        known = self.get()
        for place, next_offset in next_offsets.items():
            further = max(next_offset, known.get(place, 0))
            self._saved[place] = self._topic_ids.get(place[0], ""), further
