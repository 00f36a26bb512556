# SPDX-License-Identifier: Apache-2.0
"""Ids that are hashes of their cause: a replay or a restart makes the same ones (P14)."""

from __future__ import annotations

from hashlib import sha256


def cause_id(*cause: object) -> str:
    """32 hexadecimal digits of what caused a thing; the same cause gives the same id."""
    return sha256("\n".join(map(str, cause)).encode()).hexdigest()[:32]
