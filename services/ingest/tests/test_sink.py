# SPDX-License-Identifier: Apache-2.0
"""The sink's order: delivered, then gathered, then stored; nothing twice, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from headrace.errors import Invalid, Unavailable
from headrace.ingest.v1.erasures_pb2 import EventsErased
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.erasure_conversions import KafkaErasureNews
from headrace_ingest.adapters.memory_archive import MemoryArchive
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.tolerance import Tolerance
from headrace_ingest.handlers.sink import RecordSink
from headrace_ingest.handlers.storing import Pace
from headrace_ingest.ports.archive import RawTopic
from headrace_ingest.testing import (
    NOW_US,
    a_contract,
    a_quality_watch,
    a_raw,
    a_seal,
    a_stream_document,
)
from headrace_kit.erased_entities import Entity, ErasedEntities, entity_sha256
from headrace_kit.json_strict import decode
from headrace_kit.kafka import Partition
from headrace_kit.testing import MemoryAttemptLog, MemoryPublisher, a_batch, a_record

STREAM = "flights.departed"
RAW = "raw.flights.departed.v1"
TOPIC = RawTopic("topic-1", (0, 1))
PARTITION = Partition(RAW, 0)


@dataclass
class OneTopic:
    """A catalogue in which the topics of some streams are missing."""

    missing: set[str] = field(default_factory=set)
    topic: RawTopic = TOPIC

    def raw_topic(self, stream):
        if stream in self.missing:
            raise Unavailable("TOPIC_MISSING", topic=f"raw.{stream}.v1")
        return self.topic


class TroubledArchive(MemoryArchive):
    """Fails as it is told: before it stores, or after, when the answer is lost."""

    def __init__(self):
        super().__init__()
        self.troubles: list[str] = []
        self.refused_versions: set[int] = set()
        self.opened = 0
        self.missing: set[str] = set()

    def open(self, contract, *rest, **bounds):
        self.opened += 1
        self._check_there(contract.name)
        if contract.version in self.refused_versions:
            raise Invalid("BAD_DEFINITION", stream=contract.name, column="delay")
        return super().open(contract, *rest, **bounds)

    def accounts(self, stream, topic):
        self._check_there(stream)
        return super().accounts(stream, topic)

    def _check_there(self, stream):
        if stream in self.missing:
            raise Unavailable("ARCHIVE_MISSING", stream=stream)

    def append(self, *asked):
        self._check_there(asked[0].name)
        trouble = self.troubles.pop(0) if self.troubles else ""
        if trouble != "before":
            super().append(*asked)
        if trouble:
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", stream=STREAM)


@dataclass
class World:
    """What outlives the process, and one process."""

    contracts: AppliedContracts = field(default_factory=AppliedContracts)
    archive: TroubledArchive = field(default_factory=TroubledArchive)
    catalogue: OneTopic = field(default_factory=OneTopic)
    publisher: MemoryPublisher = field(default_factory=MemoryPublisher)
    attempt_log: MemoryAttemptLog = field(default_factory=MemoryAttemptLog)
    decode: Callable = decode
    now_s: float = 100.0
    tolerance: Tolerance = field(default_factory=Tolerance)
    erased: ErasedEntities = field(default_factory=ErasedEntities)
    told: MemoryPublisher = field(default_factory=MemoryPublisher)

    def sink(self):
        return RecordSink(
            contracts=self.contracts,
            catalogue=self.catalogue,
            archive=self.archive,
            records=self.publisher,
            dead_letters=self.publisher,
            attempt_log=self.attempt_log,
            decode=self.decode,
            monotonic_s=lambda: self.now_s,
            pace=Pace(commit_interval_s=0.5, commit_rows_max=5),
            tolerance=self.tolerance,
            erased=self.erased,
            news=KafkaErasureNews(self.told),
            quality=a_quality_watch(),
            seal=a_seal(),
        )

    def take_back(self):
        self.contracts.take(a_record(None, key=f"stream/{STREAM}".encode()))

    def account(self, partition=0):
        return self.archive.accounts(STREAM, TOPIC)[partition]

    def stored_ids(self):
        return [
            i for rows in self.archive.rows_by_stream.get(STREAM, []) for i in rows["_event_id"]
        ]

    def published_ids(self):
        ids = [decode(m.value)["_id"] for m in self.publisher.published if "records" in m.topic]
        return [each.encode() for each in ids]


@pytest.fixture
def world():
    world = World()
    world.contracts.put(a_contract())
    return world


@pytest.fixture
def sink(world):
    sink = world.sink()
    sink.positions([PARTITION])
    return sink


def test_new_partition_starts_at_its_beginning(world):
    assert {} == world.sink().positions([PARTITION])


def test_records_are_delivered_before_they_are_stored(world, sink):
    sink.handle(a_batch([a_raw(0), a_raw(1)]))

    assert [b"departed:0", b"departed:1"] == world.published_ids()
    assert ([], {}) == (world.stored_ids(), sink.durable())


def test_quiet_input_is_stored_at_the_next_idle_call(world, sink):
    sink.handle(a_batch([a_raw(0)]))
    sink.idle()

    assert ["departed:0"] == world.stored_ids()
    assert {PARTITION: 1} == sink.durable()


def test_commits_rest_between_each_other_while_records_trickle(world, sink):
    for number in range(10):
        sink.handle(a_batch([a_raw(number)]))
        sink.idle()
        world.now_s += 0.1

    # At 0 s, 0.5 s, and what came since waits.
    assert 2 == len(world.archive.rows_by_stream[STREAM])


def test_steady_input_is_stored_after_twice_the_interval(world, sink):
    sink.handle(a_batch([a_raw(0)]))
    world.now_s += 0.9
    sink.handle(a_batch([a_raw(1)]))
    assert [] == world.stored_ids()
    world.now_s += 0.1
    sink.handle(a_batch([a_raw(2)]))

    assert ["departed:0", "departed:1"] == world.stored_ids()


def test_many_rows_are_stored_at_once(world, sink):
    sink.handle(a_batch([a_raw(number) for number in range(5)]))
    sink.handle(a_batch([a_raw(5)]))

    assert 5 == len(world.stored_ids())


def test_undelivered_batch_is_judged_again_as_if_new(world, sink):
    world.publisher.errors = [Unavailable("DELIVERY_UNKNOWN", topic="t")]
    with pytest.raises(Unavailable):
        sink.handle(a_batch([a_raw(0)]))
    sink.handle(a_batch([a_raw(0)]))
    sink.idle()

    assert (["departed:0"], 0) == (world.stored_ids(), world.account().repeats)


class Undelivered(MemoryPublisher):
    """Takes records and never hears what became of them."""

    def settle(self, *, timeout_s=10.0):
        raise Unavailable("DELIVERY_UNKNOWN", topic="t")


def test_batch_of_which_no_delivery_was_told_is_not_stored(world):
    world.publisher = Undelivered()
    sink = world.sink()
    sink.positions([PARTITION])
    with pytest.raises(Unavailable):
        sink.handle(a_batch([a_raw(0)]))
    sink.idle()

    assert ([], 0) == (world.stored_ids(), world.account().offset)


@pytest.mark.parametrize("trouble", ["before", "after"])
def test_batch_whose_commit_is_in_doubt_is_stored_once(trouble, world, sink):
    sink.handle(a_batch([a_raw(0)]))
    world.archive.troubles = [trouble, trouble]
    with pytest.raises(Unavailable):
        sink.idle()
    with pytest.raises(Unavailable):
        sink.idle()
    sink.idle()

    assert (["departed:0"], {PARTITION: 1}) == (world.stored_ids(), sink.durable())


def test_records_are_not_sent_again_and_again_while_the_archive_is_away(world, sink):
    sink.handle(a_batch([a_raw(0)]))
    world.now_s += 1.0
    world.archive.troubles = ["before"] * 3
    for _ in range(3):
        with pytest.raises(Unavailable):
            sink.handle(a_batch([a_raw(1)]))

    assert [b"departed:0", b"departed:1"] == world.published_ids()


def test_every_outcome_is_counted(world, sink):
    repeat, conflict = a_raw(0, record={"offset": 1}), a_raw(0, delay=9, record={"offset": 2})
    late = a_raw(3, departed_at=1_356_000_000_000_000)
    bad = a_raw(4, delay="x")
    sink.handle(a_batch([a_raw(0), repeat, conflict, late, bad]))
    sink.idle()

    dead = {"DUPLICATE_CONFLICT": 1, "BAD_TYPE": 1}
    account = world.account()
    assert Account(5, 2, 1, 1, dead, account.known_time_us) == account
    assert 5 == account.received


def known_on_day(day, *, offset):
    us = NOW_US - 86_400_000_000 * (29 - day)
    return a_raw(day, departed_at=us, known_at=us, record={"offset": offset})


@pytest.mark.parametrize("restarted", [False, True])
def test_month_of_known_time_that_is_published_twice_is_stored_once(restarted, world, sink):
    sink.handle(a_batch([known_on_day(day, offset=day) for day in range(30)]))
    sink.idle()
    if restarted:
        sink = world.sink()
        sink.positions([PARTITION])
    sink.handle(a_batch([known_on_day(day, offset=30 + day) for day in range(30)]))
    world.now_s += 1
    sink.idle()

    assert [f"departed:{day}" for day in range(30)] == world.stored_ids()
    assert (30, 30) == (world.account().stored, world.account().repeats)


def test_dead_letter_is_the_record_with_its_reason(world, sink):
    bad = a_raw(0, delay="x", record={"headers": {"mine": b"1"}})
    sink.handle(a_batch([bad]))

    letter = world.publisher.published[0]
    headers = dict(letter.headers)
    assert ("ingest.dead-letters.v1", bad.value) == (letter.topic, letter.value)
    assert f"{RAW}:0:0".encode() == letter.key
    assert (b"BAD_TYPE", b"1") == (headers["dl-reason"], headers["mine"])
    assert b"BAD_TYPE:delay" == headers["dl-reasons"]


def test_oversize_record_leaves_a_pointer_only(world, sink):
    sink.handle(a_batch([a_raw(0, record={"value": b"x" * (1 << 20), "key": b"k" * 5_000})]))

    letter = world.publisher.published[0]
    assert (None, b"TOO_LARGE") == (letter.value, dict(letter.headers)["dl-reason"])
    assert 2_000 > sum(len(value) for _, value in letter.headers)


def test_accepted_record_says_when_and_what_it_is(world, sink):
    sink.handle(a_batch([a_raw(0, departed_at=1_356_000_000_000_000)]))

    message = world.publisher.published[0]
    assert ("ingest.records.flights.departed.v1", b"UA1") == (message.topic, message.key)
    assert () == message.headers
    value = json.loads(message.value)
    assert {
        "_id": "departed:0",
        "_event_us": 1_356_000_000_000_000,
        "_known_us": 1_357_000_000_000_000,
        "_published_ms": 1_357_000_000_000,
        "_late": True,
        "_contract": 1,
    } == {name: value[name] for name in value if name.startswith("_")}


def test_given_up_partition_is_stored_first(world, sink):
    sink.handle(a_batch([a_raw(0)]))
    sink.drain([PARTITION])

    assert (["departed:0"], {PARTITION: 1}) == (world.stored_ids(), sink.durable())


def test_partition_that_comes_back_stands_where_its_other_owner_left_it(world, sink):
    sink.handle(a_batch([a_raw(0)]))
    sink.drain([PARTITION])
    other = world.sink()
    other.positions([PARTITION])
    other.handle(a_batch([a_raw(1)]))
    other.drain([PARTITION])

    assert {PARTITION: 2} == sink.positions([PARTITION])


def test_given_up_partition_is_forgotten_when_it_cannot_be_stored(world):
    sink = world.sink()
    sink.positions([PARTITION, Partition(RAW, 1)])
    sink.handle(a_batch([a_raw(0), a_raw(1, record={"partition": 1})]))
    world.archive.troubles = ["before"]
    sink.drain([PARTITION])
    sink.idle()

    assert ["departed:1"] == world.stored_ids()
    assert (Account(), 2) == (world.account(0), world.account(1).offset)


def test_record_that_is_accounted_for_is_not_handled_again(world, sink):
    sink.handle(a_batch([a_raw(0)]))
    sink.handle(a_batch([a_raw(0), a_raw(1)]))
    sink.idle()

    assert (["departed:0", "departed:1"], 0) == (world.stored_ids(), world.account().repeats)


def test_new_contract_is_used_from_the_next_batch_on(world, sink):
    sink.handle(a_batch([a_raw(0)]))
    columns = a_contract().stream.model_dump()["columns"]
    world.contracts.put(a_contract(version=2, columns=columns | {"gate": {"type": "string"}}))
    sink.handle(a_batch([a_raw(1, gate="B7")]))
    sink.idle()

    assert ["B7"] == world.archive.rows_by_stream[STREAM][1]["gate"].to_list()
    assert 2 == decode(world.publisher.published[1].value)["_contract"]


def test_contract_that_the_archive_cannot_hold_stops_its_stream_at_the_start(world):
    world.archive.refused_versions = {1}
    world.contracts.put(a_contract(name="other", version=3))
    sink = world.sink()
    sink.positions([PARTITION, Partition("raw.other.v1", 0)])
    sink.handle(a_batch([a_raw(0, record={"topic": "raw.other.v1"})]))

    assert {RAW: "BAD_DEFINITION"} == {topic: e.reason for topic, e in sink.stopped().items()}
    assert ["ingest.records.other.v1"] == [m.topic for m in world.publisher.published]


def test_contract_that_the_archive_cannot_hold_stops_its_stream_before_the_next_batch(world, sink):
    sink.handle(a_batch([a_raw(0)]))
    world.archive.refused_versions = {2}
    world.contracts.put(a_contract(version=2))
    sink.handle(a_batch([a_raw(1)]))
    sink.idle()

    assert [RAW] == list(sink.stopped())
    assert ["departed:0"] == world.stored_ids()
    assert {PARTITION: 1} == sink.durable()


def test_stream_that_is_taken_back_is_not_read_until_it_is_applied_again(world, sink):
    world.archive.refused_versions = {2}
    world.contracts.put(a_contract(version=2))
    sink.handle(a_batch([a_raw(0)]))
    world.take_back()
    sink.idle()
    sink.positions([PARTITION])
    sink.idle()
    assert {RAW: "STREAM_UNKNOWN"} == {topic: e.reason for topic, e in sink.stopped().items()}
    world.contracts.put(a_contract(version=3))
    sink.idle()
    sink.positions([PARTITION])
    sink.handle(a_batch([a_raw(0)]))
    sink.idle()

    assert ["departed:0"] == world.stored_ids()


def test_stopped_stream_goes_on_where_it_was_by_another_contract(world, sink):
    world.archive.refused_versions = {2}
    world.contracts.put(a_contract(version=2))
    sink.handle(a_batch([a_raw(0)]))
    sink.positions([PARTITION])
    assert [RAW] == list(sink.stopped())
    world.contracts.put(a_contract(version=3))
    sink.idle()
    assert {} == sink.stopped()
    sink.positions([PARTITION])
    sink.handle(a_batch([a_raw(0)]))
    sink.idle()

    assert ["departed:0"] == world.stored_ids()


def test_too_many_dead_letters_stop_the_stream_before_anything_is_delivered(world):
    world.tolerance = Tolerance(share_max=0.2, window_records=10)
    sink = world.sink()
    sink.positions([PARTITION])
    sink.handle(a_batch([a_raw(0), a_raw(1, delay="x")]))
    before = len(world.publisher.published)
    sink.handle(a_batch([a_raw(2), a_raw(3, delay="x"), a_raw(4, clock=-1), a_raw(5, delay="x")]))

    error = sink.stopped()[RAW]
    assert ("TOO_MANY_DEAD_LETTERS", "BAD_TYPE") == (error.reason, error.metadata["most_often"])
    assert before == len(world.publisher.published)
    assert (2, {PARTITION: 2}) == (world.account().received, sink.durable())


def test_stream_that_is_stopped_for_its_dead_letters_stops_no_other(world):
    world.tolerance = Tolerance(share_max=0.1, window_records=10)
    world.contracts.put(a_contract(name="other"))
    sink = world.sink()
    sink.positions([PARTITION, Partition("raw.other.v1", 0)])
    bad = [a_raw(0, delay="x"), a_raw(1, delay="x")]
    sink.handle(a_batch([*bad, a_raw(0, record={"topic": "raw.other.v1"})]))

    assert [RAW] == list(sink.stopped())
    assert ["ingest.records.other.v1"] == [m.topic for m in world.publisher.published]


OTHER = Partition("raw.other.v1", 0)


def test_stream_whose_topic_is_missing_waits_and_the_others_go_on(world):
    world.contracts.put(a_contract(name="other"))
    world.catalogue.missing = {STREAM}
    sink = world.sink()
    sink.positions([PARTITION, OTHER])
    sink.handle(a_batch([a_raw(0, record={"topic": OTHER.topic})]))

    assert {RAW: "TOPIC_MISSING"} == {topic: e.reason for topic, e in sink.stopped().items()}
    assert ["ingest.records.other.v1"] == [m.topic for m in world.publisher.published]


def test_waiting_stream_is_read_once_its_topic_has_come(world):
    world.catalogue.missing = {STREAM}
    sink = world.sink()
    sink.positions([PARTITION])
    world.catalogue.missing = set()
    world.now_s += 1.0
    sink.idle()
    assert {} == sink.stopped()
    sink.positions([PARTITION])
    sink.handle(a_batch([a_raw(0)]))
    sink.idle()

    assert ["departed:0"] == world.stored_ids()


def test_topic_that_is_made_again_under_a_reader_is_read_from_its_beginning(world, sink):
    sink.handle(a_batch([a_raw(0), a_raw(1)]))
    sink.idle()
    world.catalogue.topic = RawTopic("topic-2", (0, 1))
    world.now_s += 1.0
    sink.idle()
    assert {RAW: "TOPIC_MISSING"} == {topic: e.reason for topic, e in sink.stopped().items()}
    world.now_s += 1.0
    sink.idle()

    assert {} == sink.positions([PARTITION])
    sink.handle(a_batch([a_raw(2, record={"offset": 0})]))
    sink.idle()
    assert [f"departed:{number}" for number in range(3)] == world.stored_ids()


def test_stream_whose_records_have_no_topic_waits_and_loses_nothing(world):
    world.contracts.put(a_contract(name="other"))
    sink = world.sink()
    sink.positions([PARTITION, OTHER])
    world.catalogue.missing = {STREAM}
    world.publisher.errors = [Unavailable("TOPIC_MISSING", topic=f"ingest.records.{STREAM}.v1")]
    batch = [a_raw(0), a_raw(0, record={"topic": OTHER.topic})]
    with pytest.raises(Unavailable):
        sink.handle(a_batch(batch))
    assert [RAW] == list(sink.stopped())
    sink.handle(a_batch(batch[1:]))
    world.catalogue.missing = set()
    world.now_s += 1.0
    sink.idle()
    sink.positions([PARTITION])
    sink.handle(a_batch(batch[:1]))
    sink.idle()

    assert [["departed:0"]] * 2 == [
        [i for rows in world.archive.rows_by_stream[name] for i in rows["_event_id"]]
        for name in (STREAM, "other")
    ]


def test_stream_whose_archive_is_missing_at_the_start_waits_alone(world):
    world.contracts.put(a_contract(name="other"))
    world.archive.missing = {STREAM}
    sink = world.sink()
    sink.positions([PARTITION, OTHER])
    sink.handle(a_batch([a_raw(0, record={"topic": OTHER.topic})]))
    for _ in range(2):  # looked for, and not there yet
        world.now_s += 1.0
        sink.idle()
        assert {RAW: "ARCHIVE_MISSING"} == held(sink)
    world.archive.missing = set()
    world.now_s += 1.0
    sink.idle()
    sink.positions([PARTITION])
    sink.handle(a_batch([a_raw(0)]))
    sink.idle()

    assert ({}, ["departed:0"]) == (held(sink), world.stored_ids())


def test_stream_whose_archive_is_taken_away_is_read_again_from_where_that_stood(world):
    world.contracts.put(a_contract(name="other"))
    sink = world.sink()
    sink.positions([PARTITION, OTHER])
    sink.handle(a_batch([a_raw(0)]))
    sink.idle()
    world.archive.missing = {STREAM}
    sink.handle(a_batch([a_raw(1), a_raw(0, record={"topic": OTHER.topic})]))
    world.now_s += 1.0
    with pytest.raises(Unavailable, match="ARCHIVE_MISSING"):
        sink.idle()
    assert {RAW: "ARCHIVE_MISSING"} == held(sink)
    sink.idle()
    assert {OTHER: 1} == dict(sink.durable())

    world.archive.missing = set()
    place_again(world, sink, a_raw(1), after_s=1.0)
    world.now_s += 1.0
    sink.idle()
    assert ({}, ["departed:0", "departed:1"]) == (held(sink), world.stored_ids())
    assert {PARTITION: 2, OTHER: 1} == dict(sink.durable())


def test_archives_that_are_away_are_asked_for_one_at_a_time(world, monkeypatch):
    """Each question takes seconds when Kafka or the store hangs; the others' reads wait."""
    world.contracts.put(a_contract(name="other"))
    world.archive.missing = {STREAM, "other"}
    sink = world.sink()
    sink.positions([PARTITION, OTHER])
    asked, accounts = [], world.archive.accounts
    monkeypatch.setattr(
        world.archive, "accounts", lambda name, topic: asked.append(name) or accounts(name, topic)
    )

    world.now_s += 1.0
    sink.idle()
    assert 1 == len(asked)
    sink.idle()
    assert {STREAM, "other"} == set(asked)
    assert 2 == len(asked)


