# SPDX-License-Identifier: Apache-2.0
"""Four streams of events, each record ordered by the moment at which it became known.

Moments are int64 microseconds since 1970 in UTC, in the JSON too: nothing has to be parsed.
A schedule is known 24 h ahead, a departure, arrival or observation when it happens. A cancelled
flight never departs; a cancelled or diverted one never arrives. Replaying gives the same bytes
for the same seed, whatever the step.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from flights_example import dirt as dirty
from flights_example.source import midnight_us, read_flights, read_weather

SCHEDULED, DEPARTED, ARRIVED = (
    "flights.scheduled",
    "flights.departed",
    "flights.arrived",
)
WEATHER = "weather.observed"
STREAMS = (SCHEDULED, DEPARTED, ARRIVED, WEATHER)
DAY_US = 24 * dirty.HOUR_US

_FLIGHT = (
    "flight_id",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "scheduled_at",
)
_SCHEDULE = ("date", "sched_dep_time", "sched_arr_time", "scheduled_arrival_at", "distance")
_OBSERVED = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip")
_CLOCK = ("year", "month", "day", "hour")


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a stream's records are laid out; `number_column` is where dirt puts wrong values."""

    prefix: str
    key_column: str
    time_column: str
    number_column: str
    columns: tuple[str, ...]
    can_be_late: bool


_SHAPE_BY_STREAM = {
    SCHEDULED: _Shape(
        prefix="scheduled",
        key_column="flight_id",
        time_column="announced_at",
        number_column="distance",
        columns=(*_FLIGHT, *_SCHEDULE),
        can_be_late=False,
    ),
    DEPARTED: _Shape(
        prefix="departed",
        key_column="flight_id",
        time_column="departed_at",
        number_column="dep_delay",
        columns=(*_FLIGHT, "dep_time", "dep_delay"),
        can_be_late=True,
    ),
    ARRIVED: _Shape(
        prefix="arrived",
        key_column="flight_id",
        time_column="arrived_at",
        number_column="arr_delay",
        columns=(*_FLIGHT, "arr_time", "arr_delay", "air_time"),
        can_be_late=False,
    ),
    WEATHER: _Shape(
        prefix="weather",
        key_column="origin",
        time_column="observed_at",
        number_column="temp",
        columns=("origin", *_CLOCK, *_OBSERVED, "pressure", "visib"),
        can_be_late=True,
    ),
}


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """Records of one stream in order of known time; all sequences have the same length.

    `dirt_by_kind` counts the dirty records among them by the kinds of `dirt.REASON_BY_KIND`.
    """

    keys: list[bytes]
    event_ids: list[str]
    event_times_us: np.ndarray
    known_times_us: np.ndarray
    values: list[bytes]
    dirt_by_kind: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class EventBatch:
    """What became known in [from_us, until_us), by stream."""

    from_us: int
    until_us: int
    by_stream: Mapping[str, StreamBatch]


