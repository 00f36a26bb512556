# SPDX-License-Identifier: Apache-2.0
"""What ingest does: sink records, publish for others, count."""