def test_missing_topic_of_dead_letters_stops_no_stream_alone(world, sink):
    world.publisher.errors = [Unavailable("TOPIC_MISSING", topic="ingest.dead-letters.v1")]
    with pytest.raises(Unavailable):
        sink.handle(a_batch([a_raw(0, delay="x")]))

    assert {} == sink.stopped()


def a_newer(number, version=2):
    """A record that names a contract version which is not applied."""
    schema = f"{STREAM}/{version}".encode()
    return a_raw(number, record={"headers": {"ce_dataschema": schema}})


def held(sink):
    return {topic: error.reason for topic, error in sink.stopped().items()}


def place_again(world, sink, *records, after_s=0.5):
    """What the loop does once the stream is let go: its records come from where it stands."""
    world.now_s += after_s
    sink.idle()
    sink.positions([PARTITION])
    sink.handle(a_batch([*records]))


def test_contract_that_a_record_names_is_looked_for_half_a_second(world, sink):
    sink.handle(a_batch([a_newer(0)]))
    for _ in range(2):
        world.now_s += 0.2
        sink.idle()
        assert {RAW: "DEFINITION_AWAITED"} == held(sink)
    assert [] == world.publisher.published
    place_again(world, sink, a_newer(0), after_s=0.1)
    sink.idle()

    assert {} == held(sink)
    assert {"SCHEMA_INCOMPATIBLE": 1} == world.account().dead_by_reason


