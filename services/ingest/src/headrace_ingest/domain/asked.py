# SPDX-License-Identifier: Apache-2.0
"""How much a caller asks for."""

from __future__ import annotations

from headrace.errors import Invalid


def bounded(field: str, asked: int, *, default: int, most: int) -> int:
    """0 takes the default, and more than the most is clamped.

    Raises Invalid BAD_REQUEST for a negative number.
    """
    if asked < 0:
        raise Invalid("BAD_REQUEST", field=field, problem="is negative")
    return min(asked or default, most)
