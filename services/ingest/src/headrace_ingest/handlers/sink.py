# SPDX-License-Identifier: Apache-2.0
"""The way of a record from `raw.*` into `ingest.records.*` and the archive.

Records and dead letters are delivered at once; rows are gathered (`StreamInWork`) and stored
together (`Storer`); the group's offset follows the archive. Where a partition stands is read from
the archive alone: after a crash anywhere the same records are judged from the same state, give the
same `_id`s, and are stored and counted once (P1, P2, P13).

A stream that cannot go on is stopped (`StoppedStreams`) before anything of the batch is delivered.
The other streams go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog

from headrace import topics
from headrace.errors import TOPIC_MISSING, Conflict, HeadraceError, Invalid, NotFound, Unavailable
from headrace_ingest.domain.batch import set_aside, sort_out
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.decoding import Decode
from headrace_ingest.domain.faults import leading
from headrace_ingest.domain.redrive_seal import RedriveSeal
from headrace_ingest.domain.tolerance import DeadLetterWindow, Tolerance
from headrace_ingest.handlers.messages import accepted, dead_letters
from headrace_ingest.handlers.quality import QualityWatch
from headrace_ingest.handlers.stopped_streams import (
    ARCHIVE_MISSING,
    TAKEN_BACK,
    Stop,
    StoppedStreams,
)
from headrace_ingest.handlers.storing import Pace, Storer
from headrace_ingest.handlers.streams_in_work import Shard, StreamInWork, Work
from headrace_ingest.ports.archive import Archive, TopicCatalogue
from headrace_ingest.ports.definitions import ContractBook
from headrace_ingest.ports.erasures import ErasureNews
from headrace_kit.bulk import BulkPublisher
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Partition, Publisher, RecordBatch
from headrace_kit.suspects import AttemptLog, Suspects

log = structlog.get_logger(__name__)


class RecordSink:
    """GatheringHandler of the consume loop, in its thread; any thread may ask what is stopped."""

    def __init__(
        self,
        *,
        contracts: ContractBook,
        catalogue: TopicCatalogue,
        archive: Archive,
        records: BulkPublisher,
        dead_letters: Publisher,
        attempt_log: AttemptLog,
        decode: Decode,
        monotonic_s: Callable[[], float],
        pace: Pace,
        tolerance: Tolerance,
        erased: ErasedEntities,
        news: ErasureNews,
        quality: QualityWatch,
        seal: RedriveSeal,
    ) -> None:
        self._catalogue, self._archive = catalogue, archive
        self._records, self._dead_letters = records, dead_letters
        self._attempt_log, self._suspects = attempt_log, Suspects(attempt_log.read())
        self._decode, self._monotonic_s, self._pace = decode, monotonic_s, pace
        self._tolerance, self._quality = tolerance, quality
        self._erased, self._news, self._seal = erased, news, seal
        self._streams: dict[str, StreamInWork] = {}
        self._stopped = StoppedStreams(
            contracts=contracts, catalogue=catalogue, archive=archive, monotonic_s=monotonic_s
        )
        self._storer = Storer(archive, pace, monotonic_s)
        self._given_up: dict[Partition, int] = {}

    def positions(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        with self._archives_there():
            self._open_all(partitions)
        self._given_up = {p: o for p, o in self._given_up.items() if p not in partitions}
        stored = self.durable()
        return {each: stored[each] for each in partitions if each in stored}

    def _open_all(self, partitions: Sequence[Partition]) -> None:
        for stream, numbers in _by_stream(partitions).items():
            contract = self._stopped.applied(stream)
            if contract is None:  # it is left soon; until then nothing is read of it
                self._stopped.add(stream, TAKEN_BACK, NotFound("STREAM_UNKNOWN", stream=stream))
            elif stream not in self._stopped and not self._is_open(contract, numbers):
                self._open(contract, numbers)

    def handle(self, records: RecordBatch) -> None:
        failpoint("ingest.sink.polled")
        with self._archives_there():
            self._look_around()
            self._storer.settle(self._streams.values())
            for part in self._suspects.parts(records):
                self._pass_on(part)

    def idle(self) -> None:
        with self._archives_there():
            self._look_around()
            self._storer.store_due(self._streams.values(), quiet=True)

    @contextmanager
    def _archives_there(self) -> Iterator[None]:
        """A stream whose archive was taken away waits, and is read again from where that stood.

        Raises Unavailable all the same: what else was in work is handed over again.
        """
        try:
            yield
        except Unavailable as err:
            if err.reason == ARCHIVE_MISSING:
                stream = self._streams[err.metadata["stream"]]
                stream.give_up({*stream.shards})
                self._stopped.add(stream.name, stream.contract.version, err)
            raise

    def stopped(self) -> Mapping[str, HeadraceError]:
        return {topics.RAW.of(name): error for name, error in self._stopped.errors().items()}

    def stops(self) -> Mapping[str, Stop]:
        """The streams that are not read, by name."""
        return self._stopped.stops()

    def durable(self) -> Mapping[Partition, int]:
        in_work = {
            Partition(topics.RAW.of(name), number): shard.stored.offset
            for name, stream in self._streams.items()
            for number, shard in stream.shards.items()
            if shard.stored.offset
        }
        return self._given_up | in_work

    def drain(self, partitions: Sequence[Partition]) -> None:
        """What cannot be stored now is forgotten: the next owner reads it again."""
        failpoint("ingest.sink.revoke")
        for name, numbers in _by_stream(partitions).items():
            if stream := self._streams.get(name):
                try:
                    self._storer.store(stream)
                except Unavailable as err:
                    log.warning("drain_forgets", stream=name, error=str(err))
                self._given_up |= {p: o for p, o in self.durable().items() if p in partitions}
                stream.give_up(numbers)

    def _look_around(self) -> None:
        """What has changed besides the records: contracts, topics, the minute."""
        self._stopped.try_again()
        if lost := self._stopped.lost_topic(self._streams):
            stream, missing = lost
            self._storer.store(stream)
            stream.give_up({*stream.shards})
            self._stopped.add(stream.name, stream.contract.version, missing)
        self._quality.tell_due()

    def _is_open(self, contract: Contract, numbers: set[int]) -> bool:
        known = self._streams.get(contract.name)
        return known is not None and known.comes_back(contract, numbers)

    def _open(self, contract: Contract, numbers: set[int]) -> None:
        """Read where these partitions and those already in work stand, after storing the latter."""
        known, ids_max = self._streams.get(contract.name), self._pace.dedup_ids_max
        if known is not None:
            self._storer.store(known)
            numbers = numbers | known.shards.keys()
        try:
            topic_id = self._catalogue.raw_topic(contract.name).topic_id
            contract.check_usable()
            restored = self._archive.open(contract, topic_id, numbers, ids_max=ids_max)
        except (Invalid, Unavailable) as err:
            if isinstance(err, Unavailable) and err.reason not in (TOPIC_MISSING, ARCHIVE_MISSING):
                raise
            self._stopped.add(contract.name, contract.version, err)
            return
        shards = {number: Shard.of(each, ids_max=ids_max) for number, each in restored.items()}
        same = known is not None and known.contract.version == contract.version
        window = known.window if known and same else DeadLetterWindow(self._tolerance)
        self._streams[contract.name] = StreamInWork(contract, topic_id, shards, window)
        log.info(
            "stream_opened", stream=contract.name, version=contract.version, shards=len(shards)
        )

    def _current(self, name: str) -> StreamInWork | None:
        """The stream with its newest contract; None when it is stopped."""
        if name not in self._stopped:
            stream, contract = self._streams[name], self._stopped.applied(name)
            if contract is not None and contract.version != stream.contract.version:
                self._open(contract, set())
        return None if name in self._stopped else self._streams[name]

    def _pass_on(self, records: RecordBatch) -> None:
        """Deliver these records, or set them aside, and gather the rows."""
        parts = [
            (stream, part)
            for topic, part in records.by_topic().items()
            if (stream := self._current(topics.RAW.part_of(topic))) is not None
            and not self._stopped.awaits_contract(stream, part)
        ]
        attempts = [self._suspects.attempts(part) for _, part in parts]
        self._attempt_log.write({place: each for some in attempts for place, each in some.items()})
        works = [self._sorted_out(stream, part) for stream, part in parts]
        self._attempt_log.write({})
        works = [work for work in works if self._tolerated(work)]
        self._deliver(works)
        failpoint("ingest.sink.records_delivered")
        for work in works:
            self._quality.take(work.stream.contract, work.records, work.batch)
            work.stream.gather(work.records, work.batch, self._monotonic_s())
        for _, part in parts:
            self._suspects.clear(part)

    def _sorted_out(self, stream: StreamInWork, records: RecordBatch) -> Work:
        records, contract = stream.not_accounted_for(records), stream.contract
        redriven = self._seal.among(topics.RAW.of(stream.name), records)
        if self._suspects.guilty(records):
            batch = set_aside(records, contract, "POISON_CRASH", redriven=redriven)
            return Work(stream, records, batch)
        failpoint("ingest.sink.judging")
        batch = sort_out(
            records,
            contract,
            stream.indexes(),
            decode=self._decode,
            erased=self._erased,
            redriven=redriven,
        )
        return Work(stream, records, batch)

    def _tolerated(self, work: Work) -> bool:
        """Whether the work may go on; else its stream is stopped, with what it gathered stored.

        A redrive that comes to nothing says nothing against those who publish.
        """
        stream, dead = work.stream, work.batch.dead
        if stream.window.allows(work.batch.dead_at_first):
            return True
        self._storer.store(stream)
        [(often, _)] = Counter(map(leading, dead.values())).most_common(1)
        error = Conflict(
            "TOO_MANY_DEAD_LETTERS",
            stream=stream.name,
            share_max=self._tolerance.share_max,
            window_records=self._tolerance.window_records,
            most_often=often,
        )
        self._stopped.add(stream.name, stream.contract.version, error)
        return False

    def _deliver(self, works: Sequence[Work]) -> None:
        """Raises Unavailable: all are handed over again, but those of a stream that waits now."""
        try:
            self._send(works)
        except Unavailable as err:
            streams = {topics.INGEST_RECORDS.of(each.stream.name): each.stream for each in works}
            if err.reason == TOPIC_MISSING and (stream := streams.get(err.metadata["topic"])):
                self._stopped.add(stream.name, stream.contract.version, err)
            raise

    def _send(self, works: Sequence[Work]) -> None:
        for work in works:
            topic = topics.INGEST_RECORDS.of(work.stream.name)
            self._records.queue(topic, accepted(work.records, work.batch.stored))
        # What was gathered before: meanwhile these are on their way.
        self._storer.store_due(self._streams.values(), quiet=False)
        letters = [
            each
            for work in works
            for each in dead_letters(work.records, work.batch.dead, work.batch.redriven)
        ]
        if letters:
            self._dead_letters.publish(letters)
        for events in (each for work in works for each in work.batch.erased):
            self._news.tell_events(events)
        self._records.settle()


def _by_stream(partitions: Sequence[Partition]) -> dict[str, set[int]]:
    numbers: dict[str, set[int]] = {}
    for topic, number in partitions:
        numbers.setdefault(topics.RAW.part_of(topic), set()).add(number)
    return numbers
