# SPDX-License-Identifier: Apache-2.0
"""One spelling of an entity, whoever names it: a record, a caller, or a row of a training set."""

from __future__ import annotations

import hashlib


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


def entity_digest(texts: tuple[str, ...]) -> bytes:
    """16 bytes that name these values: BLAKE2b of each one's length, a colon and the text.

    Lengths, in characters, keep the values apart.
    """
    if len(texts) == 1:
        spelled = f"{len(texts[0])}:{texts[0]}"
    else:
        spelled = "".join([f"{len(text)}:{text}" for text in texts])
    return hashlib.blake2b(spelled.encode(), digest_size=16).digest()
