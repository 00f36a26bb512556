# SPDX-License-Identifier: Apache-2.0
"""Quality by endpoint, version and period, exact, and cheap to ask for again and again.

Decided rows are only ever added, so a group that has as many bytes as before has the same quality:
months and days that are over are measured once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from headrace_monitor.domain import layout
from headrace_monitor.domain.prediction import decided_rows
from headrace_monitor.domain.quality import Quality, measure
from headrace_monitor.domain.watch import SECOND_US, Watch
from headrace_monitor.ports import StateStore

GROUPS_REMEMBERED_MAX = 20_000

Group = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class QualitySlice:
    """Quality of one endpoint; `period` "" is all time, `version` 0 is all versions."""

    endpoint: str
    period: str
    version: int
    quality: Quality


class QualityReport:
    """Asked by any thread; periods are UTC, by the prediction's as_of."""

    def __init__(self, *, store: StateStore) -> None:
        self._store = store
        self._measured: dict[tuple[str, Group], tuple[int, Quality]] = {}

    def by_month(self, watch: Watch) -> list[QualitySlice]:
        """Each month and all of them, each version and all of them."""

        def groups(endpoint: str, hour_us: int, version: int) -> Iterable[Group]:
            for period in (_period(hour_us, "%Y-%m"), ""):
                yield endpoint, period, version
                yield endpoint, period, 0

        return self._slices(watch, groups)

    def by_day(self, watch: Watch) -> list[QualitySlice]:
        """Each day, all versions together."""

        def groups(endpoint: str, hour_us: int, version: int) -> Iterable[Group]:
            yield endpoint, _period(hour_us, "%Y-%m-%d"), 0

        return self._slices(watch, groups)

    def _slices(
        self, watch: Watch, groups: Callable[[str, int, int], Iterable[Group]]
    ) -> list[QualitySlice]:
        monitor = watch.name.encode()
        chunks_by_group: dict[Group, list[bytes]] = defaultdict(list)
        for key, chunk in self._store.scan(*layout.span(layout.all_decided(monitor))):
            hour_us, version, endpoint = layout.decided_parts(monitor, key)
            for group in groups(endpoint, hour_us, version):
                chunks_by_group[group].append(chunk)
        return [
            QualitySlice(*group, self._quality(watch.name, group, chunks))
            for group, chunks in sorted(chunks_by_group.items())
        ]

    def _quality(self, monitor: str, group: Group, chunks: list[bytes]) -> Quality:
        size = sum(map(len, chunks))
        known = self._measured.get((monitor, group))
        if known is not None and known[0] == size:
            return known[1]
        rows = decided_rows(chunks)
        quality = measure(rows["score"], rows["outcome"])
        if len(self._measured) >= GROUPS_REMEMBERED_MAX:
            self._measured.clear()
        self._measured[monitor, group] = size, quality
        return quality


def _period(us: int, form: str) -> str:
    return datetime.fromtimestamp(us / SECOND_US, UTC).strftime(form)
