# SPDX-License-Identifier: Apache-2.0
"""An erased entity stays gone: late copies, replays, old snapshots, kills (FAULTS 6, row 42)."""

from __future__ import annotations

import shutil
import signal
import time

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient
from deltalake import DeltaTable
from tests.faults import oracle
from tests.faults.load import waves
from tests.faults.test_repeats import rewind
from tests.faults.world import RAW, Service, World, order_value, view

from headrace import topics
from headrace.admin import create_topics
from headrace.client import Addresses, Client
from headrace.errors import Unavailable
from headrace.ingest.v1.erasures_pb2 import EventsErased
from headrace_kit.objects import delta_table_uri, object_store
from headrace_kit.offsets import topic_end_offsets
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.faults

DEADLINE_S = 60.0
ERASED, REQUEST = "customer-1", "erase customer-1"
ROWS = topics.FEATURE_ROWS.of("customer")
SNAPSHOTS = {"SNAPSHOT_INTERVAL_S": "1"}


def erase(ingest: Service, customer: str = ERASED) -> None:
    """The same request until it is answered: a channel that met a dead process waits a while."""

    def answered() -> bool:
        try:
            ingest.datasets().erase("customer", customer, request_id=f"erase {customer}")
        except Unavailable:
            return False
        return True

    wait_until(answered, timeout_s=DEADLINE_S)


def gone(world: World, *besides: str) -> bool:
    """The entities have no answer, and every other one is that of a world without their events."""
    as_of_us, erased = time.time_ns() // 1_000, {ERASED, *besides}
    found = world.features(as_of_us)
    others = [order for order in world.orders.values() if order.customer not in erased]
    expected = oracle.answers(others, as_of_us)
    nothing = all(
        value == 0.0 or np.isnan(value) for (name, _), value in found.items() if name in erased
    )
    same = [np.array_equal(found[name], value, equal_nan=True) for name, value in expected.items()]
    return nothing and all(same)


def stored(world: World) -> set[str]:
    """The erased entity's events in the archive."""
    own = {event_id for event_id, order in world.orders.items() if order.customer == ERASED}
    return own & {row.event_id for row in world.rows()}


def late_copies(world: World) -> int:
    """As many as its publisher sends again."""
    own = [order for order in world.orders.values() if order.customer == ERASED]
    world.produce({order.event_id: order_value(order) for order in own})
    return len(own)


def refused(world: World) -> int:
    return sum(letter.reason == "ENTITY_ERASED" for letter in world.letters())


@pytest.mark.parametrize("step", ["ingest.erase.events_told", "ingest.erase.deleted"])
def test_ingest_killed_while_it_erases(step, world, ingest, feature):
    feature.start()
    ingest.start(fail=f"{step}:1:kill")
    waves(world, ingest, count=3)
    world.settle()
    assert stored(world)
    with pytest.raises(Unavailable):
        ingest.datasets().erase("customer", ERASED, request_id=REQUEST)
    assert -signal.SIGKILL == ingest.wait_ended()

    ingest.start()
    erase(ingest)
    copies = late_copies(world)
    world.settle()
    wait_until(lambda: gone(world), timeout_s=DEADLINE_S)
    assert set() == stored(world)
    assert copies == refused(world)


def settle_erasure(world: World) -> None:
    """As its last pass notes it, some minutes later: no pass tells it again."""
    objects = object_store(world.object_store_uri, world.s3)
    (begun,) = objects.keys("erasures")
    assert objects.put_if_absent(begun.replace("begun.json", "settled"), b"")


def test_erased_entity_stays_gone_when_the_topic_of_erasures_is_lost(world, ingest, feature):
    ingest.start()
    feature.start()
    waves(world, ingest, count=2)
    world.settle()
    erase(ingest)
    settle_erasure(world)
    ingest.stop()
    make_again(world, topics.INGEST_ERASURES)
    copies = late_copies(world)

    ingest.start()
    world.settle()
    assert set() == stored(world)
    assert copies == refused(world)


def test_log_of_erased_events_that_is_made_again_is_followed_from_its_beginning(
    world, ingest, feature
):
    """It is longer than the place that was reached when feature looks again."""
    log = topics.INGEST_ERASED_EVENTS
    ingest.start()
    feature.start()
    waves(world, ingest, feature, count=2)
    for customer in ("nobody-1", "nobody-2", ERASED):
        erase(ingest, customer)
    wait_until(lambda: gone(world), timeout_s=DEADLINE_S)
    place = told(world, log)
    feature.stop()
    ingest.stop()
    make_again(world, log)

    ingest.start()
    erase(ingest, "customer-2")
    for number in range(3, 3 + place):
        erase(ingest, f"nobody-{number}")
    assert told(world, log) > place
    feature.start()
    wait_until(lambda: gone(world, "customer-2"), timeout_s=DEADLINE_S)


def told(world: World, topic: topics.Topic) -> int:
    return sum(topic_end_offsets(world.bootstrap, [topic.name]).values())