def test_contract_that_comes_meanwhile_is_used_at_once(world, sink):
    sink.handle(a_batch([a_newer(0)]))
    world.contracts.put(a_contract(version=2))
    place_again(world, sink, a_newer(0), after_s=0.0)
    sink.idle()

    assert ["departed:0"] == world.stored_ids()


def test_many_contracts_that_are_not_there_hold_a_stream_once(world, sink):
    batch = [a_newer(number, version=number + 2) for number in range(20)]
    sink.handle(a_batch(batch))
    assert {RAW: "DEFINITION_AWAITED"} == held(sink)
    place_again(world, sink, *batch, a_raw(20))
    sink.idle()

    assert {} == held(sink)
    assert {"SCHEMA_INCOMPATIBLE": 20} == world.account().dead_by_reason
    assert ["departed:20"] == world.stored_ids()


def test_contract_beyond_one_that_did_not_come_is_not_awaited(world, sink):
    sink.handle(a_batch([a_newer(0)]))
    place_again(world, sink, a_newer(0))
    sink.handle(a_batch([a_newer(1, version=3)]))

    assert {} == held(sink)


def test_contract_beyond_one_that_came_is_awaited_again(world, sink):
    batch = [a_newer(0), a_newer(1, version=3)]
    sink.handle(a_batch(batch))
    world.contracts.put(a_contract(version=2))
    place_again(world, sink, *batch)
    assert {RAW: "DEFINITION_AWAITED"} == held(sink)
    world.contracts.put(a_contract(version=3))
    place_again(world, sink, *batch)
    sink.idle()

    assert ["departed:0", "departed:1"] == world.stored_ids()


