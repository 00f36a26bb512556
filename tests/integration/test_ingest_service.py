# SPDX-License-Identifier: Apache-2.0
"""The ingest process on a real Kafka: exact accounts, also when it is killed at any step."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from ingest_process import DEADLINE_S, REQUEST_TIMEOUT_S, Place, Service, Stream

from headrace import topics
from headrace.admin import create_topics
from headrace.errors import Busy, NotFound, Unavailable
from headrace.ingest.v1 import ingest_service_pb2 as pb
from headrace_ingest.adapters.delta_archive import COMMITS_PER_CHECKPOINT, DeltaArchive
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.judging import empty_rows
from headrace_ingest.testing import NOW_US, a_contract, a_departure, never_read
from headrace_kit.kafka import Message
from headrace_kit.offsets import committed_offsets, topic_end_offsets
from headrace_kit.testing import has_leaders, wait_until

pytestmark = pytest.mark.integration

RUNBOOK = Path(__file__).resolve().parents[2] / "docs/runbooks/lost-offsets.md"


def a_value(number: int, **changes) -> bytes:
    """Departures of ten flights."""
    return json.dumps(a_departure(number, flight=f"UA{number % 10}", **changes)).encode()


GOOD = [a_value(number) for number in range(200)]
REPEATS = GOOD[:20]
CONFLICTS = [a_value(number, delay=99) for number in range(20, 30)]
LATE = [a_value(number, departed_at=1_356_000_000_000_000) for number in range(300, 305)]
BAD = {
    "BAD_TYPE": [a_value(400, delay="late")] * 3,
    "OUT_OF_RANGE": [a_value(401, delay=-500)] * 2,
    "BAD_TIMESTAMP": [a_value(402, departed_at=0)],
    "DECODE_ERROR": [a_value(403)[:-9]] * 2,
}
WANTED = {
    "received": 200 + 20 + 10 + 5 + 8,
    "stored": 205,
    "repeats": 20,
    "late": 5,
    "dead": {reason: len(values) for reason, values in BAD.items()} | {"DUPLICATE_CONFLICT": 10},
}
IDS = {f"departed:{number}" for number in [*range(200), *range(300, 305)]}


WAVES = [
    GOOD[:60],
    [*GOOD[60:120], *REPEATS, *BAD["BAD_TYPE"]],
    [*GOOD[120:180], *CONFLICTS, *BAD["OUT_OF_RANGE"], *BAD["BAD_TIMESTAMP"]],
    [*GOOD[180:], *LATE],
]


def publish_dirt(service: Service, stream: Stream) -> None:
    """Wave after wave, each taken in before the next while the service lives."""
    stream.publish(*BAD["DECODE_ERROR"], key=b"UA3")
    for wave in WAVES:
        stream.publish(*wave)
        wait_until(lambda: stream.taken_in() or not service.running(), timeout_s=DEADLINE_S)


def seen_by(service: Service, stream: Stream) -> dict:
    counts = service.counts(stream)
    return {
        "received": counts.received,
        "stored": counts.stored,
        "repeats": counts.repeats,
        "late": counts.late,
        "dead": dict(counts.dead_lettered_by_reason),
    }


def assert_exact(service: Service, stream: Stream) -> None:
    """Nothing lost, nothing twice, all accounted, whatever happened before."""
    assert seen_by(service, stream) == WANTED
    assert dict.fromkeys(IDS, 1) == dict(service.archived(stream))
    assert {json.loads(record.value)["_id"] for record in stream.read(stream.records)} == IDS
    letters = Counter(each.headers["dl-reason"].decode() for each in stream.dead_letters().values())
    assert letters == WANTED["dead"]


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_every_record_is_accounted_for(place, request, start_service, stream):
    service = start_service(request.getfixturevalue(place))
    service.start()
    publish_dirt(service, stream)

    assert_exact(service, stream)
    assert WANTED["stored"] == len(stream.read(stream.records))
    assert 0 == service.stop()


def test_record_that_compression_hides_is_set_aside_as_a_pointer(start_service, stream, folder):
    """16 MiB that Kafka takes as 16 KiB, between two good records."""
    service = start_service(folder)
    service.start()
    stream.publish(GOOD[0])
    settings = {"compression.type": "zstd", "message.max.bytes": 64 << 20}
    producer = Producer({"bootstrap.servers": stream.bootstrap} | settings)
    producer.produce(stream.raw, b" " * (16 << 20), b"UA1")
    assert 0 == producer.flush(DEADLINE_S)
    stream.publish(GOOD[1])
    stream.wait_taken_in()

    assert {"TOO_LARGE": 1} == seen_by(service, stream)["dead"]
    assert 2 == seen_by(service, stream)["stored"]
    [letter] = stream.dead_letters().values()
    assert (b"TOO_LARGE", None) == (letter.headers["dl-reason"], letter.value)


@pytest.mark.parametrize(
    ("step", "hit"),
    [
        ("ingest.sink.polled", 2),
        ("ingest.sink.records_delivered", 3),
        ("ingest.sink.version_read", 2),
        ("ingest.sink.committed", 2),
    ],
)
def test_kill_at_a_step_of_the_sink_changes_no_number(step, hit, start_service, stream):
    service = start_service()
    service.start(fail=f"{step}:{hit}:kill")
    publish_dirt(service, stream)
    assert -signal.SIGKILL == service.wait_ended()

    service.start()
    stream.wait_taken_in()
    assert_exact(service, stream)


def test_kill_while_partitions_are_given_up_changes_no_number(start_service, stream):
    service = start_service()
    service.start(fail="ingest.sink.revoke:1:kill")
    publish_dirt(service, stream)
    assert -signal.SIGKILL == service.stop()

    service.start()
    stream.wait_taken_in()
    assert_exact(service, stream)


def test_kill_during_maintenance_changes_no_number(start_service, stream, folder):
    fill_log(folder, stream, commits=COMMITS_PER_CHECKPOINT - 3)
    service = start_service()
    service.start(fail="ingest.sink.maintain:1:kill")
    publish_dirt(service, stream)
    assert -signal.SIGKILL == service.wait_ended()

    service.start()
    stream.wait_taken_in()
    assert_exact(service, stream)


def test_kill_behind_the_removal_of_old_files_changes_no_number(start_service, stream):
    service = start_service()
    service.start()
    publish_dirt(service, stream)
    assert 0 == service.stop()
    service.start(fail="ingest.keep.vacuumed:1:kill", ready=False)
    assert -signal.SIGKILL == service.wait_ended()

    service.start()
    stream.wait_taken_in()
    assert_exact(service, stream)


def fill_log(place: Place, stream: Stream, *, commits: int) -> None:
    """Commits of another topic's account, so that the next checkpoint is near."""
    archive, contract = (
        DeltaArchive(place.uri, place.options, was_read=never_read),
        a_contract(name=stream.name),
    )
    archive.open(contract, "another topic", [0], ids_max=1)
    accounts = [Account(offset, dead_by_reason={"EMPTY": offset}) for offset in range(commits + 1)]
    for before, after in pairwise(accounts):
        archive.append(contract, empty_rows(contract.stream), {0: before}, {0: after})


