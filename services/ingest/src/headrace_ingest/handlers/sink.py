# SPDX-License-Identifier: Apache-2.0
"""The way of a record from `raw.*` into `ingest.records.*` and the archive.

Records and dead letters are delivered at once; rows are gathered, so that the archive gets few
larger commits, each while the next records are on their way to Kafka; the group's offset follows
the archive. Where a partition stands is read from the archive alone: after a crash anywhere the
same records are judged from the same state, give the same `_id`s, and are stored and counted once
(P1, P2, P13).

A stream whose contract the archive cannot hold, or that would be set aside beyond its tolerance, is
stopped before anything of the batch is delivered, and tried again by another contract. One whose
topic is missing waits, and is tried again by itself. The other streams go on.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl
import structlog

from headrace import topics
from headrace.errors import Conflict, HeadraceError, Invalid, NotFound, Unavailable
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.batch import Batch, set_aside, sort_out
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.decoding import Decode
from headrace_ingest.domain.dedup import DedupIndex
from headrace_ingest.domain.envelope import newer_versions
from headrace_ingest.domain.faults import leading
from headrace_ingest.domain.judging import ARCHIVE_COLUMNS, empty_rows
from headrace_ingest.domain.tolerance import DeadLetterWindow, Tolerance
from headrace_ingest.handlers.messages import accepted, dead_letters
from headrace_ingest.handlers.quality import QualityWatch
from headrace_ingest.metrics import count_stored
from headrace_ingest.ports import (
    Archive,
    ContractBook,
    ErasureNews,
    Restored,
    TopicCatalogue,
)
from headrace_kit.bulk import BulkPublisher
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Partition, Publisher, RecordBatch
from headrace_kit.suspects import AttemptLog, Suspects

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """When gathered rows are stored: once the input is quiet, or after twice the interval.

    Storing may take a twentieth of the time: a slow archive gets fewer and larger commits.
    """

    commit_interval_s: float = 0.5
    commit_rows_max: int = 100_000
    dedup_ids_max: int = 250_000


COMMIT_SHARE = 0.05
REST_S_MAX = 5.0
# How long storing may keep new records waiting, checked between the commits of two streams.
STORE_S_MAX = 0.05
TAKEN_BACK = 0  # the version of no contract
# How often it is looked whether the topic of a waiting stream has come, and whether that of the
# next stream in turn is still the same.
LOOK_INTERVAL_S = 1.0
TOPIC_MISSING = "TOPIC_MISSING"
# Records may name contracts that are applied and not here yet. Each call of the loop looks for the
# next one, ten times or so, once for each version that is applied and however many are named:
# what anybody can write into a header holds a stream no longer than this.
CONTRACT_AWAITED_S_MAX = 0.5
CONTRACT_AWAITED = "DEFINITION_AWAITED"


@dataclass(slots=True)
class _Shard:
    """A raw partition in work: `account` is `stored` and what was gathered since."""

    stored: Account
    account: Account
    index: DedupIndex


@dataclass(slots=True)
class _Stream:
    """A stream in work; `rows` are gathered since `since_s`, the last ones stored at `stored_s`.

    One that `awaits` a contract stays open: its partitions come back to where it stands.
    """

    contract: Contract
    topic_id: str
    shards: dict[int, _Shard]
    window: DeadLetterWindow
    rows: list[pl.DataFrame] = field(default_factory=list)
    since_s: float | None = None
    stored_s: float = 0.0
    commit_s: float = 0.0
    in_doubt: bool = False
    awaits: bool = False

    def comes_back(self, contract: Contract, numbers: set[int]) -> bool:
        """Whether these partitions are given back to it as they were left; asked once."""
        awaited, self.awaits = self.awaits, False
        same = contract.version == self.contract.version
        return awaited and same and numbers <= self.shards.keys()

    def give_up(self, numbers: set[int]) -> None:
        """Forget these partitions, and what was gathered of them."""
        for number in numbers:
            self.shards.pop(number, None)
        self.rows = [rows.filter(~pl.col("_partition").is_in(numbers)) for rows in self.rows]


@dataclass(frozen=True, slots=True)
class _Work:
    """A batch of one stream on its way: sorted out, to be delivered, then gathered."""

    stream: _Stream
    records: RecordBatch
    batch: Batch


@dataclass(frozen=True, slots=True)
class _Stop:
    """Why a stream is not read, as long as this version of its contract is applied.

    One that waits for a topic was last asked for it at `asked_s`.
    """

    version: int
    error: HeadraceError
    asked_s: float


class RecordSink:
    """GatheringHandler of the consume loop, in its thread; any thread may ask `stopped`."""

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
    ) -> None:
        self._contracts, self._catalogue = contracts, catalogue
        self._archive, self._records, self._dead_letters = archive, records, dead_letters
        self._attempt_log, self._suspects = attempt_log, Suspects(attempt_log.read())
        self._decode, self._monotonic_s, self._pace = decode, monotonic_s, pace
        self._tolerance, self._quality = tolerance, quality
        self._erased, self._news = erased, news
        self._streams: dict[str, _Stream] = {}
        self._stopped: dict[str, _Stop] = {}
        self._given_up: dict[Partition, int] = {}
        self._turn, self._looked_s = deque[str](), 0.0
        self._awaited_beyond: dict[str, int] = {}  # the version that was applied, by stream

    def positions(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        for stream, numbers in _by_stream(partitions).items():
            contract = self._applied(stream)
            if contract is None:  # it is left soon; until then nothing is read of it
                self._stop(stream, TAKEN_BACK, NotFound("STREAM_UNKNOWN", stream=stream))
            elif stream not in self._stopped and not self._is_open(contract, numbers):
                self._open(contract, numbers)
        self._given_up = {p: o for p, o in self._given_up.items() if p not in partitions}
        stored = self.durable()
        return {each: stored[each] for each in partitions if each in stored}

    def handle(self, records: RecordBatch) -> None:
        failpoint("ingest.sink.polled")
        self._try_again()
        self._look_at_a_topic()
        self._quality.tell_due()
        for stream in self._streams.values():
            if stream.in_doubt:  # settled by asking for the same commit again, not a larger one
                self._store(stream)
        for part in self._suspects.parts(records):
            self._pass_on(part)

    def idle(self) -> None:
        self._try_again()
        self._look_at_a_topic()
        self._quality.tell_due()
        self._store_due(quiet=True)

    def stopped(self) -> Mapping[str, HeadraceError]:
        return {topics.RAW.of(name): stop.error for name, stop in dict(self._stopped).items()}

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
                    self._store(stream)
                except Unavailable as err:
                    log.warning("drain_forgets", stream=name, error=str(err))
                self._given_up |= {p: o for p, o in self.durable().items() if p in partitions}
                stream.give_up(numbers)

    def _is_open(self, contract: Contract, numbers: set[int]) -> bool:
        known = self._streams.get(contract.name)
        return known is not None and known.comes_back(contract, numbers)

    def _open(self, contract: Contract, numbers: set[int]) -> None:
        """Read where these partitions and those already in work stand, after storing the latter."""
        known = self._streams.get(contract.name)
        if known is not None:
            self._store(known)
            numbers = numbers | known.shards.keys()
        try:
            topic_id = self._catalogue.raw_topic(contract.name).topic_id
            contract.check_usable()
            restored = self._archive.open(
                contract, topic_id, numbers, ids_max=self._pace.dedup_ids_max
            )
        except (Invalid, Unavailable) as err:
            if isinstance(err, Unavailable) and err.reason != TOPIC_MISSING:
                raise
            self._stop(contract.name, contract.version, err)
            return
        shards = {number: self._shard(each) for number, each in restored.items()}
        same = known is not None and known.contract.version == contract.version
        window = known.window if known and same else DeadLetterWindow(self._tolerance)
        self._streams[contract.name] = _Stream(contract, topic_id, shards, window)
        log.info(
            "stream_opened", stream=contract.name, version=contract.version, shards=len(shards)
        )

    def _shard(self, restored: Restored) -> _Shard:
        index = DedupIndex(
            ids_max=self._pace.dedup_ids_max,
            seen=restored.seen,
            newest_us=restored.account.known_time_us,
        )
        return _Shard(restored.account, restored.account, index)

    def _stop(self, name: str, version: int, error: HeadraceError) -> None:
        self._stopped[name] = _Stop(version, error, self._monotonic_s())
        if isinstance(error, Unavailable):
            log.warning("stream_waits", stream=name, error=str(error))
        else:
            log.error("stream_stopped", stream=name, error=str(error))

    def _try_again(self) -> None:
        """A stream that may be read again is placed anew."""
        for name, stop in list(self._stopped.items()):
            contract = self._applied(name)
            version = TAKEN_BACK if contract is None else contract.version
            if version != stop.version or self._awaited(name, stop):
                del self._stopped[name]

    def _awaited(self, name: str, stop: _Stop) -> bool:
        """Whether what a stream waited for may be there; a topic is asked for now and then."""
        now_s = self._monotonic_s()
        if stop.error.reason == CONTRACT_AWAITED:
            return now_s - stop.asked_s >= CONTRACT_AWAITED_S_MAX
        if stop.error.reason != TOPIC_MISSING or now_s - stop.asked_s < LOOK_INTERVAL_S:
            return False
        self._stopped[name] = replace(stop, asked_s=now_s)
        try:
            self._catalogue.raw_topic(name)
        except Unavailable:
            return False
        return True

    def _look_at_a_topic(self) -> None:
        """Each stream in its turn: one whose topic was deleted waits, to be placed anew.

        Kafka's client does not tell a topic that was made again from the one that it reads.
        """
        now_s = self._monotonic_s()
        if now_s - self._looked_s < LOOK_INTERVAL_S:
            return
        self._looked_s = now_s
        self._turn = self._turn or deque(n for n, each in self._streams.items() if each.shards)
        name = self._turn.popleft() if self._turn else None
        if name is not None and name not in self._stopped:
            self._look_at(self._streams[name])

    def _look_at(self, stream: _Stream) -> None:
        name = stream.contract.name
        missing = Unavailable(TOPIC_MISSING, topic=topics.RAW.of(name))
        try:
            gone = self._catalogue.raw_topic(name).topic_id != stream.topic_id
        except Unavailable as err:
            gone, missing = err.reason == TOPIC_MISSING, err
        if gone:
            self._store(stream)
            stream.give_up({*stream.shards})
            self._stop(name, stream.contract.version, missing)

    def _applied(self, name: str) -> Contract | None:
        """None when it was taken back: the loop has not left its topic yet."""
        try:
            return self._contracts.get(name)
        except NotFound:
            return None

    def _current(self, name: str) -> _Stream | None:
        """The stream with its newest contract; None when it is stopped."""
        if name not in self._stopped:
            stream, contract = self._streams[name], self._applied(name)
            if contract is not None and contract.version != stream.contract.version:
                self._open(contract, set())
        return None if name in self._stopped else self._streams[name]

    def _waits(self, stream: _Stream, records: RecordBatch) -> bool:
        """Whether records name a contract beyond the applied one, which is awaited now."""
        name, version = stream.contract.name, stream.contract.version
        if self._awaited_beyond.get(name) == version:
            return False
        newer = newer_versions(records, stream.contract)
        if newer:
            self._awaited_beyond[name], stream.awaits = version, True
            awaited = Unavailable(CONTRACT_AWAITED, dataschema=f"{name}/{min(newer)}")
            self._stop(name, version, awaited)
        return bool(newer)

    def _pass_on(self, records: RecordBatch) -> None:
        """Deliver these records, or set them aside, and gather the rows."""
        parts = [
            (stream, part)
            for topic, part in records.by_topic().items()
            if (stream := self._current(topics.RAW.part_of(topic))) is not None
            and not self._waits(stream, part)
        ]
        attempts = [self._suspects.attempts(part) for _, part in parts]
        self._attempt_log.write({place: each for some in attempts for place, each in some.items()})
        works = [self._sorted_out(stream, part) for stream, part in parts]
        self._attempt_log.write({})
        works = [work for work in works if self._tolerated(work)]
        self._deliver(works)
        failpoint("ingest.sink.records_delivered")
        for work in works:
            self._gather(work)
        for _, part in parts:
            self._suspects.clear(part)

    def _deliver(self, works: Sequence[_Work]) -> None:
        """Raises Unavailable: all are handed over again, but those of a stream that waits now."""
        try:
            self._send(works)
        except Unavailable as err:
            names = {topics.INGEST_RECORDS.of(each.stream.contract.name): each for each in works}
            if err.reason == TOPIC_MISSING and (work := names.get(err.metadata["topic"])):
                contract = work.stream.contract
                self._stop(contract.name, contract.version, err)
            raise

    def _send(self, works: Sequence[_Work]) -> None:
        for work in works:
            topic = topics.INGEST_RECORDS.of(work.stream.contract.name)
            self._records.queue(topic, accepted(work.records, work.batch.stored))
        self._store_due(quiet=False)  # what was gathered before: meanwhile these are on their way
        letters = [each for work in works for each in dead_letters(work.records, work.batch.dead)]
        if letters:
            self._dead_letters.publish(letters)
        for events in (each for work in works for each in work.batch.erased):
            self._news.tell_events(events)
        self._records.settle()

    def _sorted_out(self, stream: _Stream, records: RecordBatch) -> _Work:
        shards, contract = stream.shards, stream.contract
        # The archive may hold more than the loop knows of; what is accounted for is not ours.
        begins = {number: shard.account.offset for number, shard in shards.items()}
        if any(records.offsets[first] < begins[of.number] for of, first, _ in records.runs):
            places = zip(records.partitions, records.offsets, strict=True)
            records = records.where(offset >= begins[number] for number, offset in places)
        if self._suspects.guilty(records):
            batch = set_aside(records, contract, "POISON_CRASH")
        else:
            failpoint("ingest.sink.judging")
            indexes = {number: shard.index for number, shard in shards.items()}
            batch = sort_out(records, contract, indexes, decode=self._decode, erased=self._erased)
        return _Work(stream, records, batch)

    def _tolerated(self, work: _Work) -> bool:
        """Whether the work may go on; else its stream is stopped, with what it gathered stored.

        A redrive that comes to nothing says nothing against those who publish.
        """
        stream, dead = work.stream, work.batch.dead
        if stream.window.allows(work.batch.dead_at_first):
            return True
        self._store(stream)
        [(often, _)] = Counter(map(leading, dead.values())).most_common(1)
        tolerance = self._tolerance
        error = Conflict(
            "TOO_MANY_DEAD_LETTERS",
            stream=stream.contract.name,
            share_max=tolerance.share_max,
            window_records=tolerance.window_records,
            most_often=often,
        )
        self._stop(stream.contract.name, stream.contract.version, error)
        return False

    def _gather(self, work: _Work) -> None:
        stream, batch = work.stream, work.batch
        self._quality.take(stream.contract, work.records, batch)
        stream.window.remember(len(work.records), batch.dead_at_first)
        for number, decided in batch.decided.items():
            stream.shards[number].index.remember(decided)
        for number, addition in batch.additions.items():
            shard = stream.shards[number]
            shard.account = shard.account.plus(addition)
        columns = (*ARCHIVE_COLUMNS, *stream.contract.stream.columns)
        stream.rows.append(batch.stored.select(columns))
        if stream.since_s is None:
            stream.since_s = self._monotonic_s()

    def _store_due(self, *, quiet: bool) -> None:
        """Store what is due, oldest first, for a bounded time: new records wait meanwhile."""
        begin_s = self._monotonic_s()
        waiting = [(s.since_s, name) for name, s in self._streams.items() if s.since_s is not None]
        for since_s, name in sorted(waiting):
            stream = self._streams[name]
            if self._due(stream, begin_s - since_s, begin_s - stream.stored_s, quiet=quiet):
                self._store(stream)
            if self._monotonic_s() - begin_s > STORE_S_MAX:
                return

    def _due(self, stream: _Stream, waited_s: float, rested_s: float, *, quiet: bool) -> bool:
        pace = self._pace
        rest_s = min(stream.commit_s / COMMIT_SHARE, REST_S_MAX)
        interval_s = max(pace.commit_interval_s, rest_s)
        full = sum(rows.height for rows in stream.rows) >= pace.commit_rows_max
        return full or (quiet and rested_s >= interval_s) or waited_s >= 2 * interval_s

    def _store(self, stream: _Stream) -> None:
        """One commit of the archive: the gathered rows and the accounts that they change."""
        begin_s = self._monotonic_s()
        before = {number: shard.stored for number, shard in stream.shards.items()}
        after = {number: shard.account for number, shard in stream.shards.items()}
        if before != after:
            rows = pl.concat(stream.rows) if stream.rows else empty_rows(stream.contract.stream)
            stream.in_doubt = True
            self._archive.append(stream.contract, rows, before, after)
            stream.in_doubt = False
            failpoint("ingest.sink.committed")
            for shard in stream.shards.values():
                count_stored(stream.contract.name, shard.stored, shard.account)
                shard.stored = shard.account
            stream.stored_s = self._monotonic_s()
            stream.commit_s = stream.stored_s - begin_s
        stream.rows, stream.since_s = [], None


def _by_stream(partitions: Sequence[Partition]) -> dict[str, set[int]]:
    numbers: dict[str, set[int]] = {}
    for topic, number in partitions:
        numbers.setdefault(topics.RAW.part_of(topic), set()).add(number)
    return numbers
