# SPDX-License-Identifier: Apache-2.0
"""One spelling of an entity, whoever names it: a record, a caller, or a row of a training set."""

from __future__ import annotations

import hashlib
from functools import lru_cache

ENTITIES_CACHED_MAX = 65_536


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


@lru_cache(maxsize=ENTITIES_CACHED_MAX)
def entity_id(texts: tuple[str | None, ...]) -> bytes | None:
    """16 bytes that name these values, none when one is absent; lengths keep them apart."""
    if None in texts:
        return None
    spelled = "".join(f"{len(text)}:{text}" for text in texts if text is not None)
    return hashlib.blake2b(spelled.encode(), digest_size=16).digest()
