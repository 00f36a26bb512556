# SPDX-License-Identifier: Apache-2.0
"""One spelling of an entity, whoever names it: a record, a caller, or a row of a training set."""

from __future__ import annotations


def text_of(value: object) -> str | None:
    """5, 5.0 and "5" name the same entity; null, NaN and the empty text name none."""
    if isinstance(value, str):
        return value or None
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