def test_record_that_ends_the_process_three_times_is_set_aside(start_service, stream):
    # One key, one partition: each start dies at the first record that it judges, the same one.
    stream.publish(*[a_value(number * 10) for number in range(5)])
    service = start_service()
    for _ in range(3):
        service.start(fail="ingest.sink.judging:1:kill", ready=False)
        assert -signal.SIGKILL == service.wait_ended()
    service.start()
    stream.wait_taken_in()

    counts = service.counts(stream)
    assert (4, {"POISON_CRASH": 1}) == (counts.stored, dict(counts.dead_lettered_by_reason))


def test_process_that_slept_through_another_owner_writes_nothing(start_service, stream):
    zombie, heir = start_service(), start_service()
    zombie.start(fail="ingest.sink.version_read:2:stop")
    stream.publish(*WAVES[0])
    stream.wait_taken_in()
    stream.publish(*WAVES[1])
    heir.start()
    publish_dirt(heir, stream)
    os.kill(zombie.pid, signal.SIGCONT)
    assert 70 == zombie.wait_ended()

    stream.publish(*WAVES[3])
    stream.wait_taken_in()
    wanted = {f"departed:{number}" for number in [*range(200), *range(300, 305)]}
    assert dict.fromkeys(wanted, 1) == dict(heir.archived(stream))
    counts = heir.counts(stream)
    assert counts.received == sum(topic_end_offsets(stream.bootstrap, [stream.raw]).values())


