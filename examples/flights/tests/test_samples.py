# SPDX-License-Identifier: Apache-2.0
"""The records that the README publishes fit the contract of their stream."""

import json
from pathlib import Path

from headrace.loader import load_application

FLIGHTS = Path(__file__).parents[1]


def test_observations_name_columns_of_the_contract():
    columns = load_application(FLIGHTS).streams["weather.observed"].columns
    required = {name for name, column in columns.items() if column.required}
    records = (FLIGHTS / "samples/observations.jsonl").read_text().splitlines()
    for record in map(json.loads, records):
        assert required <= record.keys() <= columns.keys()
    assert len(records) == 3
