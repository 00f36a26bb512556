# SPDX-License-Identifier: Apache-2.0
"""What names an entity is the same each time, known or not."""

import math
import threading

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.entity import entity_digest, entity_name, text_of
from headrace_feature.adapters import conversions
from headrace_feature.adapters.conversions import named_texts
from headrace_feature.domain import observations
from headrace_feature.domain.entities import KnownDigests, digests
from headrace_feature.domain.observations import Ids, NamedTexts, Observations
from headrace_feature.domain.records import Entities, Texts

entities = st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["", "1", "12"]))


@given(batches=st.lists(st.lists(entities, max_size=8), max_size=30), known_max=st.integers(0, 3))
def test_digest_is_the_same_however_many_others_were_asked_for(batches, known_max):
    fresh = {
        each: b"".join(KnownDigests(entity_digest, 0).digests([each]))
        for batch in batches
        for each in batch
    }
    known = KnownDigests(entity_digest, known_max)

    for batch in batches:
        assert [fresh[each] for each in batch] == list(known.digests(batch))
        assert len(known) <= known_max


def test_entities_of_several_columns_are_told_apart_by_where_one_ends():
    named = digests([("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c")])

    assert 3 == len({tuple(each) for each in named.T.tolist()})
    assert named[:, 0].tolist() == named[:, 3].tolist()


TEXTS = [f"{number:03}" for number in range(1_000)]
# Of seven columns with a thousand values each there are more combinations than int64 has numbers.
CODES = np.array([[999] * 7, [0] * 7, [0] * 6 + [1], [-1] + [5] * 6, [999] * 7]).T


def test_entity_of_many_columns_of_many_values_keeps_its_name():
    columns = {
        f"c{place}": NamedTexts(own, TEXTS, [entity_name((text,)) for text in TEXTS])
        for place, own in enumerate(CODES)
    }
    nothing = np.zeros(5, dtype=np.int64)
    seen = Observations(
        Ids.of([b"e"] * 5), nothing, nothing, nothing, nothing, nothing, columns, {}, nothing > 0
    )

    found, kept = observations._entities(seen, list(columns), np.arange(5))

    assert [0, 1, 2, 4] == kept.tolist()
    named = [("999",) * 7, ("000",) * 7, (*("000",) * 6, "001"), ("999",) * 7]
    assert digests(named).tolist() == found.tolist()


def test_entities_of_many_columns_of_many_values_are_told_apart_in_the_archive():
    columns = [Texts(own, TEXTS) for own in CODES]
    found = Entities(columns)
    one, other = CODES.copy(), CODES.copy()
    one[6, 1] = 7

    assert 3 == found.count
    assert [2, 0, 1, -1, 2] == found.numbers.tolist() == found.numbers_of(columns).tolist()
    assert [2, -1, 1, -1, 2] == found.numbers_of([Texts(own, TEXTS) for own in one]).tolist()
    turned = [Texts(999 - own, TEXTS[::-1]) for own in other[:, [0, 1, 2, 4]]]
    assert [2, 0, 1, 2] == found.numbers_of(turned).tolist()


def test_others_come_to_be_known_when_many_were_missed():
    known = KnownDigests(entity_digest, 1)
    known.digests([("a",)])
    for _ in range(20):
        known.digests([("b",)])

    assert 1 == len(known)
    assert ("b",) in known


def test_two_threads_together_keep_no_more_than_the_bound():
    class Hooked(tuple):
        """Another thread asks while this one is kept: the second time that it is hashed."""

        times = 0

        def __hash__(self):
            self.times += 1
            if self.times == 2:
                other.start()
                other.join(0.2)  # it waits, or it is done and took the room
            return super().__hash__()

    known = KnownDigests(entity_digest, 1)
    other = threading.Thread(target=known.digests, args=([("b",)],))
    known.digests([Hooked(("a",))])
    other.join()

    assert 1 == len(known)


def test_many_unknown_entities_are_not_looked_for_each_time():
    made = []

    def digest(entity):
        made.append(entity)
        return entity_digest(entity)

    known, many = KnownDigests(digest, 1), [(str(number),) for number in range(2_000)]
    expected = [entity_digest(each) for each in many]

    assert expected == list(known.digests(many))
    assert many[0] in known
    made.clear()
    assert expected == list(known.digests(many))
    assert many == made
    made.clear()
    assert [expected[0]] == list(known.digests(many[:1]))
    assert not made


def named_in_both_ways(values):
    """As few are named, and as many are."""
    yield named_texts(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversions, "FEW_ROWS_MAX", -1)
        yield named_texts(values)


@given(texts=st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), max_size=8))
def test_fold_names_an_entity_as_a_reader_does(texts):
    for column in named_in_both_ways(pl.Series(texts, dtype=pl.String)):
        assert [entity_name((text,)) for text in column.texts] == list(column.names)
        assert [text or "" for text in texts] == [
            column.texts[code] if code >= 0 else "" for code in column.codes
        ]


@given(values=st.lists(st.none() | st.sampled_from([0.0, -0.0, 5.0, 2.5, math.nan]), max_size=8))
def test_fold_names_numbers_as_a_reader_does(values):
    for column in named_in_both_ways(pl.Series(values, dtype=pl.Float64)):
        assert [text_of(value) for value in values] == [
            column.texts[code] if code >= 0 else None for code in column.codes
        ]
