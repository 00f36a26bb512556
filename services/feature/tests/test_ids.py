# SPDX-License-Identifier: Apache-2.0
"""Event ids as arrays: what they say and how they lie is that of the bytes."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from headrace_feature.domain.observations import PART_BYTES, Ids

# In the order of the texts below.
HASHES = [
    16294208416658607535,
    11156162491948303919,
    513895668802309199,
    17135038898735991323,
]
LONG = b"a" * PART_BYTES
TEXTS = st.text(max_size=20).map(str.encode) | st.sampled_from(
    [b"a", b"ab", b"a" * 8, b"a" * 9, LONG, LONG + b"\0", LONG + b"b", LONG * 2, LONG * 2 + b"a"]
)


@given(st.lists(st.tuples(st.integers(0, 2), TEXTS, st.integers(0, 2)), max_size=20))
def test_ids_of_each_group_are_ordered_as_bytes(rows):
    groups, texts, last = zip(*rows, strict=True) if rows else ((), (), ())
    ids = Ids.of(texts)
    order = ids.order(within=np.array(groups, np.int64), then=np.array(last, np.int64))

    assert sorted(rows) == [rows[row] for row in order]


@given(texts=st.lists(TEXTS, max_size=20), data=st.data())
def test_taken_ids_are_those_of_the_places(texts, data):
    places = st.lists(st.integers(0, len(texts) - 1), max_size=20) if texts else st.just([])
    order = data.draw(places)
    taken = Ids.of(texts).taken(np.array(order, np.int64))

    assert [texts[place] for place in order] == [taken[row] for row in range(len(taken))]


@given(texts=st.lists(TEXTS, max_size=20), first=st.integers(0, 5), last=st.integers(0, 20))
def test_ids_of_a_part_of_a_column_are_its_texts(texts, first, last):
    part = pl.Series(texts, dtype=pl.Binary).to_arrow()[first:last]
    ids = Ids.of_arrow(part)

    assert texts[first:last] == [ids[row] for row in range(len(ids))]
    assert ids.offsets[0] == 0
    assert sum(map(len, texts[first:last])) == len(ids.text)


@given(st.lists(TEXTS, max_size=20))
def test_padded_ids_are_the_bytes_in_whole_words(texts):
    padded = Ids.of(texts).padded(8)

    assert padded.shape[1] % 8 == 0
    assert texts == [row.tobytes()[: len(text)] for row, text in zip(padded, texts, strict=True)]
    assert sum(map(sum, texts)) == padded.sum()


@given(st.lists(TEXTS, max_size=20))
def test_hash_of_an_id_is_the_same_beside_longer_ones(texts):
    alone = [Ids.of([text]).hashes()[0] for text in texts]

    assert alone == Ids.of(texts).hashes().tolist()


def test_hashes_are_those_of_every_version():
    """They are in stored runs."""
    texts = [b"", b"ride-1", b"0b8f7e0e-7a53-4a09-9d5e-9a3d6f1f2c11", b"x" * 130]

    assert HASHES == Ids.of(texts).hashes().tolist()
