# SPDX-License-Identifier: Apache-2.0
"""The audit: who changed what, when and why. A change and its row are one transaction."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """`number` is given by the store: 0 before it is stored."""

    number: int
    at_us: int
    caller: str
    action: str
    model: str
    subject: str
    reason: str
    request_id: str


@dataclass(frozen=True, slots=True)
class ChangePage:
    """One page and the token of the next, empty when there is none."""

    changes: tuple[Change, ...]
    next_page_token: str