def event_batches(
    from_date: date,
    until_date: date,
    *,
    step: timedelta,
    seed: int = 13,
    dirt: bool = True,
) -> Iterator[EventBatch]:
    """What became known from one New York midnight until another, one batch per `step`.

    Two runs that meet at a date share no record and miss none. The flights of the first day were
    announced the day before: start a day early to have their schedules.
    """
    streams = {
        stream: _stream(stream, table, seed=seed, dirt=dirt) for stream, table in _tables().items()
    }
    from_us, until_us = midnight_us(from_date), midnight_us(until_date)
    step_us = round(step.total_seconds()) * 1_000_000
    # Short steps are cut from a day that was encoded at once: encoding has a cost per call.
    chunk_us = step_us * max(1, DAY_US // step_us)
    for chunk_from, chunk_until in _steps(from_us, until_us, chunk_us):
        chunk = {
            stream: _encoded(stream, _known_within(records, chunk_from, chunk_until))
            for stream, records in streams.items()
        }
        for start, stop in _steps(chunk_from, chunk_until, step_us):
            batches = {
                stream: _batch(_known_within(records, start, stop))
                for stream, records in chunk.items()
            }
            yield EventBatch(start, stop, batches)


def _steps(from_us: int, until_us: int, step_us: int) -> Iterator[tuple[int, int]]:
    for start in range(from_us, until_us, step_us):
        yield start, min(start + step_us, until_us)


def _tables() -> dict[str, pl.DataFrame]:
    flights, weather = read_flights().with_columns(fact="flight_id"), read_weather()
    announced = pl.col("scheduled_at") - DAY_US
    hour = pl.from_epoch("observed_at", time_unit="us").dt.strftime("%Y-%m-%dT%H")
    return {
        SCHEDULED: flights.with_columns(announced_at=announced),
        DEPARTED: flights.filter(pl.col("departed_at").is_not_null()),
        ARRIVED: flights.filter(pl.col("arrived_at").is_not_null()),
        # By UTC hour each observation has an id; the local hour repeats when summer time ends.
        WEATHER: weather.with_columns(fact=pl.concat_str("origin", hour, separator=":")),
    }


def _stream(stream: str, table: pl.DataFrame, *, seed: int, dirt: bool) -> pl.DataFrame:
    """All records of a stream by known time; only added records have their `value` already."""
    shape = _SHAPE_BY_STREAM[stream]
    records = table.select(
        pl.concat_str(pl.lit(f"{shape.prefix}:"), "fact").alias("event_id"),
        *shape.columns,
        shape.time_column,
        known_at=shape.time_column,
    )
    records = records.with_columns(
        key=pl.col(shape.key_column),
        event_us=pl.col(shape.time_column),
        dirt=pl.lit(None, dtype=pl.String),
        value=pl.lit(None, dtype=pl.Binary),
    )
    if not dirt:
        return _by_known_time(records.with_columns(known_us="known_at"))
    rows_by_kind = dirty.choose(records.height, seed=seed, stream_number=STREAMS.index(stream))
    late = rows_by_kind.pop(dirty.LATE)
    if shape.can_be_late:
        records = _delayed(records, late, seed=seed)
    records = records.with_columns(known_us="known_at")
    added = [
        dirty.spoil(
            kind,
            _encoded(stream, records[rows]),
            number_column=shape.number_column,
            time_column=shape.time_column,
        )
        for kind, rows in rows_by_kind.items()
    ]
    return _by_known_time(pl.concat([records, *added], how="diagonal"))


def _delayed(records: pl.DataFrame, rows: np.ndarray, *, seed: int) -> pl.DataFrame:
    known = records["known_at"].to_numpy().copy()
    known[rows] += dirty.delay(rows, seed=seed)
    kind = pl.Series([dirty.LATE]).new_from_index(0, len(rows))
    return records.with_columns(known_at=pl.Series(known), dirt=records["dirt"].scatter(rows, kind))


def _by_known_time(records: pl.DataFrame) -> pl.DataFrame:
    return records.sort("known_us", maintain_order=True)


def _encoded(stream: str, records: pl.DataFrame) -> pl.DataFrame:
    """The envelope of each record and its JSON as `value`, which an added record has already."""
    shape = _SHAPE_BY_STREAM[stream]
    body = pl.struct("event_id", *shape.columns, shape.time_column, "known_at")
    value = body.struct.json_encode().cast(pl.Binary)
    return records.select(
        "event_id",
        "key",
        "event_us",
        "known_us",
        "dirt",
        value=pl.coalesce("value", value),
    )


def _known_within(records: pl.DataFrame, from_us: int, until_us: int) -> pl.DataFrame:
    start, stop = records["known_us"].search_sorted(pl.Series([from_us, until_us]))
    return records[start:stop]


def _batch(records: pl.DataFrame) -> StreamBatch:
    counts = records["dirt"].drop_nulls().value_counts()
    return StreamBatch(
        keys=records["key"].cast(pl.Binary).to_list(),
        event_ids=records["event_id"].to_list(),
        event_times_us=records["event_us"].to_numpy(),
        known_times_us=records["known_us"].to_numpy(),
        values=records["value"].to_list(),
        dirt_by_kind=dict(counts.iter_rows()),
    )
