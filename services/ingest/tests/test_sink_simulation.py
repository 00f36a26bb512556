# SPDX-License-Identifier: Apache-2.0
"""Seeded troubles over fakes: crashes anywhere, lost answers, rebalances; the end is always exact.

The oracle is a plain fold over the raw log that shares no code with the sink.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter

import pytest

from headrace.errors import Unavailable
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.erasure_conversions import KafkaErasureNews
from headrace_ingest.adapters.memory_archive import MemoryArchive
from headrace_ingest.domain.tolerance import Tolerance
from headrace_ingest.handlers.sink import RecordSink
from headrace_ingest.handlers.storing import Pace
from headrace_ingest.ports.archive import RawTopic
from headrace_ingest.testing import a_contract, a_quality_watch, a_raw, a_seal
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.json_strict import decode
from headrace_kit.kafka import Message, Partition
from headrace_kit.testing import MemoryAttemptLog, MemoryPublisher, a_batch

STREAM = "flights.departed"
RAW = "raw.flights.departed.v1"
TOPIC = RawTopic("topic-1", (0, 1))
PARTITIONS = [Partition(RAW, number) for number in TOPIC.partitions]
RECORDS = 60


class Crash(BaseException):
    """The process is gone."""


class Fate:
    """Decides, by its seed, what goes wrong at each step."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.trouble = True

    def strikes(self, *, error: bool) -> None:
        if not self.trouble:
            return
        roll = self.dice.random()
        if roll < 0.06:
            raise Crash
        if error and roll < 0.2:
            raise Unavailable("SERVICE_UNAVAILABLE")


class FatefulPublisher:
    def __init__(self, fate: Fate) -> None:
        self.fate, self.messages = fate, []
        self.queued = []

    def queue(self, topic, messages):
        self.queued.extend(Message(topic, key, value) for key, value in messages)
        self.fate.strikes(error=True)

    def settle(self, *, timeout_s=10.0):
        queued, self.queued = self.queued, []
        self.publish(queued)

    def publish(self, messages, *, timeout_s=10.0):
        self.fate.strikes(error=True)
        # A part may be delivered before the rest fails.
        cut = self.fate.dice.randrange(len(messages) + 1)
        self.messages.extend(messages[:cut])
        self.fate.strikes(error=True)
        self.messages.extend(messages[cut:])
        self.fate.strikes(error=True)


class FatefulArchive(MemoryArchive):
    def __init__(self, fate: Fate) -> None:
        super().__init__()
        self.fate = fate

    def open(self, *asked, **bounds):
        self.fate.strikes(error=True)
        return super().open(*asked, **bounds)

    def append(self, *asked):
        self.fate.strikes(error=True)
        super().append(*asked)
        self.fate.strikes(error=True)


class OneTopic:
    def raw_topic(self, stream):
        return TOPIC


def raw_log(dice: random.Random) -> dict[int, list]:
    """Records of two partitions: good ones, repeats, conflicts and bad ones."""
    log: dict[int, list] = {0: [], 1: []}
    for _ in range(RECORDS):
        number = dice.randrange(20)
        partition = number % 2
        place = {"partition": partition, "offset": len(log[partition])}
        kind = dice.random()
        changes = {"delay": 1.0} if kind < 0.7 else {"delay": 2.0} if kind < 0.85 else {"clock": -1}
        log[partition].append(a_raw(number, record=place, **changes))
    return log


def oracle(log) -> tuple[set[tuple[str, bytes]], Counter]:
    """What must be stored, and how many of each outcome."""
    stored: dict[str, bytes] = {}
    counts: Counter = Counter()
    for record in (record for partition in log.values() for record in partition):
        document = decode(record.value)
        if document["clock"] < 0:
            counts["OUT_OF_RANGE"] += 1
        elif document["event_id"] not in stored:
            stored[document["event_id"]] = record.value
            counts["stored"] += 1
        elif stored[document["event_id"]] == record.value:
            counts["repeats"] += 1
        else:
            counts["DUPLICATE_CONFLICT"] += 1
    return set(stored.items()), counts


