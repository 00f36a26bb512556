# SPDX-License-Identifier: Apache-2.0
"""Which partition of a topic a key belongs to: murmur2, as Kafka's own clients place records.

Austin Appleby's MurmurHash2, 32 bits, in the variant of `org.apache.kafka.common.utils.Utils`,
for many keys at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.observations import Ids, Ints

SEED, M = np.uint32(0x9747B28C), np.uint32(0x5BD1E995)
POSITIVE = np.uint32(0x7FFFFFFF)


def key_partitions(keys: Ids, count: int) -> Ints:
    """Of each key, as bytes, its partition of `count`."""
    return ((murmur2(keys) & POSITIVE) % np.uint32(count)).astype(np.int64)


def murmur2(keys: Ids) -> NDArray[np.uint32]:
    """32 bits of each key."""
    lengths = np.diff(keys.offsets)
    whole, rest = lengths // 4, lengths % 4
    hashed = SEED ^ lengths.astype(np.uint32)
    for place, word in enumerate(keys.padded(4).view("<u4").T):
        mixed = word * M
        mixed = (mixed ^ (mixed >> np.uint32(24))) * M
        hashed = np.where(place < whole, (hashed * M) ^ mixed, hashed)
        # Behind the key's end its last word holds zeros, which change nothing.
        hashed = np.where((place == whole) & (rest > 0), (hashed ^ word) * M, hashed)
    hashed = (hashed ^ (hashed >> np.uint32(13))) * M
    return hashed ^ (hashed >> np.uint32(15))
