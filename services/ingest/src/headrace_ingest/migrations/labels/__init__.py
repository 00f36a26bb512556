# SPDX-License-Identifier: Apache-2.0
"""Of the label queue and the redrive key; `sql_task_store`, `sql_redrive_key` have the newest."""
