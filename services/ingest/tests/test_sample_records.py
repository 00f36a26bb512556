# SPDX-License-Identifier: Apache-2.0
"""The sample records of the example application are taken by their contracts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.loader import load_application
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.judging import judge
from headrace_kit.json_strict import decode
from headrace_kit.testing import a_batch, a_record

FLIGHTS = Path(__file__).parents[3] / "examples/flights"
FILES = {
    "weather.observed": "observations",
    "flights.scheduled": "scheduled",
    "flights.departed": "departed",
    "flights.arrived": "arrived",
}


@pytest.mark.parametrize(("stream", "file"), FILES.items())
def test_sample_record_is_taken_by_its_contract(stream, file):
    contract = Contract(load_application(FLIGHTS).streams[stream], 1)
    lines = (FLIGHTS / f"samples/{file}.jsonl").read_bytes().splitlines()
    known_us = 1_367_000_000_000_000  # Kafka took them later than they say they were known
    records = [
        a_record(
            line,
            key=json.loads(line)[contract.stream.key].encode(),
            offset=offset,
            timestamp_ms=known_us // 1_000,
        )
        for offset, line in enumerate(lines)
    ]

    judged = judge(a_batch(records), contract, decode=decode)

    assert ({}, 3) == (dict(judged.refused), judged.rows.height)
