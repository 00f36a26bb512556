# SPDX-License-Identifier: Apache-2.0
"""The account as a table that a person wants to read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

Row = tuple[str, str, str]


def summary_table(summary: dict[str, Any]) -> Table:
    """One line for each number, with what it means."""
    table = Table("what", "value", "means", title="Headrace on the flights of 2013")
    for section in (_events, _serving, _quality, _loop, _cost):
        for row in section(summary):
            table.add_row(*row)
        table.add_section()
    return table


def _events(summary: dict[str, Any]) -> Iterator[Row]:
    events = summary["events"]
    dead = events["dead_lettered"]
    yield "events published", f"{events['published']:,}", "= stored + dead-lettered + repeats"
    yield "  stored", f"{events['stored']:,}", f"of them {events['late']:,} late"
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(dead.items()))
    yield "  dead-lettered", f"{sum(dead.values()):,}", reasons
    yield "  repeats dropped", f"{events['duplicates_dropped']:,}", "same id, same payload"
    yield "freshness", _spread(summary.get("freshness_ms")), "published to feature readable"


def _serving(summary: dict[str, Any]) -> Iterator[Row]:
    predictions = summary["predictions"]
    yield (
        "predictions by keys",
        f"{predictions['served']:,}",
        f"failed {predictions['failed']}, in the log {predictions['logged']:,}",
    )
    yield (
        "  again by tensors",
        f"{predictions['served_by_tensors']:,}",
        f"{predictions['doors_differ']} scores differ",
    )
    shares = ", ".join(f"v{v}: {n:,}" for v, n in predictions["by_version"].items())
    yield "  who answered", shares, "each answer names its one version"
    yield "latency", _spread(summary.get("latency_ms")), "one row by entity keys, features joined"


def _quality(summary: dict[str, Any]) -> Iterator[Row]:
    auc = summary["auc"]
    yield "AUC static", _number(auc.get("static")), "the schedule alone"
    yield "AUC streaming", _number(auc.get("champion")), "all months, from log and arrivals"
    for month, value in auc["champion_by_month"].items():
        yield f"  {month}", _number(value), ""


def _loop(summary: dict[str, Any]) -> Iterator[Row]:
    for version in summary["versions"]:
        until = datetime.fromtimestamp(version["trained_until"], UTC)
        holdout = f"holdout AUC {_number(version.get('auc'))}"
        serves = version.get(
            "alias", "was champion" if "promoted_at" in version else "never served"
        )
        yield (
            f"version {version['version']}",
            f"gate {version.get('gate', 'none')}",
            f"trained until {until:%d %b}, {holdout}, {serves}",
        )
    for incident in summary["incidents"]:
        yield f"incident: {incident['kind']}", incident.get("action", ""), ""
    took = summary.get("drift_to_promotion_s")
    if took is not None:
        yield "drift to promotion", f"{took:.1f} s", "wall time, first incident that led to one"


def _cost(summary: dict[str, Any]) -> Iterator[Row]:
    first = summary.get("first_prediction_s")
    if first is not None:
        yield "first prediction", f"{first:.0f} s", "after the replay began"
    yield "wall time", f"{summary['wall_s']:.0f} s", ""
    rss = summary["rss_mb_by_service"]
    each = ", ".join(f"{name} {mb:.0f}" for name, mb in rss.items())
    yield "memory", f"{sum(rss.values()):,.0f} MB", each


def _spread(quantiles: dict[str, float] | None) -> str:
    if not quantiles:
        return "not measured"
    return f"p50 {quantiles['p50']:,.1f} ms, p99 {quantiles['p99']:,.1f} ms"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
