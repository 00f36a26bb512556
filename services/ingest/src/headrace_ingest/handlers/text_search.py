# SPDX-License-Identifier: Apache-2.0
"""Text columns as an index of vectors: kept as the archive is, asked for what lies near a query.

How far the index is stands in it, as a version of the table: what came since is taken in, and of a
pass that broke off only what is not there yet. No row is indexed twice, and none is left out. When
rows left the archive, by an erasure or by retention, the index is built again from what is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from headrace.errors import Invalid, NotFound, Unavailable
from headrace_ingest.domain.datasets import Selection
from headrace_ingest.domain.passages import Indexed, Match
from headrace_ingest.handlers.stopped_streams import ARCHIVE_MISSING
from headrace_ingest.ports.datasets import RowStore
from headrace_ingest.ports.definitions import ContractBook
from headrace_ingest.ports.search import Embedder, TextIndex
from headrace_kit.failpoints import failpoint

PASSAGES_MAX = 2_000
LIMIT_DEFAULT, LIMIT_MAX = 10, 100
QUERY_CHARACTERS_MAX = 8_192
CATCH_UP_S = 1.0  # of the keeper, between two steps
# Of a caller's time; the rest is for the step that it ends in, and for the answer.
CATCH_UP_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class SearchText:
    """The passages of a column that lie nearest to the query; a limit of 0 means the default."""

    stream: str
    column: str
    query: str
    limit: int


@dataclass(frozen=True, slots=True)
class TextKeeper:
    """A pass may be repeated, and two may run beside each other."""

    contracts: ContractBook
    rows: RowStore
    embedder: Embedder
    index: TextIndex

    def refresh(self, timeout_s: float) -> Iterator[None]:
        """Take in what was archived since, by steps of at most `timeout_s` each.

        Columns take turns, and who is done looks again while others are not: one that is long built
        holds up none that has little to do.
        """
        working: dict[tuple[str, str], Iterator[None]] = {}
        while True:
            for contract in self.contracts.all():
                for column in contract.text_columns:
                    place = contract.name, column
                    work = working.pop(place, None) or self._keep(*place, timeout_s)
                    for step in islice(work, 1):
                        working[place] = work
                        yield step
            if not working:
                return

    def _keep(self, stream: str, column: str, timeout_s: float) -> Iterator[None]:
        """A stream whose archive was taken away keeps what it has."""
        try:
            yield from self._refresh(stream, column, timeout_s)
        except Unavailable as err:
            if err.reason != ARCHIVE_MISSING:
                raise
        while not self.index.catch_up(stream, column, min(CATCH_UP_S, timeout_s)):
            yield

    def built(self, stream: str, column: str) -> bool:
        """Whether the index once held all that was archived, and follows since; any thread."""
        if self.index.indexed(stream, column).version >= 0:
            return True
        try:
            self.rows.newest_version(stream)
        except NotFound:
            return True  # of nothing
        return False

    def _refresh(self, stream: str, column: str, timeout_s: float) -> Iterator[None]:
        # Before the version: rows of one that came first could be gone from the archive when
        # another keeper drops the index, and would join the new one.
        indexed = self.index.indexed(stream, column)
        try:
            version = self.rows.newest_version(stream)
        except NotFound:
            return
        if indexed.version == version:
            return
        selection = Selection(stream, version, ((column, "string"),))
        if indexed.since >= 0 and self.rows.removed_since(selection, indexed.since):
            self.index.drop(stream)
            yield from self._refresh(stream, column, timeout_s)
        # Where another keeper began it meanwhile, the next look tells from which version.
        elif indexed.since >= 0 or self.index.begin(stream, column, indexed, version):
            yield from self._take_in(selection, column, indexed, timeout_s)

    def _take_in(
        self, selection: Selection, column: str, indexed: Indexed, timeout_s: float
    ) -> Iterator[None]:
        stream, after, complete = selection.stream, None, False
        while not complete:
            passages, after = self.rows.passages(
                selection, column, indexed.version, after, PASSAGES_MAX, timeout_s=timeout_s
            )
            complete = len(passages) < PASSAGES_MAX
            absent = self.index.absent(stream, column, passages)
            vectors = self.embedder.embed([each.text for each in absent])
            self.index.add(stream, column, absent, vectors, indexed)
            failpoint("ingest.text.indexed")
            yield
        self.index.settle(stream, column, indexed, selection.delta_version)


@dataclass(frozen=True, slots=True)
class FoundTexts:
    """The nearest first; not `complete` while the index is built or loaded, and lacks texts."""

    matches: list[Match]
    complete: bool


def search_text(query: SearchText, *, texts: TextKeeper, timeout_s: float) -> FoundTexts:
    """What is found within the time; raises NotFound STREAM_UNKNOWN, Invalid BAD_REQUEST."""
    if query.column not in texts.contracts.get(query.stream).text_columns:
        raise Invalid("BAD_REQUEST", field="column", problem="has no index: text in its contract")
    if not query.query.strip() or len(query.query) > QUERY_CHARACTERS_MAX:
        problem = f"must have 1 to {QUERY_CHARACTERS_MAX} characters"
        raise Invalid("BAD_REQUEST", field="query", problem=problem)
    if not 0 <= query.limit <= LIMIT_MAX:
        raise Invalid("BAD_REQUEST", field="limit", problem=f"must be 0 to {LIMIT_MAX}")
    index, stream, column = texts.index, query.stream, query.column
    complete = texts.built(stream, column)
    complete &= index.catch_up(stream, column, timeout_s * CATCH_UP_SHARE)
    [vector] = texts.embedder.embed([query.query])
    limit = query.limit or LIMIT_DEFAULT
    return FoundTexts(index.nearest(stream, column, vector, limit), complete)
