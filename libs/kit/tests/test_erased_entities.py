# SPDX-License-Identifier: Apache-2.0
"""Erased entities: what is told by some threads is found by others."""

from itertools import count

import polars as pl

from headrace_kit.erased_entities import Entity, ErasedEntities, entity_sha256


def told(erased, column, value, moment_us):
    erased.take(Entity(column, entity_sha256(column, value), moment_us))


class RowsAmidNews:
    """Rows that an erasure by one more column, and of one more value, comes with each look at."""

    def __init__(self, erased, **columns):
        self._erased, self._rows, self._number = erased, pl.DataFrame(columns), count()

    @property
    def columns(self):
        number = next(self._number)
        told(self._erased, f"column-{number}", "a", 5)
        told(self._erased, "zone", f"another-{number}", 5)
        return self._rows.columns

    def __getitem__(self, name):
        return self._rows[name]


def test_later_one_of_two_erasures_counts_in_whatever_order():
    erased = ErasedEntities()
    told(erased, "zone", "a", 5)
    told(erased, "zone", "a", 4)

    assert erased.holds("zone", "a", 5)
    assert not erased.holds("zone", "a", 6)


def test_number_is_found_by_its_digits():
    erased = ErasedEntities()
    for value in ("5", "2.5", "10000000000000000", "1e-07"):
        told(erased, "seat", value, 5)
    seats = [5.0, 2.5, 1e16, 1e-7, 6.0, None]

    assert {0, 1, 2} == erased.found(pl.DataFrame({"seat": seats}), pl.Series([5] * 6)).keys()


def test_rows_are_found_while_other_threads_tell_more():
    erased = ErasedEntities()
    told(erased, "zone", "a", 5)
    rows = RowsAmidNews(erased, zone=["b", "a", "another-0"])

    assert {1, 2} == erased.found(rows, pl.Series([5, 5, 5])).keys()
    assert {"zone", "column-0"} == erased.columns()
