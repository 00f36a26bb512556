# SPDX-License-Identifier: Apache-2.0
"""Counts add up over partitions, and reach the wire as they are."""

from __future__ import annotations

from headrace import topics
from headrace.errors import Invalid, Unavailable
from headrace.ingest.v1 import ingest_service_pb2 as pb
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.conversions import to_command, to_counts_response
from headrace_ingest.adapters.memory_archive import MemoryArchive
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.judging import empty_rows
from headrace_ingest.handlers.counts import StreamCount, list_stream_counts
from headrace_ingest.handlers.publish import PublishItem, PublishRecords
from headrace_ingest.handlers.stopped_streams import Stop
from headrace_ingest.ports.archive import RawTopic
from headrace_ingest.testing import a_contract, a_stream_document

TOPIC = RawTopic("topic-1", (0, 1, 2))


class OneTopic:
    def raw_topic(self, stream):
        return TOPIC


def test_counts_of_a_stream_are_those_of_all_its_partitions():
    contracts, archive = AppliedContracts(), MemoryArchive()
    contract = a_contract()
    contracts.put(contract)
    after = {
        0: Account(5, stored=2, late=1, repeats=2, dead_by_reason={"EMPTY": 1}),
        1: Account(3, stored=1, dead_by_reason={"EMPTY": 1, "BAD_TYPE": 1}),
    }
    before = {number: Account() for number in after}
    archive.open(contract, "topic-1", after, ids_max=1)
    archive.append(contract, empty_rows(contract.stream), before, after)

    counts = list_stream_counts(
        contracts=contracts, catalogue=OneTopic(), archive=archive, stops={}, waits=None
    )

    wanted = pb.StreamCounts(
        stream="flights.departed",
        received=8,
        stored=3,
        dead_lettered_by_reason={"EMPTY": 2, "BAD_TYPE": 1},
        repeats=2,
        late=1,
        contract_version=1,
    )
    assert pb.ListStreamCountsResponse(streams=[wanted]) == to_counts_response(counts)


def test_request_becomes_a_command():
    request = pb.PublishRequest(
        stream="s", items=[pb.PublishItem(event_id="e", key=b"k", value=b"v")]
    )

    assert PublishRecords("s", [PublishItem("e", b"k", b"v")]) == to_command(request)


def test_stopped_stream_says_why():
    counts = [
        StreamCount("a", Account(), Invalid("BAD_DEFINITION", column="delay")),
        StreamCount("b", Account()),
    ]

    answer = to_counts_response(counts)

    assert ["BAD_DEFINITION", ""] == [each.stopped_reason for each in answer.streams]
    assert [{"column": "delay"}, {}] == [dict(each.stopped_details) for each in answer.streams]


class AbsentTopic:
    def raw_topic(self, stream):
        if stream == "a":
            raise Unavailable("TOPIC_MISSING", topic="raw.a.v1")
        return TOPIC


def test_stream_whose_topic_is_missing_is_told_as_waiting_beside_the_others():
    contracts = AppliedContracts()
    for name in "ab":
        contracts.put(a_contract(name=name))

    [a, b] = list_stream_counts(
        contracts=contracts, catalogue=AbsentTopic(), archive=MemoryArchive(), stops={}, waits=None
    )

    assert ("a", "TOPIC_MISSING") == (a.stream, a.stopped.reason)
    assert StreamCount("b", Account(), version=1) == b


class NoRecords:
    """A catalogue without the topics of records."""

    def raw_topic(self, stream, *, alone=False):
        if not alone:
            raise Unavailable("TOPIC_MISSING", topic=topics.INGEST_RECORDS.of(stream))
        return TOPIC


def test_stream_of_which_the_topic_of_records_is_missing_waits_with_what_it_has_counted():
    contracts, archive = AppliedContracts(), MemoryArchive()
    contract = a_contract()
    contracts.put(contract)
    archive.open(contract, "topic-1", [0], ids_max=1)
    after = {0: Account(5, stored=5)}
    archive.append(contract, empty_rows(contract.stream), {0: Account()}, after)

    [count] = list_stream_counts(
        contracts=contracts, catalogue=NoRecords(), archive=archive, stops={}, waits=None
    )

    assert 5 == count.account.stored
    details = {"topic": "ingest.records.flights.departed.v1"}
    assert ("TOPIC_MISSING", details) == (count.stopped.reason, count.stopped.metadata)


