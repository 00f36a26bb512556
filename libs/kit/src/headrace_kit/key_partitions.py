# SPDX-License-Identifier: Apache-2.0
"""Which partition of a topic a key belongs to: murmur2, as Kafka's own clients place records.

Austin Appleby's MurmurHash2, 32 bits, in the variant of `org.apache.kafka.common.utils.Utils`,
for many keys at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SEED, M = np.uint32(0x9747B28C), np.uint32(0x5BD1E995)
POSITIVE = np.uint32(0x7FFFFFFF)
WORD_BYTES = 4


def key_partitions(keys: Sequence[bytes], count: int) -> NDArray[np.int64]:
    """Of each key its partition of `count`."""
    lengths = np.fromiter(map(len, keys), dtype=np.int64, count=len(keys))
    width = -(-int(lengths.max(initial=1)) // WORD_BYTES) * WORD_BYTES
    padded = np.frombuffer(b"".join(key.ljust(width, b"\0") for key in keys), dtype="<u4")
    words = padded.reshape(len(keys), width // WORD_BYTES)
    return hashed_partitions(murmur2(words, lengths), count)


def hashed_partitions(hashes: NDArray[np.uint32], count: int) -> NDArray[np.int64]:
    """Of each hash its partition of `count`."""
    return ((hashes & POSITIVE) % np.uint32(count)).astype(np.int64)


def murmur2(words: NDArray[np.uint32], lengths: NDArray[np.int64]) -> NDArray[np.uint32]:
    """32 bits of each key, given as words [keys, n] with zeros behind its `lengths` bytes."""
    whole, rest = lengths // WORD_BYTES, lengths % WORD_BYTES
    # Words that every key has; ids are all of one length.
    common = int(whole.min()) if len(whole) else 0
    mixed_words = words * M
    mixed_words = (mixed_words ^ (mixed_words >> np.uint32(24))) * M
    hashed = SEED ^ lengths.astype(np.uint32)
    for place, word in enumerate(words.T):
        mixed = mixed_words[:, place]
        if place < common:
            hashed = (hashed * M) ^ mixed
            continue
        hashed = np.where(place < whole, (hashed * M) ^ mixed, hashed)
        # Behind the key's end its last word holds zeros, which change nothing.
        hashed = np.where((place == whole) & (rest > 0), (hashed ^ word) * M, hashed)
    hashed = (hashed ^ (hashed >> np.uint32(13))) * M
    return hashed ^ (hashed >> np.uint32(15))
