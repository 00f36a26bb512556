# SPDX-License-Identifier: Apache-2.0
"""A stream's data contract as it was applied, and what is compiled of it once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from headrace.data_contract import Stream
from headrace.errors import Invalid
from headrace_ingest.domain.faults import Fault, faults_of
from headrace_ingest.domain.row_steps import row_steps_of
from headrace_ingest.domain.transforming import Step, protection_of, steps_of


@dataclass(frozen=True)
class Contract:
    """What the records of a stream must look like; `version` grows with each change of it.

    `pii_key` hashes the columns that say so; without it such a contract cannot be used.
    """

    stream: Stream
    version: int
    pii_key: bytes | None = None

    @property
    def name(self) -> str:
        return self.stream.name

    @property
    def schema_id(self) -> str:
        """What `ce_dataschema` says on a record of this contract."""
        return f"{self.stream.name}/{self.version}"

    @property
    def text_columns(self) -> list[str]:
        """Columns whose texts are searched by likeness."""
        return [name for name, each in self.stream.columns.items() if each.index == "text"]

    @property
    def private_columns(self) -> tuple[str, ...]:
        """Columns that name an entity, an event or a person: their values stay out of what is
        kept for ever."""
        personal = {n for n, column in self.stream.columns.items() if column.pii is not None}
        return tuple(sorted({self.stream.key, self.stream.id, *personal}))

    def check_usable(self) -> None:
        """Raises Invalid BAD_SETTING when a column is to be hashed and there is no key."""
        hashed = [n for n, column in self.stream.columns.items() if column.treatment == "hash"]
        if hashed and self.pii_key is None:
            problem = f"column {hashed[0]} is to be hashed, and no key is set"
            raise Invalid("BAD_SETTING", setting="INGEST_PII_KEY", problem=problem)

    @cached_property
    def sent(self) -> Stream:
        """The stream with the columns that a record brings: all but the derived ones."""
        if not self.stream.derived:
            return self.stream
        columns = {n: c for n, c in self.stream.columns.items() if c.derive is None}
        return self.stream.model_copy(update={"columns": columns})

    @cached_property
    def steps(self) -> list[Step]:
        """From cleansed columns to all of the contract's, in order; empty when nothing is to do."""
        return steps_of(self.stream)

    @cached_property
    def faults(self) -> list[Fault]:
        """What may be wrong with a record that has its types, in the order in which it is told."""
        return faults_of(self.stream)

    @cached_property
    def row_steps(self) -> list[Step]:
        """From decoded columns to judged rows, in order; see `protection` for what it raises."""
        return row_steps_of(
            self.stream,
            self.version,
            made=self.steps,
            faults=self.faults,
            protection=self.protection,
        )

    @cached_property
    def protection(self) -> Step:
        """Hashes and drops personal data, once the record is checked."""
        self.check_usable()
        return protection_of(self.stream, self.pii_key or b"")
