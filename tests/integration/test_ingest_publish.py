# SPDX-License-Identifier: Apache-2.0
"""The doors of ingest: OK means durable, whatever dies, and every refusal has its reason."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from google.rpc.error_details_pb2 import BadRequest
from grpc_status import rpc_status
from ingest_process import DEADLINE_S, REQUEST_TIMEOUT_S, Service, Stream

from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.errors import Unavailable
from headrace.ingest.v1 import ingest_service_pb2 as pb
from headrace.ingest.v1 import ingest_service_pb2_grpc as pb_grpc
from headrace.local.java import find_java
from headrace.local.kafka import KafkaBroker, provide_jars
from headrace.local.ports import pick_ports
from headrace.local.process import Child
from headrace.publishing import Item, publish_items
from headrace.raw_producer import RawProducer, raw_producer
from headrace.rpc import error_of, open_channel, retry_delay_s
from headrace_ingest.adapters.grpc_api import CALLS_MAX
from headrace_ingest.testing import a_departure
from headrace_kit.kafka import KafkaPublisher
from headrace_kit.offsets import partitions_by_topic
from headrace_kit.testing import has_leaders, wait_until

pytestmark = pytest.mark.integration


def an_item(number: int, **changes) -> Item:
    """A departure under an id of the caller's."""
    value = json.dumps(a_departure(number, flight=f"UA{number % 10}", **changes)).encode()
    return Item(f"mine:{number}", b"UA%d" % (number % 10), value)


ITEMS = [an_item(number) for number in range(3_000)]
ONCE_EACH = {item.event_id: 1 for item in ITEMS}


def channel(service: Service) -> grpc.Channel:
    return open_channel(f"127.0.0.1:{service.grpc_port}")


def a_request(stream: Stream, items, kind=pb.PublishRequest):
    return kind(stream=stream.name, items=[pb.PublishItem(**item._asdict()) for item in items])


@pytest.mark.parametrize(
    "step",
    [
        "ingest.publish.validated:3",
        "ingest.publish.produced:3",
        "ingest.publish.delivered:3",
        "ingest.publish.stream_half:3",
    ],
)
def test_stream_killed_at_a_step_is_gone_on_with_and_stores_each_once(step, start_service, stream):
    service = start_service()
    service.start(fail=f"{step}:kill")
    with ThreadPoolExecutor(1) as caller:
        publishing = caller.submit(publish_items, channel(service), stream.name, ITEMS)
        assert -signal.SIGKILL == service.wait_ended()
        service.start()
        published = publishing.result(DEADLINE_S)

    stream.wait_taken_in()
    assert (len(ITEMS), []) == (published.accepted, published.refused)
    assert ONCE_EACH == dict(service.archived(stream))


def test_stream_of_a_process_killed_while_it_drains_was_answered_for_what_is_durable(
    start_service, stream
):
    service, answered = start_service(), threading.Event()
    service.start(fail="ingest.publish.flush:1:kill")
    stub = pb_grpc.IngestServiceStub(channel(service))

    def requests():
        yield a_request(stream, ITEMS[:500], pb.PublishStreamRequest)
        answered.wait(DEADLINE_S)

    answers = stub.PublishStream(requests(), timeout=DEADLINE_S)
    assert 500 == next(answers).items
    assert -signal.SIGKILL == service.stop()
    with pytest.raises(grpc.RpcError) as raised:
        next(answers)
    answered.set()

    assert grpc.StatusCode.UNAVAILABLE == raised.value.code()
    assert 500 == len(stream.read(stream.raw))


