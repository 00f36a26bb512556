# SPDX-License-Identifier: Apache-2.0
"""Keys go where Kafka's own clients put them."""

import numpy as np
import pytest

from headrace_kit.key_partitions import key_partitions

# From UtilsTest of Apache Kafka.
HASH_BY_KEY = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("partitions", [1, 4, 7, 12])
def test_keys_go_to_the_partitions_of_kafkas_clients(partitions):
    expected = [(value & 0x7FFFFFFF) % partitions for value in HASH_BY_KEY.values()]

    np.testing.assert_array_equal(expected, key_partitions(list(HASH_BY_KEY), partitions))


def test_no_keys_have_no_partitions():
    assert [] == key_partitions([], 4).tolist()
