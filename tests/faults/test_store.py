# SPDX-License-Identifier: Apache-2.0
"""The object store and the disk fail (FAULTS section 6, rows 21, 23, 27, 38)."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from tests.faults.checker import Findings
from tests.faults.load import steady, waves
from tests.faults.world import DEAD_LETTERS, World

from headrace import topics
from headrace.admin import create_topics
from headrace_kit.objects import object_store
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.faults

DEADLINE_S = 60.0
DISK_BYTES = 32 << 20
COMMIT = re.compile(rb"PUT /[^ ]*/_delta_log/\d+\.json")


@pytest.mark.parametrize("fault", ["cut", "unavailable"])
def test_object_store_away_under_load(fault, world, s3_proxy, ingest, feature):
    ingest.start()
    feature.start()
    with steady(world) as load:
        load.wait_sent(500)
        s3_proxy.cut() if fault == "cut" else setattr(s3_proxy.faults, fault, True)
        load.wait_sent(1_000)
        wait_until(lambda: b"object_store_failed" in ingest.log.read_bytes(), timeout_s=DEADLINE_S)
        s3_proxy.mend()
        load.wait_sent(500)

    assert Findings() == world.check()


def test_lost_reply_of_a_commit_is_not_committed_again(world, s3_proxy, ingest, feature):
    ingest.start()
    feature.start()
    waves(world, ingest, count=2)
    s3_proxy.faults.drop_reply_to = COMMIT
    waves(world, ingest, count=2)
    wait_until(lambda: s3_proxy.faults.dropped, timeout_s=DEADLINE_S)

    assert Findings() == world.check()


def test_ingest_killed_between_its_files_and_their_commit(world, s3_proxy, ingest, feature):
    """A file that no commit names is seen by nobody (section 5, I8)."""
    ingest.start()
    feature.start()
    waves(world, ingest, count=2)
    s3_proxy.faults.hold_request = COMMIT
    world.produce(world.new_orders(100))
    wait_until(lambda: s3_proxy.faults.held, timeout_s=DEADLINE_S)
    ingest.kill()
    s3_proxy.mend()

    ingest.start()
    assert Findings() == world.check()
    named = {uri.rpartition("/")[2] for uri in world.table().file_uris()}
    files = object_store(world.object_store_uri, world.s3).keys("records/orders")
    assert {each.rpartition("/")[2] for each in files if each.endswith(".parquet")} - named


@pytest.fixture
def small_disk(world: World, tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], check=True
    )
    yield disk
    world.close_services()
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk_under_the_archive_and_room_again(world, small_disk, ingest, feature):
    world.object_store_uri = (small_disk / "objects").as_uri()
    ingest.start()
    feature.start()
    waves(world, ingest, count=2)
    filler = small_disk / "filler"
    fill(filler)
    world.produce(world.new_orders(500))
    wait_until(lambda: b"object_store_failed" in ingest.log.read_bytes(), timeout_s=DEADLINE_S)
    filler.unlink()

    assert Findings() == world.check()


def test_full_disk_under_the_state_and_room_again(world, small_disk, ingest, feature):
    """The fold waits, reads go on, and nothing half is stored."""
    feature.folder = small_disk / "feature"
    ingest.start()
    feature.start()
    waves(world, ingest, feature, count=2)
    filler = small_disk / "filler"
    fill(filler)
    world.produce(world.new_orders(500))
    wait_until(lambda: b"DISK_FULL" in feature.log.read_bytes(), timeout_s=DEADLINE_S)
    world.features(time.time_ns() // 1_000)
    filler.unlink()

    assert Findings() == world.check()
    assert feature.running()


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            return


def test_dead_letters_wait_for_their_topic(world, ingest, feature):
    """Nothing is set aside into the void: the partition stands until the topic is there."""
    ingest.start()
    feature.start()
    waves(world, ingest, count=1)
    admin = AdminClient({"bootstrap.servers": world.bootstrap, "log_level": 0})
    admin.delete_topics([DEAD_LETTERS])[DEAD_LETTERS].result(DEADLINE_S)
    value = b'{"order_id": "bad", "customer": "customer-1", "amount": "much"}'
    world.produce({"bad": value})
    world.produce(world.new_orders(100))
    wait_until(lambda: not ingest.ready(), timeout_s=DEADLINE_S)

    create_topics(world.bootstrap, [(DEAD_LETTERS, topics.INGEST_DEAD_LETTERS)])
    assert Findings() == world.check()
