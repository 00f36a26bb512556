# SPDX-License-Identifier: Apache-2.0
"""A checker that has never failed proves nothing: each planted mutant is caught by its letter.

The mutants are adapters around the real sink and the real Delta archive, in one process; the
unharmed pipeline comes first, and nothing may be found in it. What none of them breaks is told the
checker as if it had been seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import polars as pl
import pytest
from deltalake import QueryBuilder, write_deltalake
from tests.faults.checker import Findings, Letter, Published, Row, Seen, check
from tests.faults.ledger import Entry, Outcome, payload_sha256
from tests.faults.world import RAW, RECORDS, STREAM, STREAM_DEFINITION, key_of

from headrace import topics
from headrace.application import parse_definition
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.delta_archive import DeltaArchive
from headrace_ingest.adapters.erasure_conversions import KafkaErasureNews
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.tolerance import Tolerance
from headrace_ingest.handlers.sink import RecordSink
from headrace_ingest.handlers.storing import Pace
from headrace_ingest.ports.archive import RawTopic
from headrace_ingest.testing import a_quality_watch, a_seal, never_read
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.json_strict import decode
from headrace_kit.kafka import Message, Partition, Record
from headrace_kit.objects import delta_table_uri
from headrace_kit.testing import MemoryAttemptLog, MemoryPublisher, a_batch

pytestmark = pytest.mark.faults

RECORDS_SENT, BATCH_RECORDS = 20_000, 1_000
PLACE = Partition(RAW, 0)
TOPIC = RawTopic("topic-1", (0,))


class OneTopic:
    def raw_topic(self, stream: str) -> RawTopic:
        return TOPIC


@dataclass
class Pipeline:
    """The sink with adapters that a mutant may replace."""

    uri: str
    publisher: MemoryPublisher = field(default_factory=MemoryPublisher)
    archive_of: type[DeltaArchive] = DeltaArchive
    crash_after: int | None = None

    def __post_init__(self) -> None:
        self.contracts = AppliedContracts()
        self.contracts.put(Contract(parse_definition(dict(STREAM_DEFINITION)), 1))

    def sink(self) -> RecordSink:
        return RecordSink(
            contracts=self.contracts,
            catalogue=OneTopic(),
            archive=self.archive_of(self.uri, {}, was_read=never_read),
            records=self.publisher,
            dead_letters=self.publisher,
            attempt_log=MemoryAttemptLog(),
            decode=decode,
            monotonic_s=iter(range(1_000_000)).__next__,
            pace=Pace(commit_interval_s=1.0, commit_rows_max=BATCH_RECORDS),
            tolerance=Tolerance(share_max=1.0),
            erased=ErasedEntities(),
            news=KafkaErasureNews(MemoryPublisher()),
            quality=a_quality_watch(),
            seal=a_seal(),
        )

    def run(self, records: list[Record]) -> None:
        """A process that reads all, or two, of which the first ends after a batch."""
        sink = self.sink()
        at = sink.positions([PLACE]).get(PLACE, 0)
        handled = 0
        while at < len(records):
            if handled == self.crash_after:
                return replace(self, crash_after=None).run(records)
            sink.handle(a_batch(records[at : at + BATCH_RECORDS]))
            at, handled = at + BATCH_RECORDS, handled + 1
        sink.drain([PLACE])
        return None

    def seen(self, records: list[Record]) -> Seen:
        table = DeltaArchive(self.uri, {}, was_read=never_read)
        found = QueryBuilder().register("records", table._table(STREAM))
        query = "select _event_id, _payload_sha256, _partition, _offset from records"
        rows = pl.DataFrame(found.execute(query).read_all()).iter_rows()
        account = table.accounts(STREAM, TOPIC)[0]
        return Seen(
            raw_end_by_partition={0: len(records)},
            rows=[Row(event_id, sha256.hex(), *place) for event_id, sha256, *place in rows],
            letters=[_letter(each) for each in self._sent(topics.INGEST_DEAD_LETTERS.name)],
            repeats={0: account.repeats},
            published=[
                Published((each.key or b"").decode(), decode(each.value or b"")["_id"])
                for each in self._sent(RECORDS)
            ],
            features={},
        )

    def _sent(self, topic: str) -> list[Message]:
        return [each for each in self.publisher.published if each.topic == topic]


def _letter(message: Message) -> Letter:
    headers = {name: content.decode() for name, content in message.headers}
    return Letter(
        int(headers["dl-partition"]),
        int(headers["dl-offset"]),
        headers.get("dl-reason", ""),
        headers["dl-sha256"],
    )


def an_order(number: int) -> bytes:
    at = 1_700_000_000_000_000 + number
    amount = -1.0 if number % 1_000 == 999 else float(number)
    return (
        f'{{"order_id": "order-{number}", "customer": "customer-{number % 50}", '
        f'"shop": "shop-1", "amount": {amount}, "at": {at}}}'
    ).encode()


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Orders in their order; one in a thousand is refused, some come twice."""
    values = [an_order(number) for number in range(RECORDS_SENT - 100)]
    values += values[:100]
    return [
        Record(RAW, 0, offset, key_of(value), value, {}, 1_700_000_100_000)
        for offset, value in enumerate(values)
    ]


