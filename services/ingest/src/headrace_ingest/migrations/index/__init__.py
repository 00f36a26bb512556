# SPDX-License-Identifier: Apache-2.0
"""Of the index, which is filled again from the archive; `sql_tables` has the newest."""
