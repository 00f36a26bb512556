# SPDX-License-Identifier: Apache-2.0
"""The bars of the closed loop, as a table. It starts platforms of its own; a quarter of an hour."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import ROOT
from benchmarks.outcome import say
from flights_example.testing import a_platform
from headrace.local.tools import ToolCache

DEMO_TIMEOUT_S = 3_600
IDLE_S = 20.0
Row = tuple[str, str, str]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = [*idle(folder / "idle"), *three_months(folder), *seven_months(folder)]
    memory_gib = psutil.virtual_memory().total / 2**30
    python = platform.python_version()
    where = f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()}, Python {python}"
    say(f"{where}. `make bench NAME=loop`.\n")
    say("| what | measured | bar |\n|---|--:|--:|")
    for row in rows:
        say(f"| {' | '.join(row)} |")


def idle(folder: Path) -> list[Row]:
    """Memory of Kafka and six services with nothing to do, and how long they take to be ready."""
    begun = time.monotonic()
    with a_platform(folder, ToolCache(ROOT / ".headrace/tools")) as running:
        ready_s = time.monotonic() - begun
        time.sleep(IDLE_S)
        rss_mb = running.rss_mb_by_service()
    each = ", ".join(f"{name} {mb:.0f}" for name, mb in rss_mb.items())
    return [
        ("Kafka and six services ready", f"{ready_s:.1f} s", ""),
        (f"RSS idle ({each})", f"{sum(rss_mb.values()):,.0f} MB", "< 1,536 MB"),
    ]


def three_months(folder: Path) -> list[Row]:
    summary = demo(folder, "1-3")
    events, auc = summary["events"], summary["auc"]
    accounted = (
        events["stored"] + sum(events["dead_lettered"].values()) + events["duplicates_dropped"]
    )
    return [
        ("AUC March, from the log and the arrivals", f"{auc['champion']:.3f}", ">= 0.750"),
        ("AUC March, the schedule alone", f"{auc['static']:.3f}", ""),
        (
            "from nothing to the first prediction",
            f"{summary['total_to_first_s']:.0f} s",
            "<= 180 s",
        ),
        ("default demo, start to exit", f"{summary['total_s']:.0f} s", "<= 480 s"),
        ("published - (stored + dead + repeats)", f"{events['published'] - accounted}", "0"),
        ("freshness p50 / p99", spread(summary["freshness_ms"]), ""),
        ("latency by keys p50 / p99", spread(summary["latency_ms"]), ""),
        (
            "drift seen to promoted",
            f"{summary.get('drift_to_promotion_s', float('nan')):.0f} s",
            "",
        ),
    ]


def seven_months(folder: Path) -> list[Row]:
    summary = demo(folder, "1-7")
    by_month = summary["auc"]["champion_by_month"]
    others = ", ".join(f"{month[5:]}: {value:.3f}" for month, value in by_month.items())
    return [
        (f"AUC July with the loop ({others})", f"{by_month['2013-07']:.3f}", ">= 0.765"),
        ("versions trained in seven months", f"{len(summary['versions'])}", ""),
    ]


def demo(folder: Path, months: str) -> dict[str, Any]:
    """The demo's account, with the wall time from its start added."""
    account = folder / f"{months}.json"
    command = [sys.executable, "-m", "headrace.cli.main", "demo", "flights", "--months", months]
    options = ["--json", str(account), "--data-dir", str(folder / f"demo-{months}")]
    begun = time.monotonic()
    subprocess.run([*command, *options], cwd=ROOT, check=True, timeout=DEMO_TIMEOUT_S)
    total_s = time.monotonic() - begun
    summary: dict[str, Any] = json.loads(account.read_text(encoding="utf-8"))
    start_s = total_s - summary["wall_s"]
    return summary | {
        "total_s": total_s,
        # Start and stop count in full: a little more than what a user waits for.
        "total_to_first_s": start_s + summary["first_prediction_s"],
    }


def spread(quantiles: dict[str, float]) -> str:
    return f"{quantiles['p50']:.1f} / {quantiles['p99']:.1f} ms"