def make_topic_again(stream: Stream, folder: Path) -> str:
    """By the runbook's script; what it says."""
    (script,) = re.findall(r"```python\n(.*?)```", RUNBOOK.read_text(), flags=re.DOTALL)
    (folder / "again.py").write_text(script)
    said = subprocess.run(
        [sys.executable, folder / "again.py", stream.bootstrap, stream.name],
        check=True, capture_output=True, text=True, timeout=DEADLINE_S)  # fmt: skip
    return said.stdout


def test_stream_with_lost_offsets_goes_on_as_the_runbook_says(
    start_service, stream, kafka_server, tmp_path
):
    service = start_service()
    service.start()
    stream.publish(*GOOD[:50])
    stream.wait_taken_in()
    assert 0 == service.stop()
    done = committed_offsets(kafka_server, "ingest", [stream.raw])
    stream.publish(*GOOD[50:])
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})
    beginnings = [TopicPartition(*partition, at + 1) for partition, at in done.items()]
    for deleted in admin.delete_records(beginnings).values():
        deleted.result(REQUEST_TIMEOUT_S)
    ends = topic_end_offsets(kafka_server, [stream.raw])
    left = sum(end - done.get(partition, -1) - 1 for partition, end in ends.items())
    service.start(ready=False)
    wait_until(lambda: b"offset_lost" in service.log.read_bytes(), timeout_s=DEADLINE_S)
    assert not service.ready()
    assert f"{left} records kept\n" == make_topic_again(stream, tmp_path)
    service.stop()

    service.start()
    stream.wait_taken_in()
    assert 50 + left == len(service.archived(stream))


def retyped() -> dict[str, Any]:
    """Columns of which one has another type than before."""
    columns = a_contract().stream.model_dump(mode="json", exclude_none=True)["columns"]
    return {**columns, "diverted": {"type": "string"}}


def test_stream_that_the_archive_cannot_hold_stops_alone_and_goes_on_by_another_contract(
    start_service, stream, kafka_server, publisher
):
    first = start_service()
    first.start()
    stream.publish(*GOOD[:10])
    stream.wait_taken_in()
    assert 0 == first.stop()
    other = Stream(kafka_server, publisher)
    other.apply()
    stream.apply(version=2, columns=retyped())
    stream.publish(*GOOD[10:20])

    service = start_service()
    service.start()
    other.publish(*GOOD[:5])
    other.wait_taken_in()
    assert service.running()
    assert "BAD_DEFINITION" == service.counts(stream).stopped_reason
    assert 10 == len(service.archived(stream))

    stream.apply(version=3)
    stream.wait_taken_in()
    assert "" == service.counts(stream).stopped_reason
    assert 20 == len(service.archived(stream))


