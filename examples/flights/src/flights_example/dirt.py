# SPDX-License-Identifier: Apache-2.0
"""Seeded dirt: bad, repeated and late records, so that dead letters and dedup have work to see.

Bad and repeated records are added beside the real ones, which stay as they are; `late` only delays
the moment at which a real departure or observation becomes known. Arrivals, the labels, are never
late. The choice depends on the seed and the stream alone, never on the dates or the step.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson
import polars as pl

# The share of a stream's real records that each kind touches.
SHARE = 0.001
LATE = "late"
# What an ingest service should answer: a dead-letter reason, or None when no letter is due.
REASON_BY_KIND = MappingProxyType(
    {
        "malformed_json": "DECODE_ERROR",
        "wrong_type": "BAD_TYPE",
        "missing_field": "MISSING_FIELD",
        "out_of_range": "OUT_OF_RANGE",
        "bad_timestamp": "BAD_TIMESTAMP",
        "conflict": "DUPLICATE_CONFLICT",
        "duplicate": None,
        LATE: None,
    }
)
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
YEAR_9999_US = 253_370_764_800_000_000
BAD_TIMES_US = (0, -HOUR_US, YEAR_9999_US)


def choose(rows: int, *, seed: int, stream_number: int) -> dict[str, np.ndarray]:
    """Disjoint row numbers by kind, the same for the same arguments."""
    order = np.random.default_rng([seed, stream_number]).permutation(rows)
    count = round(rows * SHARE)
    kinds = enumerate(REASON_BY_KIND)
    return {kind: np.sort(order[i * count : (i + 1) * count]) for i, kind in kinds}


def delay(rows: np.ndarray, *, seed: int) -> np.ndarray:
    """How long after the event each late record becomes known: 2 hours to 3 days, in us."""
    minutes = np.random.default_rng([seed, len(rows)]).integers(120, 4320, len(rows))
    return minutes * MINUTE_US


def spoil(
    kind: str, records: pl.DataFrame, *, number_column: str, time_column: str
) -> pl.DataFrame:
    """The added records of one kind, made from real ones.

    `records` has event_id, key, event_us, known_us, dirt and value (JSON as bytes); so has the
    result.
    """
    change = _CHANGES[kind]
    rows = [
        change(row | {"dirt": kind}, position, number_column, time_column)
        for position, row in enumerate(records.iter_rows(named=True))
    ]
    return pl.DataFrame(rows, schema=records.schema)


def _malformed_json(row: dict[str, Any], position: int, *_: str) -> dict[str, Any]:
    value = row["value"][: len(row["value"]) * (1 + position % 3) // 4]
    return _as_new(row, "malformed_json") | {"value": value}


def _wrong_type(row: dict[str, Any], _: int, number: str, __: str) -> dict[str, Any]:
    return _with_body(_as_new(row, "wrong_type"), {number: "unknown"})


def _missing_field(row: dict[str, Any], *_: object) -> dict[str, Any]:
    row = _as_new(row, "missing_field")
    body = orjson.loads(row["value"])
    del body["origin"]
    return row | {"value": orjson.dumps(body | {"event_id": row["event_id"]})}


def _out_of_range(row: dict[str, Any], position: int, number: str, _: str) -> dict[str, Any]:
    return _with_body(_as_new(row, "out_of_range"), {number: (-100_000, 100_000)[position % 2]})


def _bad_timestamp(row: dict[str, Any], position: int, _: str, time: str) -> dict[str, Any]:
    moment = BAD_TIMES_US[position % len(BAD_TIMES_US)]
    return _with_body(_as_new(row, "bad_timestamp"), {time: moment}) | {"event_us": moment}


def _duplicate(row: dict[str, Any], position: int, *_: str) -> dict[str, Any]:
    return row | {"known_us": row["known_us"] + (1 + position % 30) * MINUTE_US}


def _conflict(row: dict[str, Any], position: int, number: str, time: str) -> dict[str, Any]:
    original = orjson.loads(row["value"])[number] or 0
    return _with_body(_duplicate(row, position, time), {number: original + 7})


def _as_new(row: dict[str, Any], kind: str) -> dict[str, Any]:
    event_id = f"dirt:{kind}:{row['event_id']}"
    return row | {"event_id": event_id, "known_us": row["known_us"] + MINUTE_US}


def _with_body(row: dict[str, Any], fields: dict[str, object]) -> dict[str, Any]:
    body = orjson.loads(row["value"]) | fields | {"event_id": row["event_id"]}
    return row | {"value": orjson.dumps(body)}


_CHANGES: dict[str, Callable[[dict[str, Any], int, str, str], dict[str, Any]]] = {
    "malformed_json": _malformed_json,
    "wrong_type": _wrong_type,
    "missing_field": _missing_field,
    "out_of_range": _out_of_range,
    "bad_timestamp": _bad_timestamp,
    "conflict": _conflict,
    "duplicate": _duplicate,
}