@pytest.fixture(scope="module")
def entries(records) -> Mapping[str, Entry]:
    return {
        decode(record.value)["order_id"]: Entry(
            frozenset({payload_sha256(record.value)}), Outcome.OK
        )
        for record in records
    }


class Dropping(MemoryPublisher):
    """Loses one record of ten thousand."""

    def publish(self, messages, *, timeout_s=10.0):
        super().publish([m for m in messages if not self._unlucky(m)], timeout_s=timeout_s)

    def _unlucky(self, message) -> bool:
        return message.topic == RECORDS and b'"order-7777"' in message.value


class Swapping(MemoryPublisher):
    """Sends the first two records of a customer in a batch the other way round."""

    def publish(self, messages, *, timeout_s=10.0):
        messages = list(messages)
        if len(messages) > 50 and messages[0].key == messages[50].key:
            messages[0], messages[50] = messages[50], messages[0]
        super().publish(messages, timeout_s=timeout_s)


class Speechless(MemoryPublisher):
    """Sets aside without a reason."""

    def publish(self, messages, *, timeout_s=10.0):
        silent = [
            replace(m, headers=tuple(h for h in m.headers if h[0] != "dl-reason")) for m in messages
        ]
        super().publish(silent, timeout_s=timeout_s)


class Losing(DeltaArchive):
    """Says that it stored what it did not: the position goes on before the rows are written."""

    def append(self, contract, rows, before, after):
        super().append(contract, rows.clear() if before[0].offset else rows, before, after)


class ByPath(DeltaArchive):
    """Writes by the table's path, beside the handle that fences: a retry stores the rows again."""

    def append(self, contract, rows, before, after):
        super().append(contract, rows, before, after)
        if before[0].offset == 0:
            table = self._table(contract.name)
            again = rows.select(table.schema().to_arrow().names)
            write_deltalake(delta_table_uri(self._uri, "records", STREAM), again, mode="append")


class Doubling(DeltaArchive):
    """Stores one row of ten thousand twice."""

    def append(self, contract, rows, before, after):
        again = rows.filter(pl.col("_event_id") == "order-7777")
        super().append(contract, pl.concat([rows, again]), before, after)


class Forging(DeltaArchive):
    """Stores an event that nobody sent."""

    def append(self, contract, rows, before, after):
        forged = pl.when(pl.col("_event_id") == "order-5").then(pl.lit("order-x"))
        rows = rows.with_columns(forged.otherwise("_event_id").alias("_event_id"))
        super().append(contract, rows, before, after)


def letters(pipeline: Pipeline, records, entries) -> set[str]:
    pipeline.run(records)
    return set(check(entries, pipeline.seen(records), {}).wrong())


