# SPDX-License-Identifier: Apache-2.0
"""The handler of the consume loop: records into tiles, one durable batch with their positions.

A layout takes a partition on only where the loop was placed for it, so no record before is
missing: a view that appears while the loop runs is left alone until the loop is repositioned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from headrace import topics
from headrace_feature.adapters.conversions import published_ms, to_observations
from headrace_feature.domain.freshness import DelayHistogram
from headrace_feature.domain.views import Catalogue, Layout
from headrace_feature.handlers import fold_observations
from headrace_feature.ports import Folded, TileStore
from headrace_kit.clock import Clock
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Partition, Record


class RecordFolder:
    """BatchHandler of `ingest.records.*`; called by the loop's thread alone."""

    def __init__(
        self,
        *,
        catalogue: Callable[[], Catalogue],
        tiles: TileStore,
        clock: Clock,
        keep_us: int,
        freshness: DelayHistogram,
    ) -> None:
        self._catalogue, self._tiles, self._clock = catalogue, tiles, clock
        self._keep_us, self._freshness = keep_us, freshness
        self._layouts: dict[str, list[Layout]] = {}
        self._placed: dict[tuple[bytes, int], int] = {}

    def positions(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Where the layout that is furthest behind goes on; the others skip what they hold."""
        catalogue = self._catalogue()
        self._tiles.retire(list(catalogue.layouts().values()))
        positions: dict[Partition, int] = {}
        for partition in partitions:
            stream = topics.INGEST_RECORDS.part_of(partition.topic)
            self._layouts[stream] = catalogue.layouts_of(stream)
            held = [self._take_on(layout, partition.number) for layout in self._layouts[stream]]
            lowest = min(held, default=0)
            if lowest:
                positions[partition] = lowest
        return positions

    def _take_on(self, layout: Layout, number: int) -> int:
        position = self._tiles.next_by_partition(layout).get(number, 0)
        self._placed[layout.id, number] = position
        return position

    def handle(self, records: Sequence[Record]) -> None:
        """Raises Invalid when a record is not as ingest publishes them; then nothing is stored."""
        by_stream: dict[str, list[Record]] = {}
        for record in records:
            stream = topics.INGEST_RECORDS.part_of(record.topic)
            by_stream.setdefault(stream, []).append(record)
        batch = [folded for each in by_stream.items() for folded in self._folded(*each)]
        failpoint("feature.loop.folded")
        published = self._published_ms(by_stream)
        failpoint("feature.loop.batch")
        if batch:
            self._tiles.commit(batch)
        failpoint("feature.loop.stored")
        self._note(batch, published)

    def idle(self) -> None:
        self._tiles.sweep()

    def _folded(self, stream: str, records: Sequence[Record]) -> list[Folded]:
        layouts = self._layouts.get(stream, [])
        observations = to_observations(records, layouts)
        return fold_observations(
            observations, layouts, placed=self._placed, keep_us=self._keep_us, tiles=self._tiles
        )

    def _published_ms(self, by_stream: Mapping[str, Sequence[Record]]) -> list[int]:
        """When those were published that no layout has seen: a refilled view says nothing new."""
        return [
            published
            for stream, records in by_stream.items()
            for furthest in [self._tiles.furthest_by_partition(stream)]
            for record in records
            if record.offset >= furthest.get(record.partition, 0)
            and (published := published_ms(record)) is not None
        ]

    def _note(self, batch: Sequence[Folded], published_ms: Sequence[int]) -> None:
        for folded in batch:
            for number, offset in folded.next_by_partition.items():
                self._placed[folded.layout.id, number] = offset
        now_ms = self._clock.now_us() // 1_000
        self._freshness.add([now_ms - each for each in published_ms])