def make_again(world: World, topic: topics.Topic) -> None:
    """An operator deletes it, and the start makes it anew."""
    admin = AdminClient({"bootstrap.servers": world.bootstrap, "log_level": 0})
    admin.delete_topics([topic.name])[topic.name].result(DEADLINE_S)
    wait_until(lambda: topic.name not in admin.list_topics(timeout=DEADLINE_S).topics)
    wait_until(lambda: create_topics(world.bootstrap, [(topic.name, topic)]))


@pytest.mark.parametrize("step", ["feature.erase.half", "kit.state.in_batch"])
def test_feature_killed_while_it_takes_erased_events_out(step, world, ingest, feature):
    ingest.start()
    feature.start()
    waves(world, ingest, count=3)
    world.settle()
    feature.stop()
    erase(ingest)
    wait_until(lambda: told_events(world), timeout_s=DEADLINE_S)  # its first round has them
    feature.start(fail=f"{step}:1:kill")
    assert -signal.SIGKILL == feature.wait_ended()

    feature.start()
    wait_until(lambda: gone(world), timeout_s=DEADLINE_S)


def told_events(world: World) -> bool:
    log = world.read(topics.INGEST_ERASED_EVENTS.name)
    return any(EventsErased.FromString(value).event_ids for _, value, _ in log)


def materialized(world: World, feature: Service) -> int:
    """How many rows of the entity are in the feature table once it was written on."""
    client = Client(Addresses(feature=f"127.0.0.1:{feature.grpc_port}"))
    for _ in client.materialize_view("customer"):
        pass
    return rows_in_table(world)


def rows_in_table(world: World) -> int:
    uri = delta_table_uri(world.object_store_uri, "features", "customer")
    table = DeltaTable(uri, storage_options=world.store_options)
    rows = table.to_pyarrow_table(columns=["customer"])
    return rows.column("customer").to_pylist().count(ERASED)


def row_is_published(world: World) -> bool:
    newest = {key: value for key, value, _ in world.read(ROWS)}
    return newest.get(ERASED.encode()) is not None


def files_in_table(world: World) -> set[str]:
    return {file.name for file in world.folder.glob("objects/features/customer/**/*.parquet")}


@pytest.mark.parametrize("step", ["feature.erase.rows_told", "feature.erase.table_cleaned"])
def test_published_rows_and_feature_tables_lose_it_though_feature_is_killed(
    step, world, ingest, feature
):
    create_topics(world.bootstrap, [(ROWS, topics.FEATURE_ROWS)])
    world.define({**view("customer"), "publish_rows": True}, version=2)
    feature.start(fail=f"{step}:1:kill")  # before there is an archive that the view is filled from
    ingest.start()
    waves(world, ingest, feature, count=3)
    world.settle()
    wait_until(lambda: row_is_published(world), timeout_s=DEADLINE_S)
    held = wait_until(lambda: materialized(world, feature), timeout_s=DEADLINE_S)
    before = files_in_table(world)
    erase(ingest)
    assert -signal.SIGKILL == feature.wait_ended()

    feature.start()
    wait_until(lambda: not rows_in_table(world), timeout_s=DEADLINE_S)
    wait_until(lambda: not row_is_published(world), timeout_s=DEADLINE_S)
    wait_until(lambda: gone(world), timeout_s=DEADLINE_S)
    # The files go with the next pass of ingest, which looks whether the rows are out.
    again = ingest.datasets().erase("customer", ERASED, request_id=REQUEST)
    assert [("customer", held)] == [(each.view, each.rows) for each in again.views]
    assert not before & files_in_table(world)
    late_copies(world)
    world.settle()
    assert 0 == materialized(world, feature)
    assert not row_is_published(world)


def test_nothing_that_is_rebuilt_holds_it(world, s3_proxy, ingest, feature):
    """From an old snapshot, from Kafka's beginning, and by an ingest that reads all again."""
    ingest.start()
    feature.start(**SNAPSHOTS)
    waves(world, ingest, count=3)
    world.settle()
    objects = object_store(world.object_store_uri, world.s3)
    wait_until(world.snapshots, timeout_s=DEADLINE_S)
    old = {key: objects.get(key) for key in objects.keys("feature")}
    erase(ingest)
    wait_until(lambda: gone(world), timeout_s=DEADLINE_S)
    feature.kill()

    replace_snapshots(objects, old)
    shutil.rmtree(feature.folder)
    feature.start(**SNAPSHOTS)
    wait_until(lambda: gone(world), timeout_s=DEADLINE_S)
    assert b"restored" in feature.log.read_bytes()

    feature.kill()
    replace_snapshots(objects, {})
    shutil.rmtree(feature.folder)
    feature.start(**SNAPSHOTS)
    world.settle()
    wait_until(lambda: gone(world), timeout_s=DEADLINE_S)

    ingest.stop()
    rewind(world, "ingest", RAW)
    ingest.start()
    world.settle()
    assert gone(world)
    assert set() == stored(world)


def replace_snapshots(objects, others: dict[str, bytes]) -> None:
    for key in objects.keys("feature"):
        objects.delete(key)
    for key, value in others.items():
        objects.put_if_absent(key, value)
