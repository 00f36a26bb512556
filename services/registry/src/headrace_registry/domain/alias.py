# SPDX-License-Identifier: Apache-2.0
"""Aliases: movable pointers whose moves are counted, one winner for each generation (P7)."""

from __future__ import annotations

from dataclasses import dataclass

# The alias that the endpoints of a model serve.
CHAMPION = "champion"


@dataclass(frozen=True, slots=True)
class SetAlias:
    """Point the alias to a version, if nobody moved it since `generation_expected` (0: new)."""

    request_id: str
    model: str
    alias: str
    version: int
    generation_expected: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Alias:
    """`models:/<model>@<alias>` names this version and digest since its `generation`-th move."""

    model: str
    alias: str
    version: int
    digest: str
    generation: int
    moved_at_us: int


@dataclass(frozen=True, slots=True)
class MovePage:
    """One page of moves and the token of the next, empty when there is none."""

    moves: tuple[Alias, ...]
    next_page_token: str
