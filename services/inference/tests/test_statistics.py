# SPDX-License-Identifier: Apache-2.0
"""Counts by version: requests, rows and runs are three things."""

from dataclasses import replace
from functools import partial

import pytest
from prometheus_client import CollectorRegistry

from headrace_inference.adapters.answered_metrics import tell_answered, tell_latencies
from headrace_inference.domain import statistics
from headrace_inference.domain.statistics import BOUNDS_NS, Duration, Execution, Statistics
from headrace_kit.telemetry import CountedCounter, CountedHistogram


def an_execution(version=1, *, requests=1, rows=1, ended_at_us=1):
    return Execution(
        endpoint="delay",
        version=version,
        rows=rows,
        totals_ns=[100] * requests,
        queues_ns=[10] * requests,
        compute_input_ns=2,
        compute_infer_ns=30,
        compute_output_ns=4,
        ended_at_us=ended_at_us,
    )


def test_run_shared_by_requests_is_charged_to_each_of_them():
    done = Statistics()
    done.record(an_execution(requests=3, rows=5))
    done.record(an_execution(requests=1, rows=5))

    read = done.read("delay", 1)
    assert (2, 10) == (read.executions, read.rows)
    assert (Duration(4, 400), Duration(4, 40)) == (read.success, read.queue)
    assert Duration(4, 120) == read.compute.infer
    assert {5: Duration(2, 60)} == {
        rows: compute.infer for rows, compute in read.compute_by_batch_rows.items()
    }


def test_last_inference_does_not_go_back():
    done = Statistics()
    done.record(an_execution(ended_at_us=9))
    done.record(an_execution(ended_at_us=7))

    assert 9 == done.read("delay", 1).last_inference_us


def test_failure_counts_no_run():
    done = Statistics()
    done.record_failure("delay", 1, duration_ns=50)

    read = done.read("delay", 1)
    assert (Duration(1, 50), Duration(), 0) == (read.fail, read.success, read.executions)


def test_what_was_read_changes_no_more():
    done = Statistics()
    done.record(an_execution())
    read = done.read("delay", 1)
    done.record(an_execution())

    assert Duration(1, 100) == read.success


def test_version_that_ran_least_lately_is_forgotten_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(statistics, "VERSIONS_MAX", 2)
    done = Statistics()
    for version in (1, 2, 1, 3):
        done.record(an_execution(version))

    assert [2, 0, 1] == [done.read("delay", version).executions for version in (1, 2, 3)]


def test_requests_of_one_run_are_in_the_bucket_of_their_own_time():
    done = Statistics()
    waits_ns = [0, 100_000, 100_001, 3_000_000_000, 10**12]
    done.record(replace(an_execution(), totals_ns=waits_ns, queues_ns=[0] * len(waits_ns)))

    [latency] = done.latencies()
    expected = [0] * (len(BOUNDS_NS) + 1)
    for bucket in (0, 0, 1, BOUNDS_NS.index(5_000_000_000), len(BOUNDS_NS)):
        expected[bucket] += 1
    assert tuple(expected) == latency.total_counts
    assert (sum(waits_ns), 0) == (latency.total_ns, latency.queue_ns)
    assert 5 == latency.queue_counts[0]


def test_latencies_are_told_as_histograms_by_endpoint_and_version():
    done, registry = Statistics(), CollectorRegistry()
    tell_latencies(done, partial(CountedHistogram, registry=registry))
    took_ns = [150_000, 150_000, 600_000_000]
    done.record(replace(an_execution(7), totals_ns=took_ns, queues_ns=[0, 0, 250_000]))

    def told(name, **labels):
        return registry.get_sample_value(
            f"headrace_inference_{name}", {"endpoint": "delay", "version": "7", **labels}
        )

    assert [0.0, 2.0, 2.0, 3.0] == [
        told("request_seconds_bucket", le=bound) for bound in ("0.0001", "0.0002", "0.5", "+Inf")
    ]
    assert (3.0, pytest.approx(0.6003)) == (
        told("request_seconds_count"),
        told("request_seconds_sum"),
    )
    assert 2.0 == told("request_queue_seconds_bucket", le="0.0002")


def test_version_that_only_failed_has_no_latency():
    done = Statistics()
    done.record_failure("delay", 1, duration_ns=50)

    assert [] == done.latencies()


def test_what_an_endpoint_answered_is_told_for_all_its_versions(monkeypatch):
    monkeypatch.setattr(statistics, "VERSIONS_MAX", 1)
    done, registry = Statistics(), CollectorRegistry()
    tell_answered(done, partial(CountedCounter, registry=registry))
    done.record(an_execution(1, requests=3, rows=5))
    done.record(an_execution(2, requests=1, rows=2))  # the first version is forgotten
    done.record_failure("delay", 2, duration_ns=50)

    assert [4.0, 7.0, 2.0] == [
        registry.get_sample_value(f"headrace_inference_{name}", {"endpoint": "delay"})
        for name in ("request_success_total", "rows_total", "runs_total")
    ]
