# SPDX-License-Identifier: Apache-2.0
"""Snapshot on Arrow: a stream's records as a data set that is read column by column."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.errors import NotFound, Unavailable
from headrace.expression import Expression, Node
from headrace_feature.domain.records import Numbers, Records, Share, Texts, texts_of
from headrace_feature.domain.views import Layout
from headrace_kit.expressions import DTYPE_BY_TYPE, to_polars

ID, EVENT_TIME, KNOWN_TIME = "_event_id", "_event_time_us", "_known_time_us"


@dataclass(frozen=True, slots=True)
class ArrowSnapshot:
    """`dataset`: a pyarrow data set with the three columns above and the stream's own.

    `pinned`: the caller named the version, and no other one will do.
    """

    version: int
    observations: int
    dataset: Any
    pinned: bool = False

    def between(self, after_us: int, until_us: int) -> ArrowSnapshot:
        import pyarrow.compute as pc

        happened = pc.field(EVENT_TIME)
        some = self.dataset.filter((happened > after_us) & (happened <= until_us))
        with self._store_errors():
            return replace(self, observations=some.count_rows(), dataset=some)

    def records(
        self, layout: Layout, known_until_us: int, *, share: Share | None = None
    ) -> Records:
        import pyarrow as pa
        import pyarrow.compute as pc

        archived = layout.stream_columns & set(self.dataset.schema.names)
        scanner = self.dataset.scanner(
            columns=[*sorted(archived), ID, EVENT_TIME, KNOWN_TIME],
            filter=pc.field(KNOWN_TIME) <= known_until_us,
        )
        with self._store_errors():
            if share is None:
                table = scanner.to_table()
            else:
                batches = _shared(scanner.to_batches(), layout.entity, share)
                table = pa.Table.from_batches(batches, scanner.projected_schema)
        return _to_records(_counted(_unified(table), layout.filter), layout)

    @contextmanager
    def _store_errors(self) -> Iterator[None]:
        """An erasure removes the files of the versions before it, whoever reads them."""
        import pyarrow as pa

        try:
            yield
        except FileNotFoundError as err:
            if self.pinned:
                raise NotFound("ARCHIVE_VERSION_UNKNOWN", version=self.version) from err
            raise Unavailable("TABLE_CONTENDED", version=self.version) from err
        except (OSError, pa.ArrowException) as err:
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", version=self.version) from err


def _unified(table: Any) -> Any:
    """One dictionary for each column of texts.

    Of a file that holds none, the statistics alone are read: its dictionary is a null, which Arrow
    does not unify.
    """
    import pyarrow as pa

    for number, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            chunks = [_encoded(chunk) for chunk in table.column(number).chunks]
            table = table.set_column(number, field, pa.chunked_array(chunks, field.type))
    return table.unify_dictionaries()


def _encoded(chunk: Any) -> Any:
    """With the nulls among the places, and none in the dictionary."""
    if not chunk.dictionary.null_count:
        return chunk
    return chunk.cast(chunk.type.value_type).dictionary_encode().cast(chunk.type)


def _shared(batches: Iterator[Any], entity: Sequence[str], share: Share) -> Iterator[Any]:
    """The rows of a share, by a checksum of the texts that name the entity."""
    for batch in batches:
        sums = np.zeros(batch.num_rows, dtype=np.int64)
        for name in entity:
            if name in batch.schema.names:
                sums = sums * 31 + _checksums(to_column(batch.column(name)))
        yield batch.filter(_mask(sums % share.of == share.number))


def _checksums(column: Texts | Numbers) -> NDArray[np.int64]:
    named = texts_of(column)
    sums = np.array([*(zlib.crc32(text.encode()) for text in named.values), 0], dtype=np.int64)
    return sums[named.codes]


def _mask(rows: NDArray[np.bool_]) -> Any:
    import pyarrow as pa

    return pa.array(rows)


def _counted(table: Any, condition: Expression | None) -> Any:
    """The records for which the condition holds."""
    if condition is None:
        return table
    holds = _evaluated(table, condition).fill_null(value=False)
    return table.filter(_mask(holds.to_numpy()))


def _to_records(table: Any, layout: Layout) -> Records:
    import pyarrow.compute as pc

    ids = table[ID]
    named = set(layout.columns).union(layout.entity, *layout.keys)
    columns = {name: _stored(table, name) for name in named}
    for each in layout.expressions:
        columns[each.text] = to_column(
            _evaluated(table, each).to_arrow(compat_level=pl.CompatLevel.oldest())
        )

    def rank_ids(rows: NDArray[np.intp]) -> NDArray[np.int64]:
        return pc.rank(ids.take(rows), tiebreaker="dense").to_numpy().astype(np.int64)

    return Records(
        rank_ids=rank_ids,
        event_us=table[EVENT_TIME].to_numpy(),
        known_us=table[KNOWN_TIME].to_numpy(),
        columns=columns,
    )


def _stored(table: Any, name: str) -> Texts | Numbers:
    """A column that the archive lacks is absent."""
    if name in table.schema.names:
        return to_column(table[name])
    return Numbers(np.zeros(len(table), np.int64), np.zeros(len(table), np.bool_))


def _evaluated(table: Any, expression: Expression) -> pl.Series:
    read = {EVENT_TIME: pl.from_arrow(table[EVENT_TIME])}
    for name, kind in _types(expression.tree).items():
        given = name in table.schema.names
        values = _decoded(table[name]) if given else pl.Series([None]).new_from_index(0, len(table))
        read[name] = values.cast(DTYPE_BY_TYPE[kind])
    made = pl.DataFrame(read).select(pl.col(EVENT_TIME), to_polars(expression).alias("made"))
    return made["made"]


def _decoded(values: Any) -> pl.Series:
    import pyarrow as pa

    coded = pa.types.is_dictionary(values.type)
    return cast(pl.Series, pl.from_arrow(values.cast(values.type.value_type) if coded else values))


def _types(node: Node) -> dict[str, str]:
    """The types of the columns that are read."""
    if node.op == "column":
        return {str(node.value): node.type}
    return {name: kind for each in node.args for name, kind in _types(each).items()}


def to_column(values: Any) -> Texts | Numbers:
    """An Arrow array, chunked or not, as the domain knows it."""
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        values = values.dictionary_encode()
    if pa.types.is_dictionary(values.type):
        codes = values.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return Texts(codes, values.dictionary.to_pylist())
    number = pa.float64() if pa.types.is_floating(kind) else pa.int64()
    present = values.is_valid().to_numpy(zero_copy_only=False)
    dense = values.cast(number).fill_null(0)
    truths = pa.types.is_boolean(kind)
    return Numbers(dense.to_numpy(zero_copy_only=False), present, truths=truths)
