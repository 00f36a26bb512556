# SPDX-License-Identifier: Apache-2.0
"""Streams that were taken back: nobody reads them, and what they left in the archive is kept on."""

from __future__ import annotations

from collections.abc import Collection

from headrace_ingest.domain.contract import Contract
from headrace_ingest.ports.definitions import Retracted


def not_applied(applied: Collection[Contract], retracted: Retracted) -> list[Contract]:
    """The contracts of those that are not applied; the look-up may be the newer one of the two."""
    names = {contract.name for contract in applied}
    return [contract for contract in retracted.contracts if contract.name not in names]