def test_stream_of_dead_letters_stops_alone_and_goes_on_by_another_contract(
    start_service, stream, kafka_server, publisher
):
    other = Stream(kafka_server, publisher)
    other.apply()
    service = start_service()
    service.start(DEAD_LETTERS_SHARE_MAX="0.1", DEAD_LETTERS_WINDOW_RECORDS="100")
    stream.publish(*(a_value(number, clock=5_000) for number in range(50)))
    stopped = "TOO_MANY_DEAD_LETTERS"
    wait_until(lambda: stopped == service.counts(stream).stopped_reason, timeout_s=DEADLINE_S)
    assert service.ready()

    other.publish(*GOOD[:5])
    other.wait_taken_in()
    assert len(stream.dead_letters()) <= 10

    columns = a_contract().stream.model_dump(mode="json", exclude_none=True)["columns"]
    columns["clock"]["max"] = 10_000
    stream.apply(version=2, columns=columns)
    stream.wait_taken_in()
    assert "" == service.counts(stream).stopped_reason
    assert 50 == len(service.archived(stream)) + len(stream.dead_letters())


def test_versions_that_nobody_applied_hold_a_stream_once(start_service, stream, publisher):
    service = start_service()
    service.start()
    stream.publish(*GOOD[:10])
    stream.wait_taken_in()
    opened = service.log.read_text().count("stream_opened")
    schemas = [f"{stream.name}/{version}".encode() for version in range(2, 22)]
    newer = [Message(stream.raw, b"UA1", GOOD[1], (("ce_dataschema", each),)) for each in schemas]
    with service.watched() as ready:
        publisher.publish(newer)
        stream.publish(*GOOD[10:20])
        stream.wait_taken_in()

    assert [True] == ready
    counts = service.counts(stream)
    assert (20, {"SCHEMA_INCOMPATIBLE": 20}) == (counts.stored, counts.dead_lettered_by_reason)
    log = service.log.read_text()
    assert (1, opened) == (log.count("stream_waits"), log.count("stream_opened"))


DAY_AFTER_US = NOW_US + 86_400_000_000


def full(folder: Path) -> Path:
    """Nothing can be written of a day: a file lies where its folder is to be."""
    place = folder / "_event_date=2013-01-02"
    place.touch()
    return place


def away(folder: Path) -> Path:
    """Nothing can be read: what is read first leads to itself."""
    place = folder / "_delta_log" / "_last_checkpoint"
    place.symlink_to(place)
    return place


@pytest.mark.parametrize(("fail", "unknown"), [(full, False), (away, True)])
def test_stream_waits_and_says_why_while_the_archive_takes_nothing(
    start_service, stream, tmp_path, fail, unknown
):
    service = start_service()
    service.start()
    stream.publish(*GOOD[:10])
    stream.wait_taken_in()
    [folder] = tmp_path.rglob(f"records/{stream.name}")
    fault = fail(folder)
    later = {"departed_at": DAY_AFTER_US, "known_at": DAY_AFTER_US}
    stream.publish(*(a_value(number, **later) for number in range(10, 20)))
    reason = "OBJECT_STORE_UNAVAILABLE"
    wait_until(lambda: reason == service.counts(stream).stopped_reason, timeout_s=DEADLINE_S)
    told = service.counts(stream)
    assert (unknown, 0 if unknown else 10) == (told.counts_unknown, told.stored)

    fault.unlink()
    stream.wait_taken_in()
    told = service.counts(stream)
    assert ("", False, 20) == (told.stopped_reason, told.counts_unknown, told.stored)


def missing(service: Service, stream: Stream) -> bool:
    """Whether it is up and says that the stream's archive is not there, and how much is in it."""
    try:
        told = service.counts(stream)
    except Unavailable:
        return False
    return told.counts_unknown and "ARCHIVE_MISSING" == told.stopped_reason


def assert_stored_once(service: Service, stream: Stream, count: int) -> None:
    told, ids = service.counts(stream), [f"departed:{number}" for number in range(count)]
    assert ("", count, count, 0) == (
        told.stopped_reason, told.received, told.stored, told.repeats)  # fmt: skip
    assert dict.fromkeys(ids, 1) == dict(service.archived(stream))


