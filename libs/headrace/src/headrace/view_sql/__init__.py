# SPDX-License-Identifier: Apache-2.0
"""A feature view as one SQL query for point-in-time rows, for DuckDB and Spark from one tree."""

from headrace.view_sql.job import feature_rows_job
from headrace.view_sql.query import feature_rows_sql, records_table

__all__ = ["feature_rows_job", "feature_rows_sql", "records_table"]
