# SPDX-License-Identifier: Apache-2.0
"""The steps between versions of the tables, by numbers: of the label queue, and of the index."""
