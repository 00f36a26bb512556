# SPDX-License-Identifier: Apache-2.0
"""From Protobuf values to the contract's columns, all records of a batch abreast.

The wire format (protobuf.dev/programming-guides/encoding) is read by numpy: each step reads one
field of every record that has one left, so a batch takes as many steps as its longest record has
fields. A varint that is cut or longer than 64 bits, a length beyond the end, a group, a field's
number that none may have and text that is not UTF-8 are DECODE_ERROR; a declared field of another
wire type is BAD_TYPE. Unknown fields are left out; of a field given twice the last one counts, as
the format says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.data_contract import Column, Stream
from headrace_kit.expressions import DTYPE_BY_TYPE

VARINT, I64, LENGTH, I32 = 0, 1, 2, 5
VARINT_BYTES_MAX = 10
FIELD_MAX = (1 << 29) - 1
# A record of more fields is refused: none is declared so, and each costs a step of the whole batch.
FIELDS_MAX = 1_024
WIRE_BY_TYPE = {
    "string": LENGTH,
    "int64": VARINT,
    "float64": I64,
    "bool": VARINT,
    "timestamp": VARINT,
}

Places = NDArray[np.int64]
Rows = NDArray[np.bool_]


@dataclass(slots=True)
class _Found:
    """Of one declared field, by record: the number read, or where its bytes begin; and how many."""

    wire: int
    numbers: NDArray[np.uint64]
    sizes: Places
    there: Rows
    misfit: Rows


def typed_columns(values: Sequence[bytes], stream: Stream) -> tuple[pl.DataFrame, list[str | None]]:
    """The stream's columns, not cleansed yet, and why a record is refused, or None.

    Why: `REASON:column,...`, or DECODE_ERROR alone.
    """
    reader = _Reader(values, stream.columns)
    reader.read()
    columns, faults = list[pl.Series](), list[tuple[str, Rows]]()
    for name, column in stream.columns.items():
        series, reason, wrong = _typed(name, column, reader)
        columns.append(series)
        faults += [(f"BAD_TYPE:{name}", reader.found[name].misfit), (f"{reason}:{name}", wrong)]
    return pl.DataFrame(columns), _told(reader.broken, faults)


def _told(broken: Rows, faults: Sequence[tuple[str, Rows]]) -> list[str | None]:
    told: list[str | None] = [None] * len(broken)
    for reason, rows in faults:
        for row in np.flatnonzero(rows).tolist():
            told[row] = reason if told[row] is None else f"{told[row]},{reason}"
    for row in np.flatnonzero(broken).tolist():
        told[row] = "DECODE_ERROR"
    return told


def _typed(name: str, column: Column, reader: _Reader) -> tuple[pl.Series, str, Rows]:
    """The column; a reason, and the rows that have it: they are null."""
    found = reader.found[name]
    if column.type == "string":
        return reader.texts(name), "BAD_TYPE", np.zeros_like(found.there)
    if column.type == "float64":
        values, reason = reader.doubles(name), "NONFINITE"
        wrong = ~np.isfinite(values)
    else:
        values, reason = found.numbers.view(np.int64), "BAD_TYPE"
        wrong = found.numbers > 1 if column.type == "bool" else np.zeros_like(found.there)
    good = found.there & ~found.misfit
    series = pl.Series(name, values).cast(DTYPE_BY_TYPE[column.type])
    kept = pl.select(pl.when(pl.Series(good & ~wrong)).then(series)).to_series()
    return kept.alias(name), reason, wrong & good


class _Reader:
    """Walks all records at once; `broken` are those that are no message."""

    def __init__(self, values: Sequence[bytes], columns: Mapping[str, Column]) -> None:
        # Padded, so that a number may be read at the very end; what it finds there is refused.
        self._data = b"".join(values)
        self._bytes = np.frombuffer(self._data + b"\0" * VARINT_BYTES_MAX, dtype=np.uint8)
        sizes = np.fromiter(map(len, values), np.int64, len(values))
        self._ends = np.cumsum(sizes)
        self._at = self._ends - sizes
        self.broken = np.zeros(len(values), dtype=np.bool_)
        self.found = {name: _nothing(column, len(values)) for name, column in columns.items()}
        self._found_by_field = {columns[name].field: each for name, each in self.found.items()}

    def read(self) -> None:
        for _ in range(FIELDS_MAX):
            rows = np.flatnonzero((self._at < self._ends) & ~self.broken)
            if not len(rows):
                return
            self._read_field(rows)
        self.broken |= self._at < self._ends

    def doubles(self, name: str) -> NDArray[np.float64]:
        found = self.found[name]
        at = np.where(found.there & ~found.misfit, found.numbers, 0)
        at = at.astype(np.int64)
        return self._bytes[at[:, None] + np.arange(8)].copy().view("<f8").ravel()

    def texts(self, name: str) -> pl.Series:
        """The column of a text field; a record with one that is not UTF-8 is broken."""
        found, data = self.found[name], self._data
        good = found.there & ~found.misfit & ~self.broken
        begins = found.numbers.astype(np.int64).tolist()
        spans = zip(good.tolist(), begins, found.sizes.tolist(), strict=True)
        parts = [data[at : at + size] if there else None for there, at, size in spans]
        try:
            return pl.Series(name, parts, dtype=pl.Binary).cast(pl.String)
        except pl.exceptions.ComputeError:
            texts = [_utf8(part) for part in parts]
            self.broken |= good & np.array([text is None for text in texts])
            return pl.Series(name, texts, dtype=pl.String)

    def _read_field(self, rows: Places) -> None:
        tags = self._varints(rows)
        wires, numbers = (tags & np.uint64(7)).astype(np.int64), tags >> np.uint64(3)
        possible = (numbers > 0) & (numbers <= FIELD_MAX)
        self.broken[rows[~possible | ~np.isin(wires, (VARINT, I64, LENGTH, I32))]] = True
        content, sizes = np.zeros(len(rows), np.uint64), np.zeros(len(rows), np.int64)
        for wire in (VARINT, I64, LENGTH, I32):
            of_wire = np.flatnonzero((wires == wire) & ~self.broken[rows])
            if len(of_wire):
                content[of_wire], sizes[of_wire] = self._content(wire, rows[of_wire])
        self._keep(rows, numbers, wires, content, sizes)

    def _content(self, wire: int, rows: Places) -> tuple[NDArray[np.uint64], Places]:
        """The number, or where the bytes begin, and how many bytes; moves behind them."""
        if wire == VARINT:
            return self._varints(rows), np.zeros(len(rows), np.int64)
        if wire == LENGTH:
            told = self._varints(rows)
            left = (self._ends - self._at)[rows]
            cut = told > left.astype(np.uint64)
            sizes = np.where(cut, 0, told).astype(np.int64)
        else:
            sizes = np.full(len(rows), 8 if wire == I64 else 4)
            cut = self._at[rows] + sizes > self._ends[rows]
        self.broken[rows[cut]] = True
        begins = self._at[rows].astype(np.uint64)
        self._at[rows] += np.where(cut, 0, sizes)
        return begins, sizes

    def _varints(self, rows: Places) -> NDArray[np.uint64]:
        at, ends = self._at[rows], self._ends[rows]
        numbers, open_ = np.zeros(len(rows), np.uint64), np.ones(len(rows), np.bool_)
        for place in range(VARINT_BYTES_MAX):
            going = np.flatnonzero(open_)
            if not len(going):
                break
            byte = self._bytes[np.minimum(at[going], len(self._bytes) - 1)].astype(np.uint64)
            # The tenth byte holds one bit.
            wrong = (at[going] >= ends[going]) | ((place == 9) & (byte > 1))
            self.broken[rows[going[wrong]]] = True
            numbers[going] |= (byte & np.uint64(127)) << np.uint64(7 * place)
            at[going] += 1
            open_[going] = (byte > 127) & ~wrong
        self._at[rows] = np.minimum(at, ends)
        return numbers

    def _keep(
        self,
        rows: Places,
        numbers: NDArray[np.uint64],
        wires: Places,
        content: NDArray[np.uint64],
        sizes: Places,
    ) -> None:
        for number in np.unique(numbers).tolist():
            if (found := self._found_by_field.get(number)) is not None:
                here = np.flatnonzero(numbers == number)
                places = rows[here]
                found.numbers[places], found.sizes[places] = content[here], sizes[here]
                found.there[places], found.misfit[places] = True, wires[here] != found.wire


def _utf8(part: bytes | None) -> str | None:
    try:
        return None if part is None else part.decode()
    except UnicodeDecodeError:
        return None


def _nothing(column: Column, rows: int) -> _Found:
    flags = np.zeros((2, rows), dtype=np.bool_)
    wire = WIRE_BY_TYPE[column.type]
    return _Found(wire, np.zeros(rows, np.uint64), np.zeros(rows, np.int64), flags[0], flags[1])
