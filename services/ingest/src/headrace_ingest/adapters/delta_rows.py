# SPDX-License-Identifier: Apache-2.0
"""RecordRows on the archive's Delta tables, read as they are now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl
import structlog
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import DeltaError, TableNotFoundError

from headrace.errors import Unavailable
from headrace_ingest.adapters.delta_archive import BOUNDS
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.judging import empty_rows
from headrace_kit.objects import delta_table_uri

log = structlog.get_logger(__name__)


class DeltaRows:
    """Any thread may ask: each question opens the table anew."""

    def __init__(self, object_store_uri: str, storage_options: Mapping[str, str]) -> None:
        self._uri, self._options = object_store_uri, {**BOUNDS, **storage_options}

    def of_keys(
        self, contract: Contract, columns: Sequence[str], *, key: str, keys: Sequence[str]
    ) -> pl.DataFrame:
        """What a contract added lately, and no commit has brought to the table, is null."""
        none = empty_rows(contract.stream).select(columns)
        uri = delta_table_uri(self._uri, "records", contract.name)
        try:
            table = DeltaTable(uri, storage_options=self._options)
            there = {field.name for field in table.schema().fields}
            if key not in there:
                return none
            found = _rows(table, [name for name in columns if name in there], key, keys)
        except TableNotFoundError:
            return none
        except (DeltaError, OSError) as err:
            log.warning("object_store_failed", stream=contract.name, error=str(err))
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", stream=contract.name) from err
        return pl.concat([none, found], how="diagonal").select(columns)


def _rows(table: DeltaTable, columns: Sequence[str], key: str, keys: Sequence[str]) -> pl.DataFrame:
    """The engine takes no parameters: texts are quoted, names are a contract's and need it not."""
    wanted = ", ".join(f"'{each.replace(chr(39), chr(39) * 2)}'" for each in keys)
    named = ", ".join(f'"{name}"' for name in columns)
    query = f"""select {named} from records
                where cast("{key}" as varchar) in ({wanted})"""  # noqa: S608 - see above
    return pl.DataFrame(QueryBuilder().register("records", table).execute(query))
