# SPDX-License-Identifier: Apache-2.0
"""Names of entities: 16 bytes of a hash of their values' one spelling."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ENTITIES_CACHED_MAX = 65_536


def digests(entities: Sequence[tuple[str, ...]]) -> NDArray[np.uint64]:
    """[2, entities]: 16 bytes that name each one's values, in two halves."""
    named = b"".join(map(_digest, entities))
    halves = np.frombuffer(named, dtype=">u8").reshape(-1, 2)
    return np.ascontiguousarray(halves.T, dtype=np.uint64)


@lru_cache(maxsize=ENTITIES_CACHED_MAX)
def _digest(texts: tuple[str, ...]) -> bytes:
    """Lengths keep the values apart."""
    # Of many entities most are met once in a batch: this line is what they cost.
    if len(texts) == 1:
        spelled = f"{len(texts[0])}:{texts[0]}"
    else:
        spelled = "".join([f"{len(text)}:{text}" for text in texts])
    return hashlib.blake2b(spelled.encode(), digest_size=16).digest()
