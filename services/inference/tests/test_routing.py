# SPDX-License-Identifier: Apache-2.0
"""Canary routing is sticky by entity and keeps its share; a named version is answered by itself."""

import pytest

from headrace.errors import NotFound
from headrace_inference.domain.rollout import Arm
from headrace_inference.domain.serving import Choice, LoadedVersion, Serving, TensorSpec, Tried
from headrace_inference.testing import FEATURES, a_rollout, a_served_version

KEYS = [f"UA-{number}" for number in range(10_000)]


def a_serving(*, canary_features=FEATURES, **rollout):
    """A serving with champion 1 and canary 2; the models are never run here."""
    served = a_rollout(1, canary=2, **rollout)
    canary = LoadedVersion(a_served_version(2, features=canary_features), model=None)
    return Serving(served, LoadedVersion(served.champion, model=None), canary)


def answering(serving, **asked):
    asked = {"version": None, "sticky_key": "UA-1", "tensors": False} | asked
    return serving.choose(**asked).answering.served.version


def test_entity_stays_with_its_arm_over_generations():
    first, later = a_rollout(1, canary=2), a_rollout(1, canary=2, generation=9)

    assert [first.arm_of(key) for key in KEYS] == [later.arm_of(key) for key in KEYS]


@pytest.mark.parametrize("percent", [0, 1, 20, 50, 100])
def test_share_of_the_canary_is_what_the_rollout_says(percent):
    rollout = a_rollout(1, canary=2, percent=percent)

    share = sum(rollout.arm_of(key) is Arm.CANARY for key in KEYS) / len(KEYS)

    assert abs(share - percent / 100) < 0.015


def test_entities_leave_the_champion_only_when_the_share_grows():
    small = a_rollout(1, canary=2, percent=10)
    large = a_rollout(1, canary=2, percent=40)

    in_small = {key for key in KEYS if small.arm_of(key) is Arm.CANARY}
    in_large = {key for key in KEYS if large.arm_of(key) is Arm.CANARY}
    assert in_small < in_large


def test_another_canary_tries_other_entities():
    second = {key for key in KEYS if a_rollout(1, canary=2).arm_of(key) is Arm.CANARY}
    third = {key for key in KEYS if a_rollout(1, canary=3).arm_of(key) is Arm.CANARY}

    assert 0.02 < len(second & third) / len(KEYS) < 0.06


def test_without_a_canary_the_champion_answers_all():
    assert {Arm.CHAMPION} == {a_rollout(1).arm_of(key) for key in KEYS[:100]}


def test_each_arm_has_the_other_as_its_shadow():
    serving = a_serving(percent=50)
    choices = [serving.choose(version=None, sticky_key=k, tensors=False) for k in KEYS[:100]]

    pairs = {(c.answering.served.version, c.shadow.served.version) for c in choices}
    assert {(1, 2), (2, 1)} == pairs


def test_a_named_version_answers_whatever_the_share_says():
    serving = a_serving(percent=50)

    assert {1} == {answering(serving, version=1, sticky_key=key) for key in KEYS[:100]}
    assert {2} == {answering(serving, version=2, sticky_key=key) for key in KEYS[:100]}


def test_a_version_that_is_not_loaded_is_unknown():
    with pytest.raises(NotFound, match="does not serve this version") as refused:
        answering(a_serving(), version=3)

    assert ("3", "1, 2") == (refused.value.metadata["version"], refused.value.metadata["served"])


def test_tensors_go_to_the_champion_when_the_canary_takes_other_features():
    serving = a_serving(percent=100, canary_features=("weather:rain",))

    choice = serving.choose(version=None, sticky_key="UA-1", tensors=True)

    assert (1, None) == (choice.answering.served.version, choice.shadow)
    assert 2 == answering(serving, tensors=False)


class Own:
    """A model with tensors of its own; it is never run here."""

    outputs = (TensorSpec("y", "FP32", (-1,), ("rows",)),)

    def __init__(self, *inputs):
        self.inputs = inputs


def by_tensors(champion, canary):
    """Who answers callers by tensors, and who is their shadow, where the canary takes all."""
    served = a_rollout(1, canary=2, percent=100)
    one, two = (a_served_version(number, features=()) for number in (1, 2))
    serving = Serving(served, LoadedVersion(one, champion), LoadedVersion(two, canary))
    choice = serving.choose(version=None, sticky_key="UA-1", tensors=True)
    return choice.answering.served.version, choice.shadow and choice.shadow.served.version


A, B = TensorSpec("a", "FP32", (-1, 2), ("rows", "")), TensorSpec("b", "INT64", (-1,))


@pytest.mark.parametrize(
    "canary",
    [
        (A, B),
        (B, A),
        (TensorSpec("a", "FP32", (-1, 2), ("N", "")), B),
        (TensorSpec("a", "FP32", (-1, -1), ("rows", "columns")), B),
    ],
    ids=["the same", "in another order", "with other names of sizes", "of more sizes"],
)
def test_canary_that_takes_the_champions_tensors_answers_its_callers(canary):
    assert (2, 1) == by_tensors(Own(A, B), Own(*canary))


def test_canary_that_takes_other_tensors_answers_none_of_its_callers():
    assert (1, None) == by_tensors(Own(A, B), Own(A))


def test_rows_of_a_shadow_with_more_features_are_larger():
    narrow, wide = (
        LoadedVersion(a_served_version(1, features=features), Tried(input_bytes_max=64))
        for features in (("a",), tuple("abcdefgh"))
    )

    assert 16 == Choice(Arm.CHAMPION, narrow, None).rows_at_once(4)
    assert 2 == Choice(Arm.CHAMPION, narrow, wide).rows_at_once(4)
    assert 2 == Choice(Arm.CANARY, wide, narrow).rows_at_once(32)
    assert 1 == Choice(Arm.CANARY, wide, narrow).rows_at_once(100)