def test_stream_ends_as_unavailable_when_the_service_drains(start_service, stream):
    service, over = start_service(), threading.Event()
    service.start()
    stub = pb_grpc.IngestServiceStub(channel(service))

    def requests():
        yield a_request(stream, ITEMS[:5], pb.PublishStreamRequest)
        over.wait(DEADLINE_S)

    answers = stub.PublishStream(requests(), timeout=DEADLINE_S)
    next(answers)
    os.kill(service.pid, signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as raised:
        next(answers)
    over.set()

    assert "SERVICE_UNAVAILABLE" == error_of(raised.value).reason
    assert 0 == service.wait_ended()


def test_every_refusal_has_its_status_and_reason(start_service, stream):
    service = start_service()
    service.start()
    publish = pb_grpc.IngestServiceStub(channel(service)).Publish
    good = ITEMS[0]
    publish(a_request(stream, [good]), timeout=DEADLINE_S, wait_for_ready=True)

    def refused(*items):
        with pytest.raises(grpc.RpcError) as raised:
            publish(a_request(stream, items), timeout=DEADLINE_S)
        return raised.value.code().name, error_of(raised.value).reason

    assert ("INVALID_ARGUMENT", "EMPTY") == refused(good._replace(value=b""))
    assert ("INVALID_ARGUMENT", "KEY_MISSING") == refused(good._replace(key=b""))
    assert ("INVALID_ARGUMENT", "BAD_ID") == refused(good._replace(event_id="../x"))
    assert ("INVALID_ARGUMENT", "BAD_REQUEST") == refused()
    assert ("ALREADY_EXISTS", "DUPLICATE_CONFLICT") == refused(good._replace(value=b"{}"))
    assert ("RESOURCE_EXHAUSTED", "BATCH_TOO_LARGE") == refused(*[good] * 1_001)
    large = good._replace(value=b"x" * 1_000_000)
    assert ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE") == refused(*[large] * 5)

    answer = publish(a_request(stream, [good, good._replace(value=b""), ITEMS[1]]), timeout=10)
    assert [(True, "", True), (False, "EMPTY", False), (True, "", False)] == [
        (each.accepted, each.reason, each.repeat) for each in answer.statuses
    ]


def test_bad_field_is_told_as_a_violation(start_service, stream):
    service = start_service()
    service.start()
    publish = pb_grpc.IngestServiceStub(channel(service)).Publish

    with pytest.raises(grpc.RpcError) as raised:
        publish(a_request(stream, []), timeout=DEADLINE_S, wait_for_ready=True)

    told = BadRequest()
    assert any(detail.Unpack(told) for detail in rpc_status.from_call(raised.value).details)
    assert ["items"] == [violation.field for violation in told.field_violations]


def peak_mib(service: Service) -> float:
    status = Path(f"/proc/{service.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def test_payload_of_10_mb_is_refused_before_it_is_held(start_service, stream):
    service = start_service()
    service.start()
    publish = pb_grpc.IngestServiceStub(channel(service)).Publish
    publish(a_request(stream, ITEMS[:1_000]), timeout=DEADLINE_S, wait_for_ready=True)
    stream.wait_taken_in()
    before = peak_mib(service)

    for _ in range(3):
        with pytest.raises(grpc.RpcError) as raised:
            publish(a_request(stream, [ITEMS[0]._replace(value=b"x" * 10_000_000)]), timeout=10)
        assert grpc.StatusCode.RESOURCE_EXHAUSTED == raised.value.code()

    assert peak_mib(service) - before < 20


def test_record_that_is_too_large_for_the_door_costs_no_other_one(start_service, stream):
    service = start_service()
    service.start()
    huge = ITEMS[1]._replace(value=b"x" * 6_000_000)
    published = publish_items(channel(service), stream.name, [ITEMS[0], huge, *ITEMS[2:5]])

    assert (4, [(2, "TOO_LARGE")]) == (published.accepted, published.refused)
    stream.wait_taken_in()
    assert {ITEMS[n].event_id: 1 for n in (0, 2, 3, 4)} == dict(service.archived(stream))


@pytest.fixture
def own_broker(tool_cache, server_dir, quick_kafka):
    """A broker that may be stopped, and its process."""
    jars, (port, *ports) = provide_jars(tool_cache), pick_ports(2)
    folder = server_dir / f"kafka-{port}"
    broker = KafkaBroker(folder, port, *ports, find_java(), jars, options=quick_kafka)
    children = []

    def start() -> Child:
        children.append(Child(broker.process(), server_dir / f"{port}.log", server_dir))
        children[-1].wait_ready()
        return children[-1]

    yield broker.bootstrap, start
    for child in children:
        child.kill()


@pytest.fixture
def own_world(own_broker, folder, tmp_path):
    """A broker of its own, a service and a stream on it."""
    bootstrap, start = own_broker
    child = start()
    create_topics(bootstrap, static_topics())
    publisher = KafkaPublisher(bootstrap, client_id="test")
    stream = Stream(bootstrap, publisher)
    stream.apply()
    publisher.close(10.0)
    service = Service(bootstrap, folder, tmp_path)
    service.start()
    yield child, start, service, stream
    service.close()


def test_full_queue_is_told_at_once_and_nothing_accepted_is_lost(own_world):
    child, _, service, stream = own_world
    publish = pb_grpc.IngestServiceStub(channel(service)).Publish
    publish(a_request(stream, ITEMS[:1]), timeout=DEADLINE_S, wait_for_ready=True)
    os.kill(child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)  # the broker answers nothing any more
    # Whichever call comes last finds no place: which one that is, the network decides.
    items = ITEMS[1 : CALLS_MAX + 2]
    calls = [publish.future(a_request(stream, [item]), timeout=8.0) for item in items]

    refused = wait_until(lambda: [call for call in calls if call.done()])
    assert [("QUEUE_FULL", 0.2)] == [
        (error_of(call.exception()).reason, retry_delay_s(call.exception())) for call in refused
    ]
    # The service waits as long as its caller does: who tells of it first, the clocks decide.
    held = [call.exception() for call in calls if call not in refused]
    assert CALLS_MAX == len(held)
    assert all(
        error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        or error_of(error).reason == "DELIVERY_UNKNOWN"
        for error in held
    )

    os.kill(child.pid, signal.SIGCONT)
    published = publish_items(channel(service), stream.name, ITEMS)
    assert len(ITEMS) == published.accepted
    stream.wait_taken_in()
    assert ONCE_EACH == dict(service.archived(stream))


def test_broker_away_is_unavailable_and_costs_nothing_but_time(own_world):
    child, start, service, stream = own_world
    publish = pb_grpc.IngestServiceStub(channel(service)).Publish
    publish(a_request(stream, ITEMS[:1]), timeout=DEADLINE_S, wait_for_ready=True)
    child.stop()

    with pytest.raises(grpc.RpcError) as raised:
        publish(a_request(stream, ITEMS[1:2]), timeout=20.0)
    assert isinstance(error_of(raised.value), Unavailable)
    with ThreadPoolExecutor(1) as caller:
        publishing = caller.submit(publish_items, channel(service), stream.name, ITEMS)
        start()
        published = publishing.result(DEADLINE_S)

    assert len(ITEMS) == published.accepted
    stream.wait_taken_in()
    assert ONCE_EACH == dict(service.archived(stream))


def made_again(stream, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": stream.bootstrap, "log_level": 0})
    admin.delete_topics([stream.raw])[stream.raw].result(REQUEST_TIMEOUT_S)
    wait_until(lambda: {} == partitions_by_topic(stream.bootstrap, [stream.raw]))
    if partitions:
        topic = NewTopic(stream.raw, partitions, 1)
        admin.create_topics([topic])[stream.raw].result(REQUEST_TIMEOUT_S)
        wait_until(lambda: has_leaders(stream.bootstrap, [stream.raw]))


def test_client_publishes_on_when_a_topic_is_made_again_with_fewer_partitions(stream):
    """It remembers more of them, and until it looks again that the topic is missing."""
    publisher = RawProducer(raw_producer(stream.bootstrap))
    rows = [(f"key-{number}".encode(), b"%d" % number) for number in range(100)]
    assert 100 == publisher.append(stream.raw, rows)

    made_again(stream, partitions=1)
    assert 100 == publisher.append(stream.raw, rows)
    assert sorted(rows) == sorted((r.key, r.value) for r in stream.read(stream.raw))

    made_again(stream, partitions=0)
    with pytest.raises(Unavailable, match="TOPIC_MISSING"):
        publisher.append(stream.raw, rows)
    with pytest.raises(Unavailable, match="TOPIC_MISSING"):
        publisher.append(stream.raw, rows)
    create_topics(stream.bootstrap, [(stream.raw, topics.RAW)])
    wait_until(lambda: has_leaders(stream.bootstrap, [stream.raw]))
    assert 100 == publisher.append(stream.raw, rows)
    assert sorted(rows) == sorted((r.key, r.value) for r in stream.read(stream.raw))


def test_topic_that_is_gone_is_told_by_both_doors(start_service, stream):
    service = start_service()
    service.start()
    admin = AdminClient({"bootstrap.servers": stream.bootstrap, "log_level": 0})
    admin.delete_topics([stream.raw])[stream.raw].result(REQUEST_TIMEOUT_S)
    wait_until(lambda: {} == partitions_by_topic(stream.bootstrap, [stream.raw]))

    rows = [(item.key, item.value) for item in ITEMS[:5]]
    for publish in (
        lambda: RawProducer(raw_producer(stream.bootstrap)).append(stream.raw, rows),
        lambda: publish_items(channel(service), stream.name, ITEMS[:5]),
    ):
        with pytest.raises(Unavailable, match="TOPIC_MISSING") as gone:
            publish()
        told = gone.value.metadata
        assert (stream.raw, "0") == (told["topic"], told["accepted"])