def test_stream_that_is_held_for_a_contract_stays_open(world, sink):
    sink.handle(a_batch([a_raw(0)]))
    sink.handle(a_batch([a_newer(1)]))
    place_again(world, sink, a_raw(0), a_newer(1), a_raw(2))
    sink.drain([PARTITION])

    assert 1 == world.archive.opened
    assert (3, ["departed:0", "departed:2"]) == (world.account().offset, world.stored_ids())


def test_stream_that_was_given_up_while_it_was_held_is_opened_anew(world, sink):
    sink.handle(a_batch([a_newer(0)]))
    sink.drain([PARTITION])
    place_again(world, sink, a_newer(0))
    sink.idle()

    assert 2 == world.archive.opened
    assert {"SCHEMA_INCOMPATIBLE": 1} == world.account().dead_by_reason


def test_dead_letters_of_a_batch_that_was_not_delivered_count_once(world):
    world.tolerance = Tolerance(share_max=0.1, window_records=10)
    sink = world.sink()
    sink.positions([PARTITION])
    world.publisher.errors = [Unavailable("DELIVERY_UNKNOWN", topic="t")]
    with pytest.raises(Unavailable):
        sink.handle(a_batch([a_raw(0, delay="x")]))
    sink.handle(a_batch([a_raw(0, delay="x")]))

    assert {} == sink.stopped()


