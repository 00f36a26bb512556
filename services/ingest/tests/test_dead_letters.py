# SPDX-License-Identifier: Apache-2.0
"""Dead letters from the sink that writes them to the redrive that moves them to stored."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import count

import pytest

from headrace.errors import Invalid, NotFound
from headrace.ingest.v1 import dead_letter_service_pb2 as pb
from headrace_ingest.adapters import dead_letter_api
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.erasure_conversions import KafkaErasureNews
from headrace_ingest.adapters.memory_archive import MemoryArchive
from headrace_ingest.adapters.memory_rows import MemoryRows
from headrace_ingest.adapters.sql_redrive_key import SqlRedriveKey
from headrace_ingest.adapters.sql_task_store import MIGRATIONS
from headrace_ingest.domain.faults import places_of
from headrace_ingest.domain.letters import Position, Selection
from headrace_ingest.domain.tolerance import Tolerance
from headrace_ingest.handlers import redrive
from headrace_ingest.handlers.dead_letters import (
    BEGINNING,
    TOPIC,
    get_dead_letter,
    list_dead_letters,
)
from headrace_ingest.handlers.erased_letters import ErasedLetters
from headrace_ingest.handlers.redrive import Progress, RedriveDeadLetters, redrive_dead_letters
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
from headrace_kit.failpoints import FailpointRaised, arm
from headrace_kit.json_strict import decode
from headrace_kit.kafka import Message, Partition
from headrace_kit.sql import connect
from headrace_kit.testing import (
    MemoryAttemptLog,
    MemoryPublisher,
    MemoryTopicLog,
    a_batch,
    a_record,
)

STREAM, RAW = "flights.departed", "raw.flights.departed.v1"
UNBOUNDED = Tolerance(1.0)
ALL = Selection(stream=STREAM)


class OneTopic:
    def raw_topic(self, stream):
        return RawTopic("topic-1", (0,))


class World:
    """A raw topic, a sink that follows it, and the topic of dead letters."""

    def __init__(self, tolerance=UNBOUNDED):
        self.publisher, self.contracts = MemoryPublisher(), AppliedContracts()
        self.log, self.archive = MemoryTopicLog(self.publisher), MemoryArchive()
        self.contracts.put(a_contract())
        self.erased = ErasedEntities()
        self.letters = ErasedLetters(self.contracts, self.erased, decode)
        self.sink = RecordSink(
            contracts=self.contracts,
            catalogue=OneTopic(),
            archive=self.archive,
            records=self.publisher,
            dead_letters=self.publisher,
            attempt_log=MemoryAttemptLog(),
            decode=decode,
            monotonic_s=count(0.0, 100.0).__next__,
            pace=Pace(commit_rows_max=1),
            tolerance=tolerance,
            erased=self.erased,
            news=KafkaErasureNews(MemoryPublisher()),
            quality=a_quality_watch(),
            seal=a_seal(),
        )
        self.sink.positions([Partition(RAW, 0)])
        self._taken = 0

    def publish(self, *records, headers=()):
        self.publisher.publish(
            [Message(RAW, each.key, each.value, tuple(headers)) for each in records]
        )
        self.take_in()

    def take_in(self):
        """The sink reads what the raw topic holds by now."""
        records = list(self.log.read(Partition(RAW, 0), self._taken))
        self._taken += len(records)
        if records:
            self.sink.handle(a_batch(records))
            self.sink.idle()

    def mend(self, **columns):
        """The next version of the contract, with these columns changed."""
        changed = a_stream_document()["columns"] | columns
        version = self.contracts.get(STREAM).version + 1
        self.contracts.put(a_contract(version, columns=changed))

    def set_aside_as_poison(self):
        """The one record that was set aside, once more: as one that ended the process."""
        letter = next(each for each in self.publisher.published if each.topic == TOPIC)
        headers = dict(letter.headers) | {"dl-reasons": b"POISON_CRASH"}
        self.publisher.publish([Message(TOPIC, letter.key, letter.value, tuple(headers.items()))])
        [(_, poison, _)] = self.page().records
        return poison

    def page(self, selection=ALL, begin=BEGINNING, *, letters_max=100, with_redriven=False):
        return list_dead_letters(
            selection,
            begin,
            letters_max=letters_max,
            with_redriven=with_redriven,
            log=self.log,
            contracts=self.contracts,
            erased=self.letters,
        )

    def show(self, position):
        return get_dead_letter(
            position, log=self.log, contracts=self.contracts, decode=decode, erased=self.letters
        )

    def redrive(self, selection=ALL, *, left_s=lambda: 1.0, meanwhile=lambda: None, **options):
        """What was told last; the sink has taken in what was sent, and before came `meanwhile`."""
        told = redrive_dead_letters(
            RedriveDeadLetters(selection, **options),
            log=self.log,
            contracts=self.contracts,
            publisher=self.publisher,
            decode=decode,
            archived=MemoryRows(self.archive),
            erased=self.letters,
            seal=a_seal(),
            left_s=left_s,
        )
        *_, last = told
        meanwhile()
        self.take_in()
        return last

    def account(self):
        return self.archive.accounts(STREAM, RawTopic("topic-1", (0,)))[0]

    def stored_ids(self):
        rows = self.archive.rows_by_stream.get(STREAM, [])
        return [each for part in rows for each in part["_event_id"]]

    def sent(self):
        """How often a record was put on the raw topic."""
        return sum(each.topic == RAW for each in self.publisher.published)


@pytest.fixture
def world():
    return World()


LATE = a_raw(1, clock=5_000)  # OUT_OF_RANGE
TYPE = a_raw(2, delay="x")  # BAD_TYPE
WIDER = {"clock": {"type": "int64", "min": 0, "max": 9_999}}


def test_letters_are_listed_with_counts_by_reason(world):
    world.publish(LATE, TYPE, a_raw(3, delay="y"), a_raw(4))

    page = world.page()

    assert [1, 1, 1] == [letter.attempt for _, letter, _ in page.records]
    assert {(STREAM, "OUT_OF_RANGE", False): 1, (STREAM, "BAD_TYPE", False): 2} == page.counts


def without(*names, **changed):
    """Headers of a letter but for these, and those that are changed."""
    letter = {
        "dl-topic": RAW,
        "dl-partition": "0",
        "dl-offset": "7",
        "dl-attempt": "1",
        "dl-key": "UA1",
        "dl-reason": "BAD_TYPE",
        "dl-sha256": "0" * 64,
    } | {f"dl-{name}": value for name, value in changed.items()}
    return [(name, value.encode()) for name, value in letter.items() if name not in names]


@pytest.mark.parametrize(
    "headers",
    [
        without("dl-key"),
        without("dl-sha256"),
        without("dl-reason"),
        without(partition=str(2**31)),
        without(offset=str(2**63)),
        without(attempt=str(2**31)),
    ],
)
def test_record_that_is_no_letter_keeps_no_letter_from_being_listed_and_sent(headers, world):
    world.publish(LATE)
    world.publisher.publish([Message(TOPIC, b"anything", b"anything", tuple(headers))])
    world.mend(**WIDER)

    [letter] = dead_letter_api._to_page(world.page()).letters
    assert ["OUT_OF_RANGE"] == letter.reasons
    with pytest.raises(NotFound, match="DEAD_LETTER_UNKNOWN"):
        world.show(Position(0, 1))
    assert (1, ["departed:1"]) == (world.redrive().sent, world.stored_ids())


def test_pages_follow_each_other(world):
    world.publish(LATE, TYPE, a_raw(3, delay="y"))

    first = world.page(letters_max=2)
    second = world.page(begin=first.following, letters_max=2)

    assert [0, 1] == [letter.offset for _, letter, _ in first.records]
    assert ([2], None) == ([letter.offset for _, letter, _ in second.records], second.following)


def test_shown_letter_tells_the_record_and_what_the_contract_says_now(world):
    world.publish(LATE, headers=[("ce_id", b"mine"), ("note", b"hello")])
    before = world.show(Position(0, 0))
    world.mend(**WIDER)

    assert (LATE.value, "OUT_OF_RANGE:clock") == (before.value, before.told_now)
    assert b"hello" == before.record.headers["note"]
    assert "" == world.show(Position(0, 0)).told_now


def test_letter_that_is_not_there_is_not_found(world):
    with pytest.raises(NotFound, match="DEAD_LETTER_UNKNOWN"):
        world.show(Position(0, 9))


def test_letter_of_a_partition_that_is_not_there_is_not_found(world):
    with pytest.raises(NotFound, match="DEAD_LETTER_UNKNOWN"):
        world.show(Position(99, 0))
    with pytest.raises(NotFound, match=r"DEAD_LETTER_UNKNOWN.*99-0"):
        world.redrive(Selection(positions=frozenset([Position(99, 0)])))


def test_stream_that_is_not_applied_and_has_no_letter_is_not_found(world):
    world.publish(LATE)

    with pytest.raises(NotFound, match="STREAM_UNKNOWN"):
        world.page(Selection(stream="flights.departd"))
    with pytest.raises(NotFound, match="STREAM_UNKNOWN"):
        world.redrive(Selection(stream="flights.departd"))


def test_letters_of_a_stream_that_was_taken_back_are_listed(world):
    world.publish(LATE)
    world.contracts.take(a_record(None, key=f"stream/{STREAM}".encode()))

    assert 1 == len(world.page().records)


def test_letter_tells_each_column_that_a_reason_is_about(world):
    world.publish(a_raw(1, clock=5_000, delay="x"))

    [(_, letter, _)] = world.page().records
    assert [("BAD_TYPE", "delay"), ("OUT_OF_RANGE", "clock")] == places_of(letter.told)


def test_reason_that_no_letter_may_carry_is_refused():
    for reason in ("BAD_TYP", "GATE_NOT_PASSED", "bad_type"):
        with pytest.raises(Invalid, match=r"BAD_REQUEST.*is none of EMPTY, TOMBSTONE"):
            dead_letter_api.to_selection(pb.DeadLetterFilter(reason=reason))


@pytest.mark.parametrize("headers", [(), (("ce_id", b"mine"),)], ids=["column", "header"])
def test_redriven_record_moves_to_stored_and_keeps_its_id(headers, world):
    world.publish(LATE, headers=headers)
    world.mend(**WIDER)

    assert 1 == world.redrive().sent

    account = world.account()
    assert ["mine" if headers else "departed:1"] == world.stored_ids()
    assert (2, 1, {"OUT_OF_RANGE": 1}, 1) == (
        account.received,
        account.stored,
        account.dead_by_reason,
        account.redriven,
    )
    assert {(STREAM, "OUT_OF_RANGE", True): 1} == world.page().counts


def test_record_that_fails_again_is_the_same_dead_letter_with_one_attempt_more(world):
    world.publish(LATE)
    world.mend(**WIDER)
    world.redrive(meanwhile=world.mend)

    [(_, letter, redriven)] = world.page().records

    assert (0, 2, False) == (letter.offset, letter.attempt, redriven)
    account = world.account()
    assert 1 == sum(account.dead_by_reason.values()) - account.redriven


def test_redriven_letter_is_not_sent_again(world):
    world.publish(LATE)
    world.mend(**WIDER)
    world.redrive()

    assert (0, 2) == (world.redrive().sent, world.sent())


def test_crash_behind_the_sending_stores_once(world):
    world.publish(LATE)
    world.mend(**WIDER)
    arm("ingest.redrive.sent:1:raise")
    with pytest.raises(FailpointRaised):
        world.redrive()
    arm(None)
    world.take_in()

    world.redrive()

    account = world.account()
    assert (["departed:1"], 1, 1) == (world.stored_ids(), account.repeats, account.redriven)
    assert [] == world.page().records


def test_dry_run_sends_nothing_and_tells_what_would_be_refused(world):
    world.publish(LATE, TYPE)
    world.mend(**WIDER)

    progress = world.redrive(dry_run=True)

    assert (2, {"BAD_TYPE": 1}, 2) == (progress.sent, progress.refused, world.sent())


def test_only_what_is_selected_is_sent(world):
    world.publish(LATE, TYPE, a_raw(3, clock=6_000))
    world.mend(**WIDER, delay=a_stream_document()["columns"]["delay"] | {"map": {"x": None}})

    world.redrive(Selection(stream=STREAM, reason="BAD_TYPE"))
    assert ["departed:2"] == world.stored_ids()
    world.redrive(Selection(positions=frozenset([Position(0, 2)])))

    assert ["departed:2", "departed:3"] == world.stored_ids()


def test_what_would_be_refused_again_is_left_and_told(world):
    world.publish(LATE, TYPE)
    world.mend(**WIDER)

    progress = world.redrive()

    assert (1, {"BAD_TYPE": 1}, False) == (progress.sent, progress.refused, progress.more)
    [(_, letter, redriven)] = world.page().records
    assert ("BAD_TYPE:delay", 1, False) == (letter.told, letter.attempt, redriven)
    assert (["departed:1"], 3) == (world.stored_ids(), world.sent())


def test_letters_that_are_left_take_no_place_of_those_that_are_sent(world):
    world.publish(TYPE, a_raw(3, delay="y"), LATE)
    world.mend(**WIDER)

    progress = world.redrive(letters_max=1)

    assert (1, False) == (progress.sent, progress.more)


def test_record_whose_id_another_one_holds_by_now_is_left_and_told(world):
    world.publish(LATE)
    world.publish(a_raw(1, clock=500))  # its publisher has mended it
    world.mend(**WIDER)

    foreseen, progress = world.redrive(dry_run=True), world.redrive()

    assert {"DUPLICATE_CONFLICT": 1} == foreseen.refused == progress.refused
    assert (0, 2, ["departed:1"]) == (progress.sent, world.sent(), world.stored_ids())


def test_record_that_is_stored_already_is_sent_and_counts_as_a_repeat(world):
    world.publish(LATE)
    world.mend(**WIDER)
    world.publish(LATE)

    progress = world.redrive()

    assert (1, 1, ["departed:1"]) == (
        progress.sent,
        world.account().repeats,
        world.stored_ids(),
    )


@pytest.mark.parametrize("part_records", [1, 1_000])
def test_of_two_letters_of_one_id_the_first_alone_is_sent(world, monkeypatch, part_records):
    monkeypatch.setattr(redrive, "PART_RECORDS", part_records)
    world.publish(LATE, a_raw(1, clock=6_000))
    world.mend(**WIDER)

    progress = world.redrive()

    assert (1, {"DUPLICATE_CONFLICT": 1}) == (progress.sent, progress.refused)
    assert ["departed:1"] == world.stored_ids()


def test_id_under_another_key_is_another_partitions_and_is_sent(world):
    world.publish(LATE, a_raw(1, flight="UA2", record={"key": b"UA2"}))
    world.mend(**WIDER)

    assert 1 == world.redrive().sent


def test_archive_is_asked_once_for_many_letters(world, monkeypatch):
    asked, of_keys = [], MemoryRows.of_keys

    def counted(self, contract, columns, *, key, keys):
        asked.append(len(keys))
        return of_keys(self, contract, columns, key=key, keys=keys)

    monkeypatch.setattr(MemoryRows, "of_keys", counted)
    world.publish(*(a_raw(number, clock=5_000) for number in range(60)))
    world.mend(**WIDER)

    assert (7, True) == ((told := world.redrive(letters_max=7)).sent, told.more)
    assert [60] == asked


def test_redrive_of_everything_is_refused(world):
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        world.redrive(Selection())


def test_redrive_ends_after_its_most_and_says_that_more_wait(world):
    world.publish(LATE, a_raw(5, clock=6_000))
    world.mend(**WIDER)

    first, second = world.redrive(letters_max=1), world.redrive(letters_max=1)

    assert [(1, True), (1, False)] == [(each.sent, each.more) for each in (first, second)]


def test_redrive_ends_when_its_time_is_over(world):
    world.publish(LATE)

    progress = world.redrive(left_s=lambda: 0.0)

    assert (0, True) == (progress.sent, progress.more)


def test_pointer_is_read_again_from_the_raw_topic(world, monkeypatch):
    monkeypatch.setattr("headrace_ingest.domain.envelope.RECORD_BYTES_MAX", 300)
    world.publish(a_raw(6, origin="E" * 400))
    [(record, _, _)] = world.page().records
    assert record.value is None
    monkeypatch.undo()
    world.mend(origin={"type": "string"})

    world.redrive()

    assert ["departed:6"] == world.stored_ids()


def test_pointer_whose_record_is_gone_is_skipped(world, monkeypatch):
    monkeypatch.setattr("headrace_ingest.domain.envelope.RECORD_BYTES_MAX", 10)
    world.publish(LATE)
    world.publisher.published[0] = Message(RAW, b"UA1", b"another record")

    assert {"RECORD_LOST": 1} == world.redrive().skipped


def test_letter_of_a_stream_that_was_taken_back_is_skipped(world):
    world.publish(LATE)
    world.contracts = AppliedContracts()

    assert {"STREAM_UNKNOWN": 1} == world.redrive().skipped


def test_record_that_ended_the_process_is_left_and_told_unless_its_id_is_given(world):
    world.publish(LATE)
    poison = world.set_aside_as_poison()

    for chosen in (Selection(stream=STREAM), Selection(stream=STREAM, reason="POISON_CRASH")):
        for dry_run in (True, False):
            progress = world.redrive(chosen, dry_run=dry_run)
            assert (0, {"POISON_CRASH": 1}) == (progress.sent, dict(progress.skipped))
    assert 1 == world.redrive(Selection(positions=frozenset([poison.position]))).sent


def test_record_that_ended_the_process_is_shown_and_not_judged(world, monkeypatch):
    world.publish(LATE)
    poison = world.set_aside_as_poison()
    monkeypatch.setattr("headrace_ingest.handlers.dead_letters.told_now", None)

    view = world.show(poison.position)

    assert ("POISON_CRASH", LATE.value) == (view.told_now, view.value)


def test_redrive_that_comes_to_nothing_does_not_stop_the_stream():
    world = World(Tolerance(0.2, 10))
    for first in range(0, 30, 10):
        world.publish(a_raw(first, clock=5_000), *(a_raw(first + n) for n in range(1, 10)))

    world.mend(**WIDER)
    assert 3 == world.redrive(meanwhile=world.mend).sent
    assert {} == world.sink.stopped()
    assert [2, 2, 2] == [letter.attempt for _, letter, _ in world.page().records]


LETTER_OF_LATE = (
    ("dl-topic", RAW.encode()),
    ("dl-partition", b"0"),
    ("dl-offset", b"0"),
    ("dl-attempt", b"1"),
)
FORGED = ("dl-seal", b"0" * 64)


@pytest.mark.parametrize(
    "forged",
    [LETTER_OF_LATE, (*LETTER_OF_LATE, FORGED), (*LETTER_OF_LATE, ("dl-redriven", b"1"))],
    ids=["origin", "seal", "mark"],
)
def test_forged_record_takes_no_letters_place_and_counts_as_new(forged, world):
    world.publish(LATE)
    world.publish(TYPE, headers=forged)

    told = [(letter.offset, letter.told, letter.attempt) for _, letter, _ in world.page().records]
    assert [(0, "OUT_OF_RANGE:clock", 1), (1, "BAD_TYPE:delay", 1)] == told
    assert 0 == world.account().redriven


def test_forged_record_that_is_good_is_stored_and_not_counted_as_redriven(world):
    world.publish(LATE)
    world.publish(a_raw(7), headers=LETTER_OF_LATE)

    assert (["departed:7"], 0) == (world.stored_ids(), world.account().redriven)


CHANGES = {
    "value": lambda sent: replace(sent, value=TYPE.value),
    "key": lambda sent: replace(sent, key=b"UA2"),
    "header": lambda sent: replace(sent, headers=(("ce_id", b"other"), *sent.headers)),
    "place": lambda sent: replace(
        sent, headers=(sent.headers[0], sent.headers[1], ("dl-offset", b"9"), *sent.headers[3:])
    ),
    "behind": lambda sent: replace(sent, headers=(*sent.headers, ("note", b""))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_seal_of_a_redriven_record_proves_no_other(change, world):
    world.publish(LATE)
    world.mend(**WIDER)
    world.redrive(meanwhile=world.mend)
    sent = next(each for each in reversed(world.publisher.published) if each.topic == RAW)
    before = world.account().redriven

    world.publisher.publish([change(sent)])
    world.take_in()

    assert (1, before) == (before, world.account().redriven)
    assert [0, 2] == [letter.offset for _, letter, _ in world.page().records]


def test_seal_holds_on_its_own_topic_and_with_its_own_key_only():
    headers = (("dl-offset", b"1"),)
    proof = a_seal().header(RAW, b"k", b"v", headers)
    batch = a_batch([a_record(b"v", topic=RAW, key=b"k", headers=dict([*headers, proof]))])

    assert {0} == a_seal().among(RAW, batch)
    assert not a_seal().among("raw.other.v1", batch)
    assert not a_seal(b"x" * 32).among(RAW, batch)


def test_key_of_the_seal_is_drawn_once_for_all_processes(tmp_path):
    keys = []
    for name in ("one.db", "one.db", "two.db"):
        engine = connect(f"sqlite:///{tmp_path / name}")
        MIGRATIONS.upgrade(engine)
        key = SqlRedriveKey(engine)
        key.start()
        keys.append(key())

    assert [32, 32, 32] == [len(each) for each in keys]
    assert keys[0] == keys[1] != keys[2]


def erase(world, value="UA1", at_us=2 * NOW_US):
    world.erased.take(Entity("flight", entity_sha256("flight", value), at_us))


BROKEN = replace(a_raw(6), value=b"{")  # its key alone names the flight


@pytest.mark.parametrize("record", [LATE, TYPE, BROKEN])
def test_letter_of_an_erased_entity_shows_nothing_of_it(world, record):
    world.publish(record)
    erase(world)
    [(shown, letter, _)] = world.page().records
    view = world.show(letter.position)

    assert (None, b"") == (shown.value, shown.headers["dl-key"])
    assert (None, "ENTITY_ERASED") == (view.value, view.told_now)
    assert (None, b"") == (view.record.value, view.record.headers["dl-key"])


def test_letters_of_others_are_shown_as_ever(world):
    world.publish(LATE)
    erase(world, "UA2")
    [(shown, letter, _)] = world.page().records

    assert LATE.value == shown.value
    assert LATE.value == world.show(letter.position).value


@pytest.mark.parametrize("record", [LATE, TYPE, BROKEN])
def test_letter_of_an_erased_entity_is_never_sent_again(world, record):
    world.publish(record)
    erase(world)
    world.mend(**WIDER)
    told = world.redrive()

    assert (0, {"ENTITY_ERASED": 1}) == (told.sent, dict(told.skipped))
    assert (1, []) == (world.sent(), world.stored_ids())


def test_letter_of_what_an_entity_did_after_it_was_erased_is_sent_again(world):
    world.publish(LATE)
    erase(world, at_us=1)
    world.mend(**WIDER)

    assert 1 == world.redrive().sent


@pytest.mark.parametrize("text", ["\u0661-2", "1-\u0662", "1", "1-2-3", "-1-2"])
def test_id_that_is_no_position_is_refused(text):
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        dead_letter_api.to_position(text, "ids")


def test_redrive_that_skipped_nothing_tells_no_reason():
    told = dead_letter_api.to_progress(Progress(skipped=Counter(ENTITY_ERASED=0, RECORD_LOST=2)))

    assert {"RECORD_LOST": 2} == told.skipped_by_reason
