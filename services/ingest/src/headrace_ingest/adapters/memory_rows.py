# SPDX-License-Identifier: Apache-2.0
"""RecordRows of a test, on what a memory archive holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from headrace_ingest.adapters.memory_archive import MemoryArchive
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.judging import empty_rows
from headrace_kit.entity_texts import entity_texts


class MemoryRows:
    """The archive's rows, all at once."""

    def __init__(self, archive: MemoryArchive) -> None:
        self._archive = archive

    def of_keys(
        self, contract: Contract, columns: Sequence[str], *, key: str, keys: Sequence[str]
    ) -> pl.DataFrame:
        rows = self._rows(contract)
        return rows.filter(entity_texts(rows[key]).is_in(keys)).select(columns)

    def between(
        self,
        contract: Contract,
        *,
        from_us: int,
        until_us: int,
        rows_max: int,
        having: Mapping[str, str] = {},
    ) -> pl.DataFrame:
        rows = self._rows(contract)
        for name, text in having.items():
            rows = rows.filter(pl.col(name) == text)
        within = pl.col("_event_time_us").is_between(from_us, until_us, closed="left")
        columns = ("_event_id", "_event_time_us", "_known_time_us", *contract.stream.columns)
        return rows.filter(within).select(columns).head(rows_max)

    def _rows(self, contract: Contract) -> pl.DataFrame:
        parts = [empty_rows(contract.stream), *self._archive.rows_by_stream.get(contract.name, [])]
        return pl.concat(parts, how="diagonal")
