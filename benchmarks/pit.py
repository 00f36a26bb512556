# SPDX-License-Identifier: Apache-2.0
"""The point-in-time join: 1,000,000 label rows and 2 views of 1,000,000 records, 10,000 entities.

Rows and records are read from Delta tables on disk, five features of each view are answered as
known at each row's moment, and the answer is written out as an Arrow stream. It runs in a process
of its own, whose peak memory counts. The raw limit is what joins the same rows to the same views in
memory and knows no late records, windows or repeats: two `join_asof` of polars. Every hundredth
answer is compared with a plain fold. `make bench NAME=pit-large`: 50,000,000 rows.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from benchmarks.outcome import Outcome, say
from headrace.application import parse_definition
from headrace_feature.adapters.arrow_ipc import historical_stream
from headrace_feature.adapters.delta_archive import DeltaArchive
from headrace_feature.adapters.duckdb_workbench import AS_OF, ROWS_MAX, Workbench
from headrace_feature.domain.views import Catalogue
from headrace_feature.offline_handlers import GetHistoricalFeatures, get_historical_features
from headrace_kit.clock import SystemClock
from headrace_kit.objects import delta_table_uri

ROWS, RECORDS, ENTITIES = 1_000_000, 1_000_000, 10_000
START_US, DAYS, DAY_US, HOUR_US = 1_700_000_000_000_000, 30, 86_400_000_000, 3_600_000_000
STREAMS, WINDOW_US = ("clicks", "sales"), 7 * DAY_US
AGGREGATES = ("count", "sum", "mean", "max", "last")
FEATURES = tuple(f"{stream}:{aggregate}" for stream in STREAMS for aggregate in AGGREGATES)
SECONDS_MAX, BYTES_MAX = 2.0, 1.5 * 2**30
OFFLINE_OBSERVATIONS_MAX, DISK_BYTES_MAX = 2_500_000, 64 << 30  # as the service by default


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), ROWS)
        raw_s = raw(Path(folder))
        told = measured(Path(folder), "--keep")
        wrong = mistakes(Path(folder))
    gib = told["peak_bytes"] / 2**30
    say(f"peak {gib:.2f} GiB, {told['cpu_s']:.2f} s of CPU; differ from a plain fold: {wrong}")
    ok = told["seconds"] <= SECONDS_MAX and told["peak_bytes"] <= BYTES_MAX and not wrong
    bar = "<= 2 s, <= 1.5 GiB, and every answer right"
    say(Outcome("pit", told["seconds"], "s", raw_s, bar, ok).line())


def main_large() -> None:
    rows = 50 * ROWS
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), rows)
        told = measured(Path(folder))
    say(f"{rows:,} rows in {told['seconds']:.0f} s, {told['cpu_s']:.0f} s of CPU")
    gib = told["peak_bytes"] / 2**30
    ok = told["peak_bytes"] <= BYTES_MAX
    say(Outcome("pit-large", gib, "GiB", BYTES_MAX / 2**30, "<= 1.5 GiB", ok).line())


def fill(folder: Path, rows: int) -> None:
    """Delta tables as ingest writes them, and one of rows."""
    chance = np.random.default_rng(7)
    users = pa.array([f"user-{number}" for number in range(ENTITIES)])
    for stream in STREAMS:
        at = np.sort(START_US + chance.integers(0, DAYS * DAY_US, RECORDS))
        late_us = (chance.random(RECORDS) < 0.1) * chance.integers(0, HOUR_US, RECORDS)
        table = {
            "_event_id": pa.array([f"{stream}-{number}" for number in range(RECORDS)]),
            "_event_time_us": pa.array(at),
            "_known_time_us": pa.array(at + late_us),
            "user": users.take(chance.integers(0, ENTITIES, RECORDS)),
            "amount": pa.array(chance.random(RECORDS).round(4) * 100),
        }
        write_deltalake(delta_table_uri(folder.as_uri(), "records", stream), pa.table(table))
    for first in range(0, rows, 5 * ROWS):
        count = min(5 * ROWS, rows - first)
        moments = pa.array(START_US + chance.integers(0, DAYS * DAY_US, count))
        some = {"user": users.take(chance.integers(0, ENTITIES, count)), AS_OF: moments}
        write_deltalake(str(folder / "rows"), pa.table(some), mode="append")


def raw(folder: Path) -> float:
    """Seconds of two as-of joins, all in memory and in order of time."""
    rows = pl.from_arrow(DeltaTable(folder / "rows").to_pyarrow_table()).sort(AS_OF)
    views = [_sorted_records(folder, stream) for stream in STREAMS]
    begin_s = time.monotonic()
    for view in views:
        rows = rows.join_asof(
            view, left_on=AS_OF, right_on="_event_time_us", by="user", suffix="_2"
        ).drop("_event_time_us", strict=False)
    return time.monotonic() - begin_s


def _sorted_records(folder: Path, stream: str) -> pl.DataFrame:
    table = DeltaTable(delta_table_uri(folder.as_uri(), "records", stream)).to_pyarrow_table()
    return pl.from_arrow(table).select("user", "amount", "_event_time_us").sort("_event_time_us")


def measured(folder: Path, *options: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.pit", str(folder), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=3_600)
    told: dict[str, float] = json.loads(done.stdout)
    return told


def join(folder: Path, *, keep: bool) -> None:
    """What the service does with a request; the answer's bytes are thrown away, or kept."""
    import duckdb  # noqa: F401 - a running service has imported it
    import pyarrow.dataset  # noqa: F401

    archive = DeltaArchive(
        folder.as_uri(),
        {},
        raw_topic=lambda _: None,  # type: ignore[arg-type,return-value]
        was_archived=lambda _: False,
        clock=SystemClock(),
    )
    bench = Workbench(
        folder / "bench",
        disk_bytes_max=DISK_BYTES_MAX,
        observations_max=OFFLINE_OBSERVATIONS_MAX,
    )
    begin_s, cpu_s = time.monotonic(), time.process_time()
    with bench.opened() as opened, (folder / "answers").open("wb") if keep else nullcontext() as to:
        dataset = DeltaTable(folder / "rows").to_pyarrow_dataset()
        batches = dataset.scanner(batch_size=ROWS_MAX, batch_readahead=2, fragment_readahead=1)
        rows = opened.stored(batches.to_batches(), dataset.schema)
        made = get_historical_features(
            GetHistoricalFeatures(FEATURES),
            rows,
            catalogue=catalogue(),
            snapshots=archive.newest(STREAMS),
            bench=opened,
        )
        for piece in historical_stream(made.answered, made.features, rows.schema):
            if to is not None:
                to.write(piece)
    told = {
        "seconds": time.monotonic() - begin_s,
        "cpu_s": time.process_time() - cpu_s,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    say(json.dumps(told))


def catalogue() -> Catalogue:
    made = Catalogue()
    for stream in STREAMS:
        features = {
            name: {"aggregate": name, "window": "7d", **({} if name == "count" else _AMOUNT)}
            for name in AGGREGATES
        }
        view = {"kind": "view", "stream": stream, "entity": ["user"], "features": features}
        for document in (_contract(stream), view | {"name": stream, "description": "Of a user."}):
            made = made.with_definition(parse_definition(document))
    return made


_AMOUNT = {"column": "amount"}


def _contract(stream: str) -> dict[str, object]:
    types = {"id": "string", "user": "string", "amount": "float64", "at": "timestamp"}
    return {
        "kind": "stream",
        "name": stream,
        "description": "Of users.",
        "owner": "benchmark",
        "key": "user",
        "id": "id",
        "event_time": "at",
        "lateness_allowed": "1h",
        "columns": {name: {"type": kind} for name, kind in types.items()},
    }


def mistakes(folder: Path) -> int:
    """Of every hundredth row, how many answers are not those of a plain fold."""
    with pa.OSFile(str(folder / "answers")) as source:
        answers = pa.ipc.open_stream(source).read_all()
    some = answers.take(np.arange(0, answers.num_rows, 100))
    users, moments = some["user"].to_pylist(), some[AS_OF].to_pylist()
    wrong = 0
    for stream in STREAMS:
        happened = _by_user(folder, stream)
        expected = np.array(
            [list(_plain(happened[u], at)) for u, at in zip(users, moments, strict=True)],
            dtype=np.float32,
        )
        got = np.stack([some[f"{stream}:{name}"].to_numpy() for name in AGGREGATES], axis=1)
        wrong += int(((got != expected) & ~(np.isnan(got) & np.isnan(expected))).sum())
    return wrong


def _by_user(folder: Path, stream: str) -> dict[str, list[tuple[int, int, float]]]:
    table = DeltaTable(delta_table_uri(folder.as_uri(), "records", stream)).to_pyarrow_table()
    happened = defaultdict(list)
    names = ("user", "_event_time_us", "_known_time_us", "amount")
    for user, *rest in zip(*(table[name].to_pylist() for name in names), strict=True):
        happened[user].append(tuple(rest))
    return happened


def _plain(events: Sequence[tuple[int, int, float]], moment: int) -> Iterator[float]:
    seen = sorted(
        (at, amount) for at, known, amount in events if moment - WINDOW_US < at <= moment >= known
    )
    amounts = [amount for _, amount in seen]
    total = math.fsum(amounts)
    yield len(amounts)
    yield from (
        (total, total / len(amounts), max(amounts), amounts[-1]) if amounts else [math.nan] * 4
    )


if __name__ == "__main__":
    join(Path(sys.argv[1]), keep="--keep" in sys.argv[2:])
