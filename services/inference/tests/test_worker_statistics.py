# SPDX-License-Identifier: Apache-2.0
"""Each worker tells of its own statistics, and adds up those of all."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from headrace_inference.adapters import triton_conversions
from headrace_inference.adapters.worker_statistics import (
    STATISTICS,
    OtherWorkers,
    added,
    statistics_page,
)
from headrace_inference.domain.statistics import Execution, Statistics
from headrace_kit import worker_process
from headrace_kit.admin_http import AdminServer
from headrace_kit.testing import wait_until


def an_execution(*, endpoint="delay", rows=1, took_ns=10, ended_at_us=5_000):
    return Execution(
        endpoint=endpoint,
        version=7,
        rows=rows,
        totals_ns=[took_ns] * rows,
        queues_ns=[1] * rows,
        compute_input_ns=2,
        compute_infer_ns=3,
        compute_output_ns=4,
        ended_at_us=ended_at_us,
    )


@pytest.fixture
def serve(tmp_path):
    """Starts an admin door that tells statistics by this page, on the socket that it gives."""
    doors = []

    def start(page):
        socket = tmp_path / f"{len(doors)}.sock"
        door = AdminServer("", 0, lambda: True, {STATISTICS: page}, socket_path=socket)
        door.start()
        doors.append(door)
        return socket

    yield start
    for door in doors:
        door.stop(1.0)


def test_workers_are_asked_at_the_same_time(serve, monkeypatch):
    monkeypatch.setattr(worker_process, "ASK_TIMEOUT_S", 60.0)
    counted = Statistics()
    counted.record(an_execution(rows=2))
    all_asked = threading.Barrier(3)

    def page(query):
        all_asked.wait(30.0)  # none is answered before the others are asked
        return statistics_page(counted, query)

    told = OtherWorkers([serve(page) for _ in range(3)]).statistics("delay")

    assert [2, 2, 2] == [each.inference_count for each in told]


def test_callers_of_a_worker_that_hangs_share_one_more_round(serve, monkeypatch):
    monkeypatch.setattr(worker_process, "ASK_TIMEOUT_S", 60.0)
    counted, asked, first, more = Statistics(), [], threading.Event(), threading.Event()
    counted.record(an_execution(rows=2))

    def page(query):
        asked.append(query.get("name", ""))
        first.set()
        more.wait(60.0)
        return statistics_page(counted, query)

    workers = OtherWorkers([serve(page)])
    names = [f"model-{number}" for number in range(20)]
    with ThreadPoolExecutor(21) as callers:
        begun = callers.submit(workers.statistics, "delay")
        assert first.wait(60.0)
        for name in names:  # told to who comes now
            counted.record(an_execution(endpoint=name, rows=5))
        later = [callers.submit(workers.statistics, name) for name in names]
        wait_until(lambda: len(workers._names) == len(names))
        more.set()
        told = [[each.name for each in call.result(60.0)] for call in later]

    assert ["delay", ""] == asked
    assert [[name] for name in names] == told
    assert ["delay"] == [each.name for each in begun.result()]


def test_sums_are_over_all_workers_that_answer(serve, tmp_path):
    own, other = Statistics(), Statistics()
    own.record(an_execution(rows=2))
    own.record(an_execution(rows=4))
    other.record(an_execution(rows=4, ended_at_us=9_000_000))
    other.record(an_execution(rows=1))
    other.record(an_execution(endpoint="elsewhere", rows=8))
    other.record_failure("delay", 7, duration_ns=50)
    socket = serve(partial(statistics_page, other))

    told = OtherWorkers([socket, tmp_path / "one that is down"]).statistics("delay")
    mine = triton_conversions.model_statistics("delay", 7, own.read("delay", 7))
    summed = added(mine, told)

    assert (11, 4, 9_000) == (summed.inference_count, summed.execution_count, summed.last_inference)
    stats = summed.inference_stats
    assert (11, 110) == (stats.success.count, stats.success.ns)
    assert (1, 50) == (stats.fail.count, stats.fail.ns)
    assert (11, 11) == (stats.queue.count, stats.queue.ns)
    batches = [(each.batch_size, each.compute_infer.count) for each in summed.batch_stats]
    assert [(1, 1), (2, 1), (4, 2)] == batches
    assert ["delay"] == [each.name for each in told]
