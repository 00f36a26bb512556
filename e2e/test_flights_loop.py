# SPDX-License-Identifier: Apache-2.0
"""The closed loop on real flights, whole and with every service killed once on the way."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flights_example.account import everything_accounted
from flights_example.testing import SMALL, Onlooker, a_platform, kill, kill_inference, run_small
from headrace.local.platform import SERVICES
from headrace.local.tools import ToolCache

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
FIRST_SERVED_STEP = (SMALL.train_until - SMALL.from_day).days + 1
IDLE_RSS_MB_MAX = 1.5 * 1024**3 / 1e6
# Timings, and moments of the wall clock, are no results.
UNREPEATABLE = ("freshness_ms", "latency_ms", "wall_s", "rss_mb_by_service", "first_prediction_s",
                "drift_to_promotion_s")  # fmt: skip


def final_numbers(summary: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on what happened on the way."""
    numbers = {key: value for key, value in summary.items() if key not in UNREPEATABLE}
    numbers["versions"] = [
        {key: value for key, value in version.items() if key != "promoted_at"}
        for version in summary["versions"]
    ]
    numbers["incidents"] = [
        {key: each[key] for key in ("kind", "action")} for each in summary["incidents"]
    ]
    return numbers


def test_every_published_event_is_accounted_for(undisturbed: dict[str, Any]) -> None:
    assert everything_accounted(undisturbed)
    assert undisturbed["events"]["duplicates_dropped"] > 0
    assert undisturbed["events"]["late"] > 0
    assert {"DECODE_ERROR", "BAD_TYPE", "MISSING_FIELD", "OUT_OF_RANGE"} <= set(
        undisturbed["events"]["dead_lettered"]
    )


def test_every_flight_is_predicted_through_both_doors(undisturbed: dict[str, Any]) -> None:
    predictions = undisturbed["predictions"]

    assert predictions["served"] > 6_000
    assert 0 == predictions["failed"] == predictions["doors_differ"]
    assert predictions["served"] == predictions["logged"] == predictions["served_by_tensors"]


def test_streaming_model_beats_the_schedule_alone(undisturbed: dict[str, Any]) -> None:
    assert undisturbed["auc"]["champion"] > undisturbed["auc"]["static"] + 0.02


def test_drift_leads_to_one_gated_retraining(undisturbed: dict[str, Any]) -> None:
    assert 1 == len(undisturbed["incidents"])
    assert [1, 2] == [version["version"] for version in undisturbed["versions"]]
    served = [each for each in undisturbed["versions"] if "promoted_at" in each]
    assert all("passed" == version["gate"] for version in served)


def test_loop_turns_to_its_end(undisturbed: dict[str, Any]) -> None:
    (incident,) = undisturbed["incidents"]
    v1, v2 = undisturbed["versions"]

    assert incident["action"] in ("retrained v2, promoted", "retrained v2, rolled back")
    promoted = incident["action"].endswith("promoted")
    assert (None if promoted else "champion", "champion" if promoted else None) == (
        v1.get("alias"),
        v2.get("alias"),
    )


def test_idle_platform_fits_its_memory(tmp_path: Path, cache: ToolCache) -> None:
    with a_platform(tmp_path, cache) as platform:
        rss_mb = platform.rss_mb_by_service()

    assert {*SERVICES, "kafka"} == rss_mb.keys()
    assert sum(rss_mb.values()) < IDLE_RSS_MB_MAX, rss_mb


def test_killing_every_service_changes_no_final_number(
    undisturbed: dict[str, Any], tmp_path: Path, cache: ToolCache
) -> None:
    with a_platform(tmp_path, cache) as platform:
        onlooker = Onlooker(
            at_step={
                3: partial(kill, platform, "ingest"),
                5: partial(kill, platform, "feature"),
                FIRST_SERVED_STEP + 1: partial(kill, platform, "monitor"),
                FIRST_SERVED_STEP + 2: partial(kill_inference, platform),
                FIRST_SERVED_STEP + 3: partial(kill, platform, "registry"),
                FIRST_SERVED_STEP + 4: partial(kill, platform, "ingest"),
                FIRST_SERVED_STEP + 5: partial(kill, platform, "feature"),
                FIRST_SERVED_STEP + 6: partial(kill, platform, "monitor"),
            },
            when_said={"epoch": partial(kill, platform, "trainer")},
        )
        summary = run_small(platform, onlooker)

    assert not onlooker.at_step
    assert not onlooker.when_said
    assert final_numbers(undisturbed) == final_numbers(summary)