class Death(BaseException):
    """The process is gone, and nobody could do anything."""


def deadly_decode(value):
    if b"poison" in value:
        raise Death
    return decode(value)


def test_record_that_ends_the_process_three_times_is_set_aside(world):
    world.decode = deadly_decode
    records = [a_raw(0), a_raw(1, origin="poison\\"), a_raw(2)]
    for _ in range(3):
        sink = world.sink()
        start = sink.positions([PARTITION]).get(PARTITION, 0)
        with pytest.raises(Death):
            sink.handle(a_batch(records[start:]))
        world.now_s += 1
    sink = world.sink()
    start = sink.positions([PARTITION]).get(PARTITION, 0)
    sink.handle(a_batch(records[start:]))
    sink.idle()

    assert ["departed:0", "departed:2"] == world.stored_ids()
    assert {"POISON_CRASH": 1} == world.account().dead_by_reason
    letter = next(m for m in world.publisher.published if "dead" in m.topic)
    assert (None, f"{RAW}:0:1".encode()) == (letter.value, letter.key)


def test_sudden_end_from_outside_makes_no_record_guilty(world):
    records = [a_raw(0), a_raw(1)]
    world.decode = deadly_decode
    for _ in range(2):
        sink = world.sink()
        sink.positions([PARTITION])
        with pytest.raises(Death):
            sink.handle(a_batch([*records, a_raw(2, origin="poison\\")]))
    world.decode = decode
    sink = world.sink()
    sink.positions([PARTITION])
    sink.handle(a_batch([*records, a_raw(2, origin="JFK")]))
    sink.idle()

    assert ({}, 3) == (world.account().dead_by_reason, world.account().stored)


