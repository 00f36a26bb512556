# SPDX-License-Identifier: Apache-2.0
"""Statistics of the view `rows` of a DuckDB work, in three passes over it whatever its columns.

Names of columns come from contracts: lower-case letters, digits and _. Values of few-valued texts
are asked for as parameters, and never written into SQL.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from headrace_ingest.adapters.duckdb_work import Work
from headrace_ingest.domain.datasets import ColumnStatistics

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
DECILES = tuple(n / 10 for n in range(1, 10))
VALUES_MAX = 32
NUMERIC = ("int64", "float64", "timestamp")


def describe_columns(
    work: Work, types: Mapping[str, str], *, private: Collection[str]
) -> tuple[int, tuple[ColumnStatistics, ...]]:
    """The number of rows, and each column's statistics by name."""
    rows, plain = _plain(work, types)
    shown = [name for name in plain if name not in private]
    values = _few_values(work, [n for n in shown if types[n] not in NUMERIC], plain)
    with_bins = [
        replace(plain[name], values=values.get(name, ()))
        for name in shown
        if plain[name].edges or values.get(name)
    ]
    counts = count_bins(work, with_bins)
    described = {
        each.column: replace(each, counts=tuple(counts[each.column])) for each in with_bins
    }
    hidden = {name: _hidden(plain[name]) for name in plain if name in private}
    return rows, tuple((plain | described | hidden)[name] for name in sorted(plain))


def _plain(work: Work, types: Mapping[str, str]) -> tuple[int, dict[str, ColumnStatistics]]:
    """Everything but the bins, in one pass."""
    wanted = ["count(*)"]
    for name, kind in types.items():
        wanted += [f'count("{name}")', f'approx_count_distinct("{name}")']
        if kind in NUMERIC:
            marks = list(QUANTILES + DECILES)
            number = f'cast("{name}" as double)'
            wanted += [f"min({number})", f"max({number})", f"avg({number})"]
            wanted += [f"approx_quantile({number}, {marks})"]
    found = iter(work.all(f"select {', '.join(wanted)} from rows")[0])  # noqa: S608
    rows, plain = next(found), {}
    for name, kind in types.items():
        present, distinct = next(found), next(found)
        # An estimate, which may be above what there is.
        plain[name] = ColumnStatistics(name, kind, rows - present, min(distinct, present))
        if kind in NUMERIC:
            low, high, mean, marked = next(found), next(found), next(found), next(found)
            if present:
                plain[name] = replace(
                    plain[name],
                    min=low,
                    max=high,
                    mean=mean,
                    quantiles=tuple(marked[: len(QUANTILES)]),
                    edges=_edges(low, marked[len(QUANTILES) :]),
                )
    return rows, plain


def _edges(low: float, deciles: Sequence[float]) -> tuple[float, ...]:
    """Edges with something on both sides: the least value begins the first bin."""
    return tuple(sorted({mark for mark in deciles if mark > low}))


def _few_values(
    work: Work, names: Sequence[str], plain: Mapping[str, ColumnStatistics]
) -> dict[str, tuple[str, ...]]:
    """The values of the columns that have few, sorted."""
    few = [name for name in names if 0 < plain[name].distinct <= VALUES_MAX]
    if not few:
        return {}
    wanted = ", ".join(f'histogram(cast("{name}" as varchar))' for name in few)
    found = work.all(f"select {wanted} from rows")[0]  # noqa: S608
    return {name: tuple(sorted(each)) for name, each in zip(few, found, strict=True)}


def count_bins(work: Work, columns: Sequence[ColumnStatistics]) -> dict[str, list[int]]:
    """How many values of `rows` lie in each bin of these columns, then the nulls; in one pass."""
    wanted, parameters = ["count(*)"], []
    for each in columns:
        name = f'"{each.column}"'
        wanted += [f"count({name})"]
        wanted += [f"count(*) filter ({name} < ?)" for _ in each.edges]
        wanted += [f"count(*) filter (cast({name} as varchar) = ?)" for _ in each.values]
        parameters += [*each.edges, *each.values]
    found = iter(work.all(f"select {', '.join(wanted)} from rows", parameters)[0])  # noqa: S608
    rows, counts = next(found), {}
    for each in columns:
        present = next(found)
        below = [next(found) for _ in each.edges]
        equal = [next(found) for _ in each.values]
        if each.edges:
            inside = [after - before for before, after in pairwise([0, *below, present])]
        else:
            inside = [*equal, present - sum(equal)]
        counts[each.column] = [*inside, rows - present]
    return counts


def _hidden(statistics: ColumnStatistics) -> ColumnStatistics:
    return ColumnStatistics(
        statistics.column, statistics.type, statistics.nulls, statistics.distinct
    )
