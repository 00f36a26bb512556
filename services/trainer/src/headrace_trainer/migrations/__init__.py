# SPDX-License-Identifier: Apache-2.0
"""The steps between versions of the tables, by their numbers; `sql_run_store` has the newest."""
