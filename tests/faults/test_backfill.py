# SPDX-License-Identifier: Apache-2.0
"""A view over history that Kafka has no longer, filled and killed half way (FAULTS F10)."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr
from tests.faults import oracle
from tests.faults.load import WAVE_S_MAX, waves
from tests.faults.world import DEFINITIONS, RECORDS, STREAM_DEFINITION, World, view

from headrace.errors import NotFound, Unavailable
from headrace_kit.kafka import KafkaPublisher, Message
from headrace_kit.objects import S3Settings, delta_storage_options
from headrace_kit.offsets import topic_begin_offsets, topic_end_offsets
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.faults


@pytest.fixture
def on_s3(world: World, s3_server) -> Iterator[None]:
    world.object_store_uri = f"s3://headrace/{uuid.uuid4().hex}"
    world.store_settings = {
        "S3_ENDPOINT": s3_server.endpoint,
        "S3_ACCESS_KEY": s3_server.access_key,
        "S3_SECRET_KEY": s3_server.secret_key,
    }
    s3 = S3Settings(s3_server.endpoint, s3_server.access_key, SecretStr(s3_server.secret_key))
    world.store_options = delta_storage_options(world.object_store_uri, s3)
    yield
    world.close_services()


def take_back(world: World, *keys: str) -> None:
    publisher = KafkaPublisher(world.bootstrap, client_id="faults")
    publisher.publish([Message(DEFINITIONS, key.encode(), None) for key in keys])
    publisher.close(5.0)


def forget_records(world: World) -> None:
    """As retention would: nothing of what was published is left."""
    admin = AdminClient({"bootstrap.servers": world.bootstrap, "log_level": 0})
    ends = topic_end_offsets(world.bootstrap, [RECORDS])
    asked = [TopicPartition(*partition, end) for partition, end in ends.items()]
    for answer in admin.delete_records(asked).values():
        answer.result(10.0)
    assert ends == topic_begin_offsets(world.bootstrap, [RECORDS])


def answered(world: World, as_of_us: int) -> Mapping[tuple[str, str], float] | None:
    """None while a view is unknown or filled."""
    try:
        return world.features(as_of_us)
    except (NotFound, Unavailable) as err:
        if err.reason not in ("FEATURE_UNKNOWN", "RESTORING"):
            raise
        return None


def test_view_over_history_that_kafka_has_no_longer_survives_a_kill_half_way(
    on_s3, world, ingest, feature
):
    take_back(world, "view/shop")
    ingest.start()
    feature.start()
    waves(world, ingest, feature, count=3)
    world.settle()
    forget_records(world)
    feature.stop()
    feature.start(fail="feature.backfill.half:1:kill")
    world.define(STREAM_DEFINITION, view("shop"))
    assert -signal.SIGKILL == feature.wait_ended()
    waves(world, ingest, count=1)

    feature.start()
    waves(world, ingest, feature, count=1)
    world.settle()
    as_of_us = time.time_ns() // 1_000
    found = wait_until(lambda: answered(world, as_of_us), timeout_s=WAVE_S_MAX)
    stored = {row.event_id for row in world.rows()}
    assert stored == {*world.orders}
    np.testing.assert_equal(found, oracle.answers(world.orders.values(), as_of_us))
