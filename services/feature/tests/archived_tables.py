# SPDX-License-Identifier: Apache-2.0
"""Records and questions as the tables that the SQL of a view reads."""

import pyarrow as pa
from feature_world import AIR, NIGHT_BY_KIND, RIDES, Air, Event, archived

from headrace.application import Stream

ARROW_BY_TYPE = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "timestamp": pa.int64(),
    "bool": pa.bool_(),
}
ENVELOPE = {"_event_id": "string", "_event_time_us": "int64", "_known_time_us": "int64"}
STREAMS = {each["name"]: Stream.model_validate(each) for each in (RIDES, AIR)}


def a_table(stream: Stream, rows: list[dict[str, object]]) -> pa.Table:
    types = ENVELOPE | {name: column.type for name, column in stream.columns.items()}
    schema = pa.schema([(name, ARROW_BY_TYPE[each]) for name, each in types.items()])
    return pa.Table.from_pylist(rows, schema=schema)


def rides(events: list[Event]) -> pa.Table:
    return a_table(STREAMS["rides"], [event.row() for event in events])


def airs(observed: list[Air]) -> pa.Table:
    rows = [
        archived(a.id, a.at, a.known, {"air_id": a.id, "zone": a.zone, "temp": a.temp})
        for a in observed
    ]
    return a_table(STREAMS["air"], rows)


def questions(rows) -> pa.Table:
    """rows: (zone, kind, as_of)."""
    zones, kinds, moments = zip(*rows, strict=True)
    return pa.table(
        {
            "zone": pa.array(zones, pa.string()),
            "kind": pa.array(kinds, pa.int64()),
            "night": pa.array(map(NIGHT_BY_KIND.get, kinds), pa.bool_()),
            "as_of_us": pa.array(moments, pa.int64()),
        }
    )
