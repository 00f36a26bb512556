# SPDX-License-Identifier: Apache-2.0
"""What is counted elsewhere is told as the Prometheus client would have counted it."""

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from headrace_kit.telemetry import SECONDS_BUCKETS, CountedCounter, QuickHistogram


def test_quick_histogram_tells_what_the_clients_own_tells(monkeypatch):
    monkeypatch.setattr("prometheus_client.metrics._use_created", False)
    quick, own = CollectorRegistry(), CollectorRegistry()
    name = "headrace_inference_compute_infer_seconds"
    ours = QuickHistogram("inference", "compute_infer_seconds", "Running.", registry=quick)
    theirs = Histogram(name, "Running.", buckets=SECONDS_BUCKETS, registry=own)
    for seconds in (0.0, 0.001, 0.0011, 1.0, 60.0, 61.0):
        ours.observe(seconds)
        theirs.observe(seconds)

    assert generate_latest(own) == generate_latest(quick)


@pytest.mark.parametrize("name", ["rows_total", "rows"])
def test_counter_that_is_read_is_told_by_its_labels(name):
    registry = CollectorRegistry()
    read = [(("a",), 2), (("b",), 3)]
    CountedCounter("inference", name, "Rows.", ("endpoint",), read=lambda: read, registry=registry)

    assert [2.0, 3.0] == [
        registry.get_sample_value("headrace_inference_rows_total", {"endpoint": endpoint})
        for endpoint in ("a", "b")
    ]
