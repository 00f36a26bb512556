# SPDX-License-Identifier: Apache-2.0
"""Pure rules of ingest: contracts, judging, deduplication, accounts."""
