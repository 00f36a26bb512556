# SPDX-License-Identifier: Apache-2.0
"""A million entities with 24 hourly observations each: memory, and the way back from a lost disk.

24 million events go through Kafka; memory is looked at all the way, at rest, and after 100,000
reads of random entities. Then the process is killed, its disk emptied, and the clock runs until
reads are answered again. The raw limit copies the bytes of the snapshot, file by file.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np

from benchmarks.clicks import HOUR_US, START_US, amount, clicks, moment
from benchmarks.machine import Machine, ServiceUnderTest, machine, publish, rate
from benchmarks.outcome import Outcome, say
from benchmarks.stream import STREAM_DEFINITION, TOPIC
from headrace import topics
from headrace.admin import create_topics
from headrace.feature.v1 import feature_service_pb2 as pb
from headrace.feature.v1 import feature_service_pb2_grpc as service
from headrace_feature.adapters.state_snapshots import StateSnapshots
from headrace_kit.clock import SystemClock
from headrace_kit.objects import object_store
from headrace_kit.offsets import topic_end_offsets

USERS, HOURS = 1_000_000, 24
READS, READ_ROWS = 1_000, 100
RSS_MB_MAX, REBUILD_S_MAX = 1_074, 60.0  # 1 GiB
SNAPSHOT_WAIT_S = 300.0
VIEW_DEFINITION = {
    "kind": "view",
    "name": "user",
    "description": "What a user clicked.",
    "stream": "clicks",
    "entity": ["user"],
    "features": {
        "count_1h": {"aggregate": "count", "window": "1h"},
        "sum_24h": {"aggregate": "sum", "column": "amount", "window": "24h"},
        "max_24h": {"aggregate": "max", "column": "amount", "window": "24h"},
    },
}
SETTINGS = {"keep_days": "3650", "snapshot_interval_s": "20"}


def main() -> None:
    with machine() as where:
        create_topics(where.bootstrap, [(TOPIC, topics.INGEST_RECORDS)])
        where.define(STREAM_DEFINITION, VIEW_DEFINITION)
        with where.service("feature", **SETTINGS) as feature:
            rss_mb = load(where, feature)
            wrong = mistakes(feature, seed=1)
            copied_s = wait_copied(where)
            feature.child.kill()
        shutil.rmtree(where.data_folder("feature"))
        raw_s = copy_s(where.folder / "objects", where.folder / "copy")
        begun_s = time.monotonic()
        with where.service("feature", **SETTINGS) as feature:
            with watched(feature) as rebuilding:
                wait_answered(feature)
                rebuilt_s = time.monotonic() - begun_s
                wrong += mistakes(feature, seed=2)
            say(f"RSS of the rebuild and a read of 1,000: {max(rebuilding):,.0f} MB at most")
            rss_mb = max(rss_mb, *rebuilding)
    say(
        f"rebuilt in {rebuilt_s:.1f} s; the snapshot was whole {copied_s:.0f} s after the last read"
    )
    say(f"answers that are wrong: {wrong}")
    ok = rss_mb <= RSS_MB_MAX and rebuilt_s <= REBUILD_S_MAX and not wrong
    bar = f"RSS <= 1 GiB (was {rss_mb:,.0f} MB at most), rebuild <= 60 s, every answer right"
    say(Outcome("state", rebuilt_s, "s", raw_s, bar, ok).line())


def load(where: Machine, feature: ServiceUnderTest) -> float:
    """Publish and fold everything, then read; the most memory that was seen, in MB."""
    events = clicks(USERS, HOURS, step_us=HOUR_US)
    with watched(feature) as seen:
        filling = threading.Thread(target=publish, args=(where, TOPIC, events))
        filling.start()
        rate(where, feature, "feature", TOPIC, USERS * HOURS)
        filling.join()
    say(f"RSS while {USERS * HOURS:,} events came: {max(seen):,.0f} MB at most")
    with watched(feature) as resting:
        wait_merged(feature)
    say(f"RSS at rest: {resting[-1]:,.0f} MB ({max(resting):,.0f} while runs were merged)")
    with watched(feature) as reading:
        read(feature, seed=3)
    say(f"RSS after {READS * READ_ROWS:,} random reads: {reading[-1]:,.0f} MB, {max(reading):,.0f}")
    return max(*seen, *resting, *reading)


@contextmanager
def watched(feature: ServiceUnderTest) -> Iterator[list[float]]:
    """Memory in MB, four times a second."""
    over, seen = threading.Event(), [feature.rss_mb()]

    def watch() -> None:
        while not over.wait(0.25):
            seen.append(feature.rss_mb())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        seen.append(feature.rss_mb())


def wait_merged(feature: ServiceUnderTest) -> None:
    """Until the service has nothing left to do."""
    idle = 0
    while idle < 5:
        before_s = feature.cpu_s()
        time.sleep(1.0)
        idle = idle + 1 if feature.cpu_s() - before_s < 0.1 else 0


def read(feature: ServiceUnderTest, *, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a sample, not a secret
    stub = service.FeatureServiceStub(grpc.insecure_channel(feature.address))
    begun_s = time.monotonic()
    for _ in range(READS):
        users = [chance.randrange(USERS) for _ in range(READ_ROWS)]
        ask(stub, users, [moment_of_all()] * READ_ROWS, timeout_s=10)
    say(f"{READS * READ_ROWS / (time.monotonic() - begun_s):,.0f} entities/s by one caller")


def ask(
    stub: service.FeatureServiceStub, users: list[int], moments: list[int], *, timeout_s: float
) -> np.ndarray:
    names = [f"user:{name}" for name in VIEW_DEFINITION["features"]]
    request = pb.GetOnlineFeaturesRequest(features=names, as_of_us=moments)
    request.columns.add(name="user").strings.values.extend(f"user-{user}" for user in users)
    answer = stub.GetOnlineFeatures(request, timeout=timeout_s)
    return np.frombuffer(answer.values, "<f4").reshape(len(users), len(names))


def moment_of_all() -> int:
    return START_US + HOURS * HOUR_US


def mistakes(feature: ServiceUnderTest, *, seed: int) -> int:
    """Answers that differ from a plain sum over what a user clicked."""
    chance = random.Random(seed)  # noqa: S311 - a sample, not a secret
    stub = service.FeatureServiceStub(grpc.insecure_channel(feature.address))
    users = [chance.randrange(USERS) for _ in range(1_000)]
    moments = [START_US + chance.randrange(HOURS * HOUR_US) for _ in users]
    expected = []
    for user, as_of in zip(users, moments, strict=True):
        times = [moment(user, USERS, number, HOUR_US) for number in range(HOURS)]
        seen = [at for at in times if as_of - 24 * HOUR_US < at <= as_of]
        amounts = [amount(user, at) for at in seen]
        recent = sum(at > as_of - HOUR_US for at in seen)
        nothing = float("nan")
        total = sum(amounts) if amounts else nothing
        expected.append([recent, total, max(amounts, default=nothing)])
    got, wanted = ask(stub, users, moments, timeout_s=30), np.array(expected, dtype=np.float32)
    return int((~((got == wanted) | (np.isnan(got) & np.isnan(wanted)))).sum())


def wait_copied(where: Machine) -> float:
    """Until a manifest holds all that was read; seconds."""
    begun_s = time.monotonic()
    store = object_store((where.folder / "objects").as_uri(), None)
    ends = {each.number: end for each, end in topic_end_offsets(where.bootstrap, [TOPIC]).items()}
    while time.monotonic() < begun_s + SNAPSHOT_WAIT_S:
        snapshots = StateSnapshots(store, SystemClock())
        found = [m for layout in snapshots.layouts() for m in snapshots.manifests(layout)]
        if any(manifest.next_by_partition == ends for manifest in found):
            return time.monotonic() - begun_s
        time.sleep(0.5)
    raise AssertionError(f"no whole snapshot in {SNAPSHOT_WAIT_S} s")


def wait_answered(feature: ServiceUnderTest) -> None:
    stub = service.FeatureServiceStub(grpc.insecure_channel(feature.address))
    while True:
        try:
            ask(stub, [1], [moment_of_all()], timeout_s=1)
        except grpc.RpcError:
            time.sleep(0.05)
        else:
            return


def copy_s(source: Path, target: Path) -> float:
    """Seconds to copy every file, durably as the service does."""
    begun_s = time.monotonic()
    shutil.copytree(source, target)
    time_s = time.monotonic() - begun_s
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    say(f"copying the {size / 1e6:,.0f} MB of the object store: {time_s:.1f} s")
    shutil.rmtree(target)
    return time_s
