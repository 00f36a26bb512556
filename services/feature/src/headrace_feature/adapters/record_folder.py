# SPDX-License-Identifier: Apache-2.0
"""The handler of the consume loop: records into runs, one durable batch with their positions.

A layout takes a partition on only where the loop was placed for it, so no record before is
missing: a view that appears while the loop runs is left alone until the loop is repositioned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from headrace import topics
from headrace.application import Stream
from headrace.errors import HeadraceError, Invalid
from headrace_feature.adapters.conversions import to_observations
from headrace_feature.domain.freshness import DelayHistogram
from headrace_feature.domain.kept_answers import KeptAnswers
from headrace_feature.domain.observations import Observations, empty_run
from headrace_feature.domain.views import Catalogue, Layout
from headrace_feature.handlers import fold_observations
from headrace_feature.ports import Folded, FoldFollower, ObservationStore, Restorer
from headrace_kit.clock import Clock
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Partition, Record, RecordBatch
from headrace_kit.suspects import AttemptLog, Suspects

NEVER = 2**62

log = structlog.get_logger(__name__)


class RecordFolder:
    """BatchHandler of `ingest.records.*`; called by the loop's thread alone.

    `tend`: a bounded step of whatever is to be done with what is held. `topic_id`: of a stream's
    records; `made_again` is told of each layout that is empty since it is another one's.
    """

    def __init__(
        self,
        *,
        catalogue: Callable[[], Catalogue],
        store: ObservationStore,
        tend: Callable[[], None],
        erased: ErasedEntities,
        restorer: Restorer,
        topic_id: Callable[[str], str],
        made_again: Callable[[Layout], None],
        kept: KeptAnswers,
        clock: Clock,
        keep_us: int,
        freshness: DelayHistogram,
        follower: FoldFollower,
        attempt_log: AttemptLog,
    ) -> None:
        self._catalogue, self._store, self._clock = catalogue, store, clock
        self._restorer, self._kept, self._follower = restorer, kept, follower
        self._topic_id, self._made_again = topic_id, made_again
        self._tend, self._erased = tend, erased
        self._attempt_log, self._suspects = attempt_log, Suspects(attempt_log.read())
        self._restoring: list[Partition] = []
        self._owned: dict[str, set[int]] = {}
        self._keep_us, self._freshness = keep_us, freshness
        self._contracts: dict[str, Stream] = {}
        self._layouts: dict[str, list[Layout]] = {}
        self._placed: dict[tuple[bytes, int], int] = {}

    def positions(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Where the layout that is furthest behind goes on; the others skip what they hold."""
        catalogue = self._catalogue()
        self._store.retire(list(catalogue.layouts().values()))
        self._restoring = []
        positions: dict[Partition, int] = {}
        for stream, numbers in _by_stream(partitions).items():
            self._layouts[stream] = catalogue.layouts_of(stream)
            if stream in catalogue.streams:
                self._contracts[stream] = catalogue.streams[stream]
            self._follow(stream, self._topic_id(stream), numbers)
            named = {
                number: Partition(topics.INGEST_RECORDS.of(stream), number) for number in numbers
            }
            restored = self._restored(stream, numbers)
            lowest = {named[number]: self._lowest(stream, number) for number in restored}
            positions |= {partition: at for partition, at in lowest.items() if at}
            self._restoring += [named[number] for number in numbers - restored]
        return positions

    def _follow(self, stream: str, topic_id: str, numbers: Collection[int]) -> None:
        """Of a topic that was made again nothing is folded on: its partitions are placed anew."""
        emptied = [each for each in self._layouts[stream] if self._store.follow(each, topic_id)]
        if not emptied:
            return
        log.warning("records_made_again", stream=stream, topic_id=topic_id)
        owned = self._owned.get(stream, set()) | {*numbers}
        self._restorer.forget(stream, owned)
        for layout in emptied:
            self._store.own(layout, owned, restoring=owned)
            for place in [each for each in self._placed if each[0] == layout.id]:
                del self._placed[place]
            self._made_again(layout)

    def _restored(self, stream: str, numbers: set[int]) -> set[int]:
        """Those of which every layout has what there is. What is put off is not waited for, as
        long as another layout has the partition.
        """
        owned = self._owned.setdefault(stream, set())
        owned |= numbers
        lacking: list[set[int]] = []
        fetched = True
        for layout in self._layouts[stream]:
            known = self._store.next_by_partition(layout).keys()
            absent = numbers - known - self._store.ahead_by_partition(layout).keys()
            restored = self._restorer.restore(layout, absent)
            fetched &= restored or self._restorer.put_off(layout)
            absent -= self._store.ahead_by_partition(layout).keys()
            lacking.append(set() if restored else absent)
            others = self._store.restoring(layout) - numbers
            self._store.own(layout, owned, restoring=others | lacking[-1])
        if not fetched:
            return set()
        return numbers - set[int].intersection(*lacking) if lacking else numbers

    def _lowest(self, stream: str, number: int) -> int:
        layouts = [each for each in self._layouts[stream] if not self._left_out(each, number)]
        return min((self._take_on(each, number) for each in layouts), default=0)

    def _left_out(self, layout: Layout, number: int) -> bool:
        """Whether nothing is there yet that a record could be added to."""
        ahead = self._store.ahead_by_partition(layout).keys()
        if number not in self._store.restoring(layout) - ahead:
            return False
        self._placed.pop((layout.id, number), None)  # of a time when it was ours before
        return True

    def restoring(self) -> Collection[Partition]:
        return self._restoring

    def forget(self, partitions: Collection[Partition]) -> None:
        if {*self._restoring} & {*partitions}:
            failpoint("feature.restore.rebalance")
        for stream, numbers in _by_stream(partitions).items():
            owned = self._owned.setdefault(stream, set())
            owned -= numbers
            for layout in self._layouts.get(stream, []):
                left = self._store.restoring(layout) - numbers
                self._store.own(layout, owned, restoring=left)
            self._restorer.forget(stream, numbers)

    def _give_up(self) -> None:
        """The state of streams whose views are gone: nothing is placed any more that would do it.

        Once their partitions are: until then a batch of theirs may come.
        """
        kept = self._catalogue().layouts()
        left = [
            stream
            for stream, layouts in self._layouts.items()
            if not self._owned.get(stream) and any(each.id not in kept for each in layouts)
        ]
        if left:
            for stream in left:
                del self._layouts[stream]
            placed = [each for layouts in self._layouts.values() for each in layouts]
            self._store.retire([*kept.values(), *placed])

    def set_aside(self, record: Record) -> None:
        """The layouts have done with it, so that none waits for what does not come."""
        stream = topics.INGEST_RECORDS.part_of(record.topic)
        number, behind = record.partition, record.offset + 1
        batch = [
            Folded(layout, empty_run(layout), {number: behind}, self._store.floor_us(layout))
            for layout in self._layouts.get(stream, [])
            if self._placed.get((layout.id, number), NEVER) < behind
        ]
        self._commit(batch)
        self._note(batch, [])

    def _take_on(self, layout: Layout, number: int) -> int:
        ahead = self._store.ahead_by_partition(layout)
        position = ahead.get(number) or self._store.next_by_partition(layout).get(number, 0)
        self._placed[layout.id, number] = position
        return position

    def handle(self, records: RecordBatch) -> None:
        """Raises Invalid when a record is not as ingest publishes them, or has ended the process.

        The parts before it may be stored: what comes again is passed over.
        """
        for part in self._suspects.parts(records):
            self._take(part)
            self._suspects.clear(part)
        self._follower.send()
        self._tend()
        self._restorer.tend()

    def _take(self, records: RecordBatch) -> None:
        """Raises Invalid; then nothing is stored."""
        if self._suspects.guilty(records):
            [(partition, _, _)] = records.runs
            raise Invalid("POISON_CRASH", **partition._asdict(), offset=records.offsets[0])
        self._attempt_log.write(self._suspects.attempts(records))
        try:
            batch, published_ms = self._worked_out(records)
        except HeadraceError:
            self._attempt_log.write({})
            raise
        self._attempt_log.write({})
        failpoint("feature.loop.folded")
        failpoint("feature.loop.batch")
        if batch:
            self._commit(batch)
        failpoint("feature.loop.stored")
        self._note(batch, published_ms)

    def _worked_out(self, records: RecordBatch) -> tuple[list[Folded], list[NDArray[np.int64]]]:
        failpoint("feature.loop.folding")
        batch: list[Folded] = []
        published_ms: list[NDArray[np.int64]] = []
        for topic, part in records.by_topic().items():
            stream = topics.INGEST_RECORDS.part_of(topic)
            if layouts := self._layouts.get(stream):
                observations = to_observations(part, self._contracts[stream], layouts, self._erased)
                batch += self._folded(observations, layouts)
                published_ms.append(self._published_ms(stream, observations))
        return batch, published_ms

    def _commit(self, batch: Sequence[Folded]) -> None:
        before = [self._store.next_by_partition(folded.layout) for folded in batch]
        self._store.commit(batch, beside=self._follower.beside(batch))
        for folded, positions in zip(batch, before, strict=True):
            after = self._store.next_by_partition(folded.layout)
            self._kept.advance(folded.layout, positions, folded.run.entities, after)
        self._follower.stored()

    def idle(self) -> None:
        self._give_up()
        self._follower.send()
        self._follower.idle()
        self._tend()
        self._restorer.tend()

    def _folded(self, observations: Observations, layouts: Sequence[Layout]) -> list[Folded]:
        return fold_observations(
            observations, layouts, placed=self._placed, keep_us=self._keep_us, store=self._store
        )

    def _published_ms(self, stream: str, observations: Observations) -> NDArray[np.int64]:
        """When those were published that no layout has seen: a refilled view says nothing new."""
        furthest = self._store.furthest_by_partition(stream)
        partitions = observations.partitions
        seen = np.array([furthest.get(each, 0) for each in range(partitions.max(initial=0) + 1)])
        fresh = (observations.offsets >= seen[partitions]) & (observations.published_ms >= 0)
        return observations.published_ms[fresh]

    def _note(self, batch: Sequence[Folded], published_ms: Sequence[NDArray[np.int64]]) -> None:
        for folded in batch:
            for number, offset in folded.next_by_partition.items():
                self._placed[folded.layout.id, number] = offset
        now_ms = self._clock.now_us() // 1_000
        for each in published_ms:
            self._freshness.add(now_ms - each)


def _by_stream(partitions: Iterable[Partition]) -> dict[str, set[int]]:
    numbers: dict[str, set[int]] = {}
    for partition in partitions:
        stream = topics.INGEST_RECORDS.part_of(partition.topic)
        numbers.setdefault(stream, set()).add(partition.number)
    return numbers
