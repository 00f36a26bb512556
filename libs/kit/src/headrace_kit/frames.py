# SPDX-License-Identifier: Apache-2.0
"""Columns computed of a frame, by the thread that asks where the rows are few.

To hand expressions over to polars' threads and to wait for them costs more than to compute a few
thousand rows, most of all on a core that others share.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

FEW_ROWS_MAX = 4_096


def computed(frame: pl.DataFrame, columns: Iterable[pl.Expr]) -> pl.DataFrame:
    """The frame with these columns, as `with_columns` makes them."""
    if len(frame) <= FEW_ROWS_MAX:
        return frame.with_columns_seq(columns)
    return frame.with_columns(columns)
