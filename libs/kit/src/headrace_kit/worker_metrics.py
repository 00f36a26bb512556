# SPDX-License-Identifier: Apache-2.0
"""The metrics of several processes in one answer, each sample with the label `worker`.

Nothing is added up: a counter that begins anew when its worker does is what Prometheus expects of
one series, and a sum of them would fall.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from headrace_kit.admin_http import Page


def metrics_page(text_by_worker: Mapping[str, str]) -> Page:
    """/metrics of this process, the parent, and of its workers."""
    told = {"parent": generate_latest().decode(), **text_by_worker}
    return Page(merged(told), CONTENT_TYPE_LATEST)


def merged(text_by_worker: Mapping[str, str]) -> bytes:
    """What /metrics of each says, as /metrics of all; a metric's samples stand together."""
    families: dict[str, Metric] = {}
    for worker, text in text_by_worker.items():
        for told in text_string_to_metric_families(text):
            empty = Metric(told.name, told.documentation, told.type)
            family = families.setdefault(told.name, empty)
            for sample in told.samples:
                labels = {**sample.labels, "worker": worker}
                family.add_sample(sample.name, labels, sample.value)
    return generate_latest(_Told(families.values()))


class _Told(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
