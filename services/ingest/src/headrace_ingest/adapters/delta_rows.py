# SPDX-License-Identifier: Apache-2.0
"""RecordRows on the archive's Delta tables, read as they are now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from datetime import date, timedelta

import polars as pl
import structlog
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import DeltaError, TableNotFoundError

from headrace.errors import Unavailable
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.judging import empty_rows
from headrace_kit.entity_texts import entity_text_sql
from headrace_kit.objects import delta_table_uri

DAY_US = 86_400 * 1_000_000
EPOCH = date(1970, 1, 1)
DAY_LAST = (date.max - EPOCH).days

log = structlog.get_logger(__name__)


class DeltaRows:
    """Any thread may ask: each question opens the table anew. `was_read` as DeltaArchive has it:
    rows of such a stream without a table are not known, and Unavailable ARCHIVE_MISSING.
    """

    def __init__(
        self,
        object_store_uri: str,
        storage_options: Mapping[str, str],
        *,
        was_read: Callable[[str], bool],
    ) -> None:
        self._uri, self._options = object_store_uri, dict(storage_options)
        self._was_read = was_read

    def of_keys(
        self, contract: Contract, columns: Sequence[str], *, key: str, keys: Sequence[str]
    ) -> pl.DataFrame:
        """The engine takes no parameters: texts are quoted."""
        wanted = ", ".join(map(_text, keys))
        text = entity_text_sql(key, float64=contract.stream.types.get(key) == "float64")
        return self._read(contract, columns, f"{text} in ({wanted})", needs={key})

    def between(
        self,
        contract: Contract,
        *,
        from_us: int,
        until_us: int,
        rows_max: int,
        having: Mapping[str, str] = {},
    ) -> pl.DataFrame:
        columns = ["_event_id", "_event_time_us", "_known_time_us", *contract.stream.columns]
        first, last = (us // DAY_US for us in (from_us, until_us))
        days = f"_event_date between {_date(first)} and {_date(last)}"
        times = f"_event_time_us >= {from_us:d} and _event_time_us < {until_us:d}"
        texts = "".join(f' and "{name}" = {_text(text)}' for name, text in having.items())
        condition = f"{days} and {times}{texts} limit {rows_max:d}"
        return self._read(contract, columns, condition, needs={"_event_id", *having})

    def _read(
        self, contract: Contract, columns: Sequence[str], condition: str, *, needs: Set[str]
    ) -> pl.DataFrame:
        """What a contract added lately, and no commit has brought to the table, is null."""
        none = empty_rows(contract.stream).select(columns)
        uri = delta_table_uri(self._uri, "records", contract.name)
        try:
            table = DeltaTable(uri, storage_options=self._options)
            there = {field.name for field in table.schema().fields}
            if not needs <= there:
                return none
            named = ", ".join(f'"{name}"' for name in columns if name in there)
            query = f"select {named} from records where {condition}"  # noqa: S608 - see above
            found = pl.DataFrame(QueryBuilder().register("records", table).execute(query))
        except TableNotFoundError as err:
            if self._was_read(contract.name):
                raise Unavailable("ARCHIVE_MISSING", stream=contract.name) from err
            return none
        except (DeltaError, OSError) as err:
            log.warning("object_store_failed", stream=contract.name, error=str(err))
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", stream=contract.name) from err
        return pl.concat([none, found], how="diagonal").select(columns)


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _date(day: int) -> str:
    """Of a day since 1970; who wants all asks for times beyond the year 9999."""
    return f"date '{EPOCH + timedelta(days=min(day, DAY_LAST))}'"
