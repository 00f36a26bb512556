# SPDX-License-Identifier: Apache-2.0
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from headrace_kit.worker_metrics import merged


def told(rows, *, resident):
    registry = CollectorRegistry()
    Counter("rows_total", "Rows.", ["endpoint"], registry=registry).labels("delay").inc(rows)
    Gauge("resident_count", "Models.", registry=registry).set(resident)
    seconds = Histogram("run_seconds", "Runs.", buckets=(0.1, 1.0), registry=registry)
    seconds.observe(rows / 10)
    return generate_latest(registry).decode()


def test_each_sample_says_whose_it_is():
    lines = merged({"1": told(3, resident=2), "2": told(30, resident=5)}).decode().splitlines()

    assert {
        'rows_total{endpoint="delay",worker="1"} 3.0',
        'rows_total{endpoint="delay",worker="2"} 30.0',
        'resident_count{worker="1"} 2.0',
        'resident_count{worker="2"} 5.0',
        'run_seconds_bucket{le="1.0",worker="1"} 1.0',
        'run_seconds_bucket{le="1.0",worker="2"} 0.0',
        'run_seconds_bucket{le="+Inf",worker="2"} 1.0',
        'run_seconds_count{worker="2"} 1.0',
        'run_seconds_sum{worker="2"} 3.0',
    } <= set(lines)


def test_samples_of_a_metric_stand_together_below_its_type():
    lines = merged({"1": told(3, resident=2), "2": told(30, resident=5)}).decode().splitlines()

    samples = [line for line in lines if not line.startswith("#")]
    metrics = [sample.partition("{")[0] for sample in samples]
    grouped = [name for at, name in enumerate(metrics) if at == 0 or metrics[at - 1] != name]
    typed = [line for line in lines if line.startswith("# TYPE")]
    assert 1 == grouped.count("rows_total")
    assert 1 == grouped.count("resident_count")
    assert len(set(typed)) == len(typed)
    assert "# TYPE rows_total counter" in typed
    assert "# TYPE run_seconds histogram" in typed
    assert "# HELP rows_total Rows." in lines


def test_what_nobody_tells_is_nothing():
    assert b"" == merged({})
