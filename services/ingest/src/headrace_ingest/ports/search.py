# SPDX-License-Identifier: Apache-2.0
"""What is found by words: the catalogue and the texts of streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace_ingest.domain.catalogue import Entry
from headrace_ingest.domain.passages import Indexed, Match, Passage, Vectors


class CatalogueIndex(Protocol):
    """Entries by their words; it is filled from elsewhere and may be lost.

    Raises Unavailable DATABASE_UNAVAILABLE.
    """

    def replace(self, entries: Sequence[Entry]) -> None:
        """From now on it holds these and no other one."""

    def search(
        self, words: Sequence[str], kinds: Sequence[str], *, offset: int, limit: int
    ) -> list[Entry]:
        """The entries in which each of the words begins a word; the best match first."""


class Embedder(Protocol):
    """Turns texts into vectors; the same text gives the same vector, whenever and wherever."""

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """[texts, dimensions] float32, each of length 1, or zero for a text without content."""


class TextIndex(Protocol):
    """Passages of text columns by their vectors; it may be lost, and is built again.

    Raises Unavailable DATABASE_UNAVAILABLE.
    """

    def indexed(self, stream: str, column: str) -> Indexed:
        """How far it is."""

    def begin(self, stream: str, column: str, indexed: Indexed, version: int) -> bool:
        """From now on it is built, from this version or later ones.

        False when it was begun, or dropped, since it stood at `indexed`.
        """

    def absent(self, stream: str, column: str, passages: Sequence[Passage]) -> list[Passage]:
        """Those of an event that it does not hold."""

    def add(
        self,
        stream: str,
        column: str,
        passages: Sequence[Passage],
        vectors: Vectors,
        indexed: Indexed,
    ) -> None:
        """Each event once; nothing when it was dropped since it stood at `indexed`."""

    def settle(self, stream: str, column: str, indexed: Indexed, version: int) -> None:
        """It holds all of this version, unless it was dropped since it stood at `indexed`."""

    def since(self, stream: str) -> int:
        """It may hold rows of no version before this one, of any column; -1 where it holds none."""

    def drop(self, stream: str) -> None:
        """From now on it holds nothing of any column that the stream has, or once had."""

    def wipe(self) -> None:
        """What was dropped is in no file any more, as far as the files are ours."""

    def catch_up(self, stream: str, column: str, timeout_s: float) -> bool:
        """Make what is held findable in this process; whether the time was enough for all of it."""

    def nearest(self, stream: str, column: str, vector: Vectors, limit: int) -> list[Match]:
        """The passages of greatest cosine, nearly all of them right; see the test of recall.

        Of those that are findable, see `catch_up`.
        """
