# SPDX-License-Identifier: Apache-2.0
"""Features out of this process, from the topics `feature.rows.<view>` of chosen views.

A request is answered here only when all that it asks is: every feature of a chosen view, every
entity's row at hand, of the view as it is defined now, and the answer at the row's moment. Any
other request goes to the feature service whole, as does one that bounds how far behind its
features may be: how far all is known no row tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial

import numpy as np

from headrace.application import definition_digest
from headrace.applied import read_applied
from headrace.entity import text_of
from headrace.feature_rows import FeatureRow, FeatureRowTable
from headrace.feature_view import StreamView
from headrace_inference.domain.request import Batch, FeatureRows
from headrace_inference.domain.serving import Floats
from headrace_inference.ports import FeatureReader
from headrace_kit.kafka import Record
from headrace_kit.telemetry import counter

SHAPES_MAX = 256

READS = counter("inference", "feature_reads_total", "Requests for features, by who answered.", "by")


class FeatureRowsReader:
    """FeatureReader on rows in memory, and on `service` where they do not reach."""

    def __init__(self, views: Sequence[str], *, entities_max: int, service: FeatureReader) -> None:
        self._tables = {view: FeatureRowTable(entities_max=entities_max) for view in views}
        self._defined: dict[str, tuple[str, str]] = {}  # by view: the entity's column, the digest
        self._service = service

    def takers(self) -> Mapping[str, Callable[[Record], None]]:
        """By view, who takes the records of its topic."""
        return {view: partial(_take, table) for view, table in self._tables.items()}

    def take_definition(self, record: Record) -> None:
        """Raises Invalid for what cannot be read."""
        applied = read_applied(record.key, record.value)
        view = applied.definition
        if isinstance(view, StreamView) and view.publish_rows:
            digest = definition_digest(view)
            self._defined[view.name] = view.entity[0], digest
        elif applied.kind == "view":
            self._defined.pop(applied.name, None)

    def read(
        self,
        features: Sequence[str],
        batch: Batch,
        *,
        prediction_ids: Sequence[str],
        timeout_s: float,
    ) -> FeatureRows:
        found = None if batch.staleness_max_ms else self._here(features, batch)
        READS.labels("service" if found is None else "rows").inc()
        if found is not None:
            return FeatureRows(found)  # their records tell no event times
        return self._service.read(
            features, batch, prediction_ids=prediction_ids, timeout_s=timeout_s
        )

    def _here(self, features: Sequence[str], batch: Batch) -> Floats | None:
        answers = np.empty((batch.rows, len(features)), dtype=np.float32)
        for view, wanted in _by_view(tuple(features)).items():
            rows = self._rows(view, batch)
            if rows is None:
                return None
            for number, row in enumerate(rows):
                places = _places(row.features, tuple(name for _, name in wanted))
                if places is None:
                    return None
                values = np.frombuffer(row.values, dtype="<f4")
                answers[number, [slot for slot, _ in wanted]] = values[places]
        return answers

    def _rows(self, view: str, batch: Batch) -> list[FeatureRow] | None:
        table, defined = self._tables.get(view), self._defined.get(view)
        if table is None or defined is None:
            return None
        column, digest = defined
        values = next((each.values for each in batch.columns if each.name == column), None)
        if values is None:
            return None
        found = [
            table.find(text_of(value) or "", as_of_us)
            for value, as_of_us in zip(values, batch.as_of_us.tolist(), strict=True)
        ]
        rows = [row for row in found if row is not None and row.definition_digest == digest]
        return rows if len(rows) == batch.rows else None


def _take(table: FeatureRowTable, record: Record) -> None:
    table.take(record.key, record.value)


@lru_cache(maxsize=SHAPES_MAX)
def _by_view(features: tuple[str, ...]) -> Mapping[str, Sequence[tuple[int, str]]]:
    """By view, which of the features are its, and their names in it."""
    found: dict[str, list[tuple[int, str]]] = {}
    for slot, name in enumerate(features):
        view, _, feature = name.partition(":")
        found.setdefault(view, []).append((slot, feature))
    return found


@lru_cache(maxsize=SHAPES_MAX)
def _places(held: tuple[str, ...], wanted: tuple[str, ...]) -> list[int] | None:
    return [held.index(name) for name in wanted] if {*wanted} <= {*held} else None
