# SPDX-License-Identifier: Apache-2.0
"""What a reader of the docs is told to publish and to apply fits the example."""

import json
from pathlib import Path

import pytest
import yaml

from headrace.application import build_application, parse_definition
from headrace.loader import load_application

FLIGHTS = Path(__file__).parents[1]
LABELS = FLIGHTS.parents[1] / "docs/labels.md"
SAMPLES = {
    "weather.observed": "observations",
    "flights.scheduled": "scheduled",
    "flights.departed": "departed",
    "flights.arrived": "arrived",
}


def test_each_stream_has_samples():
    assert set(load_application(FLIGHTS).streams) == SAMPLES.keys()


@pytest.mark.parametrize(("stream", "file"), SAMPLES.items())
def test_samples_name_columns_of_the_contract(stream, file):
    columns = load_application(FLIGHTS).streams[stream].columns
    required = {name for name, column in columns.items() if column.required}
    records = (FLIGHTS / f"samples/{file}.jsonl").read_text().splitlines()
    for record in map(json.loads, records):
        assert required <= record.keys() <= columns.keys()
    assert len(records) == 3


@pytest.mark.parametrize("part", ["queue", "weak"])
def test_labels_of_the_docs_can_be_applied_beside_the_flights(part):
    blocks = [block.split("```")[0] for block in LABELS.read_text().split("```yaml\n")[1:]]
    stream, label, *parts = map(yaml.safe_load, blocks)
    added = {name: each for one in parts for name, each in one.items()}
    assert added.keys() == {"queue", "weak"}

    definitions = load_application(FLIGHTS).definitions()
    label |= {part: added[part]}
    made = build_application(
        "flights", [*definitions, parse_definition(stream), parse_definition(label)]
    )

    assert made.labels.keys() == {"late"}