def test_archive_that_is_away_at_the_start_is_not_begun_anew(
    start_service, stream, publisher, tmp_path
):
    objects, away = tmp_path / "objects", tmp_path / "away"
    service = start_service(Place(objects.as_uri()))
    service.start()
    stream.publish(*GOOD[:50])
    stream.wait_taken_in()
    os.kill(service.pid, signal.SIGKILL)
    service.wait_ended()
    objects.rename(away)
    stream.publish(*GOOD[50:100])
    new = Stream(stream.bootstrap, publisher)
    new.apply()
    new.publish(*GOOD[:10])
    done = committed_offsets(stream.bootstrap, "ingest", [stream.raw])

    service.start(ready=False)
    wait_until(lambda: missing(service, stream), timeout_s=DEADLINE_S)
    new.wait_taken_in()  # a stream that was never read has nothing to miss
    assert_stored_once(service, new, 10)
    assert missing(service, stream)
    assert not service.ready()
    assert not (objects / "records" / stream.name).exists()
    assert done == committed_offsets(stream.bootstrap, "ingest", [stream.raw])
    assert 50 == len(stream.read(stream.records))

    (away / "records" / stream.name).rename(objects / "records" / stream.name)
    stream.wait_taken_in()
    wait_until(service.ready, timeout_s=DEADLINE_S)
    assert_stored_once(service, stream, 100)


def test_archive_that_is_taken_away_under_work_is_waited_for(start_service, stream, tmp_path):
    objects, away = tmp_path / "objects", tmp_path / "away"
    service = start_service(Place(objects.as_uri()))
    service.start()
    stream.publish(*GOOD[:50])
    stream.wait_taken_in()
    objects.rename(away)
    stream.publish(*GOOD[50:100])
    stops = b"stream_waits"
    wait_until(lambda: stops in service.log.read_bytes(), timeout_s=DEADLINE_S)
    assert missing(service, stream)
    assert service.running()
    assert not service.ready()
    assert not list(objects.rglob("*.parquet"))

    (objects / "records").mkdir(parents=True, exist_ok=True)
    (away / "records" / stream.name).rename(objects / "records" / stream.name)
    stream.wait_taken_in()
    wait_until(service.ready, timeout_s=DEADLINE_S)
    assert_stored_once(service, stream, 100)


def test_archive_that_is_gone_for_good_is_begun_anew_as_the_runbook_says(
    start_service, stream, tmp_path
):
    objects = tmp_path / "objects"
    service = start_service(Place(objects.as_uri()))
    service.start()
    stream.publish(*GOOD[:50])
    stream.wait_taken_in()
    assert 0 == service.stop()
    objects.rename(tmp_path / "gone")
    service.start(ready=False)
    wait_until(lambda: missing(service, stream), timeout_s=DEADLINE_S)

    make_topic_again(stream, tmp_path)
    wait_until(service.ready, timeout_s=DEADLINE_S)
    stream.wait_taken_in()
    assert_stored_once(service, stream, 50)


def test_stopped_service_leaves_nothing_behind(start_service, stream):
    service = start_service()
    service.start(COMMIT_INTERVAL_S="60")
    stream.publish(*GOOD[:10])
    stream.wait_taken_in()
    # The archive rests now: what comes is gathered, and stored by the stop.
    stream.publish(*GOOD[10:])
    wait_until(lambda: len(stream.read(stream.records)) == len(GOOD))
    assert 0 == service.stop()

    assert stream.taken_in()
    assert len(GOOD) == sum(service.archived(stream).values())


def test_stream_applied_live_is_read_at_once(start_service, stream, kafka_server, publisher):
    service = start_service()
    service.start()
    other = Stream(kafka_server, publisher)
    other.apply()
    other.publish(*GOOD[:10])
    other.wait_taken_in()

    assert 10 == service.counts(other).stored
    with pytest.raises(NotFound, match="STREAM_UNKNOWN"):
        service.publish(a_request("no.such", GOOD[:1]))


