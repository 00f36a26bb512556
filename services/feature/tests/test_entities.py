# SPDX-License-Identifier: Apache-2.0
"""What names an entity is the same each time, known or not."""

from hypothesis import given
from hypothesis import strategies as st

from headrace_feature.domain.entities import KnownDigests, digests

entities = st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["", "1", "12"]))


@given(batches=st.lists(st.lists(entities, max_size=8), max_size=30), known_max=st.integers(0, 3))
def test_digest_is_the_same_however_many_others_were_asked_for(batches, known_max):
    fresh = {each: b"".join(KnownDigests(0).digests([each])) for batch in batches for each in batch}
    known = KnownDigests(known_max)

    for batch in batches:
        assert [fresh[each] for each in batch] == list(known.digests(batch))
        assert len(known) <= known_max


def test_entities_of_several_columns_are_told_apart_by_where_one_ends():
    named = digests([("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c")])

    assert 3 == len({tuple(each) for each in named.T.tolist()})
    assert named[:, 0].tolist() == named[:, 3].tolist()


def test_others_come_to_be_known_when_many_were_missed():
    known = KnownDigests(1)
    known.digests([("a",)])
    for _ in range(20):
        known.digests([("b",)])

    assert 1 == len(known)
    assert ("b",) in known
