# SPDX-License-Identifier: Apache-2.0
"""What a snapshot says: of which runs a layout consisted when it had read so far.

A manifest is true for ever: its runs hold every event of its partitions before its positions and
not older than its floor, and perhaps more. State is a set of events, so what is more does no harm,
and of several manifests that name a partition any is right and the furthest saves most reading.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace_feature.domain.log_place import BEGINNING, LogPlace

VERSION = 1
PIECE_BYTES = 16 << 20  # a file's pieces are so long, but for the last


@dataclass(frozen=True, slots=True)
class RunCopy:
    """A run in the object store.

    `name`: the key's segment, of the moment when the copy was begun, in ms, and chance. `head`:
    what must be known to open the files; empty for a small run, whose only file is complete in
    itself. `digests_by_file`: sha256 of each piece, in order.
    """

    name: str
    head: bytes
    digests_by_file: Mapping[str, tuple[str, ...]]

    @property
    def begun_ms(self) -> int:
        return int(self.name.partition("-")[0])

    def document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "head": self.head.hex(),
            "files": {file: list(digests) for file, digests in self.digests_by_file.items()},
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> RunCopy:
        files = {file: tuple(digests) for file, digests in document["files"].items()}
        return cls(document["name"], bytes.fromhex(document["head"]), files)


@dataclass(frozen=True, slots=True)
class Manifest:
    """`name` orders those of one layout by time. `erased_to`: the runs hold none of the events that
    the log of erased ones names before this place. `topic_id`: that the positions are of; empty in
    manifests of an older version, which are taken for any topic's.
    """

    name: str
    next_by_partition: Mapping[int, int]
    floor_us: int
    runs: tuple[RunCopy, ...]
    erased_to: LogPlace = BEGINNING
    topic_id: str = ""

    @property
    def made_ms(self) -> int:
        return int(self.name.partition("-")[0])

    def of_topic(self, topic_id: str) -> bool:
        return self.topic_id in ("", topic_id)

    def reaches(self, partition: int, offset: int) -> bool:
        return self.next_by_partition.get(partition, -1) >= offset

    def to_json(self) -> bytes:
        return json.dumps(
            {
                "version": VERSION,
                "next_by_partition": {str(n): at for n, at in self.next_by_partition.items()},
                "floor_us": self.floor_us,
                "erased_to": self.erased_to.offset,
                "erased_log_id": self.erased_to.log_id,
                "topic_id": self.topic_id,
                "runs": [run.document() for run in self.runs],
            }
        ).encode()

    @classmethod
    def from_json(cls, name: str, stored: bytes) -> Manifest | None:
        """None for one of a later version."""
        document = json.loads(stored)
        if document["version"] != VERSION:
            return None
        return cls(
            name=name,
            next_by_partition={int(n): at for n, at in document["next_by_partition"].items()},
            floor_us=document["floor_us"],
            runs=tuple(map(RunCopy.from_document, document["runs"])),
            erased_to=LogPlace(document.get("erased_to", 0), document.get("erased_log_id", "")),
            topic_id=document.get("topic_id", ""),
        )


def furthest(manifests: Iterable[Manifest], partition: int) -> Manifest | None:
    """The one that came furthest in the partition, of equals the one that lost most, the newest.

    Most, as the log of erased events tells that is there: the one that the newest of them names.
    """
    naming = [each for each in manifests if partition in each.next_by_partition]
    saying = [each for each in naming if each.erased_to.log_id]
    newest = max(saying, key=lambda each: each.name, default=None)
    log_id = newest.erased_to.log_id if newest is not None else ""
    return max(naming, key=lambda each: _rank(each, partition, log_id), default=None)


def outdated(manifests: Collection[Manifest]) -> list[Manifest]:
    """Those that are the furthest in none of their partitions, or of a topic that was before.

    Which topic is there, the newest tells that names one: those of an older version do not, and are
    taken for its, as they are when they are fetched (`of_topic`).
    """
    saying = [each for each in manifests if each.topic_id]
    newest = max(saying, key=lambda each: each.name, default=None)
    ours = [each for each in manifests if newest is None or each.of_topic(newest.topic_id)]
    partitions = {number for each in ours for number in each.next_by_partition}
    wanted = [furthest(ours, number) for number in partitions]
    return [each for each in manifests if each not in wanted]


def _rank(manifest: Manifest, partition: int, log_id: str) -> tuple[int, bool, int, str]:
    position, erased_to = manifest.next_by_partition[partition], manifest.erased_to
    return position, erased_to.log_id == log_id, erased_to.offset, manifest.name
