# SPDX-License-Identifier: Apache-2.0
"""What a machine needs to compute feature rows that has none of Headrace: one JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.application import Stream
from headrace.feature_view import StreamView
from headrace.view_sql.query import feature_rows_sql, records_table

ENVELOPE = {"_event_id": "STRING", "_event_time_us": "BIGINT", "_known_time_us": "BIGINT"}
SPARK_BY_TYPE = {
    "string": "STRING",
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "bool": "BOOLEAN",
    "timestamp": "BIGINT",
}


def feature_rows_job(
    view: StreamView, streams: Mapping[str, Stream], *, known_as_of_us: int | None = None
) -> dict[str, Any]:
    """The view, its SQL for Spark, and the columns of all that it reads, for deploy/spark.

    Raises Invalid BAD_DEFINITION where the streams do not fit the view.
    """
    sql = feature_rows_sql(view, streams, "spark", known_as_of_us=known_as_of_us)
    read = sorted({view.stream, *(each.stream for each in view.lookups.values())})
    own = _columns(streams[view.stream])
    return {
        "view": view.name,
        "stream": view.stream,
        "entity": {name: own[name] for name in view.entity},
        "tables": {
            records_table(name): {"stream": name, "columns": ENVELOPE | _columns(streams[name])}
            for name in read
        },
        "sql": sql,
    }


def _columns(stream: Stream) -> dict[str, str]:
    return {name: SPARK_BY_TYPE[column.type] for name, column in stream.columns.items()}
