# SPDX-License-Identifier: Apache-2.0
"""Ingest: judges what users publish, hands on what is good, accounts for every record."""