def test_records_of_a_stream_that_was_just_taken_back_are_still_accounted_for(world, sink):
    world.contracts.take(a_record(None, key=b"stream/flights.departed"))

    sink.handle(a_batch([a_raw(0)]))
    sink.idle()
    assert ["departed:0"] == world.stored_ids()


def erase(world, column="flight", value="UA1", at_us=NOW_US):
    world.erased.take(Entity(column, entity_sha256(column, value), at_us))


def test_late_copy_of_an_erased_entity_is_refused_without_a_trace_of_it(world, sink):
    erase(world)
    other = a_raw(1, flight="UA2", record={"key": b"UA2"})
    sink.handle(a_batch([a_raw(0), other, a_raw(2)]))
    sink.idle()

    assert ["departed:1"] == world.stored_ids()
    assert {"ENTITY_ERASED": 2} == world.account().dead_by_reason
    letters = [m for m in world.publisher.published if "dead-letters" in m.topic]
    assert [None, None] == [letter.value for letter in letters]
    assert b"UA1" not in b"".join(value for letter in letters for _, value in letter.headers)


def test_event_that_is_refused_as_erased_is_told_for_who_took_it_before(world, sink):
    erase(world)
    sink.handle(a_batch([a_raw(0), a_raw(1, flight="UA2", record={"key": b"UA2"}), a_raw(2)]))
    told = EventsErased.FromString(world.told.published[0].value)

    assert ["departed:0", "departed:2"] == list(told.event_ids)
    assert (STREAM, entity_sha256("flight", "UA1")) == (told.stream, told.entity_sha256)


