# SPDX-License-Identifier: Apache-2.0
"""Which partition of a topic each of many keys belongs to."""

from __future__ import annotations

import numpy as np

from headrace_feature.domain.observations import Ids, Ints
from headrace_kit.key_partitions import WORD_BYTES, hashed_partitions, murmur2


def key_partitions(keys: Ids, count: int) -> Ints:
    """Of each key, as bytes, its partition of `count`."""
    words = keys.padded(WORD_BYTES).view("<u4")
    return hashed_partitions(murmur2(words, np.diff(keys.offsets)), count)