def count_of(contract, stops, waits=None):
    contracts = AppliedContracts()
    contracts.put(contract)
    [count] = list_stream_counts(
        contracts=contracts, catalogue=OneTopic(), archive=MemoryArchive(), stops=stops, waits=waits
    )
    return count


def test_stop_counts_for_the_contract_that_it_was_made_by():
    stops = {"a": Stop(1, Invalid("BAD_DEFINITION", column="delay"), 0.0)}

    assert "BAD_DEFINITION" == count_of(a_contract(name="a"), stops).stopped.reason
    mended = count_of(a_contract(version=2, name="a"), stops)
    assert (None, 2) == (mended.stopped, mended.version)


FULL = Unavailable("OBJECT_STORE_UNAVAILABLE", stream="b", problem="its disk is full")


def test_stream_waits_for_what_keeps_ingest_from_going_on_unless_it_is_stopped_itself():
    stops = {"a": Stop(1, Invalid("BAD_DEFINITION", column="delay"), 0.0)}

    assert FULL == count_of(a_contract(name="a"), {}, FULL).stopped
    assert "BAD_DEFINITION" == count_of(a_contract(name="a"), stops, FULL).stopped.reason


class AwayArchive(MemoryArchive):
    asked = 0

    def accounts(self, stream, topic):
        self.asked += 1
        raise FULL


def test_streams_whose_archive_is_away_wait_and_their_counts_are_not_known():
    contracts, archive = AppliedContracts(), AwayArchive()
    for name in "ab":
        contracts.put(a_contract(name=name))

    counts = list_stream_counts(
        contracts=contracts, catalogue=OneTopic(), archive=archive, stops={}, waits=None
    )

    assert [StreamCount(name, None, FULL, 1) for name in "ab"] == counts
    assert 1 == archive.asked  # each question may take seconds
    told = to_counts_response(counts).streams[0]
    assert (True, "OBJECT_STORE_UNAVAILABLE") == (told.counts_unknown, told.stopped_reason)


class HangingKafka:
    asked = 0

    def raw_topic(self, stream):
        self.asked += 1
        raise Unavailable("BROKER_UNAVAILABLE", bootstrap="127.0.0.1:9092")


def test_streams_wait_for_a_kafka_that_hangs_and_it_is_asked_once():
    contracts, catalogue = AppliedContracts(), HangingKafka()
    for name in "abc":
        contracts.put(a_contract(name=name))
    stops = {"c": Stop(1, Invalid("BAD_DEFINITION", column="delay"), 0.0)}

    counts = list_stream_counts(
        contracts=contracts,
        catalogue=catalogue,
        archive=MemoryArchive(),
        stops=stops,
        waits=None,
    )

    told = to_counts_response(counts).streams
    assert 1 == catalogue.asked
    assert ["BROKER_UNAVAILABLE"] * 2 + ["BAD_DEFINITION"] == [e.stopped_reason for e in told]
    assert [True] * 3 == [each.counts_unknown for each in told]


class PartlyMissingArchive(MemoryArchive):
    def accounts(self, stream, topic):
        if stream == "a":
            raise Unavailable("ARCHIVE_MISSING", stream=stream)
        return super().accounts(stream, topic)


def test_missing_archive_of_a_stream_says_nothing_of_the_others():
    contracts = AppliedContracts()
    for name in "ab":
        contracts.put(a_contract(name=name))

    [a, b] = list_stream_counts(
        contracts=contracts,
        catalogue=OneTopic(),
        archive=PartlyMissingArchive(),
        stops={},
        waits=None,
    )

    assert (None, "ARCHIVE_MISSING") == (a.account, a.stopped.reason)
    assert StreamCount("b", Account(), version=1) == b


def test_contract_that_lacks_the_key_for_personal_data_is_told_before_a_record_comes():
    columns = a_stream_document()["columns"]
    columns["origin"] = {"type": "string", "pii": {"category": "contact", "treatment": "hash"}}

    found = count_of(a_contract(columns=columns), {}).stopped

    assert ("BAD_SETTING", "INGEST_PII_KEY") == (found.reason, found.metadata["setting"])