class Process:
    """A process: the sink, and what the kit's loop keeps for it in memory."""

    def __init__(self, world, log) -> None:
        self.log = log
        self.sink = RecordSink(**world)
        self.next: dict[Partition, int] = {}

    def step(self, dice: random.Random) -> None:
        away = [p for p in PARTITIONS if p not in self.next]
        if away and dice.random() < 0.5:
            found = self.sink.positions(away)
            self.next.update({partition: found.get(partition, 0) for partition in away})
        elif self.next and dice.random() < 0.05:
            given_up = dice.choice(list(self.next))
            self.sink.drain([given_up])
            del self.next[given_up]
        elif dice.random() < 0.4:
            self.sink.idle()
        else:
            self.handle(dice)

    def handle(self, dice: random.Random) -> None:
        records, ends = [], dict(self.next)
        for partition, start in self.next.items():
            more = self.log[partition.number][start : start + dice.randrange(8)]
            ends[partition] = start + len(more)
            records.extend(more)
        if records:
            self.sink.handle(a_batch(records))
        self.next = ends


def live(process_of, fate: Fate, steps: int) -> None:
    process = process_of()
    for _ in range(steps):
        try:
            process.step(fate.dice)
        except Unavailable:
            continue
        except Crash:
            process = process_of()


def finish(process: Process) -> None:
    process.next = {p: process.sink.positions(PARTITIONS).get(p, 0) for p in PARTITIONS}
    while any(start < len(process.log[p.number]) for p, start in process.next.items()):
        process.handle(random.Random(1))
    process.sink.drain(PARTITIONS)


@pytest.mark.parametrize("seed", range(60))
def test_any_fate_ends_with_each_record_accounted_once(seed):
    fate = Fate(seed)
    log = raw_log(fate.dice)
    publisher, archive = FatefulPublisher(fate), FatefulArchive(fate)
    contracts = AppliedContracts()
    contracts.put(a_contract())
    world = {
        "contracts": contracts,
        "catalogue": OneTopic(),
        "archive": archive,
        "records": publisher,
        "dead_letters": publisher,
        "attempt_log": MemoryAttemptLog(),
        "decode": decode,
        "monotonic_s": iter(range(1_000_000)).__next__,
        "pace": Pace(commit_interval_s=2.0, commit_rows_max=10),
        "tolerance": Tolerance(share_max=1.0),
        "erased": ErasedEntities(),
        "news": KafkaErasureNews(MemoryPublisher()),
        "quality": a_quality_watch(),
        "seal": a_seal(),
    }

    live(lambda: Process(world, log), fate, steps=40)
    fate.trouble = False
    finish(Process(world, log))

    stored, counts = oracle(log)
    rows = [
        row
        for part in archive.rows_by_stream[STREAM]
        for row in part.select("_event_id", "_payload_sha256").iter_rows()
    ]
    accounts = archive.accounts(STREAM, TOPIC)
    assert {n: len(part) for n, part in log.items()} == {n: a.offset for n, a in accounts.items()}
    assert {n: a.received for n, a in accounts.items()} == {
        n: a.offset for n, a in accounts.items()
    }
    assert counts == total(accounts.values())
    assert sorted(event_id for event_id, _ in stored) == sorted(event_id for event_id, _ in rows)
    assert {payload_digest(value) for _, value in stored} == {digest for _, digest in rows}
    published = {
        decode(message.value)["_id"]
        for message in publisher.messages
        if message.topic.startswith("ingest.records.")
    }
    assert published == {event_id for event_id, _ in stored}


def total(accounts) -> Counter:
    counts: Counter = Counter()
    for account in accounts:
        counts.update({"stored": account.stored, "repeats": account.repeats})
        counts.update(account.dead_by_reason)
    return +counts


def payload_digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