def a_request(stream: str, values: list[bytes]) -> pb.PublishRequest:
    items = [
        pb.PublishItem(event_id=f"mine:{number}", key=b"UA%d" % (number % 10), value=value)
        for number, value in enumerate(values)
    ]
    return pb.PublishRequest(stream=stream, items=items)


@pytest.mark.parametrize("step", ["ingest.publish.validated", "ingest.publish.delivered"])
def test_publish_killed_before_its_answer_is_repeated_with_one_row_each(
    step, start_service, stream
):
    service = start_service()
    service.start(fail=f"{step}:1:kill")
    with pytest.raises(Unavailable):
        service.publish(a_request(stream.name, GOOD[:50]))
    assert -signal.SIGKILL == service.wait_ended()

    service.start()
    answer = service.publish(a_request(stream.name, GOOD[:50]), retries_max=5)
    stream.wait_taken_in()
    assert [True] * 50 == [status.accepted for status in answer.statuses]
    assert {f"mine:{number}": 1 for number in range(50)} == dict(service.archived(stream))


def test_publish_refuses_what_is_too_much(start_service, stream):
    service = start_service()
    service.start()

    with pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        service.publish(a_request(stream.name, GOOD[:1] * 1_001))
    statuses = service.publish(a_request(stream.name, [GOOD[0], b"", GOOD[1]])).statuses
    assert ["", "EMPTY", ""] == [status.reason for status in statuses]


def test_missing_topic_concerns_its_stream_alone_until_it_is_there(
    start_service, stream, publisher, folder
):
    """Deleted under a running service: the process lives on and reads the other stream."""
    service, other = start_service(folder), Stream(stream.bootstrap, publisher)
    other.apply()
    service.start()
    stream.publish(*GOOD[:20])
    stream.wait_taken_in()
    admin = AdminClient({"bootstrap.servers": stream.bootstrap, "log_level": 0})
    admin.delete_topics([stream.raw])[stream.raw].result(REQUEST_TIMEOUT_S)
    wait_until(lambda: service.counts(stream).stopped_reason == "TOPIC_MISSING")
    assert {"topic": stream.raw} == dict(service.counts(stream).stopped_details)

    other.publish(*GOOD)
    other.wait_taken_in()
    assert "" == service.counts(other).stopped_reason
    assert len(GOOD) == service.counts(other).stored

    create_topics(stream.bootstrap, [(stream.raw, topics.RAW)])
    wait_until(lambda: has_leaders(stream.bootstrap, [stream.raw]))
    stream.publish(*GOOD[20:40])
    wait_until(lambda: service.counts(stream).stored == 20, timeout_s=DEADLINE_S)
    assert "" == service.counts(stream).stopped_reason
    assert dict.fromkeys({f"departed:{number}" for number in range(40)}, 1) == dict(
        service.archived(stream)
    )


def test_stream_of_which_the_topic_of_records_is_missing_is_told_with_its_counts(
    start_service, stream
):
    service = start_service()
    service.start()
    stream.publish(*GOOD[:20])
    stream.wait_taken_in()
    admin = AdminClient({"bootstrap.servers": stream.bootstrap, "log_level": 0})
    admin.delete_topics([stream.records])[stream.records].result(REQUEST_TIMEOUT_S)
    wait_until(lambda: service.counts(stream).stopped_reason == "TOPIC_MISSING")
    counts = service.counts(stream)
    assert {"topic": stream.records} == dict(counts.stopped_details)
    assert (20, 20) == (counts.received, counts.stored)

    create_topics(stream.bootstrap, [(stream.records, topics.INGEST_RECORDS)])
    wait_until(lambda: has_leaders(stream.bootstrap, [stream.records]))
    stream.publish(*GOOD[20:40])
    wait_until(lambda: service.counts(stream).stored == 40, timeout_s=DEADLINE_S)