def test_what_an_erased_entity_does_later_is_taken(world, sink):
    erase(world, at_us=NOW_US - 1)
    sink.handle(a_batch([a_raw(0)]))
    sink.idle()

    assert ["departed:0"] == world.stored_ids()


def test_replay_of_erased_records_stops_no_stream(world, sink):
    world.tolerance = Tolerance(share_max=0.01, window_records=100)
    erase(world)
    sink = world.sink()
    sink.positions([PARTITION])
    sink.handle(a_batch([a_raw(number) for number in range(20)]))

    assert {} == sink.stopped()


def test_erased_entity_is_found_by_a_whole_number_too(world, sink):
    erase(world, "clock", "517")
    sink.handle(a_batch([a_raw(0), a_raw(1, clock=518)]))
    sink.idle()

    assert ["departed:1"] == world.stored_ids()


def test_stream_whose_personal_data_has_no_key_is_stopped_before_anything_is_stored(world):
    pii = {"category": "contact", "treatment": "hash"}
    columns = a_stream_document()["columns"] | {"email": {"type": "string", "pii": pii}}
    world.contracts.put(a_contract(columns=columns))
    sink = world.sink()

    assert {} == sink.positions([PARTITION])
    assert "BAD_SETTING" == sink.stopped()[RAW].reason
