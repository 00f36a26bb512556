# SPDX-License-Identifier: Apache-2.0
"""Datasets over memory, for their tests; rows are selected by the real engine."""

from __future__ import annotations

import io

import polars as pl
import pyarrow as pa

from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.duckdb_rows import DuckDbRows
from headrace_ingest.adapters.memory_tables import MemoryTables
from headrace_ingest.adapters.object_dataset_book import ObjectDatasetBook
from headrace_ingest.domain.datasets import Reference
from headrace_ingest.domain.judging import ARCHIVE_COLUMNS, judge
from headrace_ingest.handlers import datasets
from headrace_ingest.handlers.datasets import CreateDataset, SetDatasetTag
from headrace_ingest.handlers.selecting import ReadStream
from headrace_ingest.testing import MemoryRetracted, a_contract, a_raw
from headrace_kit.json_strict import decode
from headrace_kit.objects import MemoryObjectStore
from headrace_kit.testing import FixedClock, a_batch

STREAM = "flights.departed"


def rows(*numbers, contract=None, **changes):
    contract = contract or a_contract()
    records = [a_raw(number, **changes) for number in numbers]
    columns = (*ARCHIVE_COLUMNS, *contract.stream.columns)
    return judge(a_batch(records), contract, decode=decode).rows.select(columns)


class World:
    """Datasets over memory; `rows` is the real engine."""

    def __init__(self, spill):
        self.contracts = AppliedContracts()
        self.contracts.put(a_contract())
        self.retracted = MemoryRetracted()
        self.objects = MemoryObjectStore()
        self.book, self.clock = ObjectDatasetBook(self.objects), FixedClock()
        self._spill = spill
        self.replace_tables()
        self.tables.append(STREAM, rows(*range(20)))

    def replace_tables(self):
        self.tables = MemoryTables()
        self.rows = DuckDbRows(self.tables, self._spill)

    def create(self, name="departures", request_id=None, timeout_s=60.0, **changes):
        asked = {
            "name": name,
            "description": "",
            "stream": STREAM,
            "view": "",
            "filter": "",
            "delta_version": None,
            "known_until_us": 0,
        } | changes
        return datasets.create_dataset(
            CreateDataset(**asked),
            request_id or f"request {len(self.objects.keys())}",
            contracts=self.contracts,
            book=self.book,
            rows=self.rows,
            clock=self.clock,
            timeout_s=timeout_s,
        )

    def tag(self, tag, number, generation_expected=0, request_id="tag"):
        command = SetDatasetTag("departures", tag, number, generation_expected)
        return datasets.set_dataset_tag(command, request_id, book=self.book, clock=self.clock)

    def diff(self, base, other):
        parts = datasets.diff_datasets(
            Reference("departures", base),
            Reference("departures", other),
            book=self.book,
            rows=self.rows,
            timeout_s=60.0,
        )
        return list(parts)

    def read(self, reference, *columns):
        pieces = datasets.read_dataset(
            reference, columns, book=self.book, rows=self.rows, timeout_s=60.0
        )
        return table(pieces)

    def read_stream(self, *columns, **changes):
        asked = {"stream": STREAM, "delta_version": None, "known_until_us": 0, "filter": ""}
        pieces = datasets.read_stream(
            ReadStream(**(asked | changes)),
            columns,
            contracts=self.contracts,
            rows=self.rows,
            timeout_s=60.0,
        )
        return table(pieces)


def table(pieces):
    return pl.from_arrow(pa.ipc.open_stream(io.BytesIO(b"".join(pieces))).read_all())


def statistics(manifest, column):
    return next(each for each in manifest.content.columns if each.column == column)
