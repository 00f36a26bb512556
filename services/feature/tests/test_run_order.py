# SPDX-License-Identifier: Apache-2.0
"""Rows of a run lie by entity, event time and id, in whatever order they came."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace_feature.domain.observations import COLUMNS, EVENT, ID_HASH, Ids, ordered

# Halves of digests: some share all of their upper bits, and two all of the first half.
UPPER = 7 << 60
HALVES = [(UPPER, 1), (UPPER, 2), (UPPER + 1, 0), (UPPER + 2, 5), (3, 3), (2**64 - 1, 0)]
ROWS = st.lists(
    st.tuples(
        st.sampled_from(HALVES) | st.tuples(*[st.integers(0, 2**64 - 1)] * 2), st.integers(0, 9)
    ),
    max_size=60,
)


@given(rows=ROWS, in_time=st.booleans())
def test_rows_lie_by_entity_and_time(rows, in_time):
    if in_time:
        rows.sort(key=lambda row: row[1])
    ids = [b"%04d" % number for number in range(len(rows))]
    matrix = np.zeros((len(rows), COLUMNS), dtype=np.int64)
    matrix[:, EVENT] = [at for _, at in rows]
    matrix[:, ID_HASH] = np.arange(len(rows))
    entities = np.array([halves for halves, _ in rows], dtype=np.uint64).reshape(-1, 2).T

    run = ordered(entities, matrix, Ids.of(ids))

    expected = sorted((*halves, at, name) for (halves, at), name in zip(rows, ids, strict=True))
    places = zip(*run.per_row().tolist(), run.matrix[:, EVENT].tolist(), strict=True)
    assert expected == [(*place, run.ids[row]) for row, place in enumerate(places)]