@pytest.mark.parametrize("crash_after", [None, 7])
def test_unharmed_pipeline_breaks_no_letter(crash_after, tmp_path, records, entries):
    pipeline = Pipeline(tmp_path.as_uri(), crash_after=crash_after)
    pipeline.run(records)

    assert Findings() == check(entries, pipeline.seen(records), {})


@pytest.mark.parametrize(
    ("letter", "change"),
    [
        ("lost", {"publisher": Dropping()}),
        ("lost", {"archive_of": Losing}),
        ("double", {"archive_of": ByPath}),
        ("double", {"archive_of": Doubling}),
        ("phantom", {"archive_of": Forging}),
        ("disorder", {"publisher": Swapping()}),
        ("unaccounted", {"publisher": Speechless()}),
    ],
    ids=["dropped", "position-first", "by-path", "doubled", "forged", "swapped", "speechless"],
)
def test_mutant_is_caught_by_its_letter(letter, change, tmp_path, records, entries):
    assert letter in letters(Pipeline(tmp_path.as_uri(), **change), records, entries)


def a_seen(**changes) -> Seen:
    nothing = Seen({}, [], [], {}, [], {})
    return replace(nothing, **changes)


ACCEPTED = {"e": Entry(frozenset({"d"}), Outcome.OK)}


def test_accepted_event_that_is_nowhere_is_caught():
    assert {"lost": 1} == check(ACCEPTED, a_seen(), {}).wrong()


def test_accepted_event_that_was_set_aside_is_not_lost():
    aside = [Letter(0, 0, "BAD_TYPE", "d")]
    seen = a_seen(letters=aside, raw_end_by_partition={0: 1})

    assert {} == check(ACCEPTED, seen, {}).wrong()


def test_payload_that_was_never_sent_is_caught():
    changed, published = [Row("e", "another", 0, 0)], [Published("k", "e")]
    seen = a_seen(rows=changed, published=published, raw_end_by_partition={0: 1})

    assert {"phantom": 1} == check(ACCEPTED, seen, {}).wrong()


def test_published_event_that_was_never_sent_is_caught():
    assert {"phantom": 1} == check({}, a_seen(published=[Published("k", "e")]), {}).wrong()


def test_record_of_which_nothing_tells_is_caught():
    assert {"unaccounted": 1} == check({}, a_seen(raw_end_by_partition={0: 1}), {}).wrong()


@pytest.mark.parametrize("reason", ["NO_SUCH_REASON", "QUEUE_FULL"])
def test_letter_without_a_reason_of_records_is_caught(reason):
    seen = a_seen(letters=[Letter(0, 0, reason, "d")], raw_end_by_partition={0: 1})

    assert {"unaccounted": 1} == check({}, seen, {}).wrong()


def test_letter_that_was_written_twice_accounts_for_one_record():
    twice = [Letter(0, 0, "BAD_TYPE", "d")] * 2

    assert {} == check({}, a_seen(letters=twice, raw_end_by_partition={0: 1}), {}).wrong()


def test_answer_that_differs_from_the_oracle_is_caught():
    found = check({}, a_seen(features={("c", "f"): 1.0}), {("c", "f"): 2.0})
    assert {"oracle": 1} == found.wrong()


def test_answer_that_is_not_given_is_caught():
    assert {"oracle": 1} == check({}, a_seen(), {("c", "f"): 2.0}).wrong()


def test_memory_beyond_the_cap_is_caught():
    found = check({}, a_seen(rss_bytes=[100, 111, 120], rss_bytes_max=100), {})
    assert {"over_cap": 2} == found.wrong()


def test_event_of_unknown_outcome_may_be_there_once_or_not_at_all():
    unsure = {"e": Entry(frozenset({"d"}), Outcome.UNKNOWN)}
    once = [Row("e", "d", 0, 0)]
    published = [Published("k", "e")]

    assert Findings() == check(unsure, a_seen(), {})
    assert Findings() == check(
        unsure, a_seen(rows=once, published=published, raw_end_by_partition={0: 1}), {}
    )
    assert "double" in check(unsure, a_seen(rows=once * 2, published=published), {}).wrong()
