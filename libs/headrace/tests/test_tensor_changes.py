# SPDX-License-Identifier: Apache-2.0
"""Callers who send a version its own tensors are answered by another, or it is said why not."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from headrace.tensor_changes import tensor_changes, told_changes


@dataclass(frozen=True)
class Tensor:
    name: str
    datatype: str = "FP32"
    shape: tuple[int, ...] = (-1, 2)


@dataclass(frozen=True)
class Version:
    inputs: tuple[Tensor, ...] = (Tensor("a"), Tensor("b"))
    outputs: tuple[Tensor, ...] = (Tensor("y"),)


@pytest.mark.parametrize(
    "now",
    [
        Version(),
        Version(inputs=(Tensor("b"), Tensor("a"))),
        Version(inputs=(Tensor("a", shape=(-1, -1)), Tensor("b"))),
        Version(outputs=(Tensor("more"), Tensor("y"))),
        Version(outputs=(Tensor("y", shape=(7, 2)),)),
    ],
    ids=["the same", "another order", "takes more sizes", "gives more", "gives fewer sizes"],
)
def test_callers_need_not_change_for(now):
    assert [] == tensor_changes(Version(), now)


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (Version(inputs=(Tensor("a"),)), "input b FP32 [-1, 2] is taken no more"),
        (
            Version(inputs=(Tensor("a"), Tensor("b"), Tensor("c", "INT64", (-1,)))),
            "input c INT64 [-1] is new",
        ),
        (
            Version(inputs=(Tensor("a", "FP64"), Tensor("b"))),
            "input a FP32 [-1, 2] is FP64 [-1, 2] now",
        ),
        (
            Version(inputs=(Tensor("a", shape=(1, 2)), Tensor("b"))),
            "input a FP32 [-1, 2] is FP32 [1, 2] now",
        ),
        (
            Version(inputs=(Tensor("a", shape=(-1, 2, 1)), Tensor("b"))),
            "input a FP32 [-1, 2] is FP32 [-1, 2, 1] now",
        ),
        (Version(outputs=(Tensor("z"),)), "output y FP32 [-1, 2] is given no more"),
        (
            Version(outputs=(Tensor("y", shape=(-1, -1)),)),
            "output y FP32 [-1, 2] is FP32 [-1, -1] now",
        ),
    ],
)
def test_callers_must_change_for(now, told):
    assert [told] == tensor_changes(Version(), now)


def test_many_changes_are_one_line_that_says_how_many_more():
    many = Version(inputs=tuple(Tensor("x" * 1_000 + str(n), "FP32", (1,) * 32) for n in range(9)))

    line = told_changes(tensor_changes(many, Version()))

    assert line.endswith("; 8 more")
    assert len(line) < 512
