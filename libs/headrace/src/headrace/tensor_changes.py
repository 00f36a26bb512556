# SPDX-License-Identifier: Apache-2.0
"""Whether callers of one version of a model, who send its own tensors, can be answered by another.

They send tensors by name, so the order counts for nothing, nor what an exporter calls a size that
is left open. More sizes that the other takes, and what it gives besides, harm nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

ANY_SIZE = -1
# What a line of text can say.
CHANGES_TOLD_MAX, NAME_SHOWN_MAX, SIZES_SHOWN_MAX = 3, 64, 8


class Tensor(Protocol):
    """An input or output; ANY_SIZE stands for a size that is left open."""

    @property
    def name(self) -> str: ...

    @property
    def datatype(self) -> str: ...

    @property
    def shape(self) -> Sequence[int]: ...


class Tensors(Protocol):
    """What a version takes and gives."""

    @property
    def inputs(self) -> Sequence[Tensor]: ...

    @property
    def outputs(self) -> Sequence[Tensor]: ...


def tensor_changes(was: Tensors, now: Tensors) -> list[str]:
    """What keeps callers of `was` from being answered by `now`, a line for each tensor."""
    return [*_of_inputs(was, now), *_of_outputs(was, now)]


def told_changes(changes: Sequence[str]) -> str:
    """The changes in one line."""
    left = len(changes) - CHANGES_TOLD_MAX
    return "; ".join([*changes[:CHANGES_TOLD_MAX], *([f"{left} more"] if left > 0 else ())])


def _of_inputs(was: Tensors, now: Tensors) -> Iterator[str]:
    sent = {each.name: each for each in was.inputs}
    taken = {each.name: each for each in now.inputs}
    for name, before in sent.items():
        after = taken.get(name)
        if after is None:
            yield f"input {_shown(before)} is taken no more"
        elif not _holds(after, before):
            yield f"input {_shown(before)} is {_type(after)} now"
    yield from (f"input {_shown(each)} is new" for name, each in taken.items() if name not in sent)


def _of_outputs(was: Tensors, now: Tensors) -> Iterator[str]:
    given = {each.name: each for each in now.outputs}
    for before in was.outputs:
        after = given.get(before.name)
        if after is None:
            yield f"output {_shown(before)} is given no more"
        elif not _holds(before, after):
            yield f"output {_shown(before)} is {_type(after)} now"


def _holds(wide: Tensor, narrow: Tensor) -> bool:
    """Whether all that is of the second's type and sizes is of the first's too."""
    return (
        wide.datatype == narrow.datatype
        and len(wide.shape) == len(narrow.shape)
        and all(
            size in (ANY_SIZE, other) for size, other in zip(wide.shape, narrow.shape, strict=True)
        )
    )


def _shown(tensor: Tensor) -> str:
    return f"{tensor.name[:NAME_SHOWN_MAX]} {_type(tensor)}"


def _type(tensor: Tensor) -> str:
    sizes = [*map(str, tensor.shape[:SIZES_SHOWN_MAX])]
    more = ["..."] if len(tensor.shape) > SIZES_SHOWN_MAX else []
    return f"{tensor.datatype} [{', '.join(sizes + more)}]"
