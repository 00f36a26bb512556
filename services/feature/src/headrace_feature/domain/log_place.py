# SPDX-License-Identifier: Apache-2.0
"""Places in a log that is deleted and made again under its old name, and then has another id.

Offsets of different logs cannot be compared: what lay before the one may lie behind the other.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogPlace:
    """The next offset in the log of this id; empty: of a version that did not say, or anywhere."""

    offset: int = 0
    log_id: str = ""


BEGINNING = LogPlace()  # of whatever log is there


def earliest(places: Collection[LogPlace]) -> LogPlace:
    """Nothing before it is behind any of these; places that name no log are of the others'."""
    log_ids = {each.log_id for each in places} - {""}
    if len(log_ids) > 1:
        return BEGINNING
    return LogPlace(min((each.offset for each in places), default=0), "".join(log_ids))
