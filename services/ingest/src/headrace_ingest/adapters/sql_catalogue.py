# SPDX-License-Identifier: Apache-2.0
"""CatalogueIndex in SQLite (FTS5) or PostgreSQL (tsvector): the same words find the same entries.

A name that is the query comes first, then one that ends so, as a column of that name does. Names
weigh four times as much as all else. Words are cut here, alike for both, and reach the databases as
parameters of letters and digits only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Engine, bindparam, text

from headrace_ingest.adapters.sql_tables import ENTRIES, WEIGHED, storable
from headrace_ingest.domain.catalogue import Entry, words_of
from headrace_kit.sql import transaction

FILL_FTS5 = text("""insert into catalogue_words (rowid, name_words, words)
                    select id, name_words, words from catalogue""")
# Two replicas that fill at once do it one after the other.
LOCK = text("lock table catalogue in share row exclusive mode")
NAMED = """case when c.name_words = :whole then 0
                when c.name_words like :ending then 1 else 2 end"""
IN_SQLITE = text(f"""
    select c.kind, c.name, c.owner, c.description, c.details
    from catalogue_words w join catalogue c on c.id = w.rowid
    where catalogue_words match :words and c.kind in :kinds
    order by {NAMED}, bm25(catalogue_words, 4.0, 1.0), c.name, c.kind
    limit :limit offset :offset
""").bindparams(bindparam("kinds", expanding=True))  # noqa: S608 - no part comes from outside
IN_POSTGRESQL = text(f"""
    select kind, name, owner, description, details from catalogue c
    where {WEIGHED} @@ to_tsquery('simple', :words) and kind in :kinds
    order by {NAMED},
             ts_rank('{{0.1, 0.2, 0.4, 0.4}}', {WEIGHED}, to_tsquery('simple', :words)) desc,
             name, kind limit :limit offset :offset
""").bindparams(bindparam("kinds", expanding=True))  # noqa: S608 - no part comes from outside


class SqlCatalogueIndex:
    """CatalogueIndex on an engine of the kit whose tables are SCHEMA's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sqlite = engine.dialect.name == "sqlite"

    def replace(self, entries: Sequence[Entry]) -> None:
        rows = [_row(number, entry) for number, entry in enumerate(entries)]
        with transaction(self._engine) as connection:
            if not self._sqlite:
                connection.execute(LOCK)
            connection.execute(ENTRIES.delete())
            if rows:
                connection.execute(ENTRIES.insert(), rows)
            if self._sqlite:
                connection.execute(text("delete from catalogue_words"))
                connection.execute(FILL_FTS5)

    def search(
        self, words: Sequence[str], kinds: Sequence[str], *, offset: int, limit: int
    ) -> list[Entry]:
        whole = " ".join(words)
        asked = {"kinds": list(kinds), "limit": limit, "offset": offset}
        asked |= {"whole": whole, "ending": f"% {whole}"}
        if self._sqlite:
            statement, asked["words"] = IN_SQLITE, " ".join(f'"{word}"*' for word in words)
        else:
            statement, asked["words"] = IN_POSTGRESQL, " & ".join(f"{word}:*" for word in words)
        with transaction(self._engine) as connection:
            return [Entry(*row) for row in connection.execute(statement, asked)]


def _row(number: int, entry: Entry) -> dict[str, object]:
    rest = f"{entry.owner} {entry.description} {entry.details} {entry.kind}"
    words = {"name_words": " ".join(words_of(entry.name)), "words": " ".join(words_of(rest))}
    told = {name: storable(text) for name, text in asdict(entry).items()}
    return {"id": number, **told, **words}
